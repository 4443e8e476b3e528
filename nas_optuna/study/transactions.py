"""What is read or written of a study in one transaction, where Optuna would need several."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from datetime import UTC
from typing import Any, TypeVar

import optuna
from optuna.exceptions import DuplicatedStudyError, UpdateFinishedTrialError
from optuna.storages import BaseStorage
from optuna.study import Study, StudyDirection
from optuna.trial import BaseTrial, FrozenTrial, Trial, TrialState
from sqlalchemy import Connection, String, delete, func, insert, select, type_coerce, update
from sqlalchemy.exc import IntegrityError

from nas_optuna.errors import StudyError
from nas_optuna.study.database import RetryingStorage, persistently
from nas_optuna.study.lease_table import give_new, require_held
from nas_optuna.study.optuna_internals import (
    METRIC_NAMES,
    all_trials,
    database_of,
    known_of,
    models,
    storage_of,
    study_id_of,
    tables,
    trial_id_of,
)
from nas_optuna.study.schema import StudyKey

T = TypeVar("T")


def transaction(storage: BaseStorage, work: Callable[[Connection], T]) -> T:
    """Run `work` in one transaction of a storage's database."""
    database = database_of(storage)
    assert database is not None

    def once() -> T:
        with database.engine.begin() as connection:
            return work(connection)

    return retried(storage, once)


def retried(storage: BaseStorage, work: Callable[[], T]) -> T:
    """Run `work`, and run it again if the server undid it in favour of another, or, for a storage of ours, was away."""
    return storage.with_retry(work) if isinstance(storage, RetryingStorage) else persistently(work, 0.0)


# --- studies ----------------------------------------------------------------------------------------------------------


def create_whole_study(
    storage: BaseStorage,
    name: str,
    directions: Sequence[str],
    metric_names: Sequence[str],
    user_attributes: Mapping[str, Any],
) -> None:
    """Create a study with its names and attributes in one step, so that nobody sees it without them."""
    chosen = [StudyDirection[direction.upper()] for direction in directions]
    if database_of(storage) is None:
        study_id = storage.create_new_study(chosen, name)
        storage.set_study_system_attr(study_id, METRIC_NAMES, list(metric_names))
        for key, value in user_attributes.items():
            storage.set_study_user_attr(study_id, key, value)
        return

    def create(connection: Connection) -> None:
        made = connection.execute(insert(tables()["studies"]).values(study_name=name)).inserted_primary_key
        assert made is not None
        rows = [{"study_id": made[0], "objective": i, "direction": d} for i, d in enumerate(chosen)]
        connection.execute(insert(tables()["study_directions"]), rows)
        write_attributes(connection, "study_system_attributes", made[0], {METRIC_NAMES: list(metric_names)})
        write_attributes(connection, "study_user_attributes", made[0], user_attributes)

    try:
        transaction(storage, create)
    except IntegrityError:
        raise DuplicatedStudyError(f"study {name!r} exists") from None


def chosen_system_attributes(study: Study, keys: Sequence[str] = (), starts: Sequence[str] = ()) -> dict[str, Any]:
    """System attributes of a study by key, or by how it starts; all of them, with each trial's note, may be many."""
    storage, study_id = storage_of(study), study_id_of(study)
    if isinstance(storage, RetryingStorage):
        return storage.with_retry(lambda: storage.database.chosen_system_attributes(study_id, keys, starts))
    found = storage.get_study_system_attrs(study_id)
    return {key: value for key, value in found.items() if key in keys or key.startswith(tuple(starts))}


def metric_names(study: Study) -> list[str] | None:
    """``study.metric_names`` without reading all other system attributes."""
    return chosen_system_attributes(study, [METRIC_NAMES]).get(METRIC_NAMES)


def user_attribute(storage: BaseStorage, study_id: int, key: str) -> Any:
    """A user attribute of a study, without reading the others; None if it is not set."""
    if isinstance(storage, RetryingStorage):
        return storage.with_retry(lambda: storage.database.user_attribute(study_id, key))
    return storage.get_study_user_attrs(study_id).get(key)


