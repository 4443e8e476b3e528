"""Users' text inside our Markdown: shown literally, never as markup."""

from __future__ import annotations

import re
from collections.abc import Sequence

from nas_optuna.errors import printable

CHOICES = re.compile(r",(?=[^\s,=]+=)")
"""The comma before each choice of an architecture."""
_SPECIAL = re.compile(r"([\\`*_{}\[\]<>|#!~$&])")


def plain(text: object) -> str:
    r"""Text on one line with Markdown's special characters escaped.

    Examples:
        >>> print(plain("a|b *c*"))
        a\|b \*c\*
    """
    return _SPECIAL.sub(r"\\\1", _one_line(text))


def breakable(text: object) -> str:
    """`plain` text whose lines may break after the choices of an architecture, which can still be parsed."""
    return CHOICES.sub(", ", plain(text))


def code(text: object, *, in_table: bool = False) -> str:
    """Text as a code span; in a table ``|`` is escaped, which would end the cell."""
    shown = _one_line(text) or " "
    fence = "`" * (1 + max(map(len, re.findall("`+", shown)), default=0))
    if shown[0] == "`" or shown[-1] == "`":
        shown = f" {shown} "
    shown = shown.replace("|", r"\|") if in_table else shown
    return f"{fence}{shown}{fence}"


def table(headings: Sequence[object], rows: Sequence[Sequence[object]], gap: str = "") -> str:
    """A table of plain text."""
    lines = ["| " + f"{gap} | ".join(map(breakable, cells)) + " |" for cells in (headings, *rows)]
    return "\n".join([lines[0], "|:--" * len(headings) + "|", *lines[1:]])


def _one_line(text: object) -> str:
    """Text without line breaks, control characters and characters that UTF-8 cannot encode; of None, none."""
    text = "" if text is None else str(text)
    return printable(" ".join(text.encode("utf-8", "backslashreplace").decode("utf-8").split()))
