"""Who runs a trial, and what becomes of it when that process is gone.

A trial that runs is marked with its worker and with a time, in the same transaction that lets it run. Until that time,
by the database's clock, the worker has the trial as a lease, which it renews while it works. Another worker takes a
trial up in three cases only:

- The process was one of the same PID namespace of the same boot and is not there any more, or the machine has booted
  anew.
- The lease has lapsed: the process was stopped, or its host is gone or has no network.
- A trial without a worker has been seen for as long as a lease. It belongs to a plain ``study.optimize`` that was
  killed before the objective began. One that has parameters is left alone: another objective may be training it.

A worker that finds its lease gone stops at its next step and records nothing: the trial's end is written only where the
trial still has the worker's mark. For trials of earlier releases, which have no lease, a person says that their host is
gone (``nas-optuna study release``).
"""

from __future__ import annotations

import logging
import os
import socket
import threading
import time
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from enum import Enum
from functools import cache
from pathlib import Path
from typing import Any

from optuna.storages import GrpcStorageProxy
from optuna.study import Study
from optuna.trial import FrozenTrial, Trial, TrialState

from nas_optuna.errors import StudyError
from nas_optuna.study import optuna_internals
from nas_optuna.study.hints import command
from nas_optuna.study.schema import PREFIX, TrialKey
from nas_optuna.study.storage import advice, refusal

logger = logging.getLogger(__name__)

_FIRST_NAMESPACE = "4026531836"
"""Linux gives the PID namespace of a machine that is not a container this number."""
_UNKNOWN = "-"
SECONDS = 300.0
"""How long a lease holds; ``NAS_OPTUNA_LEASE`` is another number. It is renewed five times in that time, and after each
epoch."""
_RENEWED_JUST_NOW = 1.0
"""Seconds in which a lease need not be renewed again: epochs may be shorter than a transaction."""


@dataclass(frozen=True)
class Worker:
    """A process, told apart from every other one anywhere.

    Attributes:
        host: Name of its host, for people.
        machine: What stays the same when the host boots anew, if that is known.
        boot: Differs for each boot of each machine.
        namespace: The PID namespace that its number belongs to: containers of one machine have different ones.
        process: Its number.
        started: When it began, which tells it from a later process with its number.
    """

    host: str
    machine: str
    boot: str
    namespace: str
    process: int
    started: str

    def __str__(self) -> str:
        return f"{self.host}/{self.machine}/{self.boot}/{self.namespace}/{self.process}/{self.started}"

    @classmethod
    def parse(cls, text: object) -> Worker | None:
        """Read what ``str`` gave, or what earlier releases wrote (host, boot, process, start); None for anything else.

        Example:
            >>> Worker.parse("host/boot/12/345").process
            12
        """
        fields = text.split("/") if isinstance(text, str) else []
        if len(fields) == 4:
            fields = [fields[0], _UNKNOWN, fields[1], _UNKNOWN, *fields[2:]]
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
        if self.namespace != here.namespace and not self._is_of_an_earlier_release_here(here):
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

    def _is_of_an_earlier_release_here(self, here: Worker) -> bool:
        """Earlier releases did not write the namespace."""
        return self.namespace == _UNKNOWN and self.host == here.host


def this_worker() -> str:
    """Return this process as text, which is what its trials are marked with."""
    return str(_here())


def _here() -> Worker:
    """Ask anew each time, because a fork is another process."""
    host, machine, boot, namespace = _surroundings()
    return Worker(host, machine, boot, namespace, os.getpid(), _start_time(os.getpid()) or _UNKNOWN)


_HELD: dict[tuple[int, int], Held] = {}
"""Storage and trial → what this process runs."""


class Standing(Enum):
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
    """How long a lease holds, in seconds.

    Raises:
        StudyError: ``NAS_OPTUNA_LEASE`` is not a number of seconds.
    """
    text = os.environ.get("NAS_OPTUNA_LEASE", "")
    try:
        given = float(text) if text else SECONDS
    except ValueError:
        given = 0.0
    if not 0 < given < 1e7:
        raise StudyError(f"NAS_OPTUNA_LEASE must be a number of seconds above 0, got {text[:40]!r}")
    return given


