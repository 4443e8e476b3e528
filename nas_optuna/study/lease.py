"""Who runs a trial, and what becomes of it when that process is gone.

A trial that runs has a lease: a row in a table of ours with its worker and a time by the database's clock
(`nas_optuna.study.lease_table`). A worker takes the lease first and then lets the trial run, renews it while it works,
and removes it when everybody has been told of the trial's end. Another worker takes a trial up in three cases only:

- The process was one of the same PID namespace of the same boot and is not there any more, or the machine has booted
  anew.
- The lease has lapsed: the process was stopped, or its host is gone or has no network.
- A trial without a lease and without parameters has been seen for as long as a lease. It belongs to a plain
  ``study.optimize`` that was killed before the objective began. One that has parameters is left alone: another
  objective may be training it.

A worker that finds its lease gone stops at its next step and records nothing: the trial's end is written only while the
lease stands. Trials of release 0.2 have their worker and time as attributes, which are read like a lease. A storage
that is no database has no leases.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from enum import Enum

from optuna.exceptions import UpdateFinishedTrialError
from optuna.storages import GrpcStorageProxy
from optuna.study import Study
from optuna.trial import Trial, TrialState
from sqlalchemy import select

from nas_optuna.errors import StudyError
from nas_optuna.study import lease_table
from nas_optuna.study.database import Database
from nas_optuna.study.lease_table import LEASES, Lease, drop, has_leases, in_table, leases_of
from nas_optuna.study.optuna_internals import (
    all_trials,
    database_of,
    read_trial,
    storage_of,
    study_id_of,
    tables,
    trial_id_of,
    url_of,
)
from nas_optuna.study.storage import advice, refusal, seconds_of
from nas_optuna.study.transactions import new_trial
from nas_optuna.study.worker import Worker, this_worker

logger = logging.getLogger(__name__)

SECONDS = 300.0
"""How long a lease holds; ``NAS_OPTUNA_LEASE`` is another number. It is renewed five times in that time, and after each
epoch."""
_RENEWED_JUST_NOW = 1.0
"""Seconds in which a lease need not be renewed again: epochs may be shorter than a transaction."""
NOBODY = "nobody"
"""Worker of the lease of a trial that nobody has taken and that is watched."""
_PAUSE = 0.02


class LeaseStatus(Enum):
    """What a worker can still do with a trial that it runs."""

    HELD = "held"
    """It runs the trial."""
    TOLD = "told"
    """It has told the trial's end."""
    LOST = "lost"
    """The trial was put back, taken up by another worker, or deleted."""


class LostError(BaseException):
    """This process does not run the trial any more; nothing of it may be recorded.

    It is no `Exception`, because ``study.optimize`` records each of those as the trial's end.
    """


def seconds() -> float:
    """How long a lease holds, in seconds."""
    return seconds_of("NAS_OPTUNA_LEASE", SECONDS, least=1e-9)


# --- taking and holding -----------------------------------------------------------------------------------------------


def take_waiting(study: Study) -> int | None:
    """Take the first trial that waits for this process, unless another worker is faster; then the next."""
    waiting = all_trials(study, (TrialState.WAITING,))
    leases = leases_of(study) if waiting else {}
    for trial in waiting:
        trial_id = trial_id_of(trial)
        lease = leases.get(trial_id)
        free = lease is None or lease.worker == NOBODY or is_free(lease)
        if not free or not take(study, trial_id, lease):
            continue
        if set_state(study, trial_id, TrialState.RUNNING):
            return trial_id
        drop(study, trial_id)
    return None


def take_new(study: Study, below: int | None = None) -> int:
    """Make a trial that this process runs; returns its number within the storage."""
    has_leases(study)  # so that the table is there
    trial_id = new_trial(study, (this_worker(), seconds()), below)
    if not isinstance(database_of(storage_of(study)), Database):  # a storage that somebody made with Optuna's own class
        take(study, trial_id, None)
    return trial_id


@dataclass
class Held:
    """A trial that this process runs, in one of its threads."""

    study: Study
    trial_id: int
    lost: bool = False  # another process is known to have taken it, put it back, or deleted it
    thread: int = field(default_factory=threading.get_ident)
    _renewed: float = field(default_factory=time.monotonic)
    _ended: threading.Event = field(default_factory=threading.Event)

    def renew(self, *, at_once: bool = False) -> None:
        """Make the lease last from now on."""
        if not (self.lost or at_once) and time.monotonic() - self._renewed < _RENEWED_JUST_NOW:
            return
        if self.lost or not self._renewed_now(with_retry=True):
            raise LostError("another process took the trial up, because this one did not renew its lease in time")

    def keep(self) -> None:
        """Renew it again and again until `end`, in a thread beside the training."""
        while not self.lost and not self._ended.wait(seconds() / 5):
            try:
                self._renewed_now(with_retry=False)
            except (
                Exception
            ):  # the database is away or busy; the training's own thread says so, and the next turn tries
                logger.debug("the lease of a trial was not renewed", exc_info=True)

    def end(self) -> None:
        """Renew it no more."""
        self._ended.set()

    def _renewed_now(self, *, with_retry: bool) -> bool:
        began = time.monotonic()
        self.lost = not lease_table.renew(self.study, self.trial_id, seconds(), with_retry=with_retry)
        self._renewed = began
        return not self.lost


