"""From the options on workers to who runs a study's trials."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from nas_optuna.cli import options
from nas_optuna.cli.options import WORKERS, option
from nas_optuna.cli.printing import say
from nas_optuna.errors import SpecError, shown, unknown

if TYPE_CHECKING:
    import optuna

    from nas_optuna.execution.executors.contract import Executor, Handle
    from nas_optuna.execution.executors.ray import RayWorkers
    from nas_optuna.execution.threads import StepTimes
    from nas_optuna.experiment import Experiment

WORKER_MEMORY = 600_000_000
"""Bytes that a worker on the CPU takes beside the images, measured for small networks: torch itself, mostly."""


@dataclass(frozen=True)
class Staffing:
    """What a command line says about workers; each field is an option.

    Raises:
        SpecError: Options contradict each other.
    """

    workers: Annotated[
        str | None,
        option(
            "--workers",
            metavar="N|auto",
            help="Processes that share the trials; auto is one per GPU, or what fills the CPU.",
        ),
    ] = None
    device: options.Device = "auto"
    threads: options.Threads = None
    devices: Annotated[
        str | None,
        option("--devices", metavar="LIST", help="Devices of the workers, e.g. cuda:0,cuda:1.", panel=WORKERS),
    ] = None
    per_device: Annotated[
        int | None, option("--per-device", metavar="K", help="Workers on each device; 1.", min=1, panel=WORKERS)
    ] = None
    executor: Annotated[
        str,
        option(
            "--executor",
            metavar="local|ray",
            help="Where workers run: on this machine (local), or on a Ray cluster; local.",
            panel=WORKERS,
        ),
    ] = "local"
    ray_address: Annotated[
        str | None,
        option(
            "--ray-address",
            metavar="ADDRESS",
            help="The cluster: auto or ray://HOST:10001; RAY_ADDRESS, else one on this host.",
            panel=WORKERS,
        ),
    ] = None
    gpus_per_worker: Annotated[
        float | None,
        option("--gpus-per-worker", metavar="G", help="GPUs of each Ray worker, e.g. 0.5; 0.", panel=WORKERS),
    ] = None
    files: Annotated[
        Path | None,
        option(
            "--files",
            metavar="DIR",
            help="Folder of the study's files, which it remembers; one that all hosts share; NAS_OPTUNA_FILES.",
            panel=WORKERS,
        ),
    ] = None

    def __post_init__(self) -> None:
        if self.workers not in (None, "auto") and not re.fullmatch("[0-9]{1,9}", self.workers):
            raise SpecError(f"--workers needs a number or auto, got {shown(self.workers)}")
        if self.number is not None and self.number < 1:
            raise SpecError("--workers must be at least 1")
        if self.devices is not None and self.device != "auto":
            raise SpecError("--device is for one process and --devices for several; give one of them")
        if not all(self.named_devices):
            raise SpecError(f"--devices needs names with commas between them, got {shown(self.devices)}")
        if self.number is not None and self.number < len(self.named_devices):
            raise SpecError(
                f"--devices names {len(self.named_devices)} and --workers {self.number} would leave some of them idle;"
                " name fewer, or leave out --workers"
            )
        if self.workers is not None and self.per_device is not None:
            raise SpecError("--workers is the number in all and --per-device that on each device; give one of them")
        if self.executor not in ("local", "ray"):
            raise SpecError(unknown("executor", self.executor, ["local", "ray"]))
        if self.executor == "local" and (self.ray_address is not None or self.gpus_per_worker is not None):
            raise SpecError("--ray-address and --gpus-per-worker need --executor ray")
        if self.executor == "ray" and (self.devices is not None or self.per_device is not None):
            raise SpecError("Ray chooses the devices; give --workers and --gpus-per-worker")
        if self.gpus_per_worker is not None and not 0 <= self.gpus_per_worker < 1000:
            raise SpecError(f"--gpus-per-worker must be at least 0, got {self.gpus_per_worker:g}")

    @property
    def number(self) -> int | None:
        """How many workers; None where nobody says, or says auto."""
        return None if self.workers in (None, "auto") else int(self.workers)

    @property
    def named_devices(self) -> list[str]:
        """The devices of ``--devices``; none without it."""
        return [] if self.devices is None else [name.strip() for name in self.devices.split(",")]

    @property
    def is_one_process(self) -> bool:
        """Whether all trials run in this process."""
        one = self.workers is None or self.number == 1
        return self.executor == "local" and one and self.devices is None and self.per_device is None

    @property
    def is_local_crew(self) -> bool:
        """Whether processes of this machine run the trials."""
        return self.executor == "local" and not self.is_one_process

    @property
    def first_device(self) -> str:
        """The device for which the study's parts are made here."""
        return self.named_devices[0] if self.devices else self.device


