"""A worker, the messages that it exchanges with its executor, and the pool that executors share."""

from __future__ import annotations

import logging
import time
import traceback
import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import optuna
from optuna.trial import TrialState

from nas_optuna.devices import use_threads
from nas_optuna.errors import (
    DeviceLostError,
    Gone,
    NasOptunaError,
    StudyError,
    describe_error,
    ended_by_code,
    place_of,
    printable,
)
from nas_optuna.execution.events import Callback, Run, Subject
from nas_optuna.execution.executors.contract import Handle, Work
from nas_optuna.execution.loop import Outcome, StopRequest, TrialBudget, run
from nas_optuna.study import lease, optuna_internals
from nas_optuna.study.lease_table import this_worker
from nas_optuna.study.storage import failure, is_of_the_deleted

logger = logging.getLogger(__name__)

MAX_DEATHS = 3
"""A worker that dies this many times without a trial that ends well is not started again."""
GRACE = 10.0
"""Seconds that a worker has to end before it is killed."""
SAME = 60.0
"""Seconds within which a warning of several workers is said once, e.g. of a trial of another host."""
PAUSE = 0.2
"""Seconds between two checks of whether somebody asked to stop."""


@dataclass
class WorkerState:
    """One worker, as its executor sees it."""

    spec: WorkerSpec
    name: str  # for a person, with its process or node
    process: Any = None  # or its actor
    messages: Any = None  # the connection to it, or the reference to what it says next
    owner: str | None = None  # its name in leases, once it has asked for a trial
    subject: Subject | None = None  # the trial that it runs
    deaths: int = 0  # since one of its trials ended well
    done: bool = False  # whether it has sent its last message
    lost: DeviceLostError | None = None  # why it cannot go on, though a new process can


class WorkerPool(ABC):
    """The workers of one run. A subclass starts them and transports their messages, which are handled here."""

    grace = GRACE

    def __init__(self, work: Work, budget: TrialBudget, told: Callback) -> None:
        self.budget = budget
        self.workers: list[WorkerState] = []
        self.error: NasOptunaError | None = None
        self.asked = 0
        self.deadline = float("inf")
        self._study = work.study
        self._told = told
        self._stopped: Callable[[], bool] = bool
        self._logged: dict[tuple[str, ...], float] = {}

    @abstractmethod
    def start(self, spec: WorkerSpec, deaths: int = 0) -> WorkerState:
        """Start a worker."""

    @abstractmethod
    def serve(self) -> None:
        """Wait for messages, at most `PAUSE` seconds, handle them, and reap workers that have ended."""

    @abstractmethod
    def interrupt(self, worker: WorkerState) -> None:
        """Ask a worker to stop: the first time after its step, the second time at once."""

    @abstractmethod
    def end(self) -> None:
        """End all workers, however the run has ended."""

    def is_over(self) -> bool:
        """Whether there is no worker left to wait for."""
        return not self.workers

    def run(self, devices: Sequence[str], threads: int, stop: StopRequest) -> Outcome:
        """Serve a worker for each device until all have ended or their time is up."""
        if self.budget.hopeless is not None:  # what fails ends at once, while the others still train
            self.budget.hopeless += max(0, len(devices) - 1)
        with stop.guarding(), optuna_internals.stoppable(self._study) as self._stopped:
            try:
                for number, device in enumerate(devices, start=1):
                    self.workers.append(self.start(WorkerSpec(number, device, threads, self.budget.total)))
                while not self.is_over() and time.monotonic() < self.deadline:
                    self.serve()
                    self._pass_on(stop)
            finally:
                self.asked = self.asked or 1  # a worker that ends now is not started again
                self.end()
        if self.error is not None:
            raise self.error
        return Outcome(self.budget.finished, stop.asked)

    def _pass_on(self, stop: StopRequest) -> None:
        """Ask the workers to stop as often as this process was asked, or if one of them has failed."""
        wanted = 2 if stop.insisted else 1 if stop.asked or self.error is not None else 0
        while self.asked < wanted:
            self.asked += 1
            self.deadline = time.monotonic() + self.grace if self.asked > 1 else self.deadline
            self.budget.close()
            for worker in self.workers:
                self.interrupt(worker)

    def handle(self, worker: WorkerState, message: Message) -> bool | None:
        """Handle a worker's message; return the answer to a request."""
        about = message.about
        match message.kind:
            case "ask":
                worker.owner, worker.subject = about, None  # it may have dropped a trial that it had lost
                return self.budget.ask(worker.spec.number)
            case "log":
                self._log(about, message.more)
            case "done":
                worker.done = True
                self.budget.drop(worker.spec.number)
                if isinstance(about, DeviceLostError):
                    worker.lost = about
                else:
                    self.error = self.error or about
            case event:
                self._tell(worker, event, about, *message.more)
        return None

    def _log(self, level: int, line: tuple[str, ...]) -> None:
        """Pass on what a worker logs, once if several say the same; of a traceback, every line."""
        now = time.monotonic()
        self._logged = {each: then for each, then in self._logged.items() if now - then < SAME}
        if level >= logging.ERROR or line not in self._logged:
            self._logged[line] = now
            logger.log(level, "%s", *line)

    def reap(self, worker: WorkerState, how: str, *, by_trial: bool = True) -> None:
        """Put back the trial of a worker that has ended, and start it again if it died or lost its device.

        The trial may be the cause, unless the whole host has died or somebody has asked to stop; it fails in the end.
        """
        self.workers.remove(worker)
        subject, has_failed = worker.subject, False
        if worker.owner is not None and not worker.done:
            if by_trial and not self.asked and self.error is None:
                has_failed = lease.count_deaths(self._study, worker.owner, how)
            lease.release_those_of(self._study, worker.owner)
        self._tell_what_it_finished(worker)
        self.budget.drop(worker.spec.number)
        if self.asked or (worker.done and worker.lost is None) or self.error is not None:
            return
        subject = subject if has_failed else worker.subject
        deaths = 1 if has_failed else worker.deaths + 1  # of which one trial was the cause
        how = how if worker.lost is None else "has lost its device"
        where = f" in {subject.name}" if subject else ""
        if deaths >= MAX_DEATHS:
            self.error = worker.lost or StudyError(
                f"{worker.name} {how}{where}, {MAX_DEATHS} times without a trial that ended well; is memory short?"
                " Fewer workers need less: --workers N (workers)"
            )
            return
        again = self.budget.is_open
        logger.warning("%s %s%s%s", worker.name, how, where, "; it is started again" if again else "")
        if again:
            self.workers.append(self.start(worker.spec, deaths))

    def _tell_what_it_finished(self, worker: WorkerState) -> None:
        """Report a trial whose end is in the database, but whose worker died before it could say so."""
        subject = worker.subject
        for trial in self._study.get_trials(deepcopy=False) if subject else ():
            if subject and subject.name == f"trial {trial.number}" and trial.state.is_finished():
                self._tell(worker, "trial_finished", subject, trial)
                lease.close(self._study, optuna_internals.trial_id_of(trial), worker.owner)

    def _tell(self, worker: WorkerState, event: str, about: Subject, *more: Any) -> None:
        own = about.worker is not None  # else another run's worker has finished it, which is only told
        subject = replace(about, study=self._study, worker=worker.spec.number)
        worker.subject = subject if own and event != "trial_finished" else None
        if own and event == "trial_finished":
            if more[0].state != TrialState.FAIL:  # it may have taken the device with it
                worker.deaths = 0
            try:
                self.budget.finish(worker.spec.number, more[0])
            except StudyError as error:
                self.error = self.error or error
        getattr(self._told, event)(subject, *more)
        if self._stopped():
            self.budget.close()


