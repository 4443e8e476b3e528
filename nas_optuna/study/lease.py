"""Who runs a trial, and what becomes of it when that process is gone.

A trial that runs has a lease: a row in a table of ours with its worker and a time by the database's clock
(`nas_optuna.study.lease_table`). A worker takes the lease in the transaction in which the trial begins to run, renews
it while it works, and removes it when everybody has been told of the trial's end. Another worker takes a trial over in
two cases only:

- The process ran in the same PID namespace since the same boot, and no longer exists.
- The lease has lapsed: the process was stopped, or its host is gone, has rebooted, or has no network.

A trial that runs without a lease is left alone, because a plain ``study.optimize`` may be about to train it; a person
who knows better can put it back.

A worker that finds its lease gone, or the trial ended by somebody else, stops at its next step and records nothing: the
trial's end is written only while the lease stands. Release 0.2 kept worker and time as attributes of the trial, which
are read like a lease. Only databases have leases.
"""

from __future__ import annotations

import logging
import math
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from datetime import datetime
from functools import partial
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
from nas_optuna.study.database import change_state, persistently
from nas_optuna.study.lease_table import HELD, LEASES, Claim, this_worker
from nas_optuna.study.schema import TrialKey, attribute, reports_of
from nas_optuna.study.storage import NOT_A_DATABASE, advice, has_raced
from nas_optuna.study.studies import command
from nas_optuna.study.transactions import add_trials, retried, transaction, write_attributes

logger = logging.getLogger(__name__)

TRIAL_DEATHS = 3
"""A trial has failed whose process has died this many times while the run that had started it went on."""
_MADE: WeakSet[sa.Engine] = WeakSet()
"""Databases in which the table of leases is known to exist."""


class LostError(BaseException):
    """This process no longer runs the trial, and may record nothing of it.

    It is not an `Exception`, because ``study.optimize`` records each of those as the trial's end.
    """


# --- a study's leases -------------------------------------------------------------------------------------------------


def has_leases(study: Study) -> bool:
    """Whether a study lives in a database; the table of leases is made where it is missing."""
    database = internals.database_of(internals.storage_of(study))
    if database is None:
        return False
    engine = database.engine
    if engine not in _MADE:
        create = partial(LEASES.create, engine, checkfirst=True)
        retried(internals.storage_of(study), lambda: persistently(create, 0.0, is_undone=has_raced))
        _MADE.add(engine)
    return True


def _in_table(study: Study, work: Callable[[Connection], object]) -> bool:
    """Run `work` on a study's leases in one transaction, and return whether it says so; without a database, False."""
    return has_leases(study) and bool(transaction(internals.storage_of(study), work))


def claims(study: Study, trial_id: int | None = None) -> list[Claim]:
    """Every trial of a study that runs or has a lease, or one trial in whatever state, as they are at one moment."""
    if not has_leases(study):  # whoever asks has the trial
        found = [t for t in internals.all_trials(study) if trial_id in (None, internals.trial_id_of(t))]
        return [Claim(internals.trial_id_of(t), t.number, t.state, this_worker(), math.inf, 0.0) for t in found]
    trials = internals.tables()["trials"]
    is_claimed = (trials.c.state == TrialState.RUNNING) | LEASES.c.worker.is_not(None)
    which = is_claimed if trial_id is None else trials.c.trial_id == trial_id

    def read(connection: Connection) -> list[Claim]:
        of_trial = (trials.c.trial_id, trials.c.number, trials.c.state)
        found = sa.select(*of_trial, LEASES.c.worker, LEASES.c.until, lease_table.clock(connection))
        joined = found.outerjoin_from(trials, LEASES, trials.c.trial_id == LEASES.c.trial_id)
        of_study = joined.where(trials.c.study_id == internals.study_id_of(study), which).order_by(trials.c.trial_id)
        return [Claim(*row) for row in connection.execute(of_study)]

    return transaction(internals.storage_of(study), read)


def _move(study: Study, trial_id: int, state: TrialState, change_lease: Callable[[Connection], bool]) -> bool:
    """Change a trial's state and its lease in one step; False if either is not, or no longer, as expected."""

    def change(connection: Connection) -> bool:
        # The trial first, whose row is then locked until the end, so that nobody changes its lease meanwhile.
        moved = change_state(connection, trial_id, state) and change_lease(connection)
        if not moved:
            connection.rollback()
        return moved

    if has_leases(study):
        return transaction(internals.storage_of(study), change)
    try:
        return internals.storage_of(study).set_trial_state_values(trial_id, state)
    except (UpdateFinishedTrialError, KeyError):  # it has ended, or was deleted
        return False


def _put_back(study: Study, trial_id: int, *lease: sa.ColumnElement[bool]) -> bool:
    """Let a running trial wait, if it still has this lease or, where none is given, still has none."""
    drop = sa.delete(LEASES).where(LEASES.c.trial_id == trial_id, *lease)
    return _move(study, trial_id, TrialState.WAITING, lambda rows: rows.execute(drop).rowcount == bool(lease))


