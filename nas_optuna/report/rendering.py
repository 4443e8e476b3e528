"""Pages from the templates beside this file, and helpers for pictures; no text of a study becomes markup."""

from __future__ import annotations

import re
import xml.sax.saxutils as xml
from functools import cache
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup, escape

from nas_optuna.errors import NasOptunaError, printable, require_kind, shortened
from nas_optuna.files import write_file
from nas_optuna.markdown import CHOICES
from nas_optuna.quantities import plural


def render(template: str, **values: Any) -> str:
    """Fill in a template; values are escaped unless they are `Markup`."""
    return _environment().get_template(template).render(values)


def save(path: Path | str, text: str) -> Path:
    """Write a page or a picture to a file; a `NasOptunaError` if that fails."""
    require_kind(path, Path | str, "path", "give a string or a Path")
    path = Path(path)
    try:
        write_file(path, text)
    except OSError as error:
        raise NasOptunaError(f"cannot write {path}: {error.strerror}") from error
    return path


@cache
def _environment() -> Environment:
    found = Environment(
        loader=PackageLoader("nas_optuna.report"),
        autoescape=True,
        undefined=StrictUndefined,
        finalize=_printable,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    found.filters |= {"plural": plural, "breakable": _breakable, "shortened": shortened}
    return found


def _printable(value: object) -> object:
    """Text without control characters, which a page must not contain, not even escaped."""
    if isinstance(value, Markup):
        return value
    return "" if value is None else printable(str(value))


_FROM_THE_RIGHT = re.compile(r"[\u0590-\u08ff\ufb1d-\ufefc](?: ?[^\x00-\x7f])*")


def _breakable(value: object) -> Markup:
    """A value whose lines break after the choices of an architecture rather than within words."""
    # What is written from the right stands alone, so that it moves no number beside it.
    isolated = _FROM_THE_RIGHT.sub(r"<bdi>\g<0></bdi>", str(escape(_printable(value))))
    return Markup(CHOICES.sub(",<wbr>", isolated))


def escaped(text: str, room: int = 200) -> str:
    """Text escaped for XML, without control characters, and shortened in its middle if it is too long."""
    return xml.escape(shortened(printable(text), room))


def attribute(text: str) -> str:
    """Text as the quoted value of an attribute."""
    return xml.quoteattr(printable(text))


def framed(name: str, label: str, width: float, height: float, style: str, parts: str) -> str:
    """One self-contained SVG element with a background; its style is for the CSS class `name`."""
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" class="{name}" role="img" aria-label={attribute(label)}'
        f' width="{width:.0f}" height="{height:.0f}" viewBox="0 0 {width:.0f} {height:.0f}">'
        f'<style>{style}</style><rect class="paper" width="100%" height="100%" rx="8"/>{parts}</svg>'
    )
