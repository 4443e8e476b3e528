"""Everything that we use of Optuna and optuna-dashboard beyond their public interfaces.

It was checked against Optuna 5.0.0 and optuna-dashboard 0.21.0, and `tests/study/test_optuna_internals.py` holds a
contract test for each use. A release of either that breaks one breaks this module and nothing else.

The reasons, in the order of the page:

- A trial's worker and its state must change together, and a waiting trial must be taken by one worker only. Optuna
  reads the state and then writes it, which on SQLite lets two workers take the same trial (optuna #4002, #4621).
- A study must not be seen before it has its spec.
- Several attributes at once are one transaction rather than three queries for each attribute: a trial of ours has a
  dozen, which would cost more than its parameters do (``benchmarks/objective_overhead.py``).
- A database server that is restarted must not end a run of hours.
- Samplers, pruners and notes are given frozen trials and need to read or write the storage behind them.
"""

from __future__ import annotations

import copy
import json
import logging
import os
import secrets
import time
from collections.abc import Callable, Container, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import datetime
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, cast

import optuna
from optuna.distributions import BaseDistribution
from optuna.exceptions import StorageInternalError
from optuna.storages import BaseStorage, RDBStorage
from optuna.study import Study, StudyDirection
from optuna.study._tell import _tell_with_warning
from optuna.trial import BaseTrial, FrozenTrial, Trial, TrialState

from nas_optuna.errors import Gone

if TYPE_CHECKING:
    from sqlalchemy import Connection

logger = logging.getLogger(__name__)

T = TypeVar("T")
Marks = Callable[[float], Mapping[str, Any]]
"""Gives attributes for a time in seconds."""

_METRIC_NAMES = "study:metric_names"
"""System attribute in which `Study.set_metric_names` keeps its names."""
_AWAY = (
    "refused",
    "closed the connection",
    "connection is closed",
    "connection is lost",
    "terminating connection",
    "shutting down",
    "starting up",
    "not yet accepting",
    "recovery mode",
    "reset by peer",
    "broken pipe",
    "gone away",
    "lost connection",
    "too many clients",
    "no such file or directory",  # the server's socket
)
"""What drivers say of a server that may come back."""
_UNDONE = ("deadlock", "could not serialize access", "try restarting transaction")
"""What PostgreSQL and MySQL say of a transaction that they have undone and that may be repeated."""
_ATTEMPTS = 20
_CLOCKS = {
    "sqlite": "(julianday('now') - 2440587.5) * 86400.0",
    "postgresql": "extract(epoch FROM clock_timestamp())",
    "mysql": "unix_timestamp(sysdate(6))",
    "mariadb": "unix_timestamp(sysdate(6))",
}
"""How each database says the time in seconds."""


# --- storages ---------------------------------------------------------------------------------------------------------


class FullError(Exception):
    """The study has as many trials as it may have."""


