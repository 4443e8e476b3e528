"""Options of a command line for a spec and a run, and the study that they select; each field is an option."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal

from nas_optuna.cli import options
from nas_optuna.cli.options import BEGINNING, DETAILS, LIMITS, WORKERS, StudyDataOptions, option
from nas_optuna.cli.printing import say
from nas_optuna.data_sets import DATA_SETS
from nas_optuna.errors import SpecError, StudyExists, shown
from nas_optuna.lazily import lazily
from nas_optuna.metrics import METRICS
from nas_optuna.objectives import COSTS
from nas_optuna.pruners import PRUNERS
from nas_optuna.samplers import SAMPLERS
from nas_optuna.spaces import SPACES
from nas_optuna.study.storage import FORGETS, is_kept, open_storage, sqlite_file

with lazily():
    from optuna.study import Study

    from nas_optuna import hyperparameters, presets
    from nas_optuna.execution.executors import contract
    from nas_optuna.experiment import Experiment
    from nas_optuna.fitting import clock
    from nas_optuna.oneshot import strategies
    from nas_optuna.spec import StudySpec
    from nas_optuna.spec_parts import code_named
    from nas_optuna.spec_text import overridden, with_overrides
    from nas_optuna.study import studies, trust


Data = Annotated[
    str | None,
    option(
        "A folder of pictures, a .npz file, or a name: digits, mnist, cifar10, ...",
        "DATA",
        autocompletion=DATA_SETS.names,
    ),
    "data.name",
]
Space = Annotated[str | None, option("Search space: {} or file.py:function.", "NAME", known=SPACES.names())]
ImageSize = Annotated[
    int | None,
    option("Pixels a side that networks see; other shapes by --set recipe.input_size=[HEIGHT,WIDTH].", "N"),
    "recipe.input_size",
]


_UNTIMED = {"macs", "params", "memory", "flash", "arena", "energy_mj"}
"""Costs that no runtime measures."""


@dataclass(frozen=True)
class SpecOptions:
    """Options for a study's spec; many have the one key of the spec that they set."""

    data: Data = None
    space: Space = None
    spec: options.Spec = None
    sampler: Annotated[str | None, option("What proposes architectures: {}.", "NAME", known=SAMPLERS.names())] = None
    pruner: Annotated[str | None, option("What stops unpromising trials: {}.", "NAME", known=PRUNERS.names())] = None
    epochs: Annotated[int | None, option("Epochs of each training.", "N"), "recipe.epochs"] = None
    image_size: ImageSize = None
    batch_size: Annotated[int | None, option("Images of a step.", "N"), "recipe.batch_size"] = None
    lr: Annotated[float | None, option("The learning rate at its peak.", "RATE"), "recipe.learning_rate"] = None
    objective: Annotated[
        list[str] | None,
        option(
            "What to optimise: {} or accuracy*(latency_ms/0.5)^-0.07; repeatable.",
            "NAME",
            known=[*METRICS.names(), *COSTS.names()],
        ),
        "objectives",
    ] = None
    max_params: Annotated[str | None, option("The most weights, e.g. 50k.", "N"), "limits.params"] = None
    max_latency: options.MaxLatency = None
    reference: Annotated[
        str | None,
        option(
            "Your own network, function(task) -> nn.Module, to be trained as every trial is and compared with.",
            "FILE.py:FUNCTION",
        ),
        "reference",
    ] = None
    seed: Annotated[int | None, option("Seed of the sampler's proposals.", "N")] = None
    max_macs: Annotated[str | None, option("The most MACs, e.g. 2M.", "N", panel=LIMITS), "limits.macs"] = None
    max_memory: Annotated[
        str | None, option("The most bytes of weights and activations, e.g. 1M.", "N", panel=LIMITS), "limits.memory"
    ] = None
    max_flash: Annotated[
        str | None, option("The most bytes of weights in eight bits, e.g. 1M.", "N", panel=LIMITS), "limits.flash"
    ] = None
    max_arena: Annotated[
        str | None, option("The most bytes of activations in eight bits, e.g. 256k.", "N", panel=LIMITS), "limits.arena"
    ] = None
    latency_table: options.LatencyTable = None
    latency_runtime: Annotated[
        str | None, option("What runs the networks, e.g. onnxruntime.", "NAME", panel=LIMITS), "latency.runtime"
    ] = None
    set_: options.Set = None
    fix: Annotated[
        list[str] | None, option("Pin a parameter, e.g. conv1.stride=1; repeatable.", "NAME=VALUE", panel=DETAILS)
    ] = None
    search: Annotated[
        list[str] | None,
        option(
            "Search a setting of the recipe, too: recipe.learning_rate=1e-4..1e-1:log or recipe.batch_size=32,64.",
            "KEY=RANGE",
            panel=DETAILS,
        ),
    ] = None
    among: Annotated[
        Path | None, option("Propose only these architectures, one a line.", "FILE", panel=DETAILS), "among"
    ] = None
    keep_paused: Annotated[
        str | None, option("Bytes of stopped trainings to keep (default: 1GB).", "BYTES", panel=DETAILS), "keep_paused"
    ] = None

    def refuse_twice(self) -> None:
        """Refuse what a command line says by ``--set`` and by an option of its own."""
        parts = {"space": "space.name", "sampler": "sampler.name", "pruner": "pruner.name", "seed": "sampler.seed"}
        options.refuse_twice(self, parts)

    @property
    def overrides(self) -> list[str]:
        """``--set`` and the options for one key each, as overrides of a spec."""
        return [*(self.set_ or ()), *(text for _, text in options.named_overrides(self))]

    def read(self) -> StudySpec:
        """The spec of the named preset or file; without a name, that of the preset that suits the data."""
        file = presets.find_spec(self.preset() if self.spec is None else self.spec)
        found = self.applied_to(StudySpec.from_toml(file))
        wanted = " ".join((*found.objectives, *found.limits))
        timed = found.latency.table or any(name in wanted for name in COSTS.names() if name not in _UNTIMED)
        settings = [text for text in self.overrides if text.lstrip().startswith("latency")]
        if not timed and any("batch_size" not in text for text in settings):  # memory counts those, too
            raise SpecError(
                "settings of latency are of no use where it is neither an objective nor limited; add --objective"
                " accuracy --objective latency_ms, or --max-latency MS, or leave them out"
            )
        return found

    def of_new_study(self, extra: Sequence[str] = ()) -> StudySpec:
        """The spec of a new study; of the supernet's settings without those that the command line displaces."""
        spec = self.read().override(extra, "--set")
        hyperparameters.check_new(spec.recipe, spec.search, overridden(self.overrides, "--set"))
        if keys := supernet_keys([*self.overrides, *extra]):
            left = strategies.without_displaced(spec.supernet, keys, new=True)
            spec = spec.model_copy(update={"supernet": left})
        return spec

    def preset(self) -> str:
        """The default preset; for a folder or a NumPy file, the one for own images."""
        about = [text for text in self.overrides if text.lstrip().startswith("data")]
        name = StudySpec().override(about, "--set").data.name
        return presets.OWN_IMAGES if DATA_SETS.is_of_files(name) else presets.DEFAULT

    def applied_to(self, spec: StudySpec) -> StudySpec:
        """The spec with the sampler, pruner and seed of the command line, then with the other overrides."""
        parts = spec.with_parts(space=self.space, sampler=self.sampler, pruner=self.pruner, seed=self.seed)
        values = parts.to_dict()
        values["fixed"] |= options.pairs("--fix", self.fix, "conv1.stride=1")
        searched = options.pairs("--search", self.search, "recipe.learning_rate=1e-4..1e-1:log")
        values["search"] |= {name.removeprefix("recipe."): what for name, what in searched.items()}
        result = type(spec).from_dict(values, "the command line").override(self.set_ or (), "--set")
        for flag, text in options.named_overrides(self):
            result = result.override([text], flag)
        return result


