"""From the options on workers to who runs a study's trials."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from nas_optuna.cli import options
from nas_optuna.cli.options import WORKERS, option
from nas_optuna.errors import SpecError, shown

if TYPE_CHECKING:
    from nas_optuna.execution.executors.contract import Executor, WorkerOptions

_SHORT = {"ray_address": ("--ray-address", "address"), "gpus_per_worker": ("--gpus-per-worker", "gpus")}
"""Options of our own executors that have a name on the command line; all others are --executor-option NAME=VALUE."""


@dataclass(frozen=True)
class WorkerFlags:
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
            metavar="local|ray|NAME",
            help="Where workers run: on this machine (local), on a Ray cluster, or file.py:Class; local.",
            panel=WORKERS,
        ),
    ] = "local"
    executor_options: Annotated[
        list[str] | None,
        option("--executor-option", metavar="NAME=VALUE", help="An option of its own; repeatable.", panel=WORKERS),
    ] = None
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

    @property
    def asked(self) -> WorkerOptions:
        """How many workers, and where.

        Raises:
            SpecError: Options contradict each other.
        """
        from nas_optuna.execution.executors.contract import WorkerOptions

        if self.workers not in (None, "auto") and not re.fullmatch("[0-9]{1,9}", self.workers):
            raise SpecError(f"--workers needs a number or auto, got {shown(self.workers)}")
        devices = [] if self.devices is None else [name.strip() for name in self.devices.split(",")]
        if not all(devices):
            raise SpecError(f"--devices needs names with commas between them, got {shown(self.devices)}")
        return WorkerOptions(
            None if self.workers in (None, "auto") else int(self.workers),
            auto=self.workers == "auto",
            devices=tuple(devices),
            per_device=self.per_device,
            device=self.device,
            threads=self.threads,
        )

    def create(self) -> Executor:
        """Who runs the trials.

        Raises:
            SpecError: The executor or one of its options is unknown, or options contradict each other.
        """
        from nas_optuna.execution.executors import create_executor
        from nas_optuna.spec_text import with_overrides

        own: dict[str, Any] = {}
        for text in self.executor_options or ():
            if "." in text.partition("=")[0] or "=" not in text:
                raise SpecError(f"--executor-option needs NAME=VALUE, got {shown(text)}")
            own |= with_overrides({}, [text])
        for attribute, (flag, name) in _SHORT.items():
            if (value := getattr(self, attribute)) is not None:
                if self.executor == "local":
                    raise SpecError(f"{flag} needs --executor ray")
                own[name] = value
        return create_executor(self.executor, self.asked, own)
