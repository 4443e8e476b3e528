"""Options that several commands share, worded once."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Annotated, Any

import typer

from nas_optuna.cli.commands import completes
from nas_optuna.masking import mask_urls

LIMITS, WORKERS, BEGINNING, DETAILS = "Costs", "Workers and clusters", "What to begin with", "Details"
"""Sections of help, below the options that most people use."""


def option(
    *names: str, metavar: str = "", help: str, panel: str | None = None, complete: tuple[str, ...] = (), **more: Any
) -> Any:
    """An option that is worded in one way: its default stands in the help's text, after a semicolon.

    Args:
        names: E.g. ``"--seed"``.
        metavar: What stands for its value.
        help: What it does.
        panel: The section of the help that it stands in.
        complete: The registries whose names a shell completes, see `commands.NAMES`.
        more: What else typer takes.
    """
    if complete:
        more["autocompletion"] = completes(*complete)
    return typer.Option(*names, metavar=metavar or None, help=help, rich_help_panel=panel, show_default=False, **more)


Storage = Annotated[
    str | None, option("--storage", metavar="URL", help="Database; NAS_OPTUNA_STORAGE, else sqlite:///nas-optuna.db.")
]
StudyName = Annotated[str, option("--study", metavar="NAME", help="Name of the study; nas.")]
Trial = Annotated[
    str,
    option(
        "--trial",
        metavar="best|cheapest|N",
        help="Which trial; best. cheapest has the fewest MACs within one standard error of the best.",
    ),
]
Json = Annotated[bool, option("--json", help="Print JSON rather than a table.")]
All = Annotated[bool, option("--all", help="List all trials rather than the best ten.")]
MovedData = Annotated[str | None, option("--data", metavar="DATA", help="Where the study's images lie now, if moved.")]
DataDir = Annotated[
    Path | None,
    option(
        "--data-dir",
        metavar="DIR",
        help="Where data sets are kept; NAS_OPTUNA_DATA, else the user cache.",
        panel=DETAILS,
    ),
]
Device = Annotated[str, option("--device", metavar="NAME", help="cpu, cuda, cuda:1, mps; auto: the best of these.")]
Threads = Annotated[
    int | None,
    option(
        "--threads",
        metavar="N",
        help="CPU threads of each process; measured unless OMP_NUM_THREADS is set.",
        panel=WORKERS,
    ),
]
Spec = Annotated[
    str | None,
    option(
        "--spec",
        metavar="NAME|FILE",
        help="Study spec: a preset (nas-optuna list presets) or a TOML file.",
        complete=("PRESETS",),
    ),
]
Set = Annotated[
    list[str] | None,
    option("--set", metavar="KEY=VALUE", help="Override any key of the spec, e.g. recipe.flip=true.", panel=DETAILS),
]
Data = Annotated[
    str | None,
    option(
        "--data",
        metavar="DATA",
        help="A folder of pictures, a .npz file, or a name: digits, mnist, cifar10, ...",
        complete=("DATA",),
    ),
]
Space = Annotated[
    str | None,
    option("--space", metavar="NAME", help="Search space: SPACES or file.py:function.", complete=("SPACES",)),
]
Sampler = Annotated[
    str | None,
    option(
        "--sampler",
        metavar="NAME",
        help="What proposes architectures: SAMPLERS.",
        complete=("SAMPLERS",),
    ),
]
Pruner = Annotated[
    str | None,
    option(
        "--pruner",
        metavar="NAME",
        help="What stops unpromising trials: PRUNERS.",
        complete=("PRUNERS",),
    ),
]
Seed = Annotated[int | None, option("--seed", metavar="N", help="Seed of the sampler's proposals.")]
Epochs = Annotated[int | None, option("--epochs", metavar="N", help="Epochs of each training.")]
ImageSize = Annotated[int | None, option("--image-size", metavar="N", help="Pixels a side that networks see.")]
BatchSize = Annotated[int | None, option("--batch-size", metavar="N", help="Images of a step.")]
Rate = Annotated[float | None, option("--lr", metavar="RATE", help="The learning rate at its peak.")]
Objectives = Annotated[
    list[str] | None,
    option(
        "--objective",
        metavar="NAME",
        help="What to optimise: METRICS, COSTS or accuracy*(latency_ms/0.5)^-0.07; repeatable.",
        complete=("METRICS", "COSTS"),
    ),
]
Reference = Annotated[
    str | None,
    option(
        "--reference",
        metavar="FILE.py:FUNCTION",
        help="Your own network, function(task) -> nn.Module, to be trained as every trial is and compared with.",
    ),
]
MaxParams = Annotated[str | None, option("--max-params", metavar="N", help="The most weights, e.g. 50k.")]
MaxLatency = Annotated[str | None, option("--max-latency", metavar="MS", help="The most milliseconds an inference.")]
MaxMacs = Annotated[str | None, option("--max-macs", metavar="N", help="The most MACs, e.g. 2M.", panel=LIMITS)]
MaxMemory = Annotated[
    str | None,
    option("--max-memory", metavar="N", help="The most bytes of weights and activations, e.g. 1M.", panel=LIMITS),
]
MaxFlash = Annotated[
    str | None,
    option("--max-flash", metavar="N", help="The most bytes of weights in eight bits, e.g. 1M.", panel=LIMITS),
]
MaxArena = Annotated[
    str | None,
    option("--max-arena", metavar="N", help="The most bytes of activations in eight bits, e.g. 256k.", panel=LIMITS),
]
LatencyRuntime = Annotated[
    str | None,
    option("--latency-runtime", metavar="NAME", help="What runs the networks, e.g. onnxruntime.", panel=LIMITS),
]
LatencyTable = Annotated[
    str | None,
    option(
        "--latency-table", metavar="FILE", help="Look latency up in this table rather than measure it.", panel=LIMITS
    ),
]
Fix = Annotated[
    list[str] | None,
    option("--fix", metavar="NAME=VALUE", help="Pin a parameter, e.g. conv1.stride=1; repeatable.", panel=DETAILS),
]
Search = Annotated[
    list[str] | None,
    option(
        "--search",
        metavar="KEY=RANGE",
        help="Search a setting of the recipe, too: recipe.learning_rate=1e-4..1e-1:log or recipe.batch_size=32,64.",
        panel=DETAILS,
    ),
]
Among = Annotated[
    Path | None,
    option("--among", metavar="FILE", help="Propose only these architectures, one a line.", panel=DETAILS),
]
KeepPaused = Annotated[
    str | None,
    option("--keep-paused", metavar="BYTES", help="Of stopped trainings, to go on with; 1GB.", panel=DETAILS),
]
Trust = Annotated[
    bool, option("--trust", help="Import the code that a stored study names; asked once per study.", panel=DETAILS)
]
Track = Annotated[
    list[str] | None,
    option(
        "--track",
        metavar="WHERE",
        help="Copy the run as it happens: tensorboard:DIR, mlflow:URI or wandb:PROJECT; repeatable.",
        panel=DETAILS,
    ),
]


def is_given(context: typer.Context, name: str) -> bool:
    """Whether an option stands on the command line, rather than having its default."""
    source = context.get_parameter_source(name)
    return source is not None and source.name == "COMMANDLINE"


def command_line(context: typer.Context, **changed: Any) -> str:
    """The command line that runs a command once more, with its options as they were given but for passwords.

    Args:
        context: The command's.
        changed: Options, by the name of their Python parameter, with another value; None leaves one out.
    """
    words = context.command_path.removeprefix(context.find_root().command_path).split()
    for parameter in context.command.params:
        value = changed.get(parameter.name, context.params[parameter.name])
        if value is None or value is False or value == parameter.default:
            continue
        for item in value if isinstance(value, list | tuple) else [value]:
            named = [] if parameter.param_type_name == "argument" else [parameter.opts[0]]
            words += named if value is True else [*named, mask_urls(str(item))]
    return shlex.join(["nas-optuna", *words])


def hint(command: str, storage: str | None, study: str | None = None, *more: str) -> str:
    """A command to type next, quoted as a shell needs it, with the storage where it was given.

    Args:
        command: Its words, e.g. ``"study show"``.
        storage: What ``--storage`` was; its password is masked.
        study: Name of the study.
        more: Further words.
    """
    words = ["nas-optuna", *command.split()]
    words += ["--study", study] if study is not None else []
    words += ["--storage", mask_urls(storage)] if storage else []
    return shlex.join([*words, *more])