def take_waiting(study: Study) -> int | None:
    """Take the first trial that waits for this process, unless another worker is faster; then the next.

    Returns:
        Its number within the storage; None where no trial waits.
    """
    for trial in optuna_internals.all_trials(study, (TrialState.WAITING,)):
        if optuna_internals.claim(study, trial, _mine):
            return optuna_internals.trial_id_of(trial)
    return None


def take_new(study: Study, below: int | None = None) -> int:
    """Make a trial that this process runs; returns its number within the storage.

    Args:
        study: Its study.
        below: Make none whose number would not be below this.

    Raises:
        optuna_internals.FullError: The study has as many trials already.
    """
    return optuna_internals.new_trial(study, _mine(optuna_internals.now(study)), below)


def _mine(now: float) -> dict[str, Any]:
    return {TrialKey.WORKER: this_worker(), TrialKey.LEASE: round(now + seconds(), 3)}


@dataclass
class Held:
    """A trial that this process runs.

    Attributes:
        study: Its study.
        trial_id: Its number within the storage.
        lost: Whether it is known that another process took it, put it back, or deleted it.
        thread: Who holds it.
    """

    study: Study
    trial_id: int
    lost: bool = False
    thread: int = field(default_factory=threading.get_ident)
    _renewed: float = field(default_factory=time.monotonic)
    _ended: threading.Event = field(default_factory=threading.Event)

    def renew(self, *, at_once: bool = False) -> None:
        """Make the lease last from now on.

        Args:
            at_once: Ask the database also where it was asked within the last second.

        Raises:
            LostError: The lease is gone.
        """
        if not (self.lost or at_once) and time.monotonic() - self._renewed < _RENEWED_JUST_NOW:
            return
        if self.lost or not self._renewed_now(patiently=True):
            raise LostError("another process took the trial up, because this one did not renew its lease in time")

    def keep(self) -> None:
        """Renew it again and again until `end`, in a thread beside the training."""
        while not self.lost and not self._ended.wait(seconds() / 5):
            try:
                self._renewed_now(patiently=False)
            except (
                Exception
            ):  # the database is away or busy; the training's own thread says so, and the next turn tries
                logger.debug("the lease of a trial was not renewed", exc_info=True)

    def end(self) -> None:
        """Renew it no more."""
        self._ended.set()

    def _renewed_now(self, *, patiently: bool) -> bool:
        began, mine = time.monotonic(), {TrialKey.WORKER: this_worker()}
        self.lost = not optuna_internals.change_running(self.study, self.trial_id, mine, _mine, patiently=patiently)
        self._renewed = began
        return not self.lost


@contextmanager
def hold(study: Study, trial_id: int) -> Iterator[Held]:
    """Within it the lease of a trial that this process took is renewed.

    From here on this process writes the trial's end only while it runs the trial.
    """
    held, place = Held(study, trial_id), (id(optuna_internals.storage_of(study)), trial_id)
    optuna_internals.write_only_as(study, trial_id, {TrialKey.WORKER: this_worker()})
    _HELD[place] = held
    threading.Thread(target=held.keep, name="nas-optuna-lease", daemon=True).start()
    try:
        yield held
    finally:
        held.end()
        del _HELD[place]


@contextmanager
def hold_trial(trial: Trial) -> Iterator[Held]:
    """`hold` for a trial that ``study.ask`` gave and that nobody has marked, or that this thread holds already.

    Raises:
        LostError: Another process, or another thread of this one, runs the trial.
    """
    study, trial_id = trial.study, optuna_internals.trial_id_of(trial)
    held = _HELD.get((id(optuna_internals.storage_of(study)), trial_id))
    if held is not None and held.thread == threading.get_ident():
        yield held
        return
    seen = {TrialKey.WORKER: trial.user_attrs.get(TrialKey.WORKER)}
    took = held is None and optuna_internals.change_running(study, trial_id, seen, _mine)
    if not took and (held is not None or standing(study, trial_id) != Standing.HELD):
        raise LostError(f"another process or thread runs trial {trial.number}")
    with hold(study, trial_id) as held:
        yield held


