"""Pruners: one that leaves enough complete trials to compare, and one that asks the sampler ``curves``."""

from __future__ import annotations

import math

from optuna.pruners import BasePruner
from optuna.samplers import BaseSampler
from optuna.study import Study, StudyDirection
from optuna.trial import FrozenTrial, TrialState

from nas_optuna.samplers.curve_model import rungs
from nas_optuna.samplers.curves import PLAN, CurveSampler
from nas_optuna.study.optuna_internals import whole

GUARDED_RUNGS = (0.2, 0.5)
"""A trial is judged after these shares of its epochs: not after the first one, where everything is at chance."""


class GuardedPruner(BasePruner):
    """Keep the best third at a fifth and at half of the epochs, and at least a quarter of all trials to the end.

    Successive halving keeps so few trials that a study has nothing to rank, and the second search in a study keeps
    none, since every trial must beat the best of the first. Here a trial goes on where fewer than a guaranteed share
    of the latest trials is complete.

    Args:
        epochs: The largest step that a trial can reach.
        keep: The share of the trials that go on at a rung, from 0 to 1.
        guarantee: The share of the latest `window` trials that must be complete before one is stopped, from 0 to 1.
        n_startup_trials: How many trials must be complete before one is stopped.
        window: How many trials count as the latest.

    Raises:
        ValueError: A value is out of its range.

    Examples:
        >>> import optuna
        >>> study = optuna.create_study(direction="maximize", pruner=GuardedPruner(epochs=10))
    """

    def __init__(
        self,
        epochs: int,
        *,
        keep: float = 0.35,
        guarantee: float = 0.25,
        n_startup_trials: int = 3,
        window: int = 20,
    ) -> None:
        for name, value in (("keep", keep), ("guarantee", guarantee)):
            if not 0 <= value <= 1:
                raise ValueError(f"{name} is a share from 0 to 1, got {value}")
        if n_startup_trials < 1 or window < 2:
            raise ValueError(f"n_startup_trials ({n_startup_trials}) must be at least 1, window ({window}) at least 2")
        self._rungs = {max(1, math.ceil(share * epochs)) for share in GUARDED_RUNGS} - {epochs}
        self._keep = keep
        self._guarantee = guarantee
        self._n_startup_trials = n_startup_trials
        self._window = window

    def prune(self, study: Study, trial: FrozenTrial) -> bool:
        """Whether to stop the trial, judged by its value at its last step alone."""
        step = trial.last_step
        if step not in self._rungs:
            return False
        finished = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE, TrialState.PRUNED))
        complete = [t.state == TrialState.COMPLETE for t in finished]
        latest = complete[1 - self._window :]
        if sum(complete) < self._n_startup_trials or sum(latest) < self._guarantee * (len(latest) + 1):
            return False
        sign = 1.0 if study.direction == StudyDirection.MAXIMIZE else -1.0
        value = sign * trial.intermediate_values[step]
        if math.isnan(value):
            return True
        others = [sign * t.intermediate_values[step] for t in finished if step in t.intermediate_values]
        return sum(other > value for other in others) >= self._keep * (len(others) + 1)


class CurvePruner(BasePruner):
    """Stop a trial, where its sampler planned a decision, if the model of curves would rather train another network.

    A trial without such a plan (of another sampler, enqueued) is judged by `GuardedPruner`.

    Examples:
        >>> import optuna
        >>> sampler = CurveSampler(seed=0)
        >>> study = optuna.create_study(sampler=sampler, pruner=CurvePruner(epochs=10))
    """

    def __init__(self, epochs: int) -> None:
        self._guarded = GuardedPruner(epochs)
        self._rungs = rungs(epochs)[:-1]

    def prune(self, study: Study, trial: FrozenTrial) -> bool:
        """Whether to stop the trial after its last step."""
        plan = trial.system_attrs.get(PLAN)
        sampler = curve_sampler(study.sampler)
        if plan is None or sampler is None:
            return self._guarded.prune(study, trial)
        step = trial.last_step
        return bool(plan) and step in self._rungs and step >= plan and sampler.should_stop(whole(study), trial)


def curve_sampler(sampler: BaseSampler) -> CurveSampler | None:
    """The sampler of curves that a sampler is, or that it asks."""
    found: BaseSampler | None = sampler
    while found is not None and not isinstance(found, CurveSampler):
        found = getattr(found, "sampler", None)
    return found


def curves(epochs: int) -> BasePruner:
    """Stop a trial when the epochs are worth more elsewhere, and go on with it later; with sampler curves."""
    return CurvePruner(epochs)