def find_target(
    stored: StudyDataOptions, given: SpecOptions, extra: Sequence[str] = ()
) -> tuple[Study | None, StudySpec]:
    """The study, if it exists, and its spec with the changes of the command line."""
    url, name, database = stored.url, stored.study, sqlite_file(stored.url)
    storage = None if database is not None and not database.exists() else open_storage(url)
    if storage is None or name not in studies.study_names(storage):
        studies.check_name(name)
        return None, given.of_new_study(extra)
    study = studies.load_study(storage, name)
    remembered = studies.study_spec(study)
    wanted = (given.read() if given.spec is not None else given.applied_to(remembered)).override(extra, "--set")
    studies.require_same_spec(study, wanted)
    if given.spec is None:
        own = code_named(given.applied_to(type(remembered)()))  # code on the command line itself needs no agreement
        trust.require_trust(url, name, [code for code in code_named(wanted) if code not in own], yes=stored.trust)
    return study, wanted


def supernet_keys(overrides: Sequence[str]) -> list[str]:
    """The keys of the section ``[supernet]`` that overrides set."""
    keys = (key.split(".") for key in overridden(overrides, "--set"))
    return [inside[0] for section, *inside in keys if section == "supernet" and inside]


def create(experiment: Experiment, stored: StudyDataOptions, given: SpecOptions) -> Study:
    """The new study of an experiment, or the one that another process has just made from the same spec."""
    try:
        study = experiment.create(stored.url, stored.study)
    except StudyExists:
        return experiment.create(stored.url, stored.study, load_if_exists=True)
    trust.remember(stored.url, stored.study, code_named(experiment.spec))  # the maker of a study agrees to its code
    say(f"created study {stored.study!r}" + (f" from the preset {given.preset()}" if given.spec is None else ""))
    if not is_kept(stored.url):
        say(FORGETS)
    return study