class PatientStorage(RDBStorage):
    """A database that waits for its server, and that notices when its file is deleted.

    Every transaction that fails because the server is away is tried again until it has been away for `wait` seconds.
    Optuna's transactions may be repeated: they set values rather than add to them.

    Args:
        url: A SQLAlchemy URL.
        engine_kwargs: Passed to SQLAlchemy.
        wait: Seconds to wait for the server; 0 to wait for none.
        file: The SQLite file, if it is one.
    """

    def __init__(self, url: str, engine_kwargs: dict[str, Any], wait: float = 0.0, file: Path | None = None) -> None:
        self.wait = wait
        self.give_up: Callable[[], bool] = never
        self.below: int | None = None
        self.owners: dict[int, Mapping[str, Any]] = {}
        """Trial → the attributes that it must have while this process writes to it."""
        self._file = file
        self._file_identity = _identity_of(file)
        super().__init__(url.replace("{", "{{").replace("}", "}}"), engine_kwargs)  # Optuna formats it

    def __getstate__(self) -> dict[Any, Any]:
        return super().__getstate__() | {"give_up": never, "owners": {}}

    def _get_prepared_new_trial(self, study_id: int, template_trial: FrozenTrial | None, session: Any) -> Any:
        """Within the transaction that gives a trial its number, take it back where that is too large."""
        trial = super()._get_prepared_new_trial(study_id, template_trial, session)
        if self.below is not None and trial.number >= self.below:
            raise FullError
        return trial

    def patiently(self, work: Callable[[], T]) -> T:
        """Do one transaction, and again when the server is back, or has undone it for another one's sake.

        Args:
            work: Opens the transaction and commits it.

        Raises:
            Gone: The database file was deleted or replaced.
        """
        deadline, undone = 0.0, 0
        while True:
            if self._file is not None and _identity_of(self._file) != self._file_identity:
                raise Gone(f"the database {self._file} was deleted or replaced while it was in use")
            try:
                return work()
            except Exception as error:
                if _is_undone(error) and undone < _ATTEMPTS:
                    undone += 1
                    time.sleep(0.01 * undone * (0.5 + secrets.randbelow(100) / 100))
                    continue
                if not self.wait or not is_away(error):
                    raise
                if not deadline:
                    deadline = time.monotonic() + self.wait
                    logger.warning("the database server is away; waiting for it for up to %g s", self.wait)
                self._await_server(deadline, error)

    def set_trial_state_values(self, trial_id: int, state: TrialState, values: Sequence[float] | None = None) -> bool:
        """As `RDBStorage` does it, but in one step: it reads the state first, and then another process may write it.

        Raises:
            KeyError: The trial was deleted.
            optuna.exceptions.UpdateFinishedTrialError: It has ended, or another process runs it.
        """
        if state != TrialState.RUNNING and not (state.is_finished() and trial_id in self.owners):
            return super().set_trial_state_values(trial_id, state, values)
        from sqlalchemy import insert

        model = _tables().TrialValueModel
        stored = [model.value_to_stored_repr(value) for value in values or ()]
        with self.engine.begin() as connection:
            if state == TrialState.RUNNING:
                return _set_state(connection, trial_id, TrialState.WAITING, state)
            if not _set_state(connection, trial_id, TrialState.RUNNING, state, self.owners[trial_id]):
                raise _not_updatable(connection, trial_id)
            rows = [
                {"trial_id": trial_id, "objective": i, "value": value, "value_type": kind}
                for i, (value, kind) in enumerate(stored)
            ]
            if rows:
                connection.execute(insert(model.__table__), rows)
        self.owners.pop(trial_id, None)
        return True

    def _await_server(self, deadline: float, error: Exception) -> None:
        pause = 0.1
        while time.monotonic() < deadline and not self.give_up():
            time.sleep(pause)
            pause = min(2 * pause, 1.0)
            try:
                with self.engine.connect():
                    return
            except Exception as still:
                if not is_away(still):
                    raise
        raise error


def never() -> bool:
    """Return False: nobody asked to give up."""
    return False


def _patient(method: Callable[..., T]) -> Callable[..., T]:
    @wraps(method)
    def patient(self: PatientStorage, *args: Any, **kwargs: Any) -> T:
        return self.patiently(lambda: method(self, *args, **kwargs))

    return patient


TRANSACTIONS = (
    "create_new_study",
    "delete_study",
    "set_study_user_attr",
    "set_study_system_attr",
    "get_study_id_from_name",
    "get_study_name_from_id",
    "get_study_directions",
    "get_study_user_attrs",
    "get_study_system_attrs",
    "get_all_studies",
    "_create_new_trial",
    "_set_trial_param",
    "get_trial_param",
    "get_trial_id_from_study_id_trial_number",
    "set_trial_state_values",
    "set_trial_intermediate_value",
    "set_trial_user_attr",
    "set_trial_system_attr",
    "get_trial",
    "get_trial_user_attrs",
    "get_trial_system_attrs",
    "_get_trials",
    "_get_best_trial_id",
)
"""Methods of `RDBStorage` that open a transaction; every other one that reaches the database calls these."""
for _name in TRANSACTIONS:
    setattr(PatientStorage, _name, _patient(getattr(PatientStorage, _name)))


def _is_about_an_absent_server(record: logging.LogRecord) -> bool:
    """`RDBStorage._get_trials` takes every failure for a list that is too long, and warns with pages of SQL."""
    text = record.getMessage()
    return text.startswith("Caught an error from sqlalchemy") and any(sign in text.lower() for sign in _AWAY)


