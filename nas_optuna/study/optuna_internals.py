"""Everything that this package uses of Optuna beyond its public interface.

It was checked against Optuna 5.0.0. `tests/study/test_optuna_internals.py` has a contract test for each use, and the
list of the private names. A release of Optuna that breaks one breaks this module and nothing else.

The reasons:

- A trial's end is written only while its worker's lease stands, and a new trial has its lease from the first moment.
- Optuna's own reading of trials takes several times as long, and fails as a whole because of one damaged row.
- Samplers, pruners and notes get frozen trials, and need the storage behind them.
- A front, and what it dominates, is found by Optuna alone.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Container, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import optuna
from optuna.distributions import BaseDistribution
from optuna.samplers import BaseSampler, PartialFixedSampler
from optuna.storages import BaseStorage, RDBStorage
from optuna.study import Study, StudyDirection
from optuna.trial import FrozenTrial, Trial, TrialState

if TYPE_CHECKING:
    from sqlalchemy import Table

METRIC_NAMES = "study:metric_names"
"""The system attribute in which `Study.set_metric_names` keeps its names."""
CachedStorage = optuna.storages._CachedStorage
"""Optuna's cache of ended trials in front of a database."""


# --- databases --------------------------------------------------------------------------------------------------------


def models() -> Any:
    """Optuna's ORM classes."""
    from optuna.storages._rdb import models

    return models


def tables() -> Mapping[str, Table]:
    """Optuna's tables by name, whose column types differ between databases."""
    found: Mapping[str, Table] = models().BaseModel.metadata.tables
    return found


def database_of(storage: BaseStorage) -> RDBStorage | None:
    """The database behind a storage; None for a journal or this process's memory."""
    behind_cache = storage._backend if isinstance(storage, CachedStorage) else storage
    return behind_cache if isinstance(behind_cache, RDBStorage) else None


# --- studies ----------------------------------------------------------------------------------------------------------


def storage_of(study: Study) -> BaseStorage:
    """Return the storage that a study lives in."""
    return study._storage


def study_id_of(study: Study) -> int:
    """Return the number of a study within its storage."""
    return study._study_id


def url_of(study: Study) -> str | None:
    """Return the URL of a study's database; None if it is in no database."""
    database = database_of(storage_of(study))
    return None if database is None else str(database.url)


def study_user_attributes(study: Study) -> dict[str, Any]:
    """Return ``study.user_attrs`` without the deep copy that the property makes."""
    return storage_of(study).get_study_user_attrs(study_id_of(study))


def study_system_attributes(study: Study) -> dict[str, Any]:
    """Return the attributes of a study in which tools keep their data."""
    return storage_of(study).get_study_system_attrs(study_id_of(study))


def all_trials(study: Study, states: Iterable[TrialState] | None = None) -> list[FrozenTrial]:
    """Return the trials as they are now; ``study.get_trials`` may return them as they were when the trial began."""
    # They are not copied, and must not be changed.
    # Not a tuple: for that of the waiting state alone, the storage in memory starts its search behind the last trial
    # that it found waiting, and misses an earlier one that was put back.
    chosen = None if states is None else list(states)
    return storage_of(study).get_all_trials(study_id_of(study), deepcopy=False, states=chosen)


def with_storage(study: Study, storage: object) -> Study:
    """Return the same study, read through an object that acts as a storage."""
    return Study(study.study_name, cast(BaseStorage, storage), sampler=study.sampler, pruner=study.pruner)


def whole(study: Study) -> Study:
    """The study behind a view of it; see `nas_optuna.execution.pruning`."""
    storage = getattr(storage_of(study), "whole", None)
    return study if storage is None else with_storage(study, storage)


def showing(study: Study, chosen: Callable[[list[FrozenTrial]], list[FrozenTrial]]) -> Study:
    """Return a view of a study in which Optuna's samplers see only the chosen trials."""
    everything = study._get_trials
    return _reading(study, lambda *arguments, **options: chosen(everything(*arguments, **options)))


def read_once(study: Study) -> Study:
    """Return a view of a study as it is now, so that all figures agree while others finish trials."""
    trials = study.get_trials(deepcopy=False)

    def read(
        deepcopy: bool = True, states: Container[TrialState] | None = None, use_cache: bool = False
    ) -> list[FrozenTrial]:
        found = [trial for trial in trials if states is None or trial.state in states]
        return copy.deepcopy(found) if deepcopy else found

    return _reading(study, read)


