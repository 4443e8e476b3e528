"""Pages from the templates beside this file, in which all text is text: only what we have drawn is markup."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Any

from markupsafe import Markup

from nas_optuna.study.records import count

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
    found.filters["count"] = count
    return found


def _printable(value: object) -> object:
    """Text without control characters, which a page may not hold even where they are escaped."""
    if isinstance(value, Markup):
        return value
    return "" if value is None else "".join(c for c in str(value) if c.isprintable())


def duration(seconds: float) -> str:
    """``"8.1 s"``, ``"3 min 20 s"``, ``"2 h 5 min"``."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    return f"{whole // 60} min {whole % 60} s" if whole < 3600 else f"{whole // 3600} h {whole % 3600 // 60} min"
