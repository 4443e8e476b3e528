"""When a study ends by itself: it has reached a goal, or it no longer improves."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from datetime import datetime
from functools import partial
from math import isfinite, nan

from optuna.study import Study
from optuna.trial import FrozenTrial

from nas_optuna.costs.candidates import Candidates
from nas_optuna.errors import SpecError, unknown
from nas_optuna.objectives import parse_criterion
from nas_optuna.quantities import plural
from nas_optuna.study.optuna_internals import hypervolume
from nas_optuna.study.results import complete_trials, losses_of

PATIENCE = 5
"""Trials without an improvement after which a study ends by default, if none is expected, either."""

WORTH = 5e-4
"""An expected improvement below this share of the best value counts as none: 0.05 points of an accuracy near 1."""

HARD_STOP = 6
"""Hard stop after this many times the patience without an improvement, whatever is expected."""

_BOUND = re.compile(r"([^<>=!]+?)\s*(>=|<=|:|\s)\s*([+-]?)((?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?)\s*([kMG%]?)")
_FACTORS = {"": 1.0, "k": 1e3, "M": 1e6, "G": 1e9, "%": 0.01}
_STALLED = re.compile(r"stalled(?:\s*[:\s]\s*([1-9]\d*))?")


Condition = Callable[[Study, Sequence[FrozenTrial]], str | None]
"""Why a study ends, or None, from its trials in order; see `parse_until`."""


def _reached(
    name: str, place: int, at_least: bool, goal: float, study: Study, trials: Iterable[FrozenTrial]
) -> str | None:
    for trial in trials:
        value = trial.values[place]
        if value >= goal if at_least else value <= goal:
            return f"trial {trial.number} has reached {name} {value:.6g}"
    return None


def _stalled(
    objectives: Sequence[str], patience: int, candidates: Candidates | None, study: Study, trials: Sequence[FrozenTrial]
) -> str | None:
    """No improvement in the latest trials and, with one objective, none to be expected."""
    # The expectation is that of a Gaussian process fitted to the trials, whichever sampler proposed them
    # (`ArchitectureGPSampler.expected_gain`). A front has stalled when its hypervolume has.
    losses = losses_of(study, trials).tolist()
    if len(objectives) > 1:
        stalled = _front_stalls(losses, patience)
        return f"the front has not improved in the latest {plural(patience, 'trial')}" if stalled else None
    column = [loss for (loss,) in losses]
    since = len(column) - 1 - column.index(min(column)) if column else 0
    if since < patience:
        return None
    seen = f"the best {objectives[0]} has not improved in the latest {plural(since, 'trial')}"
    if since >= HARD_STOP * patience:
        return seen
    from nas_optuna.samplers.gp import ArchitectureGPSampler  # late, as it brings SciPy

    sampler = ArchitectureGPSampler(seed=0)
    if candidates is not None:
        sampler.allowed = candidates.allows
        if candidates.listed is None:
            sampler.pinned = candidates.fixed
        else:
            sampler.among = [each.params for each in candidates.listed]
    gain = sampler.expected_gain(study)
    worth = WORTH * abs(min(column))
    if gain is None or gain > worth:
        return None
    return f"{seen}, and the next is expected to improve it by less than {worth:.2g}"


def _front_stalls(losses: Sequence[Sequence[float]], patience: int) -> bool:
    if len(losses) <= patience:
        return False
    reference = [max(column) + 1e-9 * max(1.0, abs(max(column))) for column in zip(*losses, strict=True)]
    return hypervolume(losses, reference) <= hypervolume(losses[:-patience], reference) * (1 + 1e-6)


def parse_until(text: str, objectives: Sequence[str], candidates: Candidates | None = None) -> Condition:
    """Parse a condition that ends a study.

    ``stalled:30`` sets another patience than ``stalled``; a shell does not take ``accuracy:0.98`` or ``accuracy 0.98``
    for a redirection; ``accuracy:98%`` and ``macs:300k`` are understood as well.

    Args:
        text: The condition.
        objectives: Names of the study's objectives, in order.
        candidates: What may still be proposed; None is everything.

    Raises:
        SpecError: The text is no condition, names something that the study does not optimise, or a value that no
            network can reach or that every network has.
    """
    text = text.strip()
    if match := _STALLED.fullmatch(text):
        return partial(_stalled, objectives, int(match[1] or PATIENCE), candidates)
    match = _BOUND.fullmatch(text)
    if match is None or match[1] == "stalled":
        raise SpecError(
            f'{text!r} ends no study; write stalled, stalled:10, accuracy:0.98 or "accuracy>=0.98", in quotes,'
            " because a shell takes > and < for itself"
        )
    name, operator, value = match[1], match[2], float(match[3] + match[4]) * _FACTORS[match[5]]
    if name not in objectives:
        raise SpecError(unknown("objective", name, objectives))
    goal = parse_criterion(name)
    if operator in (">=", "<=") and goal.maximize != (operator == ">="):
        way = "maximised" if goal.maximize else "minimised"
        raise SpecError(
            f"{name} is {way}, so {text!r} would end the study at its first bad network; write --until {name}:{value:g}"
        )
    bounds = {word: bound for word, bound in (("best", goal.ideal), ("worst", goal.worst)) if bound is not None}
    loss, ideal, worst = (goal.sign * each for each in (value, bounds.get("best", nan), bounds.get("worst", nan)))
    if loss < ideal or loss >= worst:
        known = " and ".join(f"the {word} possible is {bound:g}" for word, bound in bounds.items())
        remedy = "95 per cent are written as 0.95 or 95%" if goal.ideal == 1 else "name a value that can be reached"
        raise SpecError(f"{name} {value:g} is no goal: {known}; {remedy}")
    return partial(_reached, name, objectives.index(name), goal.maximize, value)


def reason_to_stop(study: Study, conditions: Iterable[Condition]) -> str | None:
    """The first condition that is met, as a sentence without a full stop; None while the study continues."""
    # Complete and feasible trials of all workers with finite values count.
    trials = [t for t in complete_trials(study) if all(map(isfinite, t.values))]
    trials.sort(key=lambda t: (t.datetime_complete or datetime.min, t.number))
    reasons = (condition(study, trials) for condition in conditions)
    return next((reason for reason in reasons if reason is not None), None)


class StopWhen:
    """An Optuna callback that ends a study, in each worker after the current trial.

    Attributes:
        reason: Why it has ended; None before.

    Examples:
        >>> import optuna
        >>> study = optuna.create_study(direction="maximize")
        >>> stop = StopWhen([parse_until("accuracy>=0.98", ["accuracy"])])
        >>> study.optimize(lambda trial: trial.suggest_categorical("x", [0.99]), n_trials=20, callbacks=[stop])
        >>> len(study.trials)
        1
    """

    def __init__(self, conditions: Iterable[Condition]) -> None:
        self._conditions = tuple(conditions)
        self.reason: str | None = None

    def __call__(self, study: Study, trial: FrozenTrial) -> None:
        """Stop the study if a condition is met."""
        self.reason = reason_to_stop(study, self._conditions)
        if self.reason is not None:
            study.stop()