logging.getLogger("optuna.storages._rdb.storage").addFilter(lambda record: not _is_about_an_absent_server(record))


def is_away(error: BaseException) -> bool:
    """Whether a storage failed because its server is away, and may come back."""
    from sqlalchemy.exc import DBAPIError, PendingRollbackError

    if isinstance(error, StorageInternalError) and error.__cause__ is not None:
        error = error.__cause__
    if isinstance(error, PendingRollbackError):
        return True  # `RDBStorage._get_trials` asks once more within the transaction that has just failed
    if not isinstance(error, DBAPIError) or type(error.orig).__module__.startswith("sqlite3"):
        return False
    return error.connection_invalidated or any(sign in str(error.orig).lower() for sign in _AWAY)


def _is_undone(error: BaseException) -> bool:
    """Whether a server has undone a transaction because it and another one waited for each other, as MySQL does."""
    from sqlalchemy.exc import DBAPIError

    if isinstance(error, StorageInternalError) and error.__cause__ is not None:
        error = error.__cause__
    return isinstance(error, DBAPIError) and any(sign in str(error.orig).lower() for sign in _UNDONE)


def _identity_of(file: Path | None) -> tuple[int, int] | None:
    if file is None:
        return None
    try:
        found = os.stat(file)
    except OSError:
        return None
    return found.st_dev, found.st_ino


def _database(storage: BaseStorage) -> RDBStorage | None:
    behind_cache = getattr(storage, "_backend", storage)
    return behind_cache if isinstance(behind_cache, RDBStorage) else None


@contextmanager
def giving_up(study: Study, when: Callable[[], bool]) -> Iterator[None]:
    """Within it nobody waits any longer for the study's database server as soon as `when` says so."""
    database = _database(study._storage)
    if not isinstance(database, PatientStorage):
        yield
        return
    database.give_up = when
    try:
        yield
    finally:
        database.give_up = never


def _transaction(database: RDBStorage, work: Callable[[Connection], T], *, patiently: bool = True) -> T:
    """Do `work` in one transaction."""

    def once() -> T:
        with database.engine.begin() as connection:
            return work(connection)

    return database.patiently(once) if patiently and isinstance(database, PatientStorage) else once()


def _tables() -> Any:
    """Optuna's tables, whose column types differ between databases."""
    from optuna.storages._rdb import models

    return models


# --- studies ----------------------------------------------------------------------------------------------------------


def create_whole_study(
    storage: BaseStorage,
    name: str,
    directions: Sequence[str],
    metric_names: Sequence[str],
    user_attributes: Mapping[str, Any],
) -> None:
    """Create a study that nobody sees before it has its names and attributes.

    Args:
        storage: Where.
        name: Its name.
        directions: ``"maximize"`` or ``"minimize"``, one per objective.
        metric_names: What each objective is called.
        user_attributes: What else it remembers.

    Raises:
        optuna.exceptions.DuplicatedStudyError: The name is taken, maybe since a moment.
    """
    database = _database(storage)
    chosen = [StudyDirection[direction.upper()] for direction in directions]
    if database is None:
        study_id = storage.create_new_study(chosen, name)
        storage.set_study_system_attr(study_id, _METRIC_NAMES, list(metric_names))
        for key, value in user_attributes.items():
            storage.set_study_user_attr(study_id, key, value)
        return
    from sqlalchemy import insert
    from sqlalchemy.exc import IntegrityError

    models = _tables()

    def create(connection: Connection) -> None:
        made = connection.execute(insert(models.StudyModel.__table__).values(study_name=name))
        study_id = made.inserted_primary_key[0] if made.inserted_primary_key else None
        rows = [{"study_id": study_id, "objective": i, "direction": d} for i, d in enumerate(chosen)]
        connection.execute(insert(models.StudyDirectionModel.__table__), rows)
        names = {_METRIC_NAMES: list(metric_names)}
        for model, values in (
            (models.StudySystemAttributeModel, names),
            (models.StudyUserAttributeModel, user_attributes),
        ):
            rows = [{"study_id": study_id, "key": k, "value_json": json.dumps(v)} for k, v in values.items()]
            connection.execute(insert(model.__table__), rows)

    try:
        _transaction(database, create)
    except IntegrityError:
        raise optuna.exceptions.DuplicatedStudyError(f"study {name!r} exists") from None


