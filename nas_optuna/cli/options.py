"""Options that several commands share, worded once. A dataclass of options is one parameter of a command."""

from __future__ import annotations

import json
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from nas_optuna.cli.commands import completes, study_names
from nas_optuna.masking import mask_urls

if TYPE_CHECKING:
    from optuna.study import Study

    from nas_optuna.experiment import Experiment
    from nas_optuna.report.notebook import LoadedStudy

LIMITS, WORKERS, BEGINNING, DETAILS = "Costs", "Workers and clusters", "What to begin with", "Details"
"""Sections of help, below the options that most people use."""


def option(
    help: str,
    metavar: str | None = None,
    *names: str,
    panel: str | None = None,
    complete: tuple[str, ...] = (),
    **more: Any,
) -> Any:
    """An option whose default stands in its help, after a semicolon; without `names` it is called as its parameter."""
    if complete:
        more["autocompletion"] = completes(*complete)
    return typer.Option(*names, metavar=metavar, help=help, rich_help_panel=panel, show_default=False, **more)


Storage = Annotated[str | None, option("Database; NAS_OPTUNA_STORAGE, else sqlite:///nas-optuna.db.", "URL")]
StudyName = Annotated[str, option("Name of the study; nas.", "NAME", autocompletion=study_names)]
Trial = Annotated[
    str,
    option("Which trial; best. cheapest has the fewest MACs within one standard error of the best.", "best|cheapest|N"),
]
Json = Annotated[bool, option("Print JSON rather than a table.", None, "--json")]
All = Annotated[bool, option("List all trials rather than the best ten.", None, "--all")]
MovedData = Annotated[str | None, option("Where the study's images lie now, if moved.", "DATA")]
DataDir = Annotated[
    Path | None, option("Where data sets are kept; NAS_OPTUNA_DATA, else the user cache.", "DIR", panel=DETAILS)
]
Device = Annotated[str, option("cpu, cuda, cuda:1, mps; auto: the best of these.", "NAME")]
Threads = Annotated[
    int | None,
    option("CPU threads of each process; measured unless OMP_NUM_THREADS is set.", "N", panel=WORKERS),
]
Spec = Annotated[
    str | None,
    option("Study spec: a preset (nas-optuna list presets) or a TOML file.", "NAME|FILE", complete=("PRESETS",)),
]
Set = Annotated[
    list[str] | None,
    option("Override any key of the spec, e.g. recipe.flip=true.", "KEY=VALUE", "--set", panel=DETAILS),
]
MaxLatency = Annotated[str | None, option("The most milliseconds an inference.", "MS"), "limits.latency_ms"]
LatencyTable = Annotated[
    str | None, option("Look latency up in this table rather than measure it.", "FILE", panel=LIMITS), "latency.table"
]
Trust = Annotated[
    bool, option("Import the code that a stored study names; asked once per study.", None, "--trust", panel=DETAILS)
]
Track = Annotated[
    list[str] | None,
    option(
        "Copy the run as it happens: tensorboard:DIR, mlflow:URI or wandb:PROJECT; repeatable.", "WHERE", panel=DETAILS
    ),
]


@dataclass(frozen=True)
class StudyOptions:
    """Which stored study a command is about; each field is an option."""

    study: StudyName = "nas"
    storage: Storage = None

    @property
    def url(self) -> str:
        """The storage's URL."""
        from nas_optuna.study.storage import storage_url

        return storage_url(self.storage)

    def open(self) -> Study:
        """The stored study."""
        from nas_optuna.study.storage import open_storage
        from nas_optuna.study.studies import load_study

        return load_study(open_storage(self.url), self.study)

    def files(self, study: Study | None, given: Path | None = None) -> Path:
        """The folder in which files of the study are kept, as it is named now or as the study remembers it."""
        from nas_optuna.study.files import folders, usable

        return usable(folders(self.url, None if study is None else study.user_attrs, given)[0])


@dataclass(frozen=True)
class TrustedStudyOptions(StudyOptions):
    """A stored study whose space, and whatever else its spec names, is built here; each field is an option."""

    data_dir: DataDir = None
    trust: Trust = False

    def load(self) -> LoadedStudy:
        """The stored study, where somebody has agreed to the code that it names."""
        from nas_optuna.report.notebook import load_study

        return load_study(self.study, self.storage, data_directory=self.data_dir, trust=self.trust)

    def experiment(
        self, data: str | None = None, overrides: Sequence[str] = (), **given: Any
    ) -> tuple[Experiment, Study]:
        """The study and what it takes to go on: `data` where its images were moved, `overrides` for this time."""
        from nas_optuna.data.catalog import data_name
        from nas_optuna.experiment import Experiment
        from nas_optuna.study.studies import study_spec

        study = self.load().study
        moved = [] if data is None else [f"data.name={json.dumps(data_name(data))}"]
        spec = study_spec(study).override([*moved, *overrides])
        return Experiment.of_study(study, spec, data_directory=self.data_dir, **given), study


def command_line(context: typer.Context, **changed: Any) -> str:
    """The command line that runs a command once more, but for passwords, and with some options `changed` or None."""
    words = context.command_path.removeprefix(context.find_root().command_path).split()
    for parameter in context.command.params:
        value = changed.get(parameter.name, context.params[parameter.name])
        if value is None or value is False or value == parameter.default:
            continue
        for item in value if isinstance(value, list | tuple) else [value]:
            named = [] if parameter.param_type_name == "argument" else [parameter.opts[0]]
            words += named if value is True else [*named, mask_urls(str(item))]
    return shlex.join(["nas-optuna", *words])
