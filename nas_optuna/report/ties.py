"""Networks whose accuracies cannot be told apart, and the cheapest of them."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from optuna.trial import FrozenTrial, TrialState

from nas_optuna.errors import StudyError
from nas_optuna.study.pareto import is_feasible


def standard_error(accuracy: float, images: int) -> float:
    """Standard error of an accuracy that was measured on a sample of images.

    Two successes and two failures are added (Agresti and Coull 1998), so that an accuracy of 1 has an error, too.
    Repeated trainings judged by the same images do not lessen it.

    Args:
        accuracy: From 0 to 1.
        images: How many images it was measured on.

    Returns:
        The error as a share, from 0 to 0.5.

    Raises:
        ValueError: There are no images, or the accuracy is no share.

    Example:
        >>> round(standard_error(0.97, 288), 3)
        0.011
    """
    if images < 1 or not 0 <= accuracy <= 1:
        raise ValueError(f"an accuracy of {accuracy} on {images} images has no standard error")
    share = (accuracy * images + 2) / (images + 4)
    return math.sqrt(share * (1 - share) / (images + 4))


@dataclass(frozen=True)
class Ties:
    """The networks within one standard error of the best one.

    Attributes:
        best: The trial of the highest accuracy; of equals, the first.
        error: The standard error of its accuracy.
        trials: All trials within it, the best one included, by falling accuracy.
        cheapest: The cheapest of them; of equally cheap ones, the most accurate.
    """

    best: FrozenTrial
    error: float
    trials: tuple[FrozenTrial, ...]
    cheapest: FrozenTrial

    @property
    def numbers(self) -> frozenset[int]:
        """Numbers of the tied trials."""
        return frozenset(trial.number for trial in self.trials)


def ties(trials: Iterable[FrozenTrial], images: int, cost: Callable[[FrozenTrial], float]) -> Ties:
    """Apply the one-standard-error rule (Breiman et al. 1984) to a study of one objective, the accuracy.

    Args:
        trials: Of the study; only complete and feasible ones with a finite value count.
        images: How many validation images the accuracy was measured on.
        cost: What a trial's network costs, e.g. its MACs; NaN where that is unknown, which counts as dearest.

    Raises:
        StudyError: No trial has an accuracy.
        ValueError: See `standard_error`.
    """
    counted = [
        (t.value, t)
        for t in trials
        if t.state == TrialState.COMPLETE and t.value is not None and math.isfinite(t.value) and is_feasible(t)
    ]
    if not counted:
        raise StudyError("no trial is complete and inside the limits yet; train some first: nas-optuna run")
    counted.sort(key=lambda pair: (-pair[0], pair[1].number))
    accuracy, best = counted[0]
    error = standard_error(accuracy, images)
    tied = tuple(trial for value, trial in counted if value >= accuracy - error)
    costs = [cost(trial) for trial in tied]
    cheapest = min(range(len(tied)), key=lambda i: (math.inf if math.isnan(costs[i]) else costs[i], i))
    return Ties(best, error, tied, tied[cheapest])