def study_user_attributes(study: Study) -> dict[str, Any]:
    """Return ``study.user_attrs`` without the deep copy that the property makes."""
    return study._storage.get_study_user_attrs(study._study_id)


def study_system_attributes(study: Study) -> dict[str, Any]:
    """Return the attributes of a study that tools keep their own things in."""
    return study._storage.get_study_system_attrs(study._study_id)


def set_study_system_attributes(study: Study, values: Mapping[str, Any]) -> None:
    """Set the attributes of a study that tools such as optuna-dashboard keep their own things in."""
    database = _database(study._storage)
    if database is None:
        for key, value in values.items():
            study._storage.set_study_system_attr(study._study_id, key, value)
        return
    table = _tables().StudySystemAttributeModel.__table__
    _transaction(database, lambda connection: _write(connection, table, "study_id", study._study_id, values))


def change_study(study: Study, change: Callable[[Mapping[str, Any]], Mapping[str, Any]]) -> Mapping[str, Any]:
    """Set user attributes of a study that depend on those it has, so that of two processes neither is overwritten.

    Args:
        study: The study.
        change: Given the study's user attributes, those to set. It may be called again.

    Returns:
        Those that were set.
    """
    database, study_id = _database(study._storage), study._study_id
    if database is None:
        values = change(study.user_attrs)
        for key, value in values.items():
            study.set_user_attr(key, value)
        return values
    from sqlalchemy import select

    rows = _tables().StudyUserAttributeModel.__table__

    def read_and_write(connection: Connection) -> Mapping[str, Any]:
        _lock_study(connection, study_id)
        found = connection.execute(select(rows.c.key, rows.c.value_json).where(rows.c.study_id == study_id))
        values = change({key: json.loads(text) for key, text in found})
        _write(connection, rows, "study_id", study_id, values)
        return values

    return _transaction(database, read_and_write)


def _lock_study(connection: Connection, study_id: int) -> None:
    """Let other transactions that ask for this wait; the row is written to, so that every database does it."""
    from sqlalchemy import update

    studies = _tables().StudyModel.__table__
    connection.execute(update(studies).where(studies.c.study_id == study_id).values(study_name=studies.c.study_name))


def all_trials(study: Study, states: Iterable[TrialState] | None = None) -> list[FrozenTrial]:
    """Return the trials as they are now, where ``study.get_trials`` may return those of the trial's beginning.

    They must not be changed: they are not copied.
    """
    # A list, because for the tuple of the waiting state alone, the storage in memory begins its search after the last
    # trial that it found waiting, and does not see one before it that was put back.
    chosen = None if states is None else list(states)
    return study._storage.get_all_trials(study._study_id, deepcopy=False, states=chosen)


def exists(study: Study) -> bool:
    """Whether the study is still in its storage, under its number: nobody deleted it."""
    try:
        return study._storage.get_study_id_from_name(study.study_name) == study._study_id
    except KeyError:
        return False


def enqueued_params(trial: Trial | FrozenTrial) -> dict[str, Any] | None:
    """The parameters that somebody chose before the trial began; None where nobody did."""
    frozen = trial._cached_frozen_trial if isinstance(trial, Trial) else trial
    return frozen.system_attrs.get("fixed_params")


def is_enqueued(trial: Trial | FrozenTrial) -> bool:
    """Whether somebody chose the trial's parameters before it began."""
    return enqueued_params(trial) is not None


def read_trial(study: Study, trial_id: int) -> FrozenTrial:
    """Read a trial as it is now."""
    return study._storage.get_trial(trial_id)


def storage_of(study: Study) -> BaseStorage:
    """Return the storage that a study lives in."""
    return study._storage


def url_of(study: Study) -> str | None:
    """Return the URL of the database that a study lives in; None where it lives in no database."""
    database = _database(study._storage)
    return None if database is None else str(database.url)


def with_storage(study: Study, storage: object) -> Study:
    """Return the same study, read through something that acts as a storage."""
    return Study(study.study_name, cast(BaseStorage, storage), sampler=study.sampler, pruner=study.pruner)


