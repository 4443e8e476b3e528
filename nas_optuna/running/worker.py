"""Who runs a trial, and what becomes of it when that process is gone."""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import datetime, timedelta
from functools import cache
from pathlib import Path

from optuna.exceptions import StorageInternalError
from optuna.storages._heartbeat import BaseHeartbeat, is_heartbeat_enabled
from optuna.study import Study
from optuna.trial import FrozenTrial, Trial, TrialState

from nas_optuna.running.records import Attribute

_UNMARKED = timedelta(minutes=10)
"""A trial that is older and has no worker is nobody's: its process ended while its sampler was at work."""


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


@contextmanager
def alive(study: Study, trial: Trial) -> Iterator[None]:
    """Within it other hosts can see that a trial is being run, where its storage has a heartbeat.

    Optuna's own thread would end at the first beat that the database does not take.
    """
    storage = study._storage
    if not is_heartbeat_enabled(storage):
        yield
        return
    assert isinstance(storage, BaseHeartbeat)
    ended = threading.Event()

    def beat() -> None:
        while True:
            with suppress(StorageInternalError):
                storage.record_heartbeat(trial._trial_id)
            if ended.wait(storage.get_heartbeat_interval()):
                return

    thread = threading.Thread(target=beat, name="nas-optuna-heartbeat", daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


def is_taken_over(study: Study, trial: Trial) -> bool:
    """Whether somebody else runs a trial of this worker, or ended it, as when this one was thought to be gone."""
    now = study._storage.get_trial(trial._trial_id)
    return now.state != TrialState.RUNNING or now.user_attrs.get(Attribute.WORKER) != this_worker()


def release(study: Study, trial: Trial | FrozenTrial) -> None:
    """Put a running trial back into the queue, with its params, reports and attributes.

    The next `ask` of any worker takes it up again under its number, so nothing is lost and later trials keep the
    numbers, and so the proposals, that they would have had. Optuna has no public call for this; its storages have.
    """
    study._storage.set_trial_state_values(trial._trial_id, TrialState.WAITING)


def release_abandoned(study: Study) -> list[int]:
    """Put back every running trial whose process has ended; returns their numbers.

    Of this machine's processes that is known at once, of another machine's once heartbeats have stayed away.
    """
    storage = study._storage
    silent: list[int] | None = None
    if is_heartbeat_enabled(storage):
        assert isinstance(storage, BaseHeartbeat)
        silent = storage._get_stale_trial_ids(study._study_id)
    released = []
    for trial in study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
        worker = trial.user_attrs.get(Attribute.WORKER)
        if worker is None:
            gone = trial.datetime_start is not None and datetime.now() - trial.datetime_start > _UNMARKED
        elif silent is None or worker.startswith(f"{_machine()}/"):
            gone = is_gone(worker)
        else:
            gone = trial._trial_id in silent
        if gone:
            release(study, trial)
            released.append(trial.number)
    return released


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
