"""The table of leases: who has a trial, and until when, beside Optuna's tables in the same database.

Every change goes by the database's own clock, so the hosts' clocks may differ. A worker is a process, identified across
all machines; for one of this machine it is known whether it has ended.
"""

from __future__ import annotations

import os
import socket
import time
import uuid
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any
from weakref import WeakKeyDictionary

import sqlalchemy as sa
from optuna.exceptions import UpdateFinishedTrialError
from optuna.storages import BaseStorage
from optuna.trial import TrialState
from sqlalchemy import Connection

from nas_optuna.study.storage import seconds_of

SECONDS = 300.0
"""How long a lease holds; ``NAS_OPTUNA_LEASE`` is another number. It is renewed five times in that time, and after each
epoch."""

LEASES = sa.Table(
    "nas_optuna_leases",
    sa.MetaData(),
    sa.Column("trial_id", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("worker", sa.String(512), nullable=False),
    sa.Column("until", sa.Float(53), nullable=False),
)
_CLOCKS = {
    "sqlite": "(julianday('now') - 2440587.5) * 86400.0",
    "postgresql": "extract(epoch FROM clock_timestamp())",
    # Not unix_timestamp(…), which takes local time: there is an hour that comes twice when summer time ends.
    **dict.fromkeys(("mysql", "mariadb"), "timestampdiff(microsecond, '1970-01-01', utc_timestamp(6)) / 1e6"),
}
"""SQL for the time in seconds, by database."""
HELD: WeakKeyDictionary[BaseStorage, dict[int, Any]] = WeakKeyDictionary()
"""The trials that this process runs in each storage, until everybody has been told of their end."""


@dataclass(frozen=True)
class Claim:
    """A trial that runs or has a lease: its state, the process that has it, and until when."""

    trial_id: int
    number: int
    state: TrialState
    worker: str | None  # None without a lease
    until: float | None  # seconds, by the database's clock; renewed while the process works
    now: float  # by the same clock, when it was read
    has_row: bool = True  # False if the lease is one of release 0.2

    @property
    def owner(self) -> Worker | None:
        """The worker, where its text can be read."""
        return Worker.parse(self.worker)

    @property
    def is_free(self) -> bool:
        """Whether anybody may take the trial from its worker."""
        has_lapsed = self.until is not None and self.until < self.now
        return has_lapsed or (self.owner is not None and self.owner.is_gone())

    @property
    def lease(self) -> tuple[sa.ColumnElement[bool], ...]:
        """What tells that a row of the table is still as it was read; nothing without a lease."""
        return (LEASES.c.worker == self.worker, LEASES.c.until == self.until) if self.has_row else ()


def seconds() -> float:
    """How long a lease holds, in seconds."""
    return seconds_of("NAS_OPTUNA_LEASE", SECONDS, least=1e-9)


# --- within a transaction ---------------------------------------------------------------------------------------------


def is_held(storage: BaseStorage, trial_id: int) -> bool:
    """Whether this process has begun a trial and not yet closed it."""
    return trial_id in HELD.get(storage, ())


def require_held(storage: BaseStorage | None, connection: Connection, trial_id: int) -> None:
    """Refuse to write to a trial of this process whose lease is gone."""
    if storage is not None and is_held(storage, trial_id) and not touch(connection, trial_id):
        raise UpdateFinishedTrialError(f"trial {trial_id} has ended, was put back, or another runs it")


def touch(connection: Connection, trial_id: int) -> bool:
    """Renew this process's lease, which locks its row until the transaction ends; False if it is gone."""
    return change(connection, trial_id, LEASES.c.worker == this_worker())


def give(connection: Connection, trial_id: int) -> None:
    """Give this process the lease of a trial that has none."""
    connection.execute(sa.insert(LEASES).values(trial_id=trial_id, **_mine(connection)))


def give_new(connection: Connection, trial_id: int) -> bool:
    """Give the lease of a trial that begins in this transaction, replacing one that a deleted trial has left."""
    connection.execute(sa.delete(LEASES).where(LEASES.c.trial_id == trial_id))
    give(connection, trial_id)
    return True


def change(connection: Connection, trial_id: int, *lease: sa.ColumnElement[bool]) -> bool:
    """Make a lease this process's, if it still is as expected."""
    renewed = sa.update(LEASES).where(LEASES.c.trial_id == trial_id, *lease).values(_mine(connection))
    return connection.execute(renewed).rowcount == 1


def _mine(connection: Connection) -> dict[str, Any]:
    return {"worker": this_worker(), "until": clock(connection) + sa.literal(seconds(), sa.Float(53))}


def clock(connection: Connection) -> sa.ColumnElement[float]:
    """The time in seconds by the database's clock."""
    return sa.literal_column(_CLOCKS.get(connection.dialect.name, str(time.time())), sa.Float(53))


# --- workers ----------------------------------------------------------------------------------------------------------


_UNKNOWN = "-"
_ENDED = "ended"


@dataclass(frozen=True)
class Worker:
    """A process, identified across all machines."""

    host: str  # its name, for people
    boot: str  # differs for each boot of each machine
    namespace: str  # in which its number counts: each container has its own
    process: int  # its number
    started: str  # distinguishes it from a later process with the same number

    def __str__(self) -> str:
        return f"{self.host}/{self.boot}/{self.namespace}/{self.process}/{self.started}"

    @classmethod
    def parse(cls, text: object) -> Worker | None:
        """Read what ``str`` gave; None for anything else."""
        fields = text.split("/") if isinstance(text, str) else []
        if len(fields) == 6:  # written by an earlier version, which named the machine, too
            del fields[1]
        if len(fields) != 5 or not fields[3].isdecimal():
            return None
        host, boot, namespace, process, started = fields
        return cls(host, boot, namespace, int(process), started)

    def is_gone(self) -> bool:
        """Whether it has certainly ended; False if that cannot be known from here."""
        return self.is_here() and not _may_be_there(self.process, self.started)

    def is_here(self) -> bool:
        """Whether it can be seen from here, dead or alive."""
        return _surroundings()[1:] == (self.boot, self.namespace)


def this_worker() -> str:
    """This process as the text by which its leases name it."""
    # Not cached, because a fork is another process.
    return str(Worker(*_surroundings(), os.getpid(), _start_time(os.getpid())))


@cache
def _surroundings() -> tuple[str, str, str]:
    """Host, boot and PID namespace, which a fork shares; where the system does not tell the boot, the machine."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    except OSError:
        boot = f"{uuid.getnode():012x}"
    try:
        namespace = os.readlink("/proc/self/ns/pid").strip("pid:[]")
    except OSError:
        namespace = _UNKNOWN
    return socket.gethostname().replace("/", "-") or _UNKNOWN, boot, namespace


def _start_time(process: int) -> str:
    """Clock ticks after boot at which a process began, which distinguish it from a later one with the same number."""
    # ``"-"`` where ``/proc`` is missing or hides the process; ``"ended"`` for a zombie.
    try:
        # The second field is the name in parentheses and may hold spaces; the start time is the 20th after it.
        text = Path(f"/proc/{process}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return _UNKNOWN
    fields = text.rpartition(")")[2].split()
    return _ENDED if fields[0] in "ZX" else fields[19]


def _may_be_there(process: int, started: str) -> bool:
    """Whether a process of this PID namespace still exists, as far as this one may see."""
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