# --- taking and holding -----------------------------------------------------------------------------------------------


def take_waiting(study: Study, below: int | None = None) -> int | None:
    """Take the first waiting trial, with a number below `below`, for this process; the next if another is faster."""
    for trial in internals.all_trials(study, (TrialState.WAITING,)):
        trial_id, is_due = internals.trial_id_of(trial), below is None or trial.number < below
        if is_due and _move(study, trial_id, TrialState.RUNNING, partial(lease_table.give_new, trial_id=trial_id)):
            return trial_id
    return None


def take_new(study: Study, below: int | None = None) -> int | None:
    """Create a trial that this process runs; None if its number would not be below `below`."""
    has_leases(study)  # so that the table is there
    template = optuna.trial.create_trial(state=TrialState.RUNNING)
    template.datetime_start = datetime.now()
    return next(iter(add_trials(study, [template], lambda number: below is None or number < below)), None)


@dataclass
class Held:
    """A trial that this process runs, in one of its threads."""

    # It does not hold its study, which would keep alive the storage that is its weak key.
    trial_id: int
    lost: bool = False  # another process is known to have taken it, put it back, or deleted it
    thread: int = field(default_factory=threading.get_ident)
    ended: threading.Event = field(default_factory=threading.Event)  # its lease is no longer renewed

    def require(self, study: Study) -> None:
        """Raise `LostError` if another process has taken it over, or somebody has ended it."""
        if self.lost or state(study, self.trial_id) != TrialState.RUNNING:
            raise LostError(
                "another process took the trial up, because this one did not renew its lease in time, or has ended it"
            )

    def keep(self, engine: sa.Engine) -> None:
        """Keep renewing its lease until it has ended, in a thread of its own."""
        while not self.lost and not self.ended.wait(lease_table.seconds() / 5):
            try:
                with engine.begin() as connection:
                    self.lost = not lease_table.touch(connection, self.trial_id)
            except Exception:  # the database is away or busy, which the training's thread will report
                logger.debug("the lease of a trial was not renewed", exc_info=True)


def _held_in(study: Study) -> dict[int, Held]:
    """The trials that this process runs in the study's storage, until everybody has been told of their end."""
    storage = internals.storage_of(study)
    return HELD.setdefault(internals.database_of(storage) or storage, {})


@contextmanager
def hold(study: Study, trial_id: int) -> Iterator[Held]:
    """Keep renewing the lease of a trial that this process took."""
    # Until `close`, this process writes to the trial only while the lease stands.
    held = _held_in(study)[trial_id] = Held(trial_id)
    database = internals.database_of(internals.storage_of(study))
    if database is not None:
        threading.Thread(target=held.keep, args=(database.engine,), name="nas-optuna-lease", daemon=True).start()
    try:
        yield held
    finally:
        held.ended.set()


@contextmanager
def hold_trial(trial: Trial) -> Iterator[Held]:
    """`hold` for a trial from ``study.ask`` that has no lease yet, or that this thread already holds."""
    study, trial_id = trial.study, internals.trial_id_of(trial)
    found = _held_in(study).get(trial_id)
    is_running = found is not None and not found.ended.is_set()
    if found is not None and is_running and found.thread == threading.get_ident():
        yield found
        return
    for before in list(_held_in(study).values()):
        if before.trial_id != trial_id and before.ended.is_set() and before.thread == threading.get_ident():
            close(study, before.trial_id)  # Optuna has told its end meanwhile
    _take_asked(study, trial_id)
    if not _held_in(study):  # in a plain script, where nobody else looks: before each trial, of many threads the first
        release_abandoned(study, again=True)
    if is_running or state(study, trial_id) != TrialState.RUNNING:
        raise LostError(f"another process or thread runs trial {trial.number}")
    with hold(study, trial_id) as held:
        yield held


def _take_asked(study: Study, trial_id: int) -> None:
    """Give this process the lease of a trial from ``study.ask``, unless another that is at work has it."""
    # A dead worker's is of a deleted study's trial, whose id SQLite has given again.
    left = next((claim.lease for claim in claims(study, trial_id) if claim.is_free), None)

    def take(rows: Connection) -> None:
        if left is None:
            lease_table.give(rows, trial_id)
        else:
            lease_table.change(rows, trial_id, *left)

    with suppress(IntegrityError):  # it has a lease, which may be this process's
        _in_table(study, take)


def close(study: Study, trial_id: int, worker: str | None = None) -> None:
    """Remove this process's or a dead worker's lease of a trial that has ended, once everybody has been told."""
    known = (LEASES.c.trial_id == trial_id) & (LEASES.c.worker == (worker or this_worker()))
    _in_table(study, lambda connection: connection.execute(sa.delete(LEASES).where(known)))
    _held_in(study).pop(trial_id, None)


def state(study: Study, trial_id: int) -> TrialState | None:
    """The state of a trial that this process took; None if it was put back, taken by another, or deleted."""
    mine = [claim.state for claim in claims(study, trial_id) if claim.worker == this_worker()]
    return mine[0] if mine and mine[0] != TrialState.WAITING else None


