"""Optuna's database storage with leases, a tolerance for damaged rows, and patience while its server is away."""

from __future__ import annotations

import inspect
import logging
import os
import secrets
import threading
import time
from collections.abc import Callable, Container, Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from datetime import UTC, datetime
from functools import wraps
from pathlib import Path
from typing import Any, TypeVar, cast

from optuna.exceptions import StorageInternalError, UpdateFinishedTrialError
from optuna.storages import BaseStorage, RDBStorage
from optuna.trial import FrozenTrial, TrialState
from sqlalchemy import ColumnElement, Connection, create_engine, delete, insert, or_, select, text, update
from sqlalchemy.exc import DBAPIError, SQLAlchemyError
from sqlalchemy.orm import scoped_session, sessionmaker
from sqlalchemy.pool import ConnectionPoolEntry

from nas_optuna.errors import Gone, StudyError
from nas_optuna.study.lease_table import LEASES, is_held, require_held, seconds
from nas_optuna.study.optuna_internals import CachedStorage, models, tables, trial_id_of
from nas_optuna.study.schema import flaw_of_study
from nas_optuna.study.trial_rows import Unreadable, attributes_of, read_trials

SCHEMA = "v3.2.0.a"
"""The version of Optuna 5.0's tables; Optuna itself judges any other."""
_MOST_VARIABLES = 500


