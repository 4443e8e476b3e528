"""Commands whose options are dataclasses, and help that shows them in sections."""

from __future__ import annotations

import importlib
import inspect
import re
import shlex
import sqlite3
import time
from collections.abc import Callable, Mapping
from contextlib import closing
from dataclasses import dataclass, field, is_dataclass
from functools import wraps
from typing import Any, get_type_hints

import typer
from typer.core import TyperCommand, TyperGroup

from nas_optuna.errors import NasOptunaError

NAMES = {
    "SAMPLERS": "nas_optuna.samplers:SAMPLERS",
    "PRUNERS": "nas_optuna.pruners:PRUNERS",
    "SPACES": "nas_optuna.spaces:SPACES",
    "METRICS": "nas_optuna.metrics:METRICS",
    "COSTS": "nas_optuna.objectives:COSTS",
    "PRESETS": "nas_optuna.presets:preset_names",
    "DATA": "nas_optuna.data_sets:DATA_SETS",
    "STRATEGIES": "nas_optuna.oneshot.strategies:STRATEGIES",
}
"""What stands for a registry's names in the text of an option → the registry, which is imported when it is asked."""


def named_by(key: str) -> Any:
    """The registry, or function of names, that a key of `NAMES` stands for."""
    module, _, attribute = NAMES[key].partition(":")
    return getattr(importlib.import_module(module), attribute)


def names_of(*keys: str) -> list[str]:
    """The names of the registries that keys of `NAMES` stand for."""
    found: list[str] = []
    for registry in map(named_by, keys):
        found += registry() if callable(registry) else registry.names()
    return found


@dataclass
class Clock:
    """When the command began, by `time.monotonic`: the imports count where a command is to end within a time."""

    began: float = field(default_factory=time.monotonic)


CLOCK = Clock()


def with_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """A command whose dataclasses give an option for each of their fields; a field may be a dataclass itself."""

    @wraps(function)
    def command(**given: Any) -> Any:
        return _call(function, given)

    parameters = _options_of(function)
    del command.__wrapped__  # whose signature is another
    command.__dict__["__signature__"] = inspect.Signature(list(parameters.values()))
    command.__annotations__ = {name: parameter.annotation for name, parameter in parameters.items()}
    return command


def _options_of(taker: Callable[..., Any]) -> dict[str, inspect.Parameter]:
    """The options of a function or dataclass, by name; those of its dataclasses stand in their place."""
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
    """A command whose help has a section for each panel that an option names; typer has them with markup only."""

    def format_options(self, ctx: Any, formatter: Any) -> None:
        """Write them, those without a panel first."""
        sections: dict[str, list[tuple[str, str]]] = {}
        for parameter in self.get_params(ctx):
            record = parameter.get_help_record(ctx)
            if record is not None:
                words = rf"\b({'|'.join(NAMES)})\b"
                record = (record[0], re.sub(words, lambda match: ", ".join(names_of(match[0])), record[1]))
                usual = "Arguments" if parameter.param_type_name == "argument" else "Options"
                sections.setdefault(getattr(parameter, "rich_help_panel", None) or usual, []).append(record)
        for name in sorted(sections, key=lambda name: (name != "Arguments", name != "Options", name == "Details")):
            with formatter.section(name):
                formatter.write_dl(sections[name])


class Group(TyperGroup):
    """A group whose help tells the whole first sentence of each command."""

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        """Write them; a long sentence is folded rather than cut."""
        found = [(name, self.get_command(ctx, name)) for name in self.list_commands(ctx)]
        with formatter.section("Commands"):
            shown = [(name, command) for name, command in found if command is not None and not command.hidden]
            formatter.write_dl([(name, command.get_short_help_str(500)) for name, command in shown])


def completes(*keys: str) -> Callable[[str], list[str]]:
    """Complete the names of the registries that keys of `NAMES` stand for."""

    def complete(incomplete: str) -> list[str]:
        return [name for name in names_of(*keys) if name.startswith(incomplete)]

    complete.__annotations__ = {"incomplete": str}  # which typer reads
    return complete


def study_names(context: typer.Context, incomplete: str) -> list[str]:
    """Complete the names of the studies in a SQLite file; a server is not asked while somebody types."""
    from nas_optuna.study.storage import sqlite_file, storage_url

    try:
        file = sqlite_file(storage_url(context.params.get("storage")))
        if file is None or not file.is_file():
            return []
        with closing(sqlite3.connect(f"{file.absolute().as_uri()}?mode=ro", uri=True, timeout=0.2)) as database:
            names = [str(name) for (name,) in database.execute("SELECT study_name FROM studies ORDER BY study_id")]
    except (sqlite3.Error, NasOptunaError, OSError):
        return []
    # Any other name would be read as an option, as several words or as a command.
    return [name for name in names if name.startswith(incomplete) and shlex.quote(name) == name and name[:1] != "-"]


study_names.__annotations__ = {"context": typer.Context, "incomplete": str}