def set_study_system_attributes(study: Study, values: Mapping[str, Any]) -> None:
    """Set system attributes of a study, in which tools such as optuna-dashboard keep their data."""
    storage, study_id = storage_of(study), study_id_of(study)
    if database_of(storage) is not None:
        transaction(
            storage, lambda connection: write_attributes(connection, "study_system_attributes", study_id, values)
        )
        return
    for key, value in values.items():
        storage.set_study_system_attr(study_id, key, value)


def change_study(study: Study, change: Callable[[Mapping[str, Any]], Mapping[str, Any]]) -> Mapping[str, Any]:
    """Set user attributes that depend on the present ones, so that two processes do not overwrite each other's."""
    storage, study_id = storage_of(study), study_id_of(study)
    if database_of(storage) is None:
        values = change(study.user_attrs)
        for key, value in values.items():
            study.set_user_attr(key, value)
        return values
    rows = tables()["study_user_attributes"]

    def read_and_write(connection: Connection) -> Mapping[str, Any]:
        _lock_study(connection, study_id)
        found = connection.execute(select(rows.c.key, rows.c.value_json).where(rows.c.study_id == study_id))
        values = change({key: json.loads(text) for key, text in found})
        write_attributes(connection, "study_user_attributes", study_id, values)
        return values

    return transaction(storage, read_and_write)


def uid_of(storage: BaseStorage, name: str) -> str | None:
    """The identifier of a study that cannot be loaded; None if its row cannot be read either."""
    with suppress(StudyError):
        uid = user_attribute(storage, storage.get_study_id_from_name(name), StudyKey.UID)
        return uid if isinstance(uid, str) else None
    return None


def require_writable(study: Study) -> None:
    """Refuse a database that only reads before a training whose results it could not keep."""
    require_writable_row(storage_of(study), study_id_of(study))


def require_writable_row(storage: BaseStorage, study_id: int) -> None:
    """Refuse a database that only reads, also for a study that cannot be loaded."""
    if database_of(storage) is not None:
        transaction(storage, lambda connection: _lock_study(connection, study_id))


def artifacts_of_others(study: Study) -> set[str]:
    """The keys under which the other studies of the storage list artifacts; Optuna's ``copy_study`` copies them."""
    storage = storage_of(study)
    if database_of(storage) is None:
        others = (other for other in storage.get_all_studies() if other.study_name != study.study_name)
        return {key for other in others for key in other.system_attrs}
    rows = tables()["study_system_attributes"]
    keys = select(rows.c.key).where(rows.c.study_id != study_id_of(study), rows.c.key.contains("artifacts:"))
    return transaction(storage, lambda connection: set(connection.execute(keys).scalars()))


def counts(storage: BaseStorage) -> dict[str, Counter[str]]:
    """How many trials of each state every study has, by the study's name; a database counts them itself."""
    if database_of(storage) is None:
        studies_ = [optuna.load_study(study_name=s.study_name, storage=storage) for s in storage.get_all_studies()]
        return {study.study_name: Counter(trial.state.name for trial in all_trials(study)) for study in studies_}
    studies, trials = tables()["studies"], tables()["trials"]
    state = type_coerce(trials.c.state, String)  # which somebody may have altered

    def read(connection: Connection) -> dict[str, Counter[str]]:
        names = connection.execute(select(studies.c.study_name).order_by(studies.c.study_id)).scalars()
        found: dict[str, Counter[str]] = {name: Counter() for name in names if isinstance(name, str)}
        of_trials = select(studies.c.study_name, state, func.count())
        joined = of_trials.join(studies, studies.c.study_id == trials.c.study_id)
        for name, what, number in connection.execute(joined.group_by(studies.c.study_name, state)):
            if name in found:
                found[name][what] = number
        return found

    return transaction(storage, read)


# --- trials -----------------------------------------------------------------------------------------------------------


