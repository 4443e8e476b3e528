"""Pruning by one figure of a trial, whatever the number of the study's objectives.

Optuna refuses `Trial.report` and `Trial.should_prune` in a study with several objectives (optuna #3450), because a
pruner compares single numbers. Here such a study is pruned by accuracy:

- Each report is kept in the trial's user attribute `TrialKey.REPORTS`, where every storage, worker and dashboard sees
  it. It is not an intermediate value, because with those in a study of several objectives Optuna's TPE fails as soon
  as a trial is pruned (it asks the study for *the* direction).
- The study's own pruner then sees a view of the same trials in the same storage, with one objective, the metric, and
  the reports as intermediate values. Nothing is copied: what a pruner writes (the rungs of successive halving) goes to
  the real trials, so that several workers prune together.
- A trial is compared only with trials that cost no more in any other objective. Compared with all trials, cheap
  networks of the front would be pruned for their accuracy, and the front would be worse than without pruning.
- A pruner that can handle several objectives, such as ``curves``, finds the whole study behind the view.
- The caller raises ``optuna.TrialPruned``; Optuna then records the trial as pruned, without values.
"""

from __future__ import annotations

import copy
from collections.abc import Collection, Container, Mapping
from dataclasses import dataclass
from typing import Any, TypeGuard, cast

from optuna.storages import BaseStorage
from optuna.study import StudyDirection
from optuna.trial import BaseTrial, FrozenTrial, Trial, TrialState

from nas_optuna.errors import NasOptunaError, SpecError, describe_error, place_of
from nas_optuna.study.optuna_internals import read_trial, storage_of, trial_id_of, with_storage
from nas_optuna.study.schema import TrialKey, attribute, reports_of
from nas_optuna.study.storage import failure
from nas_optuna.study.transactions import set_trial_attributes


def report(trial: BaseTrial, value: float, step: int, attributes: Mapping[str, Any]) -> None:
    """Write a step's results in one transaction: attributes of the trial, and the value for the pruner."""
    if _has_several_objectives(trial):
        reports = {**attribute(trial, TrialKey.REPORTS, {}), str(step): value}
        set_trial_attributes(trial, {**attributes, TrialKey.REPORTS: reports})
    else:
        set_trial_attributes(trial, attributes, {step: value})


def should_prune(
    trial: BaseTrial, costs: Mapping[str, float], direction: str = "maximize", *, maximized: Collection[str] = ()
) -> bool:
    """Like ``trial.should_prune``, but also in a study with several objectives; a user's pruner may raise anything."""
    try:
        if not _has_several_objectives(trial):
            return trial.should_prune()
        storage = storage_of(study := trial.study)
        view = with_storage(study, _OneObjective(storage, costs, StudyDirection[direction.upper()], maximized))
        return study.pruner.prune(view, read_trial(view, trial_id_of(trial)))
    except Exception as error:
        if isinstance(error, NasOptunaError) or failure(error) or not place_of(error):
            raise
        raise SpecError(f"your pruner failed: {describe_error(error, 300)}") from error


def _has_several_objectives(trial: BaseTrial) -> TypeGuard[Trial]:
    return isinstance(trial, Trial) and len(trial.study.directions) > 1


@dataclass(eq=False)
class _OneObjective:
    """A view of a storage that shows one objective, and only trials that cost no more."""

    whole: BaseStorage
    costs: Mapping[str, float]
    direction: StudyDirection
    maximized: Collection[str]

    def __getattr__(self, name: str) -> Any:
        return getattr(self.whole, name)

    def get_study_directions(self, study_id: int) -> list[StudyDirection]:
        return [self.direction]

    def get_trial(self, trial_id: int) -> FrozenTrial:
        return _with_reports(self.whole.get_trial(trial_id))

    def get_all_trials(
        self, study_id: int, deepcopy: bool = True, states: Container[TrialState] | None = None
    ) -> list[FrozenTrial]:
        trials = self.whole.get_all_trials(study_id, deepcopy=deepcopy, states=states)
        return [_with_reports(trial) for trial in trials if self._costs_no_more(trial)]

    def get_best_trial(self, study_id: int) -> FrozenTrial:
        return BaseStorage.get_best_trial(cast(BaseStorage, self), study_id)

    def _costs_no_more(self, trial: FrozenTrial) -> bool:
        for name, cost in self.costs.items():
            known = attribute(trial, TrialKey.cost(name))
            if known is None or (known < cost if name in self.maximized else known > cost):
                return False
        return True


def _with_reports(trial: FrozenTrial) -> FrozenTrial:
    seen = copy.copy(trial)
    seen.intermediate_values = reports = dict(reports_of(trial))
    if trial.state == TrialState.COMPLETE and reports:
        seen.values = [reports[max(reports)]]
    return seen