def standing(study: Study, trial_id: int) -> Standing:
    """Look up whether this process still runs a trial that it took."""
    found = optuna_internals.state_and_owner(study, trial_id, TrialKey.WORKER)
    if found is None or found[1] != this_worker():
        return Standing.LOST
    if found[0] == TrialState.RUNNING:
        return Standing.HELD
    return Standing.TOLD if found[0].is_finished() else Standing.LOST


def release(study: Study, trial_id: int) -> bool:
    """Put a trial of this process back into the queue, with its params, reports and attributes.

    The next worker that takes a trial takes it up again under its number, so nothing is lost, and later trials keep
    the numbers, and so the proposals, that they would have had.

    Returns:
        False where this process did not run it any more.
    """
    return _put_back(study, trial_id, {TrialKey.WORKER: this_worker()})


def release_abandoned(study: Study, *, again: bool = False) -> list[int]:
    """Put back every running trial whose process has ended or whose lease has lapsed, and say so.

    Args:
        study: Its trials are looked at.
        again: Whether this run has said already what it cannot know.

    Returns:
        Their numbers.
    """
    released, ended, unseen = [], [], []
    running = optuna_internals.all_trials(study, (TrialState.RUNNING,))
    now = optuna_internals.now(study) if running else 0.0
    for trial in running:
        owner, lease = _owner(trial), trial.user_attrs.get(TrialKey.LEASE)
        worker = Worker.parse(owner)
        has_lapsed = isinstance(lease, float | int) and lease < now
        is_gone = (worker is not None and worker.is_gone()) or _was_cleared(trial)
        if has_lapsed or is_gone:
            if _put_back(study, optuna_internals.trial_id_of(trial), {_owner_key(trial): owner, TrialKey.LEASE: lease}):
                released.append(trial.number)
                if not is_gone and worker is not None:
                    where = f"process {worker.process} on {worker.host}"
                    logger.warning("going on with trial %d, whose lease %s has not renewed", trial.number, where)
                else:
                    ended.append(str(trial.number))
        elif worker is None and owner is None and not trial.params:
            _watch(study, trial)
        elif lease is None and (worker is None or not _is_here(worker)) and not again:
            # Optuna reads a trial's attributes after its state; in between, another process may have put it back.
            trial_id = optuna_internals.trial_id_of(trial)
            if optuna_internals.state_and_owner(study, trial_id, _owner_key(trial)) == (TrialState.RUNNING, owner):
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
    """Put back what a worker runs that has certainly ended: whoever started it knows.

    Args:
        study: The study.
        worker: What `this_worker` gave in that process.

    Returns:
        The numbers of its trials.
    """
    running = optuna_internals.all_trials(study, (TrialState.RUNNING,))
    theirs = [trial for trial in running if trial.user_attrs.get(TrialKey.WORKER) == worker]
    return [t.number for t in theirs if _put_back(study, optuna_internals.trial_id_of(t), {TrialKey.WORKER: worker})]


def _watch(study: Study, trial: FrozenTrial) -> None:
    """Give a trial that nobody has marked a lease in nobody's name, from when it was first seen."""
    if trial.user_attrs.get(TrialKey.LEASE) is None:
        unmarked = {TrialKey.WORKER: None, TrialKey.LEASE: None}
        optuna_internals.change_running(
            study,
            optuna_internals.trial_id_of(trial),
            unmarked,
            lambda now: {TrialKey.LEASE: round(now + seconds(), 3)},
        )