def showing(study: Study, chosen: Callable[[list[FrozenTrial]], list[FrozenTrial]]) -> Study:
    """Return a view of a study in which Optuna's samplers see some of its trials.

    Args:
        study: It is left as it is.
        chosen: Given all trials that a sampler asks for, those that it is shown.
    """
    view, everything = copy.copy(study), study._get_trials

    def some(*arguments: Any, **options: Any) -> list[FrozenTrial]:
        return chosen(everything(*arguments, **options))

    view._get_trials = some  # type: ignore[method-assign]
    return view


def read_once(study: Study) -> Study:
    """Return a view of a study as it is now, so that all that is said of it agrees while others finish trials."""
    view, trials = copy.copy(study), study.get_trials(deepcopy=False)

    def read(
        deepcopy: bool = True, states: Container[TrialState] | None = None, use_cache: bool = False
    ) -> list[FrozenTrial]:
        found = [trial for trial in trials if states is None or trial.state in states]
        return copy.deepcopy(found) if deepcopy else found

    view._get_trials = read  # type: ignore[method-assign]
    return view


def contains(distribution: BaseDistribution, value: float) -> bool:
    """Whether a number, in Optuna's internal form, is inside a distribution."""
    return distribution._contains(value)


@contextmanager
def stoppable(study: Study) -> Iterator[Callable[[], bool]]:
    """Within it an objective or a sampler may call ``study.stop()``, as within ``study.optimize``.

    Yields:
        Whether somebody has called it.
    """
    study._stop_flag = False
    study._thread_local.in_optimize_loop = True
    try:
        yield lambda: study._stop_flag
    finally:
        study._thread_local.in_optimize_loop = False


# --- trials -----------------------------------------------------------------------------------------------------------


def study_id_of(study: Study) -> int:
    """Return the number of a study within its storage."""
    return study._study_id


def trial_id_of(trial: Trial | FrozenTrial) -> int:
    """Return the number of a trial within its storage, which is not its number within its study."""
    return trial._trial_id


def open_trial(study: Study, trial_id: int) -> Trial:
    """Return a running trial, as ``study.ask`` does; its sampler's ``before_trial`` runs here."""
    return optuna.Trial(study, trial_id)


def set_trial_attribute(study: Study, trial: FrozenTrial, key: str, value: Any) -> None:
    """Set a user attribute of a trial that is known only as it was when it was read: what a sampler is given."""
    study._storage.set_trial_user_attr(trial._trial_id, key, value)


def set_trial_system_attribute(study: Study, trial: FrozenTrial, key: str, value: Any) -> None:
    """Set a system attribute, in which tools keep their own things; see `set_trial_attribute`."""
    study._storage.set_trial_system_attr(trial._trial_id, key, value)


NOTE_PART = 2045
"""Characters of a note for each attribute, which optuna-dashboard sets so that any database takes them."""


