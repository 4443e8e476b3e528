"""The table of leases: who has a trial, and until when, beside Optuna's tables in the same database.

Every change is one statement, by the database's own clock, so that hosts' clocks may differ. A worker is a process,
told apart from every other one anywhere; of one on this machine it is known whether it has ended.
"""

from __future__ import annotations

import os
import socket
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
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
from nas_optuna.study.transactions import retried, transaction

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
    engine = database.engine
    if engine not in _MADE:
        retried(storage_of(study), lambda: create(engine))
        _MADE.add(engine)
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


# --- workers ----------------------------------------------------------------------------------------------------------


_FIRST_NAMESPACE = "4026531836"
"""Linux gives the PID namespace of a machine that is not a container this number."""
_UNKNOWN = "-"
_ENDED = "ended"


@dataclass(frozen=True)
class Worker:
    """A process, told apart from every other one anywhere."""

    host: str  # its name, for people
    machine: str  # stays the same when the host boots anew, if that is known
    boot: str  # differs for each boot of each machine
    namespace: str  # of its number: containers of one machine have different ones
    process: int  # its number
    started: str  # tells it from a later process with its number

    def __str__(self) -> str:
        return f"{self.host}/{self.machine}/{self.boot}/{self.namespace}/{self.process}/{self.started}"

    @classmethod
    def parse(cls, text: object) -> Worker | None:
        """Read what ``str`` gave; None for anything else.

        Examples:
            >>> Worker.parse("host/machine/boot/4026531836/12/345").process
            12
        """
        fields = text.split("/") if isinstance(text, str) else []
        if len(fields) != 6 or not fields[4].isdecimal():
            return None
        host, machine, boot, namespace, process, started = fields
        return cls(host, machine, boot, namespace, int(process), started)

    def is_gone(self) -> bool:
        """Whether it has certainly ended; False where that cannot be known from here."""
        here = _here()
        if self.boot != here.boot:
            return self._is_of_an_earlier_boot(here)
        if self.boot == _UNKNOWN and (self.machine != here.machine or _UNKNOWN in (self.machine, here.machine)):
            return False
        if self.namespace != here.namespace:
            return False
        return not _may_be_there(self.process, self.started)

    def _is_of_an_earlier_boot(self, here: Worker) -> bool:
        """Containers are copied with their machine's identity in them, and then are several at once."""
        return (
            _UNKNOWN not in (self.machine, self.boot, here.boot)
            and self.machine == here.machine
            and self.host == here.host
            and self.namespace == here.namespace == _FIRST_NAMESPACE
        )

    def is_here(self) -> bool:
        """Whether it can be seen from here, dead or alive."""
        here = _here()
        same = self.boot == here.boot != _UNKNOWN or self.machine == here.machine != _UNKNOWN
        return same and self.namespace == here.namespace


def this_worker() -> str:
    """Return this process as text, which is what its trials are marked with."""
    return str(_here())


def _here() -> Worker:
    """Ask anew each time, because a fork is another process."""
    host, machine, boot, namespace = _surroundings()
    return Worker(host, machine, boot, namespace, os.getpid(), _start_time(os.getpid()))


@cache
def _surroundings() -> tuple[str, str, str, str]:
    """Host, machine, boot and PID namespace, which a fork shares."""
    boot = _first_line("/proc/sys/kernel/random/boot_id")
    machine = _first_line("/etc/machine-id", "/var/lib/dbus/machine-id")
    if machine == _UNKNOWN and not (uuid.getnode() >> 40) & 1:  # with that bit set it was made up just now
        machine = f"{uuid.getnode():012x}"
    try:
        namespace = os.readlink("/proc/self/ns/pid").strip("pid:[]")
    except OSError:
        namespace = _UNKNOWN
    return socket.gethostname().replace("/", "-") or _UNKNOWN, machine, boot, namespace


def _first_line(*files: str) -> str:
    for file in files:
        try:
            text = Path(file).read_text(encoding="ascii").strip()
        except (OSError, ValueError):
            continue
        if text and "/" not in text:
            return text
    return _UNKNOWN


def _start_time(process: int) -> str:
    """Clock ticks after boot at which a process began, which tells it from a later one with the same number."""
    # ``"-"`` where ``/proc`` does not say so, because there is none or the process is hidden; ``"ended"`` for one that
    # has ended and that nobody has asked yet how.
    try:
        # The second field is the name in parentheses and may hold spaces; the start time is the 20th after it.
        text = Path(f"/proc/{process}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return _UNKNOWN
    fields = text.rpartition(")")[2].split()
    return _ENDED if fields[0] in "ZX" else fields[19]


def _may_be_there(process: int, started: str) -> bool:
    """Whether a process of this PID namespace is there, as far as this one may see."""
    found = _start_time(process)
    if found != _UNKNOWN:
        return found == started
    try:
        os.kill(process, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:  # another user's
        pass
    return True
