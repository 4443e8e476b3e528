"""Commands whose options are dataclasses, and help that shows them in sections."""

from __future__ import annotations

import importlib
import inspect
import re
import time
from collections.abc import Callable, Mapping
from dataclasses import MISSING, dataclass, field, fields, is_dataclass
from functools import wraps
from typing import Any, get_type_hints

from typer.core import TyperCommand, TyperGroup

NAMES = {
    "SAMPLERS": "nas_optuna.samplers:SAMPLERS",
    "PRUNERS": "nas_optuna.pruners:PRUNERS",
    "SPACES": "nas_optuna.spaces:SPACES",
    "METRICS": "nas_optuna.metrics:METRICS",
    "COSTS": "nas_optuna.objectives:COSTS",
    "PRESETS": "nas_optuna.presets:preset_names",
    "DATA": "nas_optuna.data.catalog:DATA_SETS",
}
"""What stands for a registry's names in the text of an option → the registry, which is imported when it is asked."""


def names_of(*keys: str) -> list[str]:
    """The names of the registries that keys of `NAMES` stand for."""
    found: list[str] = []
    for key in keys:
        module, _, attribute = NAMES[key].partition(":")
        registry: Any = getattr(importlib.import_module(module), attribute)
        found += registry() if callable(registry) else registry.names()
    return found


@dataclass
class Clock:
    """When the command began, by `time.monotonic`: the imports count where a command is to end within a time."""

    began: float = field(default_factory=time.monotonic)


CLOCK = Clock()


def with_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """A command that takes dataclasses, each of whose fields is an option of that name.

    So several commands share a class of options, which is checked where it is made. A field may be a dataclass itself.

    Args:
        function: Parameters that are annotated with a dataclass are made of the options that are its fields.
    """
    hints = get_type_hints(function, include_extras=True)
    taken = inspect.signature(function).parameters
    options: dict[str, inspect.Parameter] = {}
    for name, parameter in taken.items():
        options |= _options_of(hints[name]) if is_dataclass(hints[name]) else {name: parameter}

    @wraps(function)
    def command(**given: Any) -> Any:
        made = {name: _made(hints[name], given) if is_dataclass(hints[name]) else given[name] for name in taken}
        return function(**made)

    parameters = [
        parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY, annotation=hints.get(name, parameter.annotation))
        for name, parameter in options.items()
    ]
    del command.__wrapped__  # whose signature is another
    command.__dict__["__signature__"] = inspect.Signature(parameters)
    command.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    return command


def _options_of(kind: Any) -> dict[str, inspect.Parameter]:
    hints = get_type_hints(kind, include_extras=True)
    found: dict[str, inspect.Parameter] = {}
    for each in fields(kind):
        if is_dataclass(hints[each.name]):
            found |= _options_of(hints[each.name])
            continue
        default = inspect.Parameter.empty if each.default is MISSING else each.default
        found[each.name] = inspect.Parameter(
            each.name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=hints[each.name]
        )
    return found


def _made(kind: Any, given: Mapping[str, Any]) -> Any:
    hints = get_type_hints(kind, include_extras=True)
    values = {
        each.name: _made(hints[each.name], given) if is_dataclass(hints[each.name]) else given[each.name]
        for each in fields(kind)
    }
    return kind(**values)


class Command(TyperCommand):
    """A command whose help has a section for each panel that an option names; typer has them with markup only."""

    def format_options(self, ctx: Any, formatter: Any) -> None:
        """Write them, those without a panel first."""
        sections: dict[str, list[tuple[str, str]]] = {}
        for parameter in self.get_params(ctx):
            record = parameter.get_help_record(ctx)
            if record is not None:
                record = (record[0], _with_names(record[1]))
                usual = "Arguments" if parameter.param_type_name == "argument" else "Options"
                sections.setdefault(getattr(parameter, "rich_help_panel", None) or usual, []).append(record)
        for name in sorted(sections, key=lambda name: (name != "Arguments", name != "Options")):
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


def _with_names(text: str) -> str:
    """A help text with the names of registries in the place of what stands for them."""
    return re.sub(rf"\b({'|'.join(NAMES)})\b", lambda match: ", ".join(names_of(match[0])), text)


def completes(*keys: str) -> Callable[[str], list[str]]:
    """Complete the names of registries in a shell.

    Args:
        keys: Of `NAMES`.
    """

    def complete(incomplete: str) -> list[str]:
        return [name for name in names_of(*keys) if name.startswith(incomplete)]

    complete.__annotations__ = {"incomplete": str}  # which typer reads
    return complete
