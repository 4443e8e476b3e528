"""Who runs a trial, and what becomes of it when that process is gone.

A trial that runs has a lease: a row in a table of ours with its worker and a time by the database's clock
(`nas_optuna.study.lease_table`). A worker takes the lease first and then lets the trial run, renews it while it works,
and removes it when everybody has been told of the trial's end. Another worker takes a trial over in two cases only:

- The process ran in the same PID namespace since the same boot, and no longer exists; or the machine has rebooted.
- The lease has lapsed: the process was stopped, or its host is gone or has no network.

A trial that runs without a lease is left alone, because a plain ``study.optimize`` may be about to train it; a person
who knows better can put it back.

A worker that finds its lease gone stops at its next step and records nothing: the trial's end is written only while the
lease stands. Release 0.2 kept worker and time as attributes of the trial, which are read like a lease. Only databases
have leases.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from enum import Enum
from typing import Any, TypeVar
from weakref import WeakSet

import optuna
import sqlalchemy as sa
from optuna.exceptions import UpdateFinishedTrialError
from optuna.storages import GrpcStorageProxy
from optuna.study import Study
from optuna.trial import FrozenTrial, Trial, TrialState
from sqlalchemy import Connection
from sqlalchemy.exc import IntegrityError

from nas_optuna.errors import StudyError
from nas_optuna.study import lease_table
from nas_optuna.study import optuna_internals as internals
from nas_optuna.study.lease_table import HELD, LEASES, Lease, this_worker
from nas_optuna.study.schema import TrialKey
from nas_optuna.study.storage import advice, refusal
from nas_optuna.study.studies import command
from nas_optuna.study.transactions import add_trial, retried, transaction

logger = logging.getLogger(__name__)

T = TypeVar("T")

_MADE: WeakSet[sa.Engine] = WeakSet()
"""Databases in which the table of leases is known to exist."""


class LeaseStatus(Enum):
    """Whether a worker still has a trial that it took."""

    HELD = "held"
    """It runs the trial."""
    TOLD = "told"
    """It has told the trial's end."""
    LOST = "lost"
    """The trial was put back, taken up by another worker, or deleted."""


class LostError(BaseException):
    """This process no longer runs the trial, and may record nothing of it.

    It is not an `Exception`, because ``study.optimize`` records each of those as the trial's end.
    """


# --- a study's leases; without a database there are none, and whoever asks gets the trial -----------------------------


def has_leases(study: Study) -> bool:
    """Whether a study lives in a database; the table of leases is made where it is missing."""
    database = internals.database_of(internals.storage_of(study))
    if database is None:
        return False
    engine = database.engine
    if engine not in _MADE:
        retried(internals.storage_of(study), lambda: lease_table.create(engine))
        _MADE.add(engine)
    return True


def _in_table(study: Study, work: Callable[[Connection], T], otherwise: T, *, with_retry: bool = True) -> T:
    """Run `work` on a study's leases in one transaction; without a database return `otherwise`."""
    if not has_leases(study):
        return otherwise
    return transaction(internals.storage_of(study), work, with_retry=with_retry)


def leases_of(study: Study, trial_id: int | None = None) -> dict[int, Lease]:
    """Every lease of a study's trials, or that of one trial, by the trial's number within the storage."""
    trials = internals.tables()["trials"]
    of_study = sa.select(trials.c.trial_id).where(trials.c.study_id == internals.study_id_of(study))
    which = LEASES.c.trial_id.in_(of_study) if trial_id is None else LEASES.c.trial_id == trial_id

    def read(connection: Connection) -> dict[int, Lease]:
        found = sa.select(*LEASES.c, lease_table.clock(connection)).where(which)
        rows: list[Any] = list(connection.execute(found))
        return {place: Lease(worker, until, until < float(moment)) for place, worker, until, moment in rows}

    return _in_table(study, read, {})


def _take(study: Study, trial_id: int, seen: Lease | None) -> bool:
    """Take a trial that has no lease, or still has the one that was `seen`; False if another process was faster."""

    def change(connection: Connection) -> bool:
        if seen is not None:
            same = (LEASES.c.worker == seen.worker) & (LEASES.c.until == seen.until)
            return lease_table.change(connection, trial_id, same)
        try:
            lease_table.give(connection, trial_id)
        except IntegrityError:
            connection.rollback()
            return False
        return True

    return _in_table(study, change, True)


def _drop(study: Study, trial_id: int) -> None:
    """Remove this process's lease of a trial."""
    mine = (LEASES.c.trial_id == trial_id) & (LEASES.c.worker == this_worker())
    _in_table(study, lambda connection: connection.execute(sa.delete(LEASES).where(mine)), None)


# --- taking and holding -----------------------------------------------------------------------------------------------


def take_waiting(study: Study) -> int | None:
    """Take the first waiting trial for this process; the next one if another worker is faster."""
    waiting = internals.all_trials(study, (TrialState.WAITING,))
    leases = leases_of(study) if waiting else {}
    for trial in waiting:
        trial_id = internals.trial_id_of(trial)
        lease = leases.get(trial_id)
        if (lease is not None and not lease.is_free) or not _take(study, trial_id, lease):
            continue
        if _set_state(study, trial_id, TrialState.RUNNING):
            return trial_id
        _drop(study, trial_id)
    return None


