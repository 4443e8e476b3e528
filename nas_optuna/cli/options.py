"""The parts of commands: dataclasses of options, help in sections, and options that several commands share."""

from __future__ import annotations

import inspect
import os
import shlex
import sqlite3
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, fields, is_dataclass
from functools import wraps
from pathlib import Path
from typing import Annotated, Any, get_type_hints

import typer
from typer.core import TyperCommand, TyperGroup

from nas_optuna.cli.printing import facts_apart, say
from nas_optuna.data_sets import data_in
from nas_optuna.errors import Interrupted, NasOptunaError, SpecError, StudyError, ended_by_code, reason_of, shown
from nas_optuna.lazily import lazily
from nas_optuna.masking import mask_urls
from nas_optuna.study.storage import is_kept, open_storage, sqlite_file, storage_url

with lazily():
    from optuna.study import Study

    from nas_optuna.data.catalog import data_name
    from nas_optuna.experiment import Experiment
    from nas_optuna.presets import preset_names
    from nas_optuna.report import notebook
    from nas_optuna.spec_text import overridden, toml_value
    from nas_optuna.study import studies
    from nas_optuna.study.files import folders, usable

began = time.monotonic()
"""When the command began, so that its imports count as well."""


def with_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """A command with an option for each field of its dataclass parameters; a field may itself be a dataclass."""

    @wraps(function)
    def command(**given: Any) -> Any:
        return _call(function, given)

    parameters = _options_of(function)
    del command.__wrapped__  # it has another signature
    command.__dict__["__signature__"] = inspect.Signature(list(parameters.values()))
    command.__annotations__ = {name: parameter.annotation for name, parameter in parameters.items()}
    return command


def _options_of(taker: Callable[..., Any]) -> dict[str, inspect.Parameter]:
    """The options of a function or dataclass, by name, with those of its dataclasses in their place."""
    hints = get_type_hints(taker, include_extras=True)
    found: dict[str, inspect.Parameter] = {}
    for name, parameter in inspect.signature(taker).parameters.items():
        if is_dataclass(hints[name]):
            found |= _options_of(hints[name])
        else:
            found[name] = parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY, annotation=hints[name])
    return found


def _call(taker: Callable[..., Any], given: Mapping[str, Any]) -> Any:
    hints = get_type_hints(taker, include_extras=True)
    return taker(
        **{
            name: _call(hints[name], given) if is_dataclass(hints[name]) else given[name]
            for name in inspect.signature(taker).parameters
        }
    )


class Command(TyperCommand):
    """A command with a section of help for each panel of options, which typer only has with markup."""

    def invoke(self, ctx: Any) -> Any:
        """Run it; if it is interrupted and can be continued, say how."""
        _require_folder()
        try:
            with facts_apart(), data_in(ctx.params.get("data_dir")):
                return super().invoke(ctx)
        except Interrupted as stopped:
            kept = "storage" not in ctx.params or is_kept(storage_url(ctx.params["storage"]))
            promise = f"; nothing is lost. Continue: {command_line(ctx)}" if kept else ""
            say((str(stopped) or "stopped") + promise)
            return 130
        except SystemExit as ended:
            if isinstance(ended.__context__, BrokenPipeError):  # what rich makes of it
                raise
            raise ended_by_code(ended) from ended

    def format_options(self, ctx: Any, formatter: Any) -> None:
        """Write the options, those without a panel first."""
        sections: dict[str, list[tuple[str, str]]] = {}
        for parameter in self.get_params(ctx):
            record = parameter.get_help_record(ctx)
            if record is not None:
                usual = "Arguments" if parameter.param_type_name == "argument" else "Options"
                sections.setdefault(getattr(parameter, "rich_help_panel", None) or usual, []).append(record)
        for name in sorted(sections, key=lambda name: (name != "Arguments", name != "Options", name == "Details")):
            with formatter.section(name):
                formatter.write_dl(sections[name])


def _require_folder() -> None:
    """Refuse a current folder that was deleted, in which the import of torch would end the process."""
    try:
        os.getcwd()
    except OSError as error:
        raise StudyError(f"the current folder cannot be used: {reason_of(error)}; cd to one that is there") from None


