"""Who runs a trial, and what becomes of it when that process is gone."""

from __future__ import annotations

import os
import socket
from functools import cache
from pathlib import Path

from optuna.study import Study
from optuna.trial import FrozenTrial, Trial, TrialState

from nas_optuna.errors import StudyError
from nas_optuna.study.schema import TrialKey, attribute


@cache
def this_worker() -> str:
    """This process's identity, e.g. ``"host/0f3c…/4711/8812345"``: host, boot, process and its start time."""
    return f"{_machine()}/{os.getpid()}/{_start_time(os.getpid())}"


def is_gone(worker: str) -> bool:
    """Whether a worker of this machine has ended. Of another machine's worker nothing is known: False."""
    machine, _, process = worker.rpartition("/")[0].rpartition("/")
    started = worker.rpartition("/")[2]
    if machine.split("/")[0] != _machine().split("/")[0] or not process.isdigit():
        return False
    if machine != _machine():
        return True  # this host has been booted anew
    return _start_time(int(process)) != started


def release(study: Study, trial: Trial | FrozenTrial) -> None:
    """Put a running trial back into the queue, with its params, reports and attributes.

    The next `ask` of any worker takes it up again under its number, so nothing is lost and later trials keep the
    numbers, and so the proposals, that they would have had. Optuna has no public call for this; its storages have.
    """
    # Or, until it is marked anew, another run that begins now would take it for abandoned once more.
    study._storage.set_trial_user_attr(trial._trial_id, TrialKey.WORKER, None)
    study._storage.set_trial_state_values(trial._trial_id, TrialState.WAITING)


def release_abandoned(study: Study) -> list[int]:
    """Put back every running trial whose process has ended; returns their numbers."""
    released = []
    for trial in study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
        worker = attribute(trial, TrialKey.WORKER)
        if worker is not None and is_gone(worker):
            release(study, trial)
            released.append(trial.number)
    return released


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
    worker = attribute(trial, TrialKey.WORKER) or ""
    if worker.startswith(f"{_machine()}/") and not is_gone(worker):
        raise StudyError(f"trial {number} is run by process {worker.split('/')[2]} of this machine; end that first")
    release(study, trial)


@cache
def _machine() -> str:
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    except OSError:
        boot = "-"
    return f"{socket.gethostname()}/{boot}"


def _start_time(process: int) -> str:
    """Clock ticks after boot at which a process began; tells it from a later one with the same number.

    Where there is no ``/proc`` only whether it is there is known: ``"-"`` if so, else ``""``.
    """
    try:
        # The second field is the name in parentheses and may hold spaces; the start time is the 20th after it.
        return Path(f"/proc/{process}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()[19]
    except OSError:
        pass
    if Path("/proc/self").exists():
        return ""
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return ""
    except PermissionError:
        pass
    return "-"