def take_new(study: Study, below: int | None = None) -> int | None:
    """Create a trial that this process runs; None if its number would not be below `below`."""
    has_leases(study)  # so that the table is there
    template = optuna.trial.create_trial(state=TrialState.RUNNING)
    template.datetime_start = datetime.now()
    return add_trial(study, template, lambda number: below is None or number < below, also=lease_table.give_new)


@dataclass
class Held:
    """A trial that this process runs, in one of its threads."""

    # It does not hold its study, which would keep alive the storage that is its weak key.
    trial_id: int
    lost: bool = False  # another process is known to have taken it, put it back, or deleted it
    thread: int = field(default_factory=threading.get_ident)
    _ended: threading.Event = field(default_factory=threading.Event)

    @property
    def is_running(self) -> bool:
        """Whether its lease is still being renewed; if not, Optuna may be about to write its end."""
        return not self._ended.is_set()

    def require(self, study: Study) -> None:
        """Raise `LostError` if another process has taken it over."""
        if self.lost or status(study, self.trial_id) == LeaseStatus.LOST:
            raise LostError("another process took the trial up, because this one did not renew its lease in time")

    def keep(self, study: Study) -> None:
        """Keep renewing its lease until `end`, in a thread of its own."""
        while not self.lost and not self._ended.wait(lease_table.seconds() / 5):
            try:
                stands = _in_table(study, lambda rows: lease_table.touch(rows, self.trial_id), True, with_retry=False)
                self.lost = not stands
            except Exception:  # the database is away or busy, which the training's thread will report
                logger.debug("the lease of a trial was not renewed", exc_info=True)

    def end(self) -> None:
        """Stop renewing its lease."""
        self._ended.set()


def _held_in(study: Study) -> dict[int, Held]:
    """The trials that this process runs in the study's storage, until everybody has been told of their end."""
    storage = internals.storage_of(study)
    return HELD.setdefault(internals.database_of(storage) or storage, {})


@contextmanager
def hold(study: Study, trial_id: int) -> Iterator[Held]:
    """Keep renewing the lease of a trial that this process took."""
    # Until `close`, this process writes to the trial only while the lease stands.
    held = _held_in(study)[trial_id] = Held(trial_id)
    if has_leases(study):
        threading.Thread(target=held.keep, args=(study,), name="nas-optuna-lease", daemon=True).start()
    try:
        yield held
    finally:
        held.end()


@contextmanager
def hold_trial(trial: Trial) -> Iterator[Held]:
    """`hold` for a trial from ``study.ask`` that has no lease yet, or that this thread already holds."""
    study, trial_id = trial.study, internals.trial_id_of(trial)
    found = _held_in(study).get(trial_id)
    is_running = found is not None and found.is_running
    if found is not None and is_running and found.thread == threading.get_ident():
        yield found
        return
    for before in list(_held_in(study).values()):
        if before.trial_id != trial_id and not before.is_running and before.thread == threading.get_ident():
            close(study, before.trial_id)  # Optuna has told its end meanwhile
    if not _held_in(study):  # in a plain script, where nobody else looks: before each trial, of many threads the first
        release_abandoned(study, again=True)
    is_mine = _take(study, trial_id, None) or status(study, trial_id) == LeaseStatus.HELD
    if is_running or not is_mine:
        raise LostError(f"another process or thread runs trial {trial.number}")
    with hold(study, trial_id) as held:
        yield held


def close(study: Study, trial_id: int) -> None:
    """Remove the lease of a trial that has ended, once everybody has been told."""
    _drop(study, trial_id)
    _held_in(study).pop(trial_id, None)


def status(study: Study, trial_id: int) -> LeaseStatus:
    """Look up whether this process still runs a trial that it took."""
    try:
        state = internals.read_trial(study, trial_id).state
    except KeyError:
        return LeaseStatus.LOST
    owner = leases_of(study, trial_id).get(trial_id)
    theirs = has_leases(study) and (owner is None or owner.worker != this_worker())
    if theirs or state == TrialState.WAITING:
        return LeaseStatus.LOST
    return LeaseStatus.TOLD if state.is_finished() else LeaseStatus.HELD


def release(study: Study, trial_id: int) -> bool:
    """Put a trial of this process back into the queue, with its params, reports and attributes."""
    # The next worker continues it under its number, so later trials keep their numbers and thereby their proposals.
    if status(study, trial_id) != LeaseStatus.HELD:
        return False
    put_back = _set_state(study, trial_id, TrialState.WAITING)
    close(study, trial_id)
    return put_back


def _set_state(study: Study, trial_id: int, state: TrialState) -> bool:
    """Change a trial's state; False if it has ended, was deleted, or is run by another process."""
    try:
        return internals.storage_of(study).set_trial_state_values(trial_id, state)
    except (UpdateFinishedTrialError, KeyError):
        return False