@contextmanager
def _told() -> Iterator[None]:
    """Let the user be told of Ctrl-C, at which typer itself would end without a word."""
    try:
        yield
    except KeyboardInterrupt:
        raise typer.Abort from None


class Group(TyperGroup):
    """A group whose help has the whole first sentence of each command."""

    def make_context(self, *words: Any, **more: Any) -> Any:
        """Read the words of a command line."""
        with _told():
            return super().make_context(*words, **more)

    def invoke(self, ctx: Any) -> Any:
        """Run the command."""
        with _told():
            return super().invoke(ctx)

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        """Write the commands; a long sentence is wrapped rather than cut."""
        found = [(name, self.get_command(ctx, name)) for name in self.list_commands(ctx)]
        with formatter.section("Commands"):
            shown = [(name, command) for name, command in found if command is not None and not command.hidden]
            formatter.write_dl([(name, command.get_short_help_str(500)) for name, command in shown])


def study_names(context: typer.Context) -> list[str]:
    """Complete the names of studies in a SQLite file; a server is not queried while somebody types."""
    try:
        file = sqlite_file(storage_url(context.params.get("storage")))
        if file is None or not file.is_file():
            return []
        with closing(sqlite3.connect(f"{file.absolute().as_uri()}?mode=ro", uri=True, timeout=0.2)) as database:
            names = [str(name) for (name,) in database.execute("SELECT study_name FROM studies ORDER BY study_id")]
    except (sqlite3.Error, NasOptunaError, OSError):
        return []
    # A shell would take any other name for an option, several words or a command.
    return [name for name in names if shlex.quote(name) == name and name[:1] != "-"]


LIMITS, WORKERS, BEGINNING, DETAILS = "Costs", "Workers and clusters", "What to begin with", "Details"
"""Sections of help, below the most used options."""


def option(
    help: str,
    metavar: str | None = None,
    *names: str,
    panel: str | None = None,
    known: Sequence[str] = (),
    **more: Any,
) -> Any:
    """An option whose help says its default; without `names` it is named like its parameter.

    Its `known` values complete it, and stand in its help for ``{}``.
    """
    if known:
        help, more["autocompletion"] = help.format(", ".join(known)), lambda: known
    return typer.Option(*names, metavar=metavar, help=help, rich_help_panel=panel, show_default=False, **more)


def pairs(option: str, texts: Sequence[str] | None, example: str, read: Callable[[str], Any] = str) -> dict[str, Any]:
    """The values of a repeated option NAME=VALUE by name, each as `read` reads it."""
    found: dict[str, Any] = {}
    for text in texts or ():
        name, equals, value = map(str.strip, text.partition("="))
        if name in found:
            raise SpecError(f"{option} has two values for {shown(name)}; leave one out")
        try:
            found[name] = read(value)
        except ValueError:
            equals = ""
        if not equals or not name:
            raise SpecError(f"{option} needs NAME=VALUE, got {shown(text)}; e.g. {option} {example}")
    return found


Storage = Annotated[str | None, option("Database (default: NAS_OPTUNA_STORAGE, else sqlite:///nas-optuna.db).", "URL")]
StudyName = Annotated[str, option("Name of the study (default: nas).", "NAME", autocompletion=study_names)]
Trial = Annotated[
    str,
    option(
        "Which trial (default: best); cheapest has the fewest MACs of those as good as the best.", "best|cheapest|N"
    ),
]
Json = Annotated[bool, option("Print JSON rather than a table.", None, "--json")]
All = Annotated[bool, option("List all trials rather than the best ten.", None, "--all")]
DataDir = Annotated[
    Path | None,
    option("Where data sets are kept (default: NAS_OPTUNA_DATA, else the user's cache).", "DIR", panel=DETAILS),
]
_WHERE = "cpu, cuda, cuda:1, mps, or auto for the best of these (default: auto)."
Device = Annotated[str, option(_WHERE, "NAME", known=("auto", "cpu", "cuda", "mps"))]
Threads = Annotated[
    int | None, option("CPU threads of each process (default: OMP_NUM_THREADS, else measured).", "N", panel=WORKERS)
]
Spec = Annotated[
    str | None,
    option(
        "Study spec: a preset (nas-optuna list presets) or a TOML file.",
        "NAME|FILE",
        autocompletion=lambda: preset_names(),
    ),
]
Set = Annotated[
    list[str] | None,
    option("Override any key of the spec, e.g. recipe.flip=true.", "KEY=VALUE", "--set", panel=DETAILS),
]
MaxLatency = Annotated[
    str | None, option("The most milliseconds that one inference may take.", "MS"), "limits.latency_ms"
]
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


