"""What a command line says about a run: each field of its classes is an option."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from nas_optuna.cli import options
from nas_optuna.cli.options import BEGINNING, DETAILS, WORKERS, TrustedStudyOptions, option
from nas_optuna.cli.specs import SpecOptions
from nas_optuna.errors import SpecError, shown, unknown

if TYPE_CHECKING:
    from nas_optuna.execution.executors.contract import Executor, WorkerOptions

DEFAULT_TRIALS = 20
_SHORT = {"ray_address": ("--ray-address", "address"), "gpus_per_worker": ("--gpus-per-worker", "gpus")}
"""Options of our own executors that have a name on the command line; all others are --executor-option NAME=VALUE."""


@dataclass(frozen=True)
class WorkerFlags:
    """What a command line says about workers; each field is an option."""

    workers: Annotated[
        str | None,
        option("Processes that share the trials; auto is one per GPU, or what fills the CPU.", "N|auto"),
    ] = None
    device: options.Device = "auto"
    threads: options.Threads = None
    devices: Annotated[str | None, option("Devices of the workers, e.g. cuda:0,cuda:1.", "LIST", panel=WORKERS)] = None
    per_device: Annotated[int | None, option("Workers on each device; 1.", "K", min=1, panel=WORKERS)] = None
    executor: Annotated[
        str,
        option(
            "Where workers run: on this machine (local), on a Ray cluster, or file.py:Class; local.",
            "local|ray|NAME",
            panel=WORKERS,
        ),
    ] = "local"
    executor_option: Annotated[
        list[str] | None, option("An option of its own; repeatable.", "NAME=VALUE", panel=WORKERS)
    ] = None
    ray_address: Annotated[
        str | None,
        option("The cluster: auto or ray://HOST:10001; RAY_ADDRESS, else one on this host.", "ADDRESS", panel=WORKERS),
    ] = None
    gpus_per_worker: Annotated[float | None, option("GPUs of each Ray worker, e.g. 0.5; 0.", "G", panel=WORKERS)] = None
    files: Annotated[
        Path | None,
        option(
            "Folder of the study's files, which it remembers; one that all hosts share; NAS_OPTUNA_FILES.",
            "DIR",
            panel=WORKERS,
        ),
    ] = None

    @property
    def asked(self) -> WorkerOptions:
        """How many workers, and where."""
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
        """Who runs the trials."""
        from nas_optuna.execution.executors.contract import EXECUTORS
        from nas_optuna.execution.executors.contract import Executor as Wanted
        from nas_optuna.spec_text import with_overrides

        own: dict[str, Any] = {}
        for text in self.executor_option or ():
            if "." in text.partition("=")[0] or "=" not in text:
                raise SpecError(f"--executor-option needs NAME=VALUE, got {shown(text)}")
            own |= with_overrides({}, [text])
        for attribute, (flag, name) in _SHORT.items():
            if (value := getattr(self, attribute)) is not None:
                if self.executor == "local":
                    raise SpecError(f"{flag} needs --executor ray")
                own[name] = value
        made: Executor = EXECUTORS.make(self.executor, self.asked, options=own, wanted=Wanted)
        return made


@dataclass(frozen=True)
class RunOptions(TrustedStudyOptions):
    """What a command line says about a run; each field is an option, and contradictions are refused."""

    trials: Annotated[int | None, option("Trials to run now; 20.", "N")] = None
    within: Annotated[str | None, option("Instead of --trials: search until 90s, 10m or 2h are over.", "TIME")] = None
    spec: SpecOptions = field(default_factory=SpecOptions)
    workers: WorkerFlags = field(default_factory=WorkerFlags)
    total: Annotated[
        int | None,
        option("Run until the study has N trials, whoever makes them: the same on every host.", "N", panel=WORKERS),
    ] = None
    timeout: Annotated[float | None, option("Begin no trial after S seconds.", "S", panel=DETAILS)] = None
    enqueue: Annotated[Path | None, option("Architectures to try first.", "FILE", panel=BEGINNING)] = None
    fixed: Annotated[Path | None, option("Train these architectures and no more.", "FILE", panel=BEGINNING)] = None
    learn_from: Annotated[
        str | None, option("Learn from the trials of an earlier study, too.", "STUDY[@STORAGE]", panel=BEGINNING)
    ] = None
    warm_start: Annotated[str | None, option("What proposes the first trials.", "supernet", panel=BEGINNING)] = None
    warm_trials: Annotated[int | None, option("How many it proposes; 5.", "N", min=1, panel=BEGINNING)] = None
    until: Annotated[
        list[str] | None,
        option("End earlier: stalled, stalled:10, accuracy:0.98 or latency_ms:0.5; repeatable.", "WHEN", panel=DETAILS),
    ] = None
    keep_weights: Annotated[
        str | None, option("Keep weights of trials for nas-optuna export.", "best|all", panel=DETAILS)
    ] = None
    track: options.Track = None

    def __post_init__(self) -> None:
        if self.trials is not None and self.trials < 1:
            raise SpecError(f"--trials must be at least 1, got {self.trials}")
        if self.total is not None and self.total < 1:
            raise SpecError(f"--total must be at least 1, got {self.total}")
        if self.timeout is not None and not self.timeout > 0:
            raise SpecError(f"--timeout must be positive, got {self.timeout:g}")
        self._require_one_end()
        if self.warm_start not in (None, "supernet"):
            raise SpecError(unknown("warm start", str(self.warm_start), ["supernet"]))
        if self.warm_trials is not None and self.warm_start is None:
            raise SpecError("--warm-trials needs --warm-start supernet")
        if self.learn_from == self.study:
            raise SpecError("--learn-from names this study, which knows its own trials; name an earlier one")
        if self.keep_weights not in (None, "best", "all"):
            raise SpecError(unknown("value of --keep-weights:", str(self.keep_weights), ["best", "all"]))

    def _require_one_end(self) -> None:
        """Refuse two sentences on when to end."""
        endings = (self.trials, self.total, self.timeout, self.fixed, self.until or None)
        if self.within is not None and any(ending is not None for ending in endings):
            raise SpecError("--within says when to end; leave out --trials, --total, --timeout, --fixed and --until")
        others = (self.trials, self.total, self.timeout, self.enqueue, self.learn_from, self.warm_start)
        if self.fixed and any(other is not None for other in others):
            raise SpecError(
                "--fixed trains what its file holds and no more; leave out --trials, --total, --timeout, --enqueue,"
                " --learn-from and --warm-start"
            )
        if self.within is None:
            return
        from nas_optuna.fitting.clock import parse_duration, refuse_named

        parse_duration(self.within)
        asked = self.workers
        if asked.executor != "local" or asked.workers not in (None, "1") or asked.devices or asked.per_device:
            raise SpecError("--within divides the time of one process; leave out options on workers, or use --timeout")
        refuse_named(self.spec.overrides, pruner=self.spec.pruner)

    @property
    def count(self) -> int | None:
        """Trials to run; None is no limit."""
        unlimited = (self.trials, self.timeout, self.total, self.within) == (None, None, None, None)
        return DEFAULT_TRIALS if unlimited else self.trials
