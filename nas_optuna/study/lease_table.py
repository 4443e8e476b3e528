"""The table of leases: who has a trial, and until when, beside Optuna's tables in the same database.

Every change is one statement, by the database's own clock, so that hosts' clocks may differ.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar
from weakref import WeakSet

from optuna.study import Study
from sqlalchemy import (
    Column,
    ColumnElement,
    Connection,
    Engine,
    Float,
    Integer,
    MetaData,
    String,
    Table,
    delete,
    insert,
    literal,
    literal_column,
    select,
    update,
)
from sqlalchemy.exc import DBAPIError, IntegrityError
from sqlalchemy.schema import CreateTable

from nas_optuna.study.optuna_internals import database_of, storage_of, study_id_of, tables
from nas_optuna.study.storage import seconds_of
from nas_optuna.study.transactions import transaction
from nas_optuna.study.worker import this_worker

T = TypeVar("T")

SECONDS = 300.0
"""How long a lease holds; ``NAS_OPTUNA_LEASE`` is another number. It is renewed five times in that time, and after each
epoch."""

LEASES = Table(
    "nas_optuna_leases",
    MetaData(),
    Column("trial_id", Integer, primary_key=True, autoincrement=False),
    Column("worker", String(512), nullable=False),
    Column("until", Float(53), nullable=False),
)
_CLOCKS = {
    "sqlite": "(julianday('now') - 2440587.5) * 86400.0",
    "postgresql": "extract(epoch FROM clock_timestamp())",
    "mysql": "unix_timestamp(sysdate(6))",
    "mariadb": "unix_timestamp(sysdate(6))",
}
"""How each database says the time in seconds."""
_MADE: WeakSet[Engine] = WeakSet()
"""Databases in which the table is known to be there."""


@dataclass(frozen=True)
class Lease:
    """A row of the table: the process that has a trial, and when its claim ends unless it is renewed."""

    worker: str
    until: float  # seconds, by the database's clock
    has_lapsed: bool  # whether that has passed


def create(engine: Engine) -> None:
    """Make the table where it is missing; other processes may do so at the same moment."""
    try:
        with engine.begin() as connection:
            connection.execute(CreateTable(LEASES, if_not_exists=True))
    except DBAPIError:
        with engine.connect() as connection:  # another process was faster, or this raises what is wrong
            connection.execute(select(LEASES).limit(1))


def seconds() -> float:
    """How long a lease holds, in seconds."""
    return seconds_of("NAS_OPTUNA_LEASE", SECONDS, least=1e-9)


# --- a study's leases: a storage that is no database has none, and whoever asks there gets the trial -----------------


def has_leases(study: Study) -> bool:
    """Whether a study lives in a database; the table of leases is made where it is missing."""
    database = database_of(storage_of(study))
    if database is None:
        return False
    if database.engine not in _MADE:
        create(database.engine)
        _MADE.add(database.engine)
    return True


def in_table(study: Study, work: Callable[[Connection], T], otherwise: T, *, with_retry: bool = True) -> T:
    """Do something with a study's leases in one transaction; `otherwise` is returned where there are none."""
    return transaction(storage_of(study), work, with_retry=with_retry) if has_leases(study) else otherwise


def leases_of(study: Study, place: int | None = None) -> dict[int, Lease]:
    """Every lease of a study's trials, or that of one place, by the trial's number within the storage."""
    trials = tables()["trials"]
    theirs = LEASES.c.trial_id.in_(select(trials.c.trial_id).where(trials.c.study_id == study_id_of(study)))

    def read(connection: Connection) -> dict[int, Lease]:
        found = select(*LEASES.c, _clock(connection)).where(theirs if place is None else LEASES.c.trial_id == place)
        rows: list[Any] = list(connection.execute(found))
        return {trial_id: Lease(worker, until, until < float(moment)) for trial_id, worker, until, moment in rows}

    return in_table(study, read, {})


def now(study: Study) -> float:
    """The time in seconds by the database's clock."""
    return in_table(study, lambda c: float(c.execute(select(_clock(c))).scalar_one()), 0.0)


def take(study: Study, trial_id: int, seen: Lease | None) -> bool:
    """Take a trial that has no lease, or one that still is as it was seen; False where another process was faster."""

    def change(connection: Connection) -> bool:
        if seen is not None:
            return _change(connection, trial_id, (LEASES.c.worker == seen.worker) & (LEASES.c.until == seen.until))
        try:
            give(connection, trial_id)
        except IntegrityError:
            connection.rollback()
            return False
        return True

    return in_table(study, change, True)


def renew(study: Study, trial_id: int) -> bool:
    """Let this process's lease last from now on; False where it is gone."""
    return in_table(study, lambda connection: touch(connection, trial_id), True, with_retry=False)


def drop(study: Study, trial_id: int) -> None:
    """Remove this process's lease of a trial."""
    mine = (LEASES.c.trial_id == trial_id) & (LEASES.c.worker == this_worker())
    in_table(study, lambda c: c.execute(delete(LEASES).where(mine)), None)


# --- within a transaction that changes a trial, too -------------------------------------------------------------------


def touch(connection: Connection, trial_id: int) -> bool:
    """Renew this process's lease, which keeps others from it until the transaction ends; False where it is gone."""
    return _change(connection, trial_id, LEASES.c.worker == this_worker())


def give(connection: Connection, trial_id: int) -> None:
    """Give this process the lease of a trial that has none."""
    connection.execute(insert(LEASES).values(trial_id=trial_id, **_mine(connection)))


def give_new(connection: Connection, trial_id: int) -> None:
    """Give the lease of a trial that was made in this transaction, in the place of one of a trial that was deleted."""
    connection.execute(delete(LEASES).where(LEASES.c.trial_id == trial_id))
    give(connection, trial_id)


def _change(connection: Connection, trial_id: int, which: ColumnElement[bool]) -> bool:
    """Make a lease this process's, where it is still as is expected."""
    change = update(LEASES).where(LEASES.c.trial_id == trial_id, which)
    return connection.execute(change.values(_mine(connection))).rowcount == 1


def _mine(connection: Connection) -> dict[str, Any]:
    return {"worker": this_worker(), "until": _clock(connection) + literal(seconds(), Float(53))}


def _clock(connection: Connection) -> ColumnElement[float]:
    clock = _CLOCKS.get(connection.dialect.name)
    return literal(time.time(), Float(53)) if clock is None else literal_column(clock, Float(53))