def named_overrides(given: object) -> list[tuple[str, str]]:
    """The given options that set one key of a spec: name and override of each."""
    found = []
    for name, hint in get_type_hints(type(given), include_extras=True).items():
        key, value = hint.__metadata__[-1], getattr(given, name)
        if isinstance(key, str) and value not in (None, []):
            if key == "data.name":
                value = data_name(value)
            text = toml_value(str(value.resolve()) if isinstance(value, Path) else value)
            found.append((flag_of(name), f"{key}={text}"))
    return found


def words_of(given: Any) -> list[str]:
    """The options that a dataclass of them was given, as a command line has them."""
    words = []
    for each in fields(given):
        value = getattr(given, each.name)
        for item in value if isinstance(value, list | tuple) else [] if value is None else [value]:
            words += [flag_of(each.name.rstrip("_")), str(item)]
    return words


def refuse_twice(given: Any, also: Mapping[str, str]) -> None:
    """Refuse a key of a spec that ``--set`` and an option of its own set; `also` has further options and their keys."""
    flags = {text.partition("=")[0]: flag for flag, text in named_overrides(given)}
    flags |= {key: flag_of(name) for name, key in also.items() if getattr(given, name, None) is not None}
    for key in overridden(given.set_ or (), "--set"):
        flag = flags.get(key, flags.get(f"{key}.name"))  # sampler=random is short for sampler.name=random
        if flag:
            raise SpecError(f"{flag} and --set {key} set the same; leave one out")


def flag_of(name: str) -> str:
    """The option of a field."""
    return f"--{name.replace('_', '-')}"


@dataclass(frozen=True)
class StudyOptions:
    """The stored study of a command; each field is an option."""

    study: StudyName = "nas"
    storage: Storage = None

    @property
    def url(self) -> str:
        """The storage's URL."""
        return storage_url(self.storage)

    def open(self) -> Study:
        """The stored study."""
        return studies.load_study(open_storage(self.url), self.study)

    def files(self, study: Study | None, given: Path | None = None) -> Path:
        """The folder for files of the study, as named now or as the study remembers it."""
        return usable(folders(self.url, None if study is None else study.user_attrs, given)[0])


@dataclass(frozen=True)
class TrustedStudyOptions(StudyOptions):
    """A stored study whose space and code are used; each field is an option."""

    trust: Trust = False

    def load(self) -> notebook.LoadedStudy:
        """The stored study, if the user has agreed to the code that it names."""
        return notebook.load_study(self.study, self.storage, trust=self.trust)


@dataclass(frozen=True)
class StudyDataOptions(TrustedStudyOptions):
    """A stored study whose images are used, too; each field is an option."""

    data_dir: DataDir = None


@dataclass(frozen=True)
class MovedStudyOptions(StudyDataOptions):
    """A stored study whose images may have moved; each field is an option."""

    data: Annotated[str | None, option("Where the study's images lie now, if moved.", "DATA"), "data.name"] = None

    def experiment(self, overrides: Sequence[str] = (), **given: Any) -> tuple[Experiment, Study]:
        """The study and its experiment, with `overrides` for this command."""
        loaded = self.load()
        moved = [text for _, text in named_overrides(self)]
        spec = loaded.spec.override([*moved, *overrides], "--set")  # the one whose code was agreed to
        return Experiment.of_study(loaded.study, spec, data_directory=self.data_dir, **given), loaded.study


def command_line(context: typer.Context) -> str:
    """The command line that repeats a command, without passwords."""
    words = context.command_path.removeprefix(context.find_root().command_path).split()
    for parameter in context.command.params:
        value = context.params[parameter.name]
        if value is None or value is False or value == parameter.default:
            continue
        for item in value if isinstance(value, list | tuple) else [value]:
            named = [] if parameter.param_type_name == "argument" else [parameter.opts[0]]
            words += named if value is True else [*named, mask_urls(str(item))]
    return shlex.join(["nas-optuna", *words])
