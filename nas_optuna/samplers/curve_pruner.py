"""A pruner that asks the sampler ``curves`` whether the next epochs are better spent elsewhere."""

from __future__ import annotations

from optuna.pruners import BasePruner
from optuna.samplers import BaseSampler
from optuna.study import Study
from optuna.trial import FrozenTrial

from nas_optuna.guarded_pruner import GuardedPruner
from nas_optuna.samplers.curve_model import rungs
from nas_optuna.samplers.curves import PLAN, CurveSampler
from nas_optuna.study.optuna_internals import whole


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
