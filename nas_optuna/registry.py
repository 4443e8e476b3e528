"""Things found by name: built in, through an entry point, or as ``package.module:attribute``."""

from __future__ import annotations

import importlib
import inspect
import sys
from collections.abc import Collection, Mapping
from importlib.metadata import entry_points
from typing import Any

from nas_optuna.errors import SpecError, unknown


def names(builtin: Collection[str], group: str) -> list[str]:
    """Every name that `find` would accept for this group, built-in ones first."""
    return [*builtin, *(e.name for e in entry_points(group=group) if e.name not in builtin)]


def find(kind: str, name: str, builtin: Mapping[str, str], group: str) -> Any:
    """Import what `name` stands for.

    Args:
        kind: What is looked for, for the error message (``"space"``).
        name: A built-in name, an entry point's name, or ``package.module:attribute``.
        builtin: Built-in names, each mapped to its ``package.module:attribute``. They are strings, so
            that a listing of names imports nothing.
        group: The entry point group that third parties register in, e.g. ``nas_optuna.spaces``.

    Raises:
        SpecError: The name is unknown, or what it names cannot be imported.
    """
    target = builtin.get(name)
    if target is None:
        target = next((e.value for e in entry_points(group=group) if e.name == name), None)
    if target is None and ":" in name:
        target = name
    if target is None:
        raise SpecError(unknown(kind, name, names(builtin, group)))
    module, _, attribute = target.partition(":")
    if target == name and "" not in sys.path:
        sys.path.append("")  # the current folder, which an installed command does not look in
    try:
        return getattr(importlib.import_module(module), attribute)
    except Exception as error:  # somebody else's module may raise anything
        reason = " ".join(str(error).split()) or type(error).__name__
        raise SpecError(f"{kind} {name!r} cannot be imported: {reason}") from error


def require_type(kind: str, name: str, made: object, wanted: type) -> None:
    """Refuse what a plugin gave, where it is something else than it should be.

    Args:
        kind: What was asked for (``"sampler"``), for the message.
        name: Its name, for the message.
        made: What came back.
        wanted: The class that it should be of.

    Raises:
        SpecError: It is not.
    """
    if not isinstance(made, wanted):
        raise SpecError(f"{kind} {name!r} gave a {type(made).__name__}, not a {wanted.__name__}")


def check_options(
    kind: str, name: str, function: Any, options: Collection[str], reserved: Collection[str] = ()
) -> None:
    """Refuse an option that `function` does not take, before it is called.

    Args:
        kind: What is configured (``"sampler"``), for the message.
        name: Its name, for the message.
        function: The class or function that will receive the options as keywords.
        options: The option names given.
        reserved: Parameters that the caller fills in itself and a user may not.

    Raises:
        SpecError: Naming the option and the nearest right one.
    """
    if not callable(function):
        raise SpecError(f"{kind} {name!r} is a {type(function).__name__}, which cannot be called")
    try:
        parameters = inspect.signature(function).parameters
    except ValueError:  # some of what is written in C does not say
        return
    if any(p.kind is inspect.Parameter.VAR_KEYWORD for p in parameters.values()):
        return
    accepted = [
        p.name
        for p in parameters.values()
        if p.kind in (inspect.Parameter.KEYWORD_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
        and p.name not in reserved
    ]
    for option in options:
        if option not in accepted:
            raise SpecError(unknown(f"option of {kind} {name!r}:", option, accepted))