DEFAULT_TRIALS = 20


@dataclass(frozen=True)
class WorkerFlags:
    """Options for workers."""

    workers: Annotated[
        str | None, option("Processes that share the trials; auto is one per GPU, or what fills the CPU.", "N|auto")
    ] = None
    device: options.Device = "auto"
    threads: options.Threads = None
    devices: Annotated[str | None, option("Devices of the workers, e.g. cuda:0,cuda:1.", "LIST", panel=WORKERS)] = None
    per_device: Annotated[int | None, option("Workers on each device (default: 1).", "K", min=1, panel=WORKERS)] = None
    executor: Annotated[
        str,
        option(
            "Where workers run: on this machine, on a Ray cluster, or file.py:Class (default: local).",
            "local|ray|NAME",
            panel=WORKERS,
        ),
    ] = "local"
    executor_option: Annotated[
        list[str] | None, option("An option of the executor; repeatable.", "NAME=VALUE", panel=WORKERS)
    ] = None
    ray_address: Annotated[
        str | None,
        option(
            "The cluster: auto or ray://HOST:10001 (default: RAY_ADDRESS, else one on this host).",
            "ADDRESS",
            panel=WORKERS,
        ),
    ] = None
    gpus_per_worker: Annotated[
        float | None, option("GPUs of each Ray worker, e.g. 0.5 (default: 0).", "G", panel=WORKERS)
    ] = None
    files: Annotated[
        Path | None,
        option(
            "Folder of the study's files, which it remembers; one that all hosts share (default: NAS_OPTUNA_FILES).",
            "DIR",
            panel=WORKERS,
        ),
    ] = None

    @property
    def asked(self) -> contract.WorkerOptions:
        """How many workers, and where."""
        if self.workers not in (None, "auto") and not re.fullmatch("[0-9]{1,9}", self.workers):
            raise SpecError(f"--workers needs a number or auto, got {shown(self.workers)}")
        devices = [] if self.devices is None else [name.strip() for name in self.devices.split(",")]
        return contract.WorkerOptions(
            None if self.workers in (None, "auto") else int(self.workers),
            auto=self.workers == "auto",
            devices=tuple(devices),
            per_device=self.per_device,
            device=self.device,
            threads=self.threads,
        )

    def create(self) -> contract.Executor:
        """Who runs the trials."""
        texts = options.pairs("--executor-option", self.executor_option, "partition=long").items()
        own = with_overrides({}, [f"{name}={value}" for name, value in texts], "--executor-option")
        of_ray = {"address": self.ray_address, "gpus": self.gpus_per_worker}
        own |= {name: value for name, value in of_ray.items() if value is not None}
        if self.executor == "local" and not own.keys().isdisjoint(of_ray):
            raise SpecError("--ray-address and --gpus-per-worker need --executor ray")
        wanted = contract.Executor
        made: contract.Executor = contract.EXECUTORS.make(self.executor, self.asked, options=own, wanted=wanted)
        return made