_HELD: dict[tuple[int, int], Held] = {}
"""Storage and trial → what this process runs."""
_OPTIMIZED: dict[tuple[int, int], int] = {}
"""Storage and thread → the last trial that an objective held here for a plain ``study.optimize``."""


@contextmanager
def hold(study: Study, trial_id: int) -> Iterator[Held]:
    """Within it the lease of a trial that this process took is renewed."""
    # Until `close`, this process writes the trial's end only while the lease stands.
    held, place = Held(study, trial_id), (id(storage_of(study)), trial_id)
    database = database_of(storage_of(study))
    if isinstance(database, Database):
        database.held[trial_id] = this_worker()
    _HELD[place] = held
    if database is not None:
        threading.Thread(target=held.keep, name="nas-optuna-lease", daemon=True).start()
    try:
        yield held
    finally:
        held.end()
        del _HELD[place]


@contextmanager
def hold_trial(trial: Trial) -> Iterator[Held]:
    """`hold` for a trial that ``study.ask`` gave and that has no lease, or that this thread holds already."""
    study, trial_id = trial.study, trial_id_of(trial)
    held = _HELD.get((id(storage_of(study)), trial_id))
    if held is not None and held.thread == threading.get_ident():
        yield held
        return
    place = id(storage_of(study)), threading.get_ident()
    if (before := _OPTIMIZED.pop(place, trial_id)) != trial_id:  # Optuna has told its end meanwhile
        close(study, before)
    seen = leases_of(study).get(trial_id)
    took = seen is None or seen.worker == NOBODY
    if held is not None or not (take(study, trial_id, seen) if took else status(study, trial_id) == LeaseStatus.HELD):
        raise LostError(f"another process or thread runs trial {trial.number}")
    _OPTIMIZED[place] = trial_id
    with hold(study, trial_id) as held:
        yield held


def close(study: Study, trial_id: int) -> None:
    """Remove a trial's lease: it has ended, and whoever wants to know has been told."""
    drop(study, trial_id)
    if isinstance(database := database_of(storage_of(study)), Database):
        database.held.pop(trial_id, None)


def status(study: Study, trial_id: int) -> LeaseStatus:
    """Look up whether this process still runs a trial that it took."""
    if not has_leases(study):
        try:
            state = read_trial(study, trial_id).state
        except KeyError:
            return LeaseStatus.LOST
        worker: str | None = this_worker()
    else:
        trials = tables()["trials"]
        query = select(trials.c.state, LEASES.c.worker).where(trials.c.trial_id == trial_id)
        joined = query.select_from(trials.outerjoin(LEASES, LEASES.c.trial_id == trials.c.trial_id))
        row = in_table(study, lambda connection: connection.execute(joined).first(), None)
        state, worker = (None, None) if row is None else tuple(row)
    if state is None or worker != this_worker() or state == TrialState.WAITING:
        return LeaseStatus.LOST
    return LeaseStatus.TOLD if state.is_finished() else LeaseStatus.HELD


def release(study: Study, trial_id: int) -> bool:
    """Put a trial of this process back into the queue, with its params, reports and attributes."""
    # The next worker that takes a trial takes it up again under its number, so nothing is lost, and later trials keep
    # the numbers, and so the proposals, that they would have had.
    if status(study, trial_id) != LeaseStatus.HELD:
        return False
    put_back = set_state(study, trial_id, TrialState.WAITING)
    close(study, trial_id)
    return put_back


# --- what others may take ---------------------------------------------------------------------------------------------


@contextmanager
def exclusively(study: Study) -> Iterator[None]:
    """Within it no other process is in here with the same study: a lease of the study itself."""
    place = -study_id_of(study)
    while not take(study, place, None):
        row = leases_of(study, place).get(place)
        if row is not None and is_free(row) and take(study, place, row):
            break
        time.sleep(_PAUSE)
    try:
        yield
    finally:
        drop(study, place)


def take(study: Study, trial_id: int, seen: Lease | None, worker: str | None = None) -> bool:
    """Take a trial for as long as a lease holds; see `lease_table.take`."""
    return lease_table.take(study, trial_id, seen, seconds(), worker)


def is_free(lease: Lease) -> bool:
    """Whether anybody may take over from a lease's worker."""
    worker = Worker.parse(lease.worker)
    return lease.has_lapsed or (worker is not None and worker.is_gone())


def set_state(study: Study, trial_id: int, state: TrialState) -> bool:
    """Change a trial's state; False where it has ended, was deleted, or another process lets it run."""
    try:
        return storage_of(study).set_trial_state_values(trial_id, state)
    except (UpdateFinishedTrialError, KeyError):
        return False


# --- storages ---------------------------------------------------------------------------------------------------------


def require_steps(study: Study) -> None:
    """Refuse a storage in which trials could be lost without a word."""
    if isinstance(storage_of(study), GrpcStorageProxy):
        raise StudyError(refusal("grpc"))


def advise(study: Study) -> None:
    """Say in one line where the storage is not made for as many workers as are at work."""
    workers = {lease.worker for lease in leases_of(study).values()} | {this_worker()}
    url = url_of(study)
    said = advice(url, len(workers)) if url is not None else None
    if said:
        logger.warning("%s", said)