class Database(RDBStorage):
    """Optuna's database storage with leases, which reads a study even if somebody has damaged some of its rows."""

    def __init__(self, url: str, engine_kwargs: dict[str, Any]) -> None:
        if not self._opened_at_once(url, engine_kwargs):
            super().__init__(url.replace("{", "{{").replace("}", "}}"), engine_kwargs)  # Optuna formats it
        # Add rows in one statement. Psycopg sends several in pieces, and a process that freezes between two would keep
        # its locks for ever: the server waits for the rest as within a statement, which no limit on idle sessions ends.
        self.engine.dialect.use_insertmanyvalues_wo_returning = self.engine.dialect.use_insertmanyvalues

    def _opened_at_once(self, url: str, engine_kwargs: dict[str, Any]) -> bool:
        """Open a database that has this version's tables without importing Alembic, which takes 0.1 s."""
        found: Sequence[str] = ()
        try:
            engine = create_engine(url, **engine_kwargs)
            with suppress(SQLAlchemyError), engine.connect() as connection:  # it may have no tables yet
                found = connection.execute(text("SELECT version_num FROM alembic_version")).scalars().all()
        except (SQLAlchemyError, ImportError, OSError, ValueError):  # Optuna says what is wrong
            return False
        if found != [SCHEMA]:
            engine.dispose()
            return False
        self.url, self.engine, self.engine_kwargs, self.skip_compatibility_check = url, engine, engine_kwargs, False
        self.heartbeat_interval = self.grace_period = None
        self.heartbeat_stale_trial_callback = self.failed_trial_callback = None
        self.scoped_session = scoped_session(sessionmaker(bind=engine))
        self._version_manager = cast(Any, None)
        return True

    def _get_trials(
        self,
        study_id: int,
        states: Container[TrialState] | None,
        included_trial_ids: set[int],
        trial_id_greater_than: int,
    ) -> list[FrozenTrial]:
        trials = tables()["trials"]
        which = trials.c.trial_id > trial_id_greater_than
        if included_trial_ids:
            which |= trials.c.trial_id.in_(sorted(included_trial_ids)[:_MOST_VARIABLES])
        if len(included_trial_ids) > _MOST_VARIABLES:
            which = trials.c.trial_id >= min(included_trial_ids)
        with self.engine.connect() as connection:
            found = read_trials(connection, (trials.c.study_id == study_id) & which)
        if not found:
            self.get_study_name_from_id(study_id)  # which raises a `KeyError` if it was deleted
        wanted = [t for t in found if trial_id_of(t) in included_trial_ids or trial_id_of(t) > trial_id_greater_than]
        return [trial for trial in wanted if states is None or trial.state in states]

    def get_trial(self, trial_id: int) -> FrozenTrial:
        """Read a trial."""
        with self.engine.connect() as connection:
            found = read_trials(connection, tables()["trials"].c.trial_id == trial_id)
        if not found:
            raise KeyError(f"no trial has the id {trial_id}")
        return found[0]

    def set_trial_state_values(self, trial_id: int, state: TrialState, values: Sequence[float] | None = None) -> bool:
        """Write a trial's end only while this process's lease stands, and let one worker take a waiting trial."""
        # Optuna reads the state before it writes it, and another process may write in between.
        if state != TrialState.RUNNING and not (state.is_finished() and is_held(self, trial_id)):
            return super().set_trial_state_values(trial_id, state, values)
        stored = [models().TrialValueModel.value_to_stored_repr(value) for value in values or ()]
        with self.engine.begin() as connection:
            if not change_state(connection, trial_id, state):
                if state == TrialState.RUNNING:
                    return False
                raise UpdateFinishedTrialError(f"trial {trial_id} has ended, or was put back")
            if state != TrialState.RUNNING:
                require_held(self, connection, trial_id)
            rows = [
                {"trial_id": trial_id, "objective": i, "value": value, "value_type": kind}
                for i, (value, kind) in enumerate(stored)
            ]
            if rows:
                connection.execute(insert(tables()["trial_values"]), rows)
        return True

    def delete_study(self, study_id: int) -> None:
        """Delete a study without reading its rows, as Optuna would, since some may be damaged."""
        known = tables()
        trials = select(known["trials"].c.trial_id).where(known["trials"].c.study_id == study_id)
        with self.engine.begin() as connection:
            if connection.dialect.has_table(connection, LEASES.name):  # SQLite gives the ids to later trials
                connection.execute(delete(LEASES).where(LEASES.c.trial_id.in_(trials)))
            for name, table in known.items():
                if name.startswith("trial_"):
                    connection.execute(delete(table).where(table.c.trial_id.in_(trials)))
            for name in ("trials", "study_directions", "study_user_attributes", "study_system_attributes"):
                connection.execute(delete(known[name]).where(known[name].c.study_id == study_id))
        super().delete_study(study_id)

    def get_study_user_attrs(self, study_id: int) -> dict[str, Any]:
        """Read and check a study's user attributes."""
        return self._attributes_of_study(study_id, "study_user_attributes")

    def get_study_system_attrs(self, study_id: int) -> dict[str, Any]:
        """Read and check a study's system attributes."""
        return self._attributes_of_study(study_id, "study_system_attributes")

    def chosen_system_attributes(self, study_id: int, keys: Sequence[str], starts: Sequence[str]) -> dict[str, Any]:
        """Read and check the system attributes of a study that have one of these keys, or whose key starts so."""
        key = tables()["study_system_attributes"].c.key
        which = or_(key.in_(keys), *(key.startswith(start, autoescape=True) for start in starts))
        return self._attributes_of_study(study_id, "study_system_attributes", which)

    def user_attribute(self, study_id: int, key: str) -> Any:
        """Read and check one user attribute of a study; None if it is not set."""
        name = "study_user_attributes"
        return self._attributes_of_study(study_id, name, tables()[name].c.key == key).get(key)

    def _attributes_of_study(self, study_id: int, name: str, *which: ColumnElement[bool]) -> dict[str, Any]:
        table, studies = tables()[name], tables()["studies"]
        with self.engine.connect() as connection:
            of_study = select(table.c.key, table.c.value_json).where(table.c.study_id == study_id, *which)
            rows = connection.execute(of_study).all()
            if not rows and connection.execute(select(studies).where(studies.c.study_id == study_id)).first() is None:
                raise KeyError(f"no study has the id {study_id}")
        try:
            found = attributes_of(rows)
            if (flaw := flaw_of_study(found)) is None:
                return found
        except Unreadable as error:
            flaw = str(error)
        study = self.get_study_name_from_id(study_id)
        raise StudyError(f"study {study!r} cannot be read: {flaw}; restore a copy of the database, or delete the study")


def change_state(connection: Connection, trial_id: int, state: TrialState) -> bool:
    """Let a waiting trial run, or put back or end a running one; False if it is in another state."""
    trials, now = tables()["trials"], datetime.now(UTC).replace(tzinfo=None)  # as Optuna keeps times
    before = TrialState.WAITING if state == TrialState.RUNNING else TrialState.RUNNING
    change = update(trials).where(trials.c.trial_id == trial_id, trials.c.state == before).values(state=state)
    if state != TrialState.WAITING:
        change = change.values({"datetime_start" if state == TrialState.RUNNING else "datetime_complete": now})
    return connection.execute(change).rowcount == 1


logger = logging.getLogger(__name__)

T = TypeVar("T")

# --- waiting for a server ---------------------------------------------------------------------------------------------


_RETRYABLE_MARKERS = ("deadlock", "could not serialize access", "try restarting transaction")
"""What PostgreSQL and MySQL say when they have rolled back a transaction that may be repeated."""
_ATTEMPTS = 20


