"""The table of leases: who has a trial, and until when, beside Optuna's tables in the same database.

Every change is one statement, by the database's own clock, so that hosts' clocks may differ.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

from sqlalchemy import (
    Column,
    ColumnElement,
    Connection,
    Engine,
    Float,
    Integer,
    MetaData,
    Select,
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


def read(connection: Connection, trial_ids: Select[tuple[int]]) -> dict[int, Lease]:
    """The leases of some trials, by the trial's number within the storage."""
    found = select(*LEASES.c, _clock(connection)).where(LEASES.c.trial_id.in_(trial_ids))
    rows: list[Any] = list(connection.execute(found))
    return {trial_id: Lease(worker, until, until < float(moment)) for trial_id, worker, until, moment in rows}


def now(connection: Connection) -> float:
    """The time in seconds by the database's clock."""
    return float(connection.execute(select(_clock(connection))).scalar_one())


def take(connection: Connection, trial_id: int, worker: str, seconds: float, seen: Lease | None) -> bool:
    """Take a trial that has no lease, or one that still is as it was seen."""
    until = _until(connection, seconds)
    if seen is None:
        try:
            connection.execute(insert(LEASES).values(trial_id=trial_id, worker=worker, until=until))
        except IntegrityError:
            connection.rollback()
            return False
        return True
    change = update(LEASES).where(
        LEASES.c.trial_id == trial_id, LEASES.c.worker == seen.worker, LEASES.c.until == seen.until
    )
    return connection.execute(change.values(worker=worker, until=until)).rowcount == 1


def renew(connection: Connection, trial_id: int, worker: str, seconds: float) -> bool:
    """Let a lease last from now on; False where it is gone."""
    change = update(LEASES).where(LEASES.c.trial_id == trial_id, LEASES.c.worker == worker)
    return connection.execute(change.values(until=_until(connection, seconds))).rowcount == 1


def touch(connection: Connection, trial_id: int, worker: str) -> bool:
    """Keep others from a lease until the transaction ends; False where it is gone."""
    change = update(LEASES).where(LEASES.c.trial_id == trial_id, LEASES.c.worker == worker)
    return connection.execute(change.values(worker=worker)).rowcount == 1


def give(connection: Connection, trial_id: int, worker: str, seconds: float) -> None:
    """Give a lease of a trial that was made in this transaction, in the place of one of a trial that was deleted."""
    drop(connection, trial_id)
    connection.execute(insert(LEASES).values(trial_id=trial_id, worker=worker, until=_until(connection, seconds)))


def drop(connection: Connection, trial_id: int, worker: str | None = None) -> None:
    """Remove a lease, if it is this worker's."""
    row = LEASES.c.trial_id == trial_id
    connection.execute(delete(LEASES).where(row if worker is None else row & (LEASES.c.worker == worker)))


def _clock(connection: Connection) -> ColumnElement[float]:
    clock = _CLOCKS.get(connection.dialect.name)
    return literal(time.time(), Float(53)) if clock is None else literal_column(clock, Float(53))


def _until(connection: Connection, seconds: float) -> ColumnElement[float]:
    return _clock(connection) + literal(seconds, Float(53))