_ALONE = {
    "within": ("trials", "total", "timeout", "fixed", "until"),
    "fixed": ("trials", "total", "timeout", "enqueue", "learn_from", "warm_start"),
}
"""Options that say what a run does until its end → those that would say something else."""


@dataclass(frozen=True)
class RunOptions(StudyDataOptions):
    """Options for a run; contradictions are refused."""

    trials: Annotated[int | None, option("Trials to run now (default: 20).", "N", min=1)] = None
    within: Annotated[str | None, option("Instead of --trials: search until 90s, 10m or 2h are over.", "TIME")] = None
    spec: SpecOptions = field(default_factory=SpecOptions)
    workers: WorkerFlags = field(default_factory=WorkerFlags)
    total: Annotated[
        int | None,
        option(
            "Run until the study has N trials, whoever makes them: the same on every host.", "N", min=1, panel=WORKERS
        ),
    ] = None
    timeout: Annotated[float | None, option("Begin no trial after S seconds.", "S", panel=DETAILS)] = None
    enqueue: Annotated[Path | None, option("Architectures to try first.", "FILE", panel=BEGINNING)] = None
    fixed: Annotated[Path | None, option("Train these architectures and no more.", "FILE", panel=BEGINNING)] = None
    learn_from: Annotated[
        str | None,
        option(
            "Begin with the best of an earlier study; curves, arch and evolution learn from its trials, too.",
            "STUDY[@STORAGE]",
            panel=BEGINNING,
        ),
    ] = None
    warm_start: Annotated[
        Literal["supernet"] | None, option("What proposes the first trials.", "supernet", panel=BEGINNING)
    ] = None
    warm_trials: Annotated[int | None, option("How many it proposes (default: 5).", "N", min=1, panel=BEGINNING)] = None
    until: Annotated[
        list[str] | None,
        option("End earlier: stalled, stalled:10, accuracy:0.98 or latency_ms:0.5; repeatable.", "WHEN", panel=DETAILS),
    ] = None
    keep_weights: Annotated[
        Literal["best", "all"] | None,
        option("Keep weights of trials for nas-optuna export.", "best|all", panel=DETAILS),
    ] = None
    track: options.Track = None

    def __post_init__(self) -> None:
        self.spec.refuse_twice()
        if self.timeout is not None and not 0 < self.timeout < math.inf:
            raise SpecError(f"--timeout must be positive and finite, got {self.timeout:g}; leave it out for no limit")
        for alone, others in _ALONE.items():
            given = [other for other in others if getattr(self, other) not in (None, [])]
            if getattr(self, alone) is not None and given:
                raise SpecError(f"--{alone} says what to do; leave out {', '.join(map(options.flag_of, given))}")
        if self.warm_trials is not None and self.warm_start is None:
            raise SpecError("--warm-trials needs --warm-start supernet")
        if self.learn_from == self.study:
            raise SpecError("--learn-from names this study, which knows its own trials; name an earlier one")
        if self.within is None:
            return
        clock.parse_duration(self.within)
        asked = self.workers
        if asked.executor != "local" or asked.workers not in (None, "1") or asked.devices or asked.per_device:
            raise SpecError("--within divides the time of one process; leave out options on workers, or use --timeout")
        clock.refuse_named(self.spec.overrides, pruner=self.spec.pruner)

    @property
    def count(self) -> int | None:
        """Trials to run; None is no limit."""
        unlimited = (self.trials, self.timeout, self.total, self.within) == (None, None, None, None)
        return DEFAULT_TRIALS if unlimited else self.trials
