"""What a command line says about a run: each field of its classes is an option."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

from nas_optuna.cli import options
from nas_optuna.cli.options import option
from nas_optuna.cli.workers import WorkerFlags
from nas_optuna.errors import SpecError, unknown

DEFAULT_TRIALS = 20


@dataclass(frozen=True)
class RunOptions:
    """How much to run, and what to begin with; each field is an option.

    Raises:
        SpecError: Options contradict each other.
    """

    study: options.StudyName = "nas"
    trials: Annotated[int | None, option("--trials", metavar="N", help="Trials to run now; 20.")] = None
    within: Annotated[
        str | None,
        option("--within", metavar="TIME", help="Instead of --trials: search until 90s, 10m or 2h are over."),
    ] = None
    storage: options.Storage = None
    total: Annotated[
        int | None,
        option(
            "--total",
            metavar="N",
            help="Run until the study has N trials, whoever makes them: the same on every host.",
            panel=options.WORKERS,
        ),
    ] = None
    timeout: Annotated[
        float | None,
        option("--timeout", metavar="S", help="Begin no trial after S seconds.", panel=options.DETAILS),
    ] = None
    enqueue: Annotated[
        Path | None,
        option("--enqueue", metavar="FILE", help="Architectures to try first.", panel=options.BEGINNING),
    ] = None
    fixed: Annotated[
        Path | None,
        option("--fixed", metavar="FILE", help="Train these architectures and no more.", panel=options.BEGINNING),
    ] = None
    learn_from: Annotated[
        str | None,
        option(
            "--learn-from",
            metavar="STUDY[@STORAGE]",
            help="Learn from the trials of an earlier study, too.",
            panel=options.BEGINNING,
        ),
    ] = None
    warm_start: Annotated[
        str | None,
        option("--warm-start", metavar="supernet", help="What proposes the first trials.", panel=options.BEGINNING),
    ] = None
    warm_trials: Annotated[
        int | None,
        option("--warm-trials", metavar="N", help="How many it proposes; 5.", min=1, panel=options.BEGINNING),
    ] = None
    until: Annotated[
        list[str] | None,
        option(
            "--until",
            metavar="WHEN",
            help="End earlier: stalled, stalled:10, accuracy:0.98 or latency_ms:0.5; repeatable.",
            panel=options.DETAILS,
        ),
    ] = None
    keep_weights: Annotated[
        str | None,
        option(
            "--keep-weights",
            metavar="best|all",
            help="Keep weights of trials for nas-optuna export.",
            panel=options.DETAILS,
        ),
    ] = None
    track: options.Track = None
    data_dir: options.DataDir = None
    trust: options.Trust = False

    def __post_init__(self) -> None:
        if self.trials is not None and self.trials < 1:
            raise SpecError(f"--trials must be at least 1, got {self.trials}")
        if self.total is not None and self.total < 1:
            raise SpecError(f"--total must be at least 1, got {self.total}")
        if self.timeout is not None and not self.timeout > 0:
            raise SpecError(f"--timeout must be positive, got {self.timeout:g}")
        endings = (self.trials, self.total, self.timeout, self.fixed, self.until or None)
        if self.within is not None and any(ending is not None for ending in endings):
            raise SpecError("--within says when to end; leave out --trials, --total, --timeout, --fixed and --until")
        others = (self.trials, self.total, self.timeout, self.enqueue, self.learn_from, self.warm_start)
        if self.fixed and any(other is not None for other in others):
            raise SpecError(
                "--fixed trains what its file holds and no more; leave out --trials, --total, --timeout, --enqueue,"
                " --learn-from and --warm-start"
            )
        if self.warm_start not in (None, "supernet"):
            raise SpecError(unknown("warm start", str(self.warm_start), ["supernet"]))
        if self.warm_trials is not None and self.warm_start is None:
            raise SpecError("--warm-trials needs --warm-start supernet")
        if self.learn_from == self.study:
            raise SpecError("--learn-from names this study, which knows its own trials; name an earlier one")
        if self.keep_weights not in (None, "best", "all"):
            raise SpecError(unknown("value of --keep-weights:", str(self.keep_weights), ["best", "all"]))

    @property
    def count(self) -> int | None:
        """Trials to run; None is no limit."""
        unlimited = (self.trials, self.timeout, self.total, self.within) == (None, None, None, None)
        return DEFAULT_TRIALS if unlimited else self.trials


@dataclass(frozen=True)
class Plan(RunOptions):
    """What a command line says about a run."""

    workers: WorkerFlags = field(default_factory=WorkerFlags)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.within is None:
            return
        from nas_optuna.fitting.time_budget import parse_duration

        parse_duration(self.within)
        asked = self.workers
        if asked.executor != "local" or asked.workers not in (None, "1") or asked.devices or asked.per_device:
            raise SpecError("--within divides the time of one process; leave out options on workers, or use --timeout")