def release(study: Study, trial_id: int) -> bool:
    """Put a trial of this process back into the queue, with its params, reports and attributes."""
    # The next worker continues it under its number, so later trials keep their numbers and thereby their proposals.
    put_back = _put_back(study, trial_id, LEASES.c.worker == this_worker())
    if put_back:
        _held_in(study).pop(trial_id, None)
    return put_back


# --- storages ---------------------------------------------------------------------------------------------------------


def require_transactions(study: Study) -> None:
    """Refuse a storage that could lose trials silently."""
    if isinstance(internals.storage_of(study), GrpcStorageProxy):
        raise StudyError(NOT_A_DATABASE)


def advise(study: Study) -> None:
    """Warn in one line if the storage does not suit so many workers."""
    workers = {claim.worker for claim in claims(study) if claim.worker is not None} | {this_worker()}
    url = internals.url_of(study)
    said = advice(url, len(workers)) if url is not None else None
    if said:
        logger.warning("%s", said)


# --- trials whose process is gone -------------------------------------------------------------------------------------


def release_abandoned(study: Study, *, again: bool = False) -> list[int]:
    """Put back every running trial whose process has ended or whose lease has lapsed, and say so."""
    running = _running(study)
    released = [c.number for c in running if c.is_free and _put_back(study, c.trial_id, *c.lease)]
    if released:
        numbers = ", ".join(map(str, released))
        logger.warning("going on with trial %s, whose process has ended, or has not renewed its lease", numbers)
    unseen = [str(claim.number) for claim in running if claim.worker is None]
    if unseen and not again:
        logger.warning(
            "trial %s runs where this process cannot see it; if its own has ended: %s",
            ", ".join(unseen),
            command(study, "study", "release", study.study_name, *unseen),
        )
    return released


def count_deaths(study: Study, worker: str, how: str) -> bool:
    """Count with its running trials that a worker has died; whether one has failed, since it was not the first time."""
    has_failed = False
    for claim in _running(study):
        if claim.worker == worker:
            trial = internals.read_trial(study, claim.trial_id)
            step, (before, deaths) = max(reports_of(trial), default=0), attribute(trial, TrialKey.DEATHS, (0, 0))
            deaths = 1 if step > before else deaths + 1  # a trial that came further is not what kills its process
            internals.set_trial_attribute(study, trial, TrialKey.DEATHS, [step, deaths])
            if deaths >= TRIAL_DEATHS:
                cause = f"its process {how}, {deaths} times"
                has_failed |= _move(study, claim.trial_id, TrialState.FAIL, partial(_fails_for, claim, cause))
    return has_failed


def _fails_for(claim: Claim, cause: str, connection: Connection) -> bool:
    """Record why a trial fails if its lease is still as it was read; it is left for who tells of the trial's end."""
    known = sa.select(LEASES.c.worker).where(LEASES.c.trial_id == claim.trial_id, *claim.lease)
    if stands := connection.execute(known).first() is not None:
        write_attributes(connection, "trial_user_attributes", claim.trial_id, {TrialKey.CAUSE: cause})
    return stands


def release_those_of(study: Study, worker: str) -> list[int]:
    """Put back the trials of a worker that has ended, as the process that started it knows."""
    theirs = [claim for claim in _running(study) if claim.worker == worker]
    return [claim.number for claim in theirs if _put_back(study, claim.trial_id, *claim.lease)]


def release_by_hand(study: Study, number: int) -> None:
    """Put back a running trial whose process only a person can know to be gone, e.g. one of another host."""
    claim = next((claim for claim in _running(study) if claim.number == number), None)
    worker = claim.owner if claim is not None else None
    if worker is not None and worker.is_here() and not worker.is_gone():
        raise StudyError(f"trial {number} is run by process {worker.process} of this machine; end that first")
    if claim is None or not _put_back(study, claim.trial_id, *claim.lease):
        raise StudyError(f"study {study.study_name!r} has no running trial {number}; there is nothing to put back")


def take_unclosed(study: Study) -> list[FrozenTrial]:
    """Take the ended trials whose process died before it had told everybody; `close` them afterwards."""

    def take(claim: Claim) -> bool:
        return _in_table(study, lambda rows: lease_table.change(rows, claim.trial_id, *claim.lease))

    ended = [claim for claim in claims(study) if claim.state.is_finished() and claim.is_free]
    return [internals.read_trial(study, claim.trial_id) for claim in ended if take(claim)]


def _running(study: Study) -> list[Claim]:
    """Every trial that runs, also with the lease that release 0.2 kept as attributes of the trial."""
    found = [claim for claim in claims(study) if claim.state == TrialState.RUNNING]
    for i, claim in enumerate(found):
        if claim.worker is None:
            old = internals.read_trial(study, claim.trial_id).user_attrs
            worker, until = old.get(TrialKey.WORKER), old.get(TrialKey.LEASE)
            found[i] = replace(claim, worker=worker, until=until, has_row=False)
    return found
