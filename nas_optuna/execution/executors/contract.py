"""The contract of an executor, and the registry of them. A new one is a file here and a line in `EXECUTORS`.

An executor is a class that takes `WorkerOptions` and its own options by keyword. Other packages register one in the
entry point group ``nas_optuna.executors``, or it is named as ``package.module:Class`` or ``file.py:Class``.

With any executor, every worker runs the same loop (`nas_optuna.execution.loop.run`) on the study's storage. The storage
decides who runs a trial, so workers of several executors may work on one study.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from nas_optuna.errors import SpecError
from nas_optuna.registry import Registry

if TYPE_CHECKING:  # an executor preloads before torch is imported
    from optuna.study import Study

    from nas_optuna.data import SearchData
    from nas_optuna.execution.events import Callback
    from nas_optuna.execution.loop import Outcome, StopRequest, TrialBudget
    from nas_optuna.execution.objective import EvaluatorObjective

EXECUTORS = Registry(
    "executor",
    "nas_optuna.executors",
    {
        "local": "nas_optuna.execution.executors.local:LocalExecutor",
        "ray": "nas_optuna.execution.executors.ray:RayExecutor",
    },
    ("options",),
)


@dataclass(frozen=True)
class WorkerOptions:
    """How many workers are wanted, and where; the executor decides what is None or empty.

    Attributes:
        workers: Number of workers.
        auto: Use as many as the machine has room for.
        devices: Their devices, e.g. ``("cuda:0", "cuda:1")``.
        per_device: Number on each device.
        device: The device, if none is named for each worker; ``"auto"`` is the best available.
        threads: CPU threads of each.
    """

    workers: int | None = None
    auto: bool = False
    devices: tuple[str, ...] = ()
    per_device: int | None = None
    device: str = "auto"
    threads: int | None = None

    def __post_init__(self) -> None:
        for name, number in {"workers": self.workers, "per_device": self.per_device}.items():
            if number is not None and number < 1:
                raise SpecError(f"{name} must be at least 1")
        if self.devices and self.device != "auto":
            raise SpecError("device is for one process and devices for several; give one of them")
        if self.workers is not None and self.workers < len(self.devices):
            raise SpecError(
                f"devices names {len(self.devices)}, and workers = {self.workers} would leave some of them idle; name"
                " fewer, or leave out workers"
            )
        if (self.workers is not None or self.auto) and self.per_device is not None:
            raise SpecError("workers is the number in all and per-device that on each device; give one of them")

    @property
    def is_one_process(self) -> bool:
        """Whether this process is enough."""
        return self.workers in (None, 1) and not (self.auto or self.devices or self.per_device)

    @property
    def first_device(self) -> str:
        """The device for which this process makes the study's parts."""
        return self.devices[0] if self.devices else self.device


@dataclass(frozen=True)
class Handle(ABC):
    """Everything that another process needs to work on a stored study; it can be pickled.

    Attributes:
        storage: The storage's URL.
        study: The study's name.
        device: Where to train.
        checkpoints: Folder for the state of running trials, which workers on one machine share.
        keep_weights: Keep the weights of each complete trial in `checkpoints`.
        images: Returns the images if they are in memory already; None loads them.
        files_are_shared: Whether `checkpoints` is the same folder on all hosts.
    """

    storage: str
    study: str
    device: str = "auto"
    checkpoints: Path | None = None
    keep_weights: bool = False
    images: Callable[[], SearchData] | None = None
    files_are_shared: bool = False

    @abstractmethod
    def work(self, *, interrupted: Callable[[], bool]) -> Work:
        """Open the study and make its objective in this process."""


@dataclass(frozen=True)
class Work:
    """What an executor is to run.

    Attributes:
        study: The study, open in this process.
        objective: The objective, in this process.
        data: The images, if the objective trains on images.
        handle: Opens the study in other processes; None if it exists in this process's memory only.
    """

    study: Study
    objective: EvaluatorObjective
    data: SearchData | None = None
    handle: Handle | None = None


class Executor(ABC):
    """Runs trials of a study; its methods are called in this order, and only `run` must be written.

    A subclass may take options of its own as keyword arguments, which ``--executor-option NAME=VALUE`` gives.

    Args:
        options: How many workers, and where.

    Examples:
        An experiment whose study is stored runs on four processes of this machine::

            from nas_optuna.execution.executors.contract import WorkerOptions
            from nas_optuna.execution.executors.local import LocalExecutor
            from nas_optuna.experiment import ExperimentHandle

            handle = ExperimentHandle("sqlite:///nas.db", study.study_name)  # opens the study in each of them
            executor = LocalExecutor(WorkerOptions(4, device="cpu", threads=1))
            experiment.run(study, trials=20, executor=executor, handle=handle)
    """

    def __init__(self, options: WorkerOptions | None = None) -> None:
        self.options = options or WorkerOptions()

    def preload(self) -> None:  # noqa: B027
        """Start slow preparations before the study is opened and its images are loaded."""

    @contextmanager
    def reached(self, handle: Handle | None) -> Iterator[object]:
        """Reach the devices or the cluster; entered before a study is created.

        Args:
            handle: What workers open.

        Raises:
            NasOptunaError: They cannot be reached, or cannot open the study.
        """
        yield handle

    def prepare(self, objective: EvaluatorObjective) -> Sequence[str]:
        """Decide what depends on the study.

        Returns:
            Lines for a person: how many workers there will be, where, and why.
        """
        return ()

    @abstractmethod
    def run(self, work: Work, budget: TrialBudget, *, stop: StopRequest, told: Callback) -> Outcome:
        """Run trials until the budget is used up, or somebody asks to stop.

        Args:
            work: What to run.
            budget: How many trials.
            stop: Asks to stop: once to finish the current steps, twice to end everything at once.
            told: Told, in this process, of what every worker does.

        Raises:
            NasOptunaError: The error that ended the run, in any process.
        """