class RetryingStorage(CachedStorage):
    """Optuna's cached storage whose calls are repeated for up to `wait` seconds while the server is away."""

    # Optuna's transactions may be repeated, because they set values rather than add to them.

    def __init__(self, database: Database, wait: float = 0.0, file: Path | None = None) -> None:
        super().__init__(database)
        self.database = database
        self.wait = wait
        self.give_up: Callable[[], bool] = never
        self._file = file
        self._file_identity = _identity_of(file)

    def with_retry(self, work: Callable[[], T]) -> T:
        """Run one transaction, and repeat it if the server was away or has rolled it back in favour of another."""
        if getattr(_working, "now", False):  # one of Optuna's calls within another
            return work()

        def checked() -> T:
            if self._file is not None and _identity_of(self._file) != self._file_identity:
                raise Gone(f"the database {self._file} was deleted or replaced while it was in use")
            return work()

        _working.now = True
        try:
            return persistently(checked, self.wait, give_up=lambda: self.give_up())
        finally:
            _working.now = False


_working = threading.local()
"""Whether this thread is within a call that will be repeated."""


def never() -> bool:
    """False: nobody asks to give up."""
    return False


def persistently(
    work: Callable[[], T],
    wait: float,
    *,
    give_up: Callable[[], bool] = never,
    is_undone: Callable[[Exception], bool] | None = None,
) -> T:
    """Repeat `work` while the server is away, for at most `wait` seconds, or after another process got in its way."""
    undone, pause, deadline = 0, 0.1, 0.0
    while True:
        try:
            return work()
        except Exception as error:
            if (is_undone or _is_undone)(error) and undone < _ATTEMPTS:
                undone += 1
                time.sleep(0.02 * undone * (0.5 + secrets.randbelow(100) / 100))
                continue
            if not wait or not is_away(error):
                raise
            if not deadline:
                deadline = time.monotonic() + wait
                logger.warning("the database server is away; waiting for it for up to %g s", wait)
            if time.monotonic() >= deadline or give_up():
                raise
        time.sleep(pause)
        pause = min(2 * pause, 1.0)


_IDLE_LIMITS = {
    "postgresql": "SET idle_in_transaction_session_timeout = '{:.0f}s'",
    "mysql": "SET SESSION wait_timeout = {:.0f}",
    "mariadb": "SET SESSION wait_timeout = {:.0f}",
}
"""What tells each server to end a session that idles within a transaction; MySQL's ends any idle session."""


def idle_limits(scheme: str) -> list[tuple[Callable[[Any, ConnectionPoolEntry], None], str]]:
    """The pool's events by which a server ends a session that idles within a transaction for as long as a lease."""

    # A frozen host would keep its rows locked, so that nobody could take over its trial. The pool reopens a session
    # that was ended outside of a transaction.
    def limit(connection: Any, record: ConnectionPoolEntry) -> None:
        with closing(connection.cursor()) as cursor:
            cursor.execute(_IDLE_LIMITS[scheme].format(max(1.0, seconds())))
        connection.commit()

    return [(limit, "connect")] if scheme in _IDLE_LIMITS else []


def _retried(name: str) -> Callable[..., Any]:
    method = getattr(CachedStorage, name)

    @wraps(method)
    def retried(self: RetryingStorage, *arguments: Any, **options: Any) -> Any:
        return self.with_retry(lambda: method(self, *arguments, **options))

    return retried


for _name, _ in inspect.getmembers(BaseStorage, inspect.isfunction):
    if not _name.startswith("_"):
        setattr(RetryingStorage, _name, _retried(_name))


def cause_of(error: BaseException) -> BaseException:
    """The database's error behind the one that Optuna raises."""
    return error.__cause__ or error if isinstance(error, StorageInternalError) else error


def is_away(error: BaseException) -> bool:
    """Whether a storage failed because its server is away and may come back."""
    error = cause_of(error)
    if not isinstance(error, DBAPIError) or type(error.orig).__module__.startswith("sqlite3"):
        return False
    return error.connection_invalidated or error.statement is None  # it was lost, or could not be made


def _is_undone(error: BaseException) -> bool:
    """Whether a server has rolled back a transaction that could not go on beside another, as in a deadlock."""
    error = cause_of(error)
    return isinstance(error, DBAPIError) and any(sign in str(error.orig).lower() for sign in _RETRYABLE_MARKERS)


def _identity_of(file: Path | None) -> tuple[int, int] | None:
    if file is None:
        return None
    try:
        found = os.stat(file)
    except OSError:
        return None
    return found.st_dev, found.st_ino


@contextmanager
def giving_up(storage: BaseStorage, when: Callable[[], bool]) -> Iterator[None]:
    """Stop waiting for the database server as soon as `when` says so."""
    if not isinstance(storage, RetryingStorage):
        yield
        return
    storage.give_up = when
    try:
        yield
    finally:
        storage.give_up = never