# --- one worker -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Message:
    """What a worker says: ``ask`` to begin a trial, ``log``, ``done``, or an event of `Callback`, and its arguments."""

    kind: str
    about: Any = None  # the worker's name in leases, a level of logging, an error that ends the run, or a `Subject`
    more: tuple[Any, ...] = ()


Tell = Callable[[Message], bool]
"""Sends a message from a worker to its executor, and returns the answer to a request."""


@dataclass(frozen=True)
class WorkerSpec:
    """A worker's number, from 1, its device, its CPU threads, and the number of trials at which the study is full."""

    number: int
    device: str
    threads: int
    total: int | None = None


def run_worker(handle: Handle, spec: WorkerSpec, tell: Tell, stop: StopRequest) -> None:
    """Run trials for as long as the executor permits; never raises, because nobody here would see it."""
    # `tell` raises KeyboardInterrupt if the executor is gone.
    with _logging_to(tell), suppress(KeyboardInterrupt):
        done = Message("done")
        try:
            use_threads(spec.threads)
            work = replace(handle, device=spec.device).work(interrupted=stop)
            if spec.number > 1:  # as Optuna does in threads: a sampler with one random stream would repeat the first's
                work.study.sampler.reseed_rng()
            may_begin, relay = partial(tell, Message("ask", this_worker())), _Relay(tell, spec.number)
            budget = TrialBudget(total=spec.total, hopeless=None)  # the pool counts what fails in all workers
            run(work.study, work.objective, budget=budget, may_begin=may_begin, stop=stop, callbacks=[relay])
        except SystemExit as ended:
            done = Message("done", ended_by_code(ended))
        except Exception as error:
            done = Message("done", _told_plainly(error, spec.number))
        tell(done)


class _Relay(Callback):
    """Sends events to the executor, without objects that belong to this process."""

    def __init__(self, tell: Tell, worker: int) -> None:
        self._tell = tell
        self._worker = worker

    def any_event(self, event: str, about: Run | Subject, *more: Any) -> None:
        if isinstance(about, Subject):
            own = None if about.trial is None else self._worker
            here = replace(about, trial=None, study=None, worker=own)
            self._tell(Message(event, here, more))


def _told_plainly(error: Exception, worker: int) -> NasOptunaError:
    if isinstance(error, NasOptunaError):
        return error
    if (text := failure(error)) is not None:
        return StudyError(text)
    if is_of_the_deleted(error):
        return Gone("the study was deleted while this run worked on it")
    if not (isinstance(error, OSError) or place_of(error)):  # a bug of ours: a traceback shows where
        logging.getLogger(__name__).error("%s", traceback.format_exc())
    return StudyError(f"worker {worker} failed: {describe_error(error, 300)}")


class _Handler(logging.Handler):
    def __init__(self, tell: Tell) -> None:
        super().__init__(logging.WARNING)
        self._tell = tell

    def emit(self, record: logging.LogRecord) -> None:
        text = record.getMessage()
        if record.name == "py.warnings":  # place, category and message, then the source line
            text = text.partition("\n")[0].rpartition("Warning: ")[2]
        lines = text.splitlines() if record.levelno >= logging.ERROR else [printable(text)]
        for one in lines:
            self._tell(Message("log", record.levelno, (one,)))


@contextmanager
def _logging_to(tell: Tell) -> Iterator[None]:
    """Send what is logged here, including Python's warnings, to the executor's log."""
    root, handler = logging.getLogger(), _Handler(tell)
    root.addHandler(handler)
    logging.captureWarnings(True)
    optuna.logging.disable_default_handler()
    optuna.logging.enable_propagation()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=".* is experimental")
            yield
    finally:
        root.removeHandler(handler)
        logging.captureWarnings(False)