def dashboard_note(
    text: str, trial: Trial | FrozenTrial | None = None, attributes: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """Return the study's system attributes in which optuna-dashboard looks for a note.

    Its own ``save_note`` reads the notes of all trials twice, and to import it takes longer than a small network's
    training.

    Args:
        text: The note, as Markdown.
        trial: The trial that it is of; None is the study itself.
        attributes: The study's system attributes where there may be an earlier note, which the new one replaces.
    """
    known, version, part = attributes or {}, *_note_keys(trial)
    parts = {f"{part}{i}": text[start : start + NOTE_PART] for i, start in enumerate(range(0, len(text), NOTE_PART))}
    stale = {key: "" for key in known if key.startswith(part) and key not in parts}
    return parts | stale | {version: int(known.get(version, 0)) + 1}


def note_in(attributes: Mapping[str, Any]) -> str:
    """Return the note of a study that optuna-dashboard keeps among the study's system attributes."""
    version, part = _note_keys(None)
    if version not in attributes:
        return ""
    return "".join(str(attributes[f"{part}{i}"]) for i in range(sum(key.startswith(part) for key in attributes)))


def _note_keys(trial: Trial | FrozenTrial | None) -> tuple[str, str]:
    """The key of a note's version, and what the keys of its parts begin with."""
    of = "" if trial is None else f"{trial._trial_id}:"
    return f"dashboard:{of}note_ver", f"dashboard:{of}note_str:"


def set_trial_attributes(trial: BaseTrial, values: Mapping[str, Any]) -> None:
    """Set several user attributes of a trial in one transaction.

    Raises:
        KeyError: The trial was deleted.
        optuna.exceptions.UpdateFinishedTrialError: It has ended.
    """
    database = _database(trial.storage) if isinstance(trial, Trial) else None
    if database is None or not isinstance(trial, Trial):
        for key, value in values.items():
            trial.set_user_attr(key, value)
        return
    trial_id, models = trial._trial_id, _tables()
    owned = database.owners.get(trial_id) if isinstance(database, PatientStorage) else None

    def write(connection: Connection) -> None:
        _require_updatable(connection, trial_id, owned)
        _write(connection, models.TrialUserAttributeModel.__table__, "trial_id", trial_id, values)

    _transaction(database, write)
    trial._cached_frozen_trial.user_attrs.update(values)


def may_have_trial_with(study: Study, key: str, value: Any) -> bool:
    """Whether some trial has this user attribute; True where that is not known without reading all of them."""
    database = _database(study._storage)
    if database is None:
        return True
    from sqlalchemy import select

    models = _tables()
    trials, rows = models.TrialModel.__table__, models.TrialUserAttributeModel.__table__
    found = (
        select(rows.c.trial_id)
        .join(trials, trials.c.trial_id == rows.c.trial_id)
        .where(trials.c.study_id == study._study_id, rows.c.key == key, rows.c.value_json == json.dumps(value))
        .limit(1)
    )
    return _transaction(database, lambda connection: connection.execute(found).first() is not None)


def now(study: Study) -> float:
    """Return the time in seconds by the clock of the study's database, which its workers on all hosts share.

    A storage without a server, such as a journal, has only the clock of this host.
    """
    database = _database(study._storage)
    return time.time() if database is None else _transaction(database, _now)


def new_trial(study: Study, attributes: Mapping[str, Any], below: int | None = None) -> int:
    """Create a running trial that has these user attributes from its first moment on.

    Args:
        study: Its study.
        attributes: Its user attributes.
        below: Create none whose number would not be below this. In a database of ours this is decided in the
            transaction that gives the trial its number, so that workers who ask at once do not exceed it.

    Returns:
        Its number within the storage.

    Raises:
        FullError: The study has that many trials.
    """
    if below is not None and len(all_trials(study)) >= below:
        raise FullError
    template = optuna.trial.create_trial(state=TrialState.RUNNING, user_attrs=dict(attributes))
    template.datetime_start = datetime.now()
    database = _database(study._storage)
    if not isinstance(database, PatientStorage):
        return study._storage.create_new_trial(study._study_id, template_trial=template)
    database.below = below
    try:
        return study._storage.create_new_trial(study._study_id, template_trial=template)
    finally:
        database.below = None


def enqueue_unless(study: Study, params: Mapping[str, Any], attributes: Mapping[str, Any], *, ever: bool) -> bool:
    """Put params into the queue unless they are there: one step, however many processes do so at once.

    Args:
        study: Whose queue.
        params: A choice for every parameter.
        attributes: User attributes of the trial.
        ever: Whether trials with these params that have begun or ended count, too.

    Returns:
        Whether a trial was added.
    """
    template = optuna.trial.create_trial(
        state=TrialState.WAITING, system_attrs={"fixed_params": dict(params)}, user_attrs=dict(attributes)
    )
    database = _database(study._storage)
    if database is None:
        trials = all_trials(study, None if ever else (TrialState.WAITING,))
        if any(enqueued_params(trial) == params for trial in trials):
            return False
        study.add_trial(template)
        return True
    from sqlalchemy import select
    from sqlalchemy.orm import Session

    models, study_id = _tables(), study._study_id
    trials_, rows = models.TrialModel.__table__, models.TrialSystemAttributeModel.__table__
    queued = (
        select(rows.c.value_json)
        .join(trials_, trials_.c.trial_id == rows.c.trial_id)
        .where(trials_.c.study_id == study_id, rows.c.key == "fixed_params")
    )
    if not ever:
        queued = queued.where(trials_.c.state == TrialState.WAITING)

    def add(connection: Connection) -> bool:
        _lock_study(connection, study_id)
        if any(json.loads(text) == params for text in connection.execute(queued).scalars()):
            return False
        with Session(connection) as session:
            database._get_prepared_new_trial(study_id, template, session)
            session.commit()  # the connection's transaction goes on
        return True

    return _transaction(database, add)


def claim(study: Study, trial: FrozenTrial, marks: Marks) -> bool:
    """Let a waiting trial run, unless another worker was faster: a compare-and-set in every database.

    Args:
        study: Its study.
        trial: It was seen waiting.
        marks: The user attributes that say who runs it from now on, by the database's time.
    """
    database, trial_id = _database(study._storage), trial._trial_id
    if database is None:
        try:
            if not study._storage.set_trial_state_values(trial_id, TrialState.RUNNING):
                return False
        except optuna.exceptions.UpdateFinishedTrialError:
            return False
        _set_each(study, trial_id, marks(time.time()))
        return True
    rows = _tables().TrialUserAttributeModel.__table__

    def compare_and_set(connection: Connection) -> bool:
        if not _set_state(connection, trial_id, TrialState.WAITING, TrialState.RUNNING):
            return False
        _write(connection, rows, "trial_id", trial_id, marks(_now(connection)))
        return True

    return _transaction(database, compare_and_set)


def change_running(
    study: Study,
    trial_id: int,
    seen: Mapping[str, Any],
    marks: Marks,
    state: TrialState = TrialState.RUNNING,
    *,
    patiently: bool = True,
) -> bool:
    """Change a running trial's state and attributes in one step, unless it is no longer as it was seen.

    Args:
        study: Its study.
        trial_id: Its number within the storage; it was seen running.
        seen: User attributes that it had; None is none.
        marks: The user attributes that it gets, by the database's time; None removes one.
        state: Running still, or waiting.
        patiently: Whether to wait for a database server that is away.

    Returns:
        False where the trial has ended, waits, was deleted, or has other attributes.
    """
    database = _database(study._storage)
    if database is None:
        return _change_running_stepwise(study, trial_id, seen, marks, state)
    from sqlalchemy import delete, select

    rows = _tables().TrialUserAttributeModel.__table__

    def compare_and_set(connection: Connection) -> bool:
        if not _set_state(connection, trial_id, TrialState.RUNNING, state):
            return False
        query = select(rows.c.key, rows.c.value_json).where(rows.c.trial_id == trial_id, rows.c.key.in_(list(seen)))
        found = {key: json.loads(text) for key, text in connection.execute(query)}
        if any(found.get(key) != value for key, value in seen.items()):
            connection.rollback()
            return False
        values = marks(_now(connection))
        removed = [key for key, value in values.items() if value is None]
        connection.execute(delete(rows).where(rows.c.trial_id == trial_id, rows.c.key.in_(removed)))
        kept = {key: value for key, value in values.items() if value is not None}
        if kept:
            _write(connection, rows, "trial_id", trial_id, kept)
        return True

    return _transaction(database, compare_and_set, patiently=patiently)


def _change_running_stepwise(
    study: Study, trial_id: int, seen: Mapping[str, Any], marks: Marks, state: TrialState
) -> bool:
    """`change_running` in a storage without transactions."""
    try:
        found = study._storage.get_trial(trial_id)
    except KeyError:
        return False
    if found.state != TrialState.RUNNING or any(found.user_attrs.get(key) != value for key, value in seen.items()):
        return False
    values = marks(time.time())
    _set_each(study, trial_id, {k: v for k, v in values.items() if v is not None or k in found.user_attrs})
    if state != TrialState.RUNNING:
        study._storage.set_trial_state_values(trial_id, state)
    return True


def _set_each(study: Study, trial_id: int, values: Mapping[str, Any]) -> None:
    for key, value in values.items():
        study._storage.set_trial_user_attr(trial_id, key, value)


def write_only_as(study: Study, trial_id: int, attributes: Mapping[str, Any]) -> None:
    """From now on, write a trial's end and several attributes at once only while the trial has these attributes.

    So what a worker finds out that has lost its trial is not recorded, though it does not know yet. Holds in databases
    that were opened as `PatientStorage`.
    """
    database = _database(study._storage)
    if isinstance(database, PatientStorage):
        database.owners[trial_id] = attributes


def state_and_owner(study: Study, trial_id: int, key: str) -> tuple[TrialState, str | None] | None:
    """Return a trial's state and who runs it, as they are now; None where it was deleted."""
    database = _database(study._storage)
    if database is None:
        try:
            found = study._storage.get_trial(trial_id)
        except KeyError:
            return None
        return found.state, found.user_attrs.get(key)
    from sqlalchemy import and_, select

    models = _tables()
    trials, rows = models.TrialModel.__table__, models.TrialUserAttributeModel.__table__
    query = (
        select(trials.c.state, rows.c.value_json)
        .select_from(trials.outerjoin(rows, and_(rows.c.trial_id == trials.c.trial_id, rows.c.key == key)))
        .where(trials.c.trial_id == trial_id)
    )
    row = _transaction(database, lambda connection: connection.execute(query).first())
    return None if row is None else (row[0], json.loads(row[1]) if row[1] else None)


def tell(study: Study, trial: Trial, value: Any = None, state: TrialState | None = None) -> FrozenTrial:
    """Do as ``study.tell`` does, which ends by reading from the database all that is known here."""
    told_state, told_values, _ = _tell_with_warning(study, trial, value, state)
    ended = copy.copy(trial._cached_frozen_trial)
    ended.state, ended.values = told_state, told_values
    return ended


def _set_state(
    connection: Connection,
    trial_id: int,
    from_: TrialState,
    to: TrialState,
    attributes: Mapping[str, Any] | None = None,
) -> bool:
    """Change a trial's state, and lock its row, unless the state or these attributes are not what they should be."""
    from sqlalchemy import select, update

    models = _tables()
    trials, rows = models.TrialModel.__table__, models.TrialUserAttributeModel.__table__
    values: dict[str, Any] = {"state": to}
    if (from_, to) == (TrialState.WAITING, TrialState.RUNNING):
        values["datetime_start"] = datetime.now()
    if to.is_finished():
        values["datetime_complete"] = datetime.now()
    statement = update(trials).where(trials.c.trial_id == trial_id, trials.c.state == from_).values(values)
    for key, value in (attributes or {}).items():
        has = select(rows.c.trial_id).where(
            rows.c.trial_id == trial_id, rows.c.key == key, rows.c.value_json == json.dumps(value)
        )
        statement = statement.where(has.exists())
    return connection.execute(statement).rowcount == 1


def _require_updatable(connection: Connection, trial_id: int, attributes: Mapping[str, Any] | None) -> None:
    """Lock the row of a trial that is written to, or refuse that.

    Raises:
        KeyError: It was deleted.
        optuna.exceptions.UpdateFinishedTrialError: It has ended, or has not these attributes.
    """
    if _set_state(connection, trial_id, TrialState.RUNNING, TrialState.RUNNING, attributes):
        return
    if attributes is None and _set_state(connection, trial_id, TrialState.WAITING, TrialState.WAITING):
        return
    raise _not_updatable(connection, trial_id)


def _not_updatable(connection: Connection, trial_id: int) -> Exception:
    from sqlalchemy import select

    trials = _tables().TrialModel.__table__
    state = connection.execute(select(trials.c.state).where(trials.c.trial_id == trial_id)).scalar()
    if state is None:
        return KeyError(f"no trial has the id {trial_id}")
    if state.is_finished():
        return optuna.exceptions.UpdateFinishedTrialError(f"the trial has ended as {state.name}")
    return optuna.exceptions.UpdateFinishedTrialError("the trial was put back, or another process runs it")


def _now(connection: Connection) -> float:
    """The database's own time, in seconds."""
    from sqlalchemy import text

    clock = _CLOCKS.get(connection.dialect.name)
    return time.time() if clock is None else float(connection.execute(text(f"SELECT {clock}")).scalar_one())


def _write(connection: Connection, table: Any, owner: str, owner_id: int, values: Mapping[str, Any]) -> None:
    """Put rows into one of Optuna's attribute tables, in the place of those with the same keys."""
    from sqlalchemy import delete, insert

    written = [{owner: owner_id, "key": key, "value_json": json.dumps(value)} for key, value in values.items()]
    connection.execute(delete(table).where(table.c[owner] == owner_id, table.c.key.in_(list(values))))
    connection.execute(insert(table), written)