# --- storages ---------------------------------------------------------------------------------------------------------


def require_transactions(study: Study) -> None:
    """Refuse a storage that could lose trials silently."""
    if isinstance(internals.storage_of(study), GrpcStorageProxy):
        raise StudyError(refusal("grpc"))


def advise(study: Study) -> None:
    """Warn in one line if the storage does not suit so many workers."""
    workers = {lease.worker for lease in leases_of(study).values()} | {this_worker()}
    url = internals.url_of(study)
    said = advice(url, len(workers)) if url is not None else None
    if said:
        logger.warning("%s", said)


# --- trials whose process is gone -------------------------------------------------------------------------------------


def release_abandoned(study: Study, *, again: bool = False) -> list[int]:
    """Put back every running trial whose process has ended or whose lease has lapsed, and say so."""
    running = internals.all_trials(study, (TrialState.RUNNING,)) if has_leases(study) else []
    leases = leases_of(study) if running else {}
    released, ended, unseen = [], [], []
    for trial in running:
        lease = leases.get(internals.trial_id_of(trial)) or _lease_of_0_2(study, trial)
        if lease is not None and lease.is_free:
            worker = lease.owner
            if not _put_back(study, trial, leases.get(internals.trial_id_of(trial))):
                continue
            released.append(trial.number)
            if worker is None or worker.is_gone():
                ended.append(str(trial.number))
            else:
                where = f"process {worker.process} on {worker.host}"
                logger.warning("going on with trial %d, whose lease %s has not renewed", trial.number, where)
        elif lease is None and not again and _has_no_lease(study, trial):
            unseen.append(str(trial.number))
    if ended:
        logger.warning("going on with what no process runs any more: trial %s", ", ".join(ended))
    if unseen:
        logger.warning(
            "trial %s runs where this process cannot see it; if its own has ended: %s",
            ", ".join(unseen),
            command(study, "study", "release", study.study_name, *unseen),
        )
    return released


def release_those_of(study: Study, worker: str) -> list[int]:
    """Put back the trials of a worker that has ended, as the process that started it knows."""
    leases = {trial_id: lease for trial_id, lease in leases_of(study).items() if lease.worker == worker}
    running = internals.all_trials(study, (TrialState.RUNNING,)) if leases else []
    theirs = [trial for trial in running if internals.trial_id_of(trial) in leases]
    return [trial.number for trial in theirs if _put_back(study, trial, leases[internals.trial_id_of(trial)])]


def release_by_hand(study: Study, number: int) -> None:
    """Put back a running trial whose process only a person can know to be gone, e.g. one of another host."""
    trial = next((t for t in study.get_trials(deepcopy=False) if t.number == number), None)
    if trial is None:
        raise StudyError(f"study {study.study_name!r} has no trial {number}")
    if trial.state != TrialState.RUNNING:
        state = "failed" if trial.state == TrialState.FAIL else trial.state.name.lower()
        raise StudyError(f"trial {number} is {state}, not running; there is nothing to put back")
    row = leases_of(study).get(internals.trial_id_of(trial))
    lease = row or _lease_of_0_2(study, trial)
    worker = None if lease is None else lease.owner
    if worker is not None and worker.is_here() and not worker.is_gone():
        raise StudyError(f"trial {number} is run by process {worker.process} of this machine; end that first")
    if not _put_back(study, trial, row):
        raise StudyError(f"trial {number} was ended or taken up by another process just now; look again")


def take_unclosed(study: Study) -> list[FrozenTrial]:
    """Take the ended trials whose process died before it had told everybody; `close` them afterwards."""
    free = [(trial_id, lease) for trial_id, lease in leases_of(study).items() if lease.is_free]
    found = [(internals.read_trial(study, trial_id), lease) for trial_id, lease in free]
    return [t for t, lease in found if t.state.is_finished() and _take(study, internals.trial_id_of(t), lease)]


def _has_no_lease(study: Study, trial: FrozenTrial) -> bool:
    """Whether a trial still runs without a lease; trials are read before their leases."""
    found = internals.read_trial(study, internals.trial_id_of(trial))
    return found.state == TrialState.RUNNING and internals.trial_id_of(trial) not in leases_of(study)


def _put_back(study: Study, trial: FrozenTrial, seen: Lease | None) -> bool:
    trial_id = internals.trial_id_of(trial)
    if not _take(study, trial_id, seen):
        return False
    put_back = _set_state(study, trial_id, TrialState.WAITING)
    _drop(study, trial_id)
    return put_back


def _lease_of_0_2(study: Study, trial: FrozenTrial) -> Lease | None:
    """The lease that release 0.2 kept as attributes of a running trial."""
    worker, until = trial.user_attrs.get(TrialKey.WORKER), trial.user_attrs.get(TrialKey.LEASE)
    if worker is None and until is None:
        return None
    now = _in_table(study, lambda c: float(c.execute(sa.select(lease_table.clock(c))).scalar_one()), 0.0)
    return Lease(worker or "", until or 0.0, until is not None and until < now)
