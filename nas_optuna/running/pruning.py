"""Pruning by one figure of a trial, whatever the number of the study's objectives.

Optuna refuses `Trial.report` and `Trial.should_prune` in a study with several objectives (optuna #3450), because a
pruner compares single numbers. Here such a study is pruned by accuracy:

- Each report is kept in the trial's user attribute `REPORTS`, where every storage, every worker and the dashboard
  see it. It is not kept among the intermediate values, because with those in a study of several objectives Optuna's
  TPE fails as soon as a trial is pruned (it asks the study for *the* direction).
- The study's own pruner is then asked about a view of the same trials in the same storage, with one objective,
  to be maximised, and the reports as intermediate values. Nothing is copied: what a pruner writes (the rungs of
  successive halving) goes to the real trials, so that several workers prune together.
- A trial is compared only with trials that cost no more in any of the other objectives. Compared with all, cheap and
  less accurate networks would be pruned although they belong to the front.
- The caller raises ``optuna.TrialPruned``; Optuna then records the trial as pruned, without values.
"""

from __future__ import annotations

import copy
from collections.abc import Container, Mapping
from typing import Any, cast

from optuna.storages import BaseStorage
from optuna.study import Study, StudyDirection
from optuna.trial import FrozenTrial, Trial, TrialState

REPORTS = "accuracy by epoch"
COSTS = "costs"


def report(trial: Trial, value: float, step: int) -> None:
    """As ``trial.report``, also in a study with several objectives."""
    if len(trial.study.directions) == 1:
        trial.report(value, step)
    else:
        trial.set_user_attr(REPORTS, {**trial.user_attrs.get(REPORTS, {}), str(step): value})


def should_prune(trial: Trial) -> bool:
    """As ``trial.should_prune``, also in a study with several objectives.

    There the costs, the values of all objectives but the pruned one, are read from each trial's user attribute
    `COSTS`, a dict of numbers that are to be minimised.
    """
    if len(trial.study.directions) == 1:
        return trial.should_prune()
    study = trial.study
    storage = cast(BaseStorage, _AccuracyView(study._storage, trial.user_attrs.get(COSTS, {})))
    view = Study(study.study_name, storage, sampler=study.sampler, pruner=study.pruner)
    return study.pruner.prune(view, storage.get_trial(trial._trial_id))


class _AccuracyView:
    """A storage that shows another one's trials with one objective, and forwards everything else to it.

    Args:
        storage: The study's storage.
        costs: Trials that cost more than this, in anything, are not shown.
    """

    def __init__(self, storage: BaseStorage, costs: Mapping[str, float]) -> None:
        self._storage = storage
        self._costs = costs

    def __getattr__(self, name: str) -> Any:
        return getattr(self._storage, name)

    def get_study_directions(self, study_id: int) -> list[StudyDirection]:
        return [StudyDirection.MAXIMIZE]

    def get_trial(self, trial_id: int) -> FrozenTrial:
        return _with_reports(self._storage.get_trial(trial_id))

    def get_all_trials(
        self, study_id: int, deepcopy: bool = True, states: Container[TrialState] | None = None
    ) -> list[FrozenTrial]:
        trials = self._storage.get_all_trials(study_id, deepcopy=deepcopy, states=states)
        return [_with_reports(trial) for trial in trials if self._costs_no_more(trial)]

    def get_best_trial(self, study_id: int) -> FrozenTrial:
        return BaseStorage.get_best_trial(cast(BaseStorage, self), study_id)

    def _costs_no_more(self, trial: FrozenTrial) -> bool:
        costs = trial.user_attrs.get(COSTS, {})
        return all(costs.get(name, 0.0) <= limit for name, limit in self._costs.items())


def _with_reports(trial: FrozenTrial) -> FrozenTrial:
    reports = {int(step): value for step, value in trial.user_attrs.get(REPORTS, {}).items()}
    seen = copy.copy(trial)
    seen.intermediate_values = reports
    if trial.state == TrialState.COMPLETE and reports:
        seen.values = [reports[max(reports)]]
    return seen