@contextmanager
def reached(staffing: Staffing, handle: Handle | None, study: optuna.Study | None) -> Iterator[None]:
    """Within it the devices, or the cluster, that a command line names are there; enter it before a study is created.

    Args:
        staffing: What the command line says.
        handle: What workers open.
        study: The study, where it is there already.

    Raises:
        DeviceError: A device is not there.
        SpecError: Ray is not installed.
        StudyError: There is no such cluster, or its nodes cannot open the study.
    """
    from nas_optuna.devices import resolve_device

    for name in staffing.named_devices:
        resolve_device(name)
    if staffing.executor == "ray":
        with _on_ray(staffing, study).reached(handle):
            yield
    else:
        yield


def choose_executor(staffing: Staffing, experiment: Experiment, study: optuna.Study) -> Executor:
    """Who runs the trials, and say what a person should know of it: devices, threads, and why.

    Args:
        staffing: What the command line says.
        experiment: Made on the first device.
        study: The study.

    Raises:
        DeviceError: A device is not there.
    """
    from nas_optuna.execution.executors.in_process import InProcess
    from nas_optuna.execution.executors.local import LocalWorkers
    from nas_optuna.study.records import count

    if staffing.executor == "ray":
        return _on_ray(staffing, study)
    if staffing.is_one_process:
        _choose_threads(staffing, experiment)
        say(f"training on {experiment.objective.describe_device()}")
        return InProcess()
    devices, times = _places(staffing, experiment)
    threads = _threads_each(staffing, len(devices), times)
    names = ", ".join(f"{devices.count(name)} on {name}" for name in dict.fromkeys(devices))
    why = f"; {times}" if times else ""
    say(f"{count(len(devices), 'worker')} with {count(threads, 'CPU thread')} each: {names}{why}")
    return LocalWorkers(devices, threads)


def _on_ray(staffing: Staffing, study: optuna.Study | None) -> RayWorkers:
    from nas_optuna.execution.executors.ray import RayWorkers
    from nas_optuna.study.files import are_named

    return RayWorkers(
        staffing.number,
        threads=staffing.threads or 1,
        gpus=staffing.gpus_per_worker or 0.0,
        device=staffing.device,
        address=staffing.ray_address,
        files_are_shared=are_named({} if study is None else study.user_attrs, staffing.files),
    )


def _choose_threads(staffing: Staffing, experiment: Experiment) -> None:
    """Compute with as many threads as make a step fastest, unless somebody has decided."""
    from nas_optuna.devices import use_threads

    if staffing.threads is not None or "OMP_NUM_THREADS" in os.environ:
        return
    if times := _measured(experiment):
        use_threads(times.fastest())
        say(f"CPU threads: {times.fastest()} ({times}); --threads N is another number")


def _measured(experiment: Experiment) -> StepTimes | None:
    from nas_optuna.execution.evaluator import TrainingEvaluator
    from nas_optuna.execution.threads import measure_steps

    evaluator = experiment.objective.evaluator
    if not isinstance(evaluator, TrainingEvaluator) or evaluator.device.type != "cpu":
        return None
    return measure_steps(evaluator)


def _places(staffing: Staffing, experiment: Experiment) -> tuple[list[str], StepTimes | None]:
    """The device of each worker, and what was measured to know how many there are."""
    from nas_optuna.devices import resolve_device

    if staffing.devices is not None:
        devices = [str(resolve_device(name)) for name in staffing.named_devices]
    elif staffing.device == "auto" and experiment.objective.device.type == "cuda":
        import torch

        devices = [f"cuda:{index}" for index in range(torch.cuda.device_count())]
    else:
        devices = [str(experiment.objective.device)]
    if staffing.workers is None or (staffing.workers == "auto" and devices != ["cpu"]):
        return devices * (staffing.per_device or 1), None
    if staffing.number is not None:
        return [devices[worker % len(devices)] for worker in range(staffing.number)], None
    times = _measured(experiment) if staffing.threads is None else None
    return devices * _fitting(staffing.threads or (1 if times is None else times.most_work(_cores()))), times


def _fitting(threads: int) -> int:
    """How many workers of so many threads fit the cores and the memory."""
    from nas_optuna.data.memory import free_memory

    free = free_memory()
    by_memory = _cores() if free is None else free // WORKER_MEMORY
    return max(1, min(_cores() // threads, by_memory))


def _threads_each(staffing: Staffing, workers: int, times: StepTimes | None) -> int:
    if staffing.threads is not None:
        return staffing.threads
    return times.most_work(_cores()) if times else max(1, _cores() // workers)


def _cores() -> int:
    from nas_optuna.devices import usable_cores

    return usable_cores()
