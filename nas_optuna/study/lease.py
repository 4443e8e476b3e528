"""Who runs a trial, and what becomes of it when that process is gone.

A trial that runs is marked with its worker, in the same transaction that lets it run. A worker is known to be dead in
two cases only: a process of the same PID namespace of the same boot is not there any more, or the machine has booted
anew. Of every other worker (in another container, on another host) nothing can be known, so its trials are left to it
until a person says otherwise (``nas-optuna study release``).
"""

from __future__ import annotations

import logging
import os
import shlex
import socket
import time
import uuid
from dataclasses import dataclass
from enum import Enum
from functools import cache
from pathlib import Path

from optuna.study import Study
from optuna.trial import FrozenTrial, TrialState

from nas_optuna.errors import StudyError
from nas_optuna.study import optuna_internals
from nas_optuna.study.schema import PREFIX, TrialKey

logger = logging.getLogger(__name__)

_FIRST_NAMESPACE = "4026531836"
"""Linux gives the PID namespace of a machine that is not a container this number."""
_UNKNOWN = "-"
OWNERLESS_PAUSE = 1.0
"""Seconds for which a running trial must be seen without a worker until it is taken for ownerless: a plain
``study.optimize`` in another process marks its trials only when the objective begins."""


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


class Standing(Enum):
    """What a worker can still do with a trial that it runs."""

    HELD = "held"
    """It runs the trial."""
    TOLD = "told"
    """It has told the trial's end."""
    LOST = "lost"
    """The trial was put back, taken up by another worker, or deleted."""


def take_waiting(study: Study) -> int | None:
    """Take the first trial that waits for this process, unless another worker is faster; then the next.

    Returns:
        Its number within the storage; None where no trial waits.
    """
    for trial in optuna_internals.all_trials(study, (TrialState.WAITING,)):
        if optuna_internals.claim(study, trial, TrialKey.WORKER, this_worker()):
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
    return optuna_internals.new_trial(study, {TrialKey.WORKER: this_worker()}, below)


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
    return optuna_internals.put_back(study, trial_id, TrialKey.WORKER, this_worker())


def release_abandoned(study: Study) -> list[int]:
    """Put back every running trial whose process has ended, or that nobody runs, and say so.

    Returns:
        Their numbers.
    """
    released, unseen = [], []
    for trial in _surely_running(study):
        owner = _owner(trial)
        worker = Worker.parse(owner)
        if (worker is not None and worker.is_gone()) or _is_ownerless(trial):
            if optuna_internals.put_back(study, trial, _owner_key(trial), owner):
                released.append(trial.number)
        elif worker is None or not _is_here(worker):
            unseen.append(str(trial.number))
    if released:
        logger.warning("going on with what no process runs any more: trial %s", ", ".join(map(str, released)))
    if unseen:
        logger.warning(
            "trial %s runs where this process cannot see it; if its own has ended: nas-optuna study release %s %s",
            ", ".join(unseen),
            shlex.quote(study.study_name),
            " ".join(unseen),
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
    return [t.number for t in theirs if optuna_internals.put_back(study, t, TrialKey.WORKER, worker)]


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
    if not optuna_internals.put_back(study, trial, _owner_key(trial), owner):
        raise StudyError(f"trial {number} was ended or taken up by another process just now; look again")


def _surely_running(study: Study) -> list[FrozenTrial]:
    """The running trials; those without an owner only where they have none a moment later, too."""
    running = optuna_internals.all_trials(study, (TrialState.RUNNING,))
    if all(_owner(trial) is not None for trial in running):
        return running
    time.sleep(OWNERLESS_PAUSE)
    numbers = {trial.number for trial in running}
    return [t for t in optuna_internals.all_trials(study, (TrialState.RUNNING,)) if t.number in numbers]


def _is_ownerless(trial: FrozenTrial) -> bool:
    """Whether no process can be running it: Optuna's other users leave no mark, but they suggest parameters."""
    keys = (TrialKey.WORKER, TrialKey.WORKER.removeprefix(PREFIX))
    cleared = any(key in trial.user_attrs and trial.user_attrs[key] is None for key in keys)
    return _owner(trial) is None and (cleared or not trial.params)


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