def _put_back(study: Study, trial_id: int, seen: Mapping[str, Any]) -> bool:
    removed = dict.fromkeys((*seen, TrialKey.LEASE))
    return optuna_internals.change_running(study, trial_id, seen, lambda now: removed, TrialState.WAITING)


def require_steps(study: Study) -> None:
    """Refuse a storage in which trials could be lost without a word.

    Raises:
        StudyError: It is Optuna's gRPC proxy.
    """
    if isinstance(optuna_internals.storage_of(study), GrpcStorageProxy):
        raise StudyError(refusal("grpc"))


def advise(study: Study) -> None:
    """Say in one line where the storage is not made for as many workers as are at work."""
    running = optuna_internals.all_trials(study, (TrialState.RUNNING,))
    workers = {owner for trial in running if (owner := _owner(trial)) is not None} | {this_worker()}
    url = optuna_internals.url_of(study)
    said = advice(url, len(workers)) if url is not None else None
    if said:
        logger.warning("%s", said)


def release_by_hand(study: Study, number: int) -> None:
    """Put back a running trial of which only a person can know that its process is gone: one of another host, say.

    Raises:
        StudyError: There is no such trial, it is not running, or a process of this machine runs it.
    """
    trial = next((t for t in study.get_trials(deepcopy=False) if t.number == number), None)
    if trial is None:
        raise StudyError(f"study {study.study_name!r} has no trial {number}")
    if trial.state != TrialState.RUNNING:
        raise StudyError(f"trial {number} is {trial.state.name.lower()}, not running; there is nothing to put back")
    owner = _owner(trial)
    worker = Worker.parse(owner)
    if worker is not None and _is_here(worker) and not worker.is_gone():
        raise StudyError(f"trial {number} is run by process {worker.process} of this machine; end that first")
    if not _put_back(study, optuna_internals.trial_id_of(trial), {_owner_key(trial): owner}):
        raise StudyError(f"trial {number} was ended or taken up by another process just now; look again")


def _was_cleared(trial: FrozenTrial) -> bool:
    """Whether an earlier release died while it put the trial back: it removed the mark first."""
    keys = (TrialKey.WORKER, TrialKey.WORKER.removeprefix(PREFIX))
    return _owner(trial) is None and any(key in trial.user_attrs and trial.user_attrs[key] is None for key in keys)


def _owner(trial: FrozenTrial) -> str | None:
    owner: str | None = trial.user_attrs.get(_owner_key(trial))
    return owner


def _owner_key(trial: FrozenTrial) -> str:
    """Earlier releases wrote the key without the prefix, and wrote nothing else before it."""
    old = TrialKey.WORKER.removeprefix(PREFIX)
    is_old = TrialKey.WORKER not in trial.user_attrs and Worker.parse(trial.user_attrs.get(old)) is not None
    return old if is_old else TrialKey.WORKER


def _is_here(worker: Worker) -> bool:
    """Whether a worker can be seen from here, dead or alive."""
    here = _here()
    same = worker.boot == here.boot != _UNKNOWN or worker.machine == here.machine != _UNKNOWN
    return same and worker.namespace in (here.namespace, _UNKNOWN)


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


def _start_time(process: int) -> str | None:
    """Clock ticks after boot at which a process began, which tells it from a later one with the same number.

    ``"-"`` where there is no ``/proc``; None where the process has ended or is hidden.
    """
    try:
        # The second field is the name in parentheses and may hold spaces; the start time is the 20th after it.
        text = Path(f"/proc/{process}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None if Path("/proc/self").exists() else _UNKNOWN
    fields = text.rpartition(")")[2].split()
    return fields[19] if fields[0] not in "ZX" else None  # nobody has asked yet how it ended


def _may_be_there(process: int, started: str) -> bool:
    """Whether a process of this PID namespace is there, as far as this one may see."""
    found = _start_time(process)
    if found not in (None, _UNKNOWN):
        return found == started
    try:
        os.kill(process, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:  # another user's, which /proc may hide
        return True
    return found == _UNKNOWN
