"""Is a supernet worth believing? Its ranking of architectures against their own trainings."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from optuna.study import Study
from optuna.trial import FrozenTrial, TrialState

from nas_optuna.data import make_loader
from nas_optuna.execution.search import Search
from nas_optuna.spaces.architecture import Architecture
from nas_optuna.spaces.supernet import Supernet
from nas_optuna.study.schema import TrialKey, attribute
from nas_optuna.study.trial_queue import enqueue_once
from nas_optuna.training import evaluate

ORIGIN = "supernet check"
"""Origin of the trials that a check trains."""
_RESAMPLES = 1000


@dataclass(frozen=True)
class RankCorrelation:
    """A rank correlation and its 95 % bootstrap interval."""

    value: float
    lower: float
    upper: float


@dataclass(frozen=True)
class Verdict:
    """What a check found.

    Attributes:
        architectures: Number of random architectures compared.
        kendall: Kendall's τ-b of shared-weight and own accuracy over them.
        spearman: Spearman's ρ, likewise.
        argmax_accuracy: Own validation accuracy of the argmax.
        argmax_rank: Its rank among the random ones and itself, 1 is best.
        budget_seconds: What the supernet took: its search and the argmax's training.
        random_trained: Random architectures that those seconds would have trained, in the order drawn.
        random_accuracy: The best accuracy among them; None where there is none.
        budget_covered: Whether enough random architectures were trained to use the budget up.
    """

    architectures: int
    kendall: RankCorrelation
    spearman: RankCorrelation
    argmax_accuracy: float
    argmax_rank: int
    budget_seconds: float
    random_trained: int
    random_accuracy: float | None
    budget_covered: bool

    @property
    def sentence(self) -> str:
        """The verdict in words."""
        ranking = "ranks architectures" if self.kendall.lower > 0 else "does not rank architectures better than chance"
        if self.random_accuracy is None:
            return f"The supernet {ranking}; random search would not have trained one network in its time."
        gap = self.argmax_accuracy - self.random_accuracy
        outcome = "as good as" if gap == 0 else ("better than" if gap > 0 else "worse than")
        reach = "" if self.budget_covered else ", though these did not use its time up"
        return (
            f"The supernet {ranking}; its argmax is {outcome} the best of {self.random_trained} random architectures"
            f" trained in the same time ({self.argmax_accuracy:.4f} against {self.random_accuracy:.4f}){reach}."
        )


def random_architectures(search: Search, count: int, seed: int) -> list[Architecture]:
    """Distinct architectures, uniformly drawn; fewer where the space is smaller."""
    return search.space.sample_distinct(count, random.Random(seed))


def queue_untrained(study: Study, search: Search, architectures: Sequence[Architecture]) -> int:
    """Put those that the study has not trained to the end by its recipe into the queue, in order.

    Returns:
        How many trials have to run until all are trained, those that wait before them included.
    """
    trained = trained_trials(study, search)
    return max(
        (enqueue_once(study, search.space, a.params, ORIGIN) for a in architectures if str(a) not in trained), default=0
    )


def trained_trials(study: Study, search: Search) -> dict[str, FrozenTrial]:
    """Architecture → the complete trial of it by the study's recipe that was trained, not reused."""
    fingerprint = search.spec.recipe.fingerprint
    return {
        attribute(trial, TrialKey.ARCHITECTURE): trial
        for trial in reversed(study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,)))
        if attribute(trial, TrialKey.RECIPE) == fingerprint and attribute(trial, TrialKey.DUPLICATE_OF) is None
    }


def shared_accuracies(
    supernet: Supernet, search: Search, architectures: Sequence[Architecture], device: torch.device
) -> list[float]:
    """Validation accuracy of each architecture with the supernet's weights."""
    recipe = search.spec.recipe
    loader = make_loader(search.data.validation, recipe.batch_size, search.space.input_size, device)
    return [evaluate(supernet.extract(a), loader, device, torch.float32).accuracy for a in architectures]


def judge(
    study: Study,
    search: Search,
    architectures: Sequence[Architecture],
    argmax: Architecture,
    shared: Sequence[float],
    search_seconds: float,
) -> Verdict:
    """Compare shared-weight accuracies with the study's own trainings.

    Args:
        study: Has a complete trial of each architecture.
        search: What its spec names.
        architectures: Random ones, in the order in which random search would have trained them.
        argmax: What the supernet derives.
        shared: Accuracy of each of `architectures` with the supernet's weights.
        search_seconds: What the supernet's training took.
    """
    trained = trained_trials(study, search)
    trials = [trained[str(architecture)] for architecture in architectures if str(architecture) in trained]
    pairs = [s for s, a in zip(shared, architectures, strict=True) if str(a) in trained]
    own = [_accuracy(trial) for trial in trials]
    mine = trained[str(argmax)]
    budget = search_seconds + attribute(mine, TrialKey.SECONDS)
    total, afforded = 0.0, 0
    for trial in trials:
        if total + attribute(trial, TrialKey.SECONDS) > budget:
            break
        total += attribute(trial, TrialKey.SECONDS)
        afforded += 1
    accuracy = _accuracy(mine)
    return Verdict(
        architectures=len(trials),
        kendall=rank_correlation("kendall", pairs, own),
        spearman=rank_correlation("spearman", pairs, own),
        argmax_accuracy=accuracy,
        argmax_rank=1 + sum(value > accuracy for value in own),
        budget_seconds=budget,
        random_trained=afforded,
        random_accuracy=max(own[:afforded], default=None),
        budget_covered=afforded < len(trials),
    )


def rank_correlation(kind: str, x: Sequence[float], y: Sequence[float], seed: int = 0) -> RankCorrelation:
    """Kendall's τ-b or Spearman's ρ with a percentile bootstrap interval over the pairs.

    Args:
        kind: ``"kendall"`` or ``"spearman"``.
        x: At least 3 values.
        y: As many.
        seed: Of the resampling. A resample without any order on one side counts as 0.
    """
    from scipy import stats

    function = stats.kendalltau if kind == "kendall" else stats.spearmanr

    def correlation(a: np.ndarray, b: np.ndarray) -> float:
        if (a == a[0]).all() or (b == b[0]).all():
            return 0.0
        return float(function(a, b).statistic)

    first, second = np.asarray(x), np.asarray(y)
    rng = np.random.default_rng(seed)
    resamples = rng.integers(len(first), size=(_RESAMPLES, len(first)))
    values = [correlation(first[index], second[index]) for index in resamples]
    lower, upper = np.percentile(values, [2.5, 97.5])
    return RankCorrelation(correlation(first, second), float(lower), float(upper))


def _accuracy(trial: FrozenTrial) -> float:
    """The last accuracy reported: what is trained is compared by it, whatever the study's objectives."""
    assert trial.last_step is not None
    return trial.intermediate_values[trial.last_step]
