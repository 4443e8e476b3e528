"""Text of users inside Markdown that we write: shown as it is, and never markup."""

from __future__ import annotations

import re
from collections.abc import Sequence

from nas_optuna.errors import printable

_SPECIAL = re.compile(r"([\\`*_{}\[\]<>|#!~$&])")


def plain(text: object) -> str:
    r"""Text on one line without what Markdown would take for markup.

    Examples:
        >>> print(plain("a|b *c*"))
        a\|b \*c\*
    """
    return _SPECIAL.sub(r"\\\1", _one_line(text))


def code(text: object, *, in_table: bool = False) -> str:
    """Text as a code span; in a table ``|`` would end its cell even there."""
    shown = _one_line(text) or " "
    fence = "`" * (1 + max(map(len, re.findall("`+", shown)), default=0))
    if shown[0] == "`" or shown[-1] == "`":
        shown = f" {shown} "
    shown = shown.replace("|", r"\|") if in_table else shown
    return f"{fence}{shown}{fence}"


def table(headings: Sequence[object], rows: Sequence[Sequence[object]], gap: str = "") -> str:
    """A table of plain text."""
    lines = ["| " + f"{gap} | ".join(map(plain, cells)) + " |" for cells in (headings, *rows)]
    return "\n".join([lines[0], "|:--" * len(headings) + "|", *lines[1:]])


def _one_line(text: object) -> str:
    """Without line breaks, what no file in UTF-8 can hold, and what a terminal or a page would obey."""
    return printable(" ".join(str(text).encode("utf-8", "backslashreplace").decode("utf-8").split()))
