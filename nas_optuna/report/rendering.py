"""Pages from the templates beside this file, and what pictures share: all text is text, and only ours is markup."""

from __future__ import annotations

import xml.sax.saxutils as xml
from functools import cache
from typing import TYPE_CHECKING, Any

from markupsafe import Markup

from nas_optuna.errors import printable, shortened
from nas_optuna.quantities import plural

if TYPE_CHECKING:
    import jinja2


def render(template: str, **values: Any) -> str:
    """A page of a template; a value is escaped unless it is a `Markup`."""
    return _environment().get_template(template).render(values)


@cache
def _environment() -> jinja2.Environment:
    import jinja2

    found = jinja2.Environment(
        loader=jinja2.PackageLoader("nas_optuna.report"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        finalize=_printable,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    found.filters["plural"] = plural
    return found


def _printable(value: object) -> object:
    """Text without control characters, which a page may not hold even where they are escaped."""
    if isinstance(value, Markup):
        return value
    return "" if value is None else printable(str(value))


def escaped(text: str, room: int = 200) -> str:
    """Text that is no markup, shortened in its middle where it is too long."""
    return xml.escape(shortened(printable(text), room))  # XML refuses control characters even where they are escaped


def attribute(text: str) -> str:
    """Text as the quoted value of an attribute."""
    return xml.quoteattr(printable(text))


def framed(name: str, label: str, width: float, height: float, style: str, parts: str) -> str:
    """One self-contained SVG element on a sheet of paper; its style is for the CSS class `name`."""
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" class="{name}" role="img" aria-label={attribute(label)}'
        f' width="{width:.0f}" height="{height:.0f}" viewBox="0 0 {width:.0f} {height:.0f}">'
        f'<style>{style}</style><rect class="paper" width="100%" height="100%" rx="8"/>{parts}</svg>'
    )
