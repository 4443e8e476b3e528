"""Options that several commands share, worded once."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Annotated, Any

import typer

from nas_optuna.masking import mask_urls

Storage = Annotated[
    str | None,
    typer.Option(
        "--storage",
        metavar="URL",
        help="Database; NAS_OPTUNA_STORAGE, else sqlite:///nas-optuna.db.",
        show_default=False,
    ),
]
StudyName = Annotated[str, typer.Option("--study", metavar="NAME", help="Name of the study.")]
Trial = Annotated[
    str,
    typer.Option(
        "--trial",
        metavar="best|cheapest|N",
        help="Which trial; cheapest is the one with the fewest MACs within one standard error of the best.",
    ),
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON rather than a table.")]
All = Annotated[bool, typer.Option("--all", help="List all trials rather than the best ten.")]
DataDir = Annotated[
    Path | None,
    typer.Option(
        "--data-dir",
        metavar="DIR",
        help="Where data sets are kept; NAS_OPTUNA_DATA, else the user cache.",
        show_default=False,
    ),
]
Device = Annotated[
    str, typer.Option("--device", metavar="NAME", help="auto (CUDA, else MPS, else CPU), cpu, cuda, cuda:1, mps.")
]
Spec = Annotated[
    str | None,
    typer.Option("--spec", metavar="NAME|FILE", help="Study spec: a preset's name or a TOML file.", show_default=False),
]
Set = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Override a key of the spec, e.g. recipe.epochs=3; repeatable."),
]
Sampler = Annotated[
    str | None,
    typer.Option("--sampler", metavar="NAME", help="What proposes architectures.", show_default=False),
]
Pruner = Annotated[
    str | None,
    typer.Option("--pruner", metavar="NAME", help="What stops unpromising trials.", show_default=False),
]
Seed = Annotated[
    int | None,
    typer.Option("--seed", metavar="N", help="Seed of the sampler's proposals.", show_default=False),
]
Threads = Annotated[
    int | None,
    typer.Option(
        "--threads",
        metavar="N",
        help="CPU threads of each process; measured unless OMP_NUM_THREADS is set.",
        show_default=False,
    ),
]
Objectives = Annotated[
    list[str] | None,
    typer.Option(
        "--objective",
        metavar="NAME",
        help="What to optimise: accuracy, macro_f1, latency_ms, macs, params, memory, energy_mj, or"
        " accuracy*(latency_ms/0.5)^-0.07; repeatable.",
        show_default=False,
    ),
]
MaxMacs = Annotated[
    str | None, typer.Option("--max-macs", metavar="N", help="Limit of MACs, e.g. 2M.", show_default=False)
]
MaxParams = Annotated[
    str | None, typer.Option("--max-params", metavar="N", help="Limit of weights, e.g. 50k.", show_default=False)
]
MaxMemory = Annotated[
    str | None,
    typer.Option(
        "--max-memory", metavar="N", help="Limit of bytes of weights and activations, e.g. 1M.", show_default=False
    ),
]
MaxLatency = Annotated[
    str | None,
    typer.Option("--max-latency", metavar="MS", help="Limit of an inference's milliseconds.", show_default=False),
]
LatencyTable = Annotated[
    str | None,
    typer.Option(
        "--latency-table",
        metavar="FILE",
        help="Look latency up in this table rather than measure it.",
        show_default=False,
    ),
]
Fix = Annotated[
    list[str] | None,
    typer.Option("--fix", metavar="NAME=VALUE", help="Pin a parameter, e.g. conv1.stride=1; repeatable."),
]
Search = Annotated[
    list[str] | None,
    typer.Option(
        "--search",
        metavar="KEY=RANGE",
        help="Search a setting of the recipe, too: recipe.learning_rate=1e-4..1e-1:log or recipe.batch_size=32,64.",
    ),
]
Trust = Annotated[
    bool, typer.Option("--trust", help="Import the code that a stored study names; asked once per study.")
]

Track = Annotated[
    list[str] | None,
    typer.Option(
        "--track",
        metavar="WHERE",
        help="Copy the run as it happens: tensorboard:DIR, mlflow:URI or wandb:PROJECT; repeatable.",
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
            text = mask_urls(str(item))
            words += [parameter.opts[0]] if value is True else [parameter.opts[0], text]
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
