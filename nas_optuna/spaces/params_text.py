"""Params of a function's space as text: ``width=32,depth=2,block0=conv3``."""

from __future__ import annotations

from collections.abc import Mapping

from nas_optuna.errors import ArchitectureError, unknown
from nas_optuna.spaces.architecture import Choice
from nas_optuna.spaces.base import Parameter, text_of


def write_params(params: Mapping[str, Choice], parameters: Mapping[str, Parameter]) -> str:
    """The text of what a network asks for, in that order."""
    written = (f"{_quote(name)}={_quote(_text(parameters[name], value))}" for name, value in params.items())
    return ",".join(written) or "fixed"


def read_params(text: str, parameters: Mapping[str, Parameter], example: str) -> dict[str, Choice]:
    """The params of a text, in any order."""
    names = {_quote(name): name for name in parameters}
    params: dict[str, Choice] = {}
    for part in text.strip().split(",") if text.strip() not in ("", "fixed") else ():
        written, equals, value = (piece.strip() for piece in part.partition("="))
        if not equals:
            raise ArchitectureError(f"{part!r} is not name=value; an architecture is written {example}")
        if written not in names:
            raise ArchitectureError(unknown("parameter", written, names))
        parameter = parameters[names[written]]
        choices = {_quote(_text(parameter, choice)): choice for choice in parameter.choices}
        if value not in choices:
            raise ArchitectureError(
                f"{names[written]} = {value!r} is outside its choices; choose one of {list(choices)}"
            )
        params[names[written]] = choices[value]
    return params


def _text(parameter: Parameter, value: Choice) -> str:
    written = [text_of(choice) for choice in parameter.choices]
    # "1" and 1 are written alike, unless the text keeps its quotes.
    return f'"{value}"' if isinstance(value, str) and written.count(value) > 1 else text_of(value)


def _quote(text: str) -> str:
    """Percent-encode what separates, and blanks and control characters."""
    return "".join(f"%{ord(c):02X}" if c in "%,=" or c.isspace() or not c.isprintable() else c for c in text)