def _reading(study: Study, trials: Callable[..., list[FrozenTrial]]) -> Study:
    view = with_storage(study, storage_of(study))  # no copy: the study that Hyperband shows a sampler refuses it
    view._get_trials = trials  # type: ignore[method-assign]
    return view


def contains(distribution: BaseDistribution, value: float) -> bool:
    """Whether a number in Optuna's internal representation is inside a distribution."""
    return distribution._contains(value)


@contextmanager
def stoppable(study: Study) -> Iterator[Callable[[], bool]]:
    """Let objectives and samplers call ``study.stop()``, as within ``study.optimize``."""
    study._stop_flag, here = False, study._thread_local
    here.in_optimize_loop = True
    try:
        yield lambda: study._stop_flag
    finally:
        here.in_optimize_loop = False


# --- trials -----------------------------------------------------------------------------------------------------------


def trial_id_of(trial: Trial | FrozenTrial) -> int:
    """Return the number of a trial within its storage, which is not its number within its study."""
    return trial._trial_id


def open_trial(study: Study, trial_id: int) -> Trial:
    """Return a running trial, as ``study.ask`` does; its sampler's ``before_trial`` runs here."""
    return optuna.Trial(study, trial_id)


def read_trial(study: Study, trial_id: int) -> FrozenTrial:
    """Read a trial as it is now."""
    return storage_of(study).get_trial(trial_id)


def enqueued_params(trial: Trial | FrozenTrial) -> dict[str, Any] | None:
    """The parameters that a trial was enqueued with; None if it was not enqueued."""
    return known_of(trial).system_attrs.get("fixed_params")


def is_enqueued(trial: Trial | FrozenTrial) -> bool:
    """Whether a trial's parameters were chosen before it began."""
    return enqueued_params(trial) is not None


def known_of(trial: Trial | FrozenTrial) -> FrozenTrial:
    """A trial as this process knows it, without another query."""
    return trial._cached_frozen_trial if isinstance(trial, Trial) else trial


def set_trial_attribute(study: Study, trial: FrozenTrial, key: str, value: Any) -> None:
    """Set a user attribute of a frozen trial, which is what a sampler gets."""
    storage_of(study).set_trial_user_attr(trial_id_of(trial), key, value)


def set_trial_system_attribute(study: Study, trial: FrozenTrial, key: str, value: Any) -> None:
    """Set a system attribute of a frozen trial, in which tools keep their data."""
    storage_of(study).set_trial_system_attr(trial_id_of(trial), key, value)


# --- samplers ---------------------------------------------------------------------------------------------------------


def inner_sampler(sampler: BaseSampler) -> BaseSampler | None:
    """The sampler that a wrapper, ours or Optuna's, asks; None of any other sampler."""
    if isinstance(sampler, PartialFixedSampler):
        return sampler._base_sampler
    inner = getattr(sampler, "sampler", None)
    return inner if isinstance(inner, BaseSampler) else None


def partially_fixed(sampler: BaseSampler) -> dict[str, Any]:
    """The values of ``PartialFixedSampler``, whose parameters it hides from the sampler that it asks."""
    found: dict[str, Any] = {}
    while (inner := inner_sampler(sampler)) is not None:
        if isinstance(sampler, PartialFixedSampler):
            found = {**sampler._fixed_params, **found}
        sampler = inner
    return found


# --- fronts -----------------------------------------------------------------------------------------------------------


def pareto_front(trials: Sequence[FrozenTrial], directions: Sequence[StudyDirection]) -> list[FrozenTrial]:
    """The complete trials that no other one beats in every objective, in their order."""
    from optuna.study._multi_objective import _get_pareto_front_trials_by_trials

    return _get_pareto_front_trials_by_trials(trials, directions)


def hypervolume(losses: Sequence[Sequence[float]], reference: Sequence[float]) -> float:
    """Volume between a set of points and a reference point, all coordinates to be minimised."""
    from optuna._hypervolume import compute_hypervolume

    corner = np.asarray(reference, float)
    points = np.asarray(losses, float).reshape(-1, len(corner))
    return float(compute_hypervolume(points[(points < corner).all(1)], corner))