def set_trial_attributes(
    trial: BaseTrial, values: Mapping[str, Any], reports: Mapping[int, float] | None = None
) -> None:
    """Set user attributes of a trial and report values by step in one transaction, while this process has its lease."""
    reports = reports or {}
    if not isinstance(trial, Trial) or database_of(trial.storage) is None:
        for key, value in values.items():
            trial.set_user_attr(key, value)
        for step, value in reports.items():
            if not isinstance(trial, Trial) or step not in known_of(trial).intermediate_values:
                trial.report(value, step)
        return
    trial_id, trials, steps = trial_id_of(trial), tables()["trials"], tables()["trial_intermediate_values"]
    known = known_of(trial)
    new = {key: value for key, value in values.items() if key not in known.user_attrs or known.user_attrs[key] != value}

    def write(connection: Connection) -> None:
        open_ = trials.c.state.in_((TrialState.RUNNING, TrialState.WAITING))
        lock = update(trials).where(trials.c.trial_id == trial_id, open_).values(number=trials.c.number)
        if connection.execute(lock).rowcount != 1:
            raise UpdateFinishedTrialError(f"trial {trial_id} has ended, or was deleted")
        require_held(database_of(trial.storage), connection, trial_id)
        write_attributes(connection, "trial_user_attributes", trial_id, new)
        for step, value in reports.items():  # where a trial goes on after a crash, it has reported its last step
            number, kind = models().TrialIntermediateValueModel.intermediate_value_to_stored_repr(value)
            connection.execute(delete(steps).where(steps.c.trial_id == trial_id, steps.c.step == step))
            row = {"step": step, "intermediate_value": number, "intermediate_value_type": kind}
            connection.execute(insert(steps).values(trial_id=trial_id, **row))

    transaction(trial.storage, write)
    known.user_attrs.update(values)
    known.intermediate_values.update(reports)


def add_trials(study: Study, new: Sequence[FrozenTrial], is_due: Callable[[int], bool]) -> list[int]:
    """Add trials without params if the first one's number is due, with leases if they run; return their ids, or []."""
    storage, study_id, trials = storage_of(study), study_id_of(study), tables()["trials"]
    if database_of(storage) is None:
        due = is_due(len(all_trials(study)))
        return [storage.create_new_trial(study_id, template_trial=trial) for trial in new if due]

    def add(connection: Connection) -> list[int]:
        _lock_study(connection, study_id)
        count = connection.execute(select(func.count()).where(trials.c.study_id == study_id)).scalar_one()
        return [_add(connection, study_id, count + i, trial) for i, trial in enumerate(new)] if is_due(count) else []

    added = transaction(storage, add)
    all_trials(study)  # so that Optuna's cache knows them
    return added


def _add(connection: Connection, study_id: int, number: int, trial: FrozenTrial) -> int:
    began = trial.datetime_start and trial.datetime_start.astimezone(UTC).replace(tzinfo=None)
    row = insert(tables()["trials"]).values(study_id=study_id, number=number, state=trial.state, datetime_start=began)
    made = connection.execute(row).inserted_primary_key
    assert made is not None
    write_attributes(connection, "trial_system_attributes", made[0], trial.system_attrs)
    write_attributes(connection, "trial_user_attributes", made[0], trial.user_attrs)
    if trial.state == TrialState.RUNNING:
        give_new(connection, made[0])
    return int(made[0])


def _lock_study(connection: Connection, study_id: int) -> None:
    """Make other transactions that call this wait; writing to the row has this effect in every database."""
    studies = tables()["studies"]
    lock = update(studies).where(studies.c.study_id == study_id).values(study_name=studies.c.study_name)
    if connection.execute(lock).rowcount != 1:
        raise KeyError(f"no study has the id {study_id}")


def write_attributes(connection: Connection, name: str, owner_id: int, values: Mapping[str, Any]) -> None:
    """Put rows into one of Optuna's attribute tables, replacing those with the same keys."""
    if values:
        table, owner = tables()[name], f"{name.partition('_')[0]}_id"
        connection.execute(delete(table).where(table.c[owner] == owner_id, table.c.key.in_(list(values))))
        written = [{owner: owner_id, "key": key, "value_json": json.dumps(value)} for key, value in values.items()]
        connection.execute(insert(table), written)
