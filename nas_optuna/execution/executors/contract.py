"""What an executor is given, and what it gives back.

Whatever an executor is, every worker runs the same loop (`nas_optuna.execution.loop.run`) against the study's storage:
the storage decides who runs a trial, so that workers of several executors may work on one study.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from optuna.study import Study

from nas_optuna.data import SearchData
from nas_optuna.execution.events import Callback
from nas_optuna.execution.loop import Outcome, StopRequest
from nas_optuna.execution.objective import EvaluatorObjective


@dataclass(frozen=True)
class Budget:
    """When a run ends; None is no limit.

    Attributes:
        trials: Trials to finish, by all workers of the run together.
        timeout: Seconds after which no trial begins.
        total: Trials that the study may have, whoever makes them.
    """

    trials: int | None = None
    timeout: float | None = None
    total: int | None = None


class Opened(Protocol):
    """An experiment, as a worker uses it."""

    @property
    def objective(self) -> EvaluatorObjective:
        """What a trial does."""

    @property
    def run(self) -> Callable[..., Outcome]:
        """Run trials in this process; see `nas_optuna.experiment.Experiment.run`."""


class Handle(Protocol):
    """What another process needs to work on a stored study: it can be pickled."""

    @property
    def storage(self) -> str:
        """The storage's URL."""

    def on(self, device: str) -> Handle:
        """Return a copy of the handle that trains on another device."""

    def with_images(self, images: Callable[[], SearchData]) -> Handle:
        """Return a copy of the handle with a function that gives the images and can be pickled."""

    def without_files(self) -> Handle:
        """Return a copy of the handle that keeps no files: each worker would have a folder of its own."""

    def open(self, *, interrupted: Callable[[], bool]) -> tuple[Opened, Study]:
        """The experiment and its study, in this process."""


@dataclass(frozen=True)
class Work:
    """What is to be done.

    Attributes:
        study: The study, open in this process.
        objective: What a trial does, in this process.
        data: The images, where the objective trains on images.
        handle: What other processes open; None where the study lives in this process's memory.
    """

    study: Study
    objective: EvaluatorObjective
    data: SearchData | None = None
    handle: Handle | None = None


class Executor(Protocol):
    """Runs trials of a study.

    Example:
        An experiment whose study is stored runs on four processes of this machine::

            from nas_optuna.execution.executors.local import LocalWorkers

            experiment.run(study, trials=20, executor=LocalWorkers(["cpu"] * 4, threads=1), handle=handle)
    """

    def run(self, work: Work, budget: Budget, *, stop: StopRequest, told: Callback) -> Outcome:
        """Run trials until the budget is used up, or somebody asks to stop.

        Args:
            work: What is to be done.
            budget: How much of it.
            stop: Looked at all the time; asked once, steps are finished, and asked twice, everything ends at once.
            told: Told, in this process, what every worker does.

        Raises:
            NasOptunaError: What ended the run, in whichever process.
        """
