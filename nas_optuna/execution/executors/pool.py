"""The pool of workers that executors share: who runs what, who may begin, and whom to tell."""

from __future__ import annotations

import logging
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Generic, TypeVar

from nas_optuna.errors import NasOptunaError, StudyError
from nas_optuna.execution.budget import Budget, TrialBudget
from nas_optuna.execution.events import Callback, Subject
from nas_optuna.execution.executors.contract import Work
from nas_optuna.execution.executors.worker import (
    DoneMessage,
    EventMessage,
    LogMessage,
    Message,
    ReadyMessage,
    WorkerSpec,
)
from nas_optuna.execution.loop import Outcome, StopRequest
from nas_optuna.study import abandoned, optuna_internals

logger = logging.getLogger(__name__)

MAX_DEATHS = 3
"""A worker that dies so often without having finished a trial is not started again: the next would die, too."""
GRACE = 10.0
"""Seconds that a worker has to end at once, before it is killed."""
PAUSE = 0.2
"""Seconds between two looks at whether somebody asked to stop."""


@dataclass
class WorkerState:
    """One worker, as its executor knows it."""

    spec: WorkerSpec
    name: str  # for a person, with its process or its node
    owner: str | None = None  # what its trials are marked with, once it has said so
    subject: Subject | None = None  # the trial that it runs
    deaths: int = 0  # since it finished a trial
    done: bool = False  # it has said its last word


W = TypeVar("W", bound=WorkerState)


class WorkerPool(ABC, Generic[W]):
    """The workers of one run. A subclass starts them and carries their messages; what these mean is decided here."""

    def __init__(self, work: Work, budget: Budget, told: Callback) -> None:
        self.budget = TrialBudget(budget)
        self.workers: list[W] = []
        self.error: NasOptunaError | None = None
        self.asked = 0
        self.deadline = float("inf")
        self._study = work.study
        self._told = told
        self._stopped: Callable[[], bool] = bool
        self._logged: set[str] = set()

    @abstractmethod
    def start(self, spec: WorkerSpec, deaths: int = 0) -> W:
        """Start a worker."""

    @abstractmethod
    def serve(self) -> None:
        """Wait at most `PAUSE` for messages, handle them, and reap the workers that have ended."""

    @abstractmethod
    def interrupt(self, worker: W) -> None:
        """Ask a worker to stop: once after its step, twice at once."""

    @abstractmethod
    def end(self) -> None:
        """Leave no worker behind, however the run has ended."""

    def patience(self) -> float:
        """Seconds in which the workers that were asked to stop, so many times, have to end."""
        return GRACE if self.asked > 1 else float("inf")

    def is_over(self) -> bool:
        """Whether nobody is left to be waited for."""
        return not self.workers

    def run(self, specs: Sequence[WorkerSpec], stop: StopRequest) -> Outcome:
        """Serve the workers until all have ended, or should have."""
        with stop.guarding(), optuna_internals.stoppable(self._study) as self._stopped:
            try:
                for spec in specs:
                    self.workers.append(self.start(spec))
                while not self.is_over() and time.monotonic() < self.deadline:
                    self.serve()
                    self._pass_on(stop)
            finally:
                self.asked = self.asked or 1  # whoever ends now is not started again
                self.end()
        return self.outcome(stop.asked)

    def _pass_on(self, stop: StopRequest) -> None:
        """Ask the workers to stop as often as this process was asked, and where one of them has failed."""
        wanted = 2 if stop.insisted else 1 if stop.asked or self.error is not None else 0
        while self.asked < wanted:
            self.asked += 1
            self.deadline = time.monotonic() + self.patience()
            self.budget.close()
            for worker in self.workers:
                self.interrupt(worker)

    def handle(self, worker: W, message: Message) -> None:
        """Take notice of what a worker says."""
        if isinstance(message, ReadyMessage):
            worker.owner = message.owner
        elif isinstance(message, LogMessage):
            self._log_once(message.level, message.line)
        elif isinstance(message, EventMessage):
            self._tell(worker, message)
        else:
            self._finish(worker, message)

    def outcome(self, interrupted: bool) -> Outcome:
        """The outcome of all workers together."""
        if self.error is not None:
            raise self.error
        return Outcome(self.budget.finished, interrupted)

    def reap(self, worker: W, how: str) -> None:
        """Put back what a worker ran that has ended, and start it again where it died."""
        self.workers.remove(worker)
        self._tell_what_it_finished(worker)
        self.budget.drop(worker.spec.number)
        if worker.owner is not None and not worker.done:
            abandoned.release_those_of(self._study, worker.owner)
        if self.asked or worker.done or self.error is not None:
            return
        deaths = worker.deaths + 1
        where = f" in {worker.subject.name}" if worker.subject else ""
        if deaths >= MAX_DEATHS:
            self.error = StudyError(
                f"{worker.name} {how}{where}, {MAX_DEATHS} times without finishing a trial; is memory short? Fewer"
                " workers need less: --workers N"
            )
            return
        again = self.budget.is_open
        logger.warning("%s %s%s%s", worker.name, how, where, "; it is started again" if again else "")
        if again:
            self.workers.append(self.start(worker.spec, deaths))

    def _tell_what_it_finished(self, worker: W) -> None:
        """A worker may die when its trial's end is in the database and before it has said so."""
        subject = worker.subject
        for trial in self._study.get_trials(deepcopy=False) if subject else ():
            if subject and subject.name == f"trial {trial.number}" and trial.state.is_finished():
                self._tell(worker, EventMessage("trial_finished", subject, (trial,)))

    def _tell(self, worker: W, message: EventMessage) -> None:
        subject = replace(message.subject, study=self._study)
        worker.subject = None if message.event == "trial_finished" else subject
        if message.event == "trial_finished":
            worker.deaths = 0
            self.budget.finish(worker.spec.number)
        getattr(self._told, message.event)(subject, *message.more)
        if self._stopped():
            self.budget.close()

    def _finish(self, worker: W, message: DoneMessage) -> None:
        worker.done = True
        self.budget.drop(worker.spec.number)
        if message.error is not None and self.error is None:
            self.error = message.error

    def _log_once(self, level: int, line: str) -> None:
        """Log a line that several workers say, such as one on a trial of another host, a single time."""
        if line not in self._logged:
            self._logged.add(line)
            logger.log(level, "%s", line)
