"""The pruners ``guarded``, which keeps enough complete trials to compare, and ``curves``, which asks its sampler."""

from __future__ import annotations

import math
from dataclasses import KW_ONLY, dataclass

from optuna.pruners import BasePruner
from optuna.study import Study, StudyDirection
from optuna.trial import FrozenTrial, TrialState

from nas_optuna.samplers.base import innermost
from nas_optuna.samplers.curve_model import rungs
from nas_optuna.samplers.curves import PLAN, CurveSampler
from nas_optuna.study.optuna_internals import whole

GUARDED_RUNGS = (0.2, 0.5)
"""Shares of its epochs after which a trial is judged; after the first epoch everything is still at chance."""


@dataclass(eq=False)
class GuardedPruner(BasePruner):
    """Keep the best third at a fifth and at half of the epochs, and at least a quarter of all trials to the end.

    Successive halving keeps too few trials to rank, and a second search in the same study keeps none, because every
    trial must beat the best of the first search. Here no trial is stopped while fewer than a guaranteed share of the
    latest trials are complete.

    Attributes:
        epochs: The largest step that a trial can reach.
        keep: The share of trials that go on at a rung.
        guarantee: The share of the latest trials that must be complete before any is stopped.
        n_startup_trials: How many trials must be complete before any is stopped.
        window: How many trials count as the latest.

    Examples:
        >>> import optuna
        >>> study = optuna.create_study(direction="maximize", pruner=GuardedPruner(epochs=10))
    """

    epochs: int
    _: KW_ONLY
    keep: float = 0.35
    guarantee: float = 0.25
    n_startup_trials: int = 3
    window: int = 20

    def __post_init__(self) -> None:
        if not (0 <= self.keep <= 1 and 0 <= self.guarantee <= 1):
            raise ValueError(f"keep ({self.keep}) and guarantee ({self.guarantee}) are shares from 0 to 1")
        if self.n_startup_trials < 1 or self.window < 2:
            got = f"got {self.n_startup_trials} and {self.window}"
            raise ValueError(f"n_startup_trials must be at least 1 and window at least 2, {got}")
        self._rungs = {max(1, math.ceil(share * self.epochs)) for share in GUARDED_RUNGS} - {self.epochs}

    def prune(self, study: Study, trial: FrozenTrial) -> bool:
        """Whether to stop the trial, judged by its latest value alone."""
        step = trial.last_step
        if step not in self._rungs:
            return False
        finished = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE, TrialState.PRUNED))
        complete = [t.state == TrialState.COMPLETE for t in finished]
        latest = complete[1 - self.window :]
        if sum(complete) < self.n_startup_trials or sum(latest) < self.guarantee * (len(latest) + 1):
            return False
        sign = 1.0 if study.direction == StudyDirection.MAXIMIZE else -1.0
        value = sign * trial.intermediate_values[step]
        if math.isnan(value):
            return True
        others = [sign * t.intermediate_values[step] for t in finished if step in t.intermediate_values]
        return sum(other > value for other in others) >= self.keep * (len(others) + 1)


class CurvePruner(BasePruner):
    """Stop a trial when its epochs are worth more elsewhere, and go on with it later; with sampler curves.

    It asks the trial's sampler at the epochs for which that planned a decision. A trial without a plan (from another
    sampler, or enqueued) is judged by `GuardedPruner`.

    Examples:
        >>> import optuna
        >>> sampler = CurveSampler(seed=0)
        >>> study = optuna.create_study(sampler=sampler, pruner=CurvePruner(epochs=10))
    """

    obeys_plans = True  # see `samplers.curves.obeys_plans`

    def __init__(self, epochs: int) -> None:
        self._guarded = GuardedPruner(epochs)
        self._rungs = rungs(epochs)[:-1]

    def prune(self, study: Study, trial: FrozenTrial) -> bool:
        """Whether to stop the trial after its last step."""
        plan = trial.system_attrs.get(PLAN)
        sampler = innermost(study.sampler)
        if plan is None or not isinstance(sampler, CurveSampler):
            return self._guarded.prune(study, trial)
        step = trial.last_step
        return bool(plan) and step in self._rungs and step >= plan and sampler.should_stop(whole(study), trial)
