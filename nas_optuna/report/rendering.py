"""Pages from the templates beside this file, in which all text is text: only what we have drawn is markup."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Any

from markupsafe import Markup

from nas_optuna.errors import printable
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
