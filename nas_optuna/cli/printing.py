"""What every command prints with: tables and JSON on stdout, everything else on stderr."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Sequence
from typing import Any

PIPE_WIDTH = 200
"""Columns of a table that goes to a file or pipe, so that no row is folded."""


def print_error(message: str) -> None:
    """One line on stderr, whatever line breaks a driver or a file name put into the message."""
    print("error:", " ".join(message.splitlines()), file=sys.stderr)


def say(message: str) -> None:
    """A remark for a person, on stderr, so that stdout stays a table or JSON."""
    print(message, file=sys.stderr)


def print_json(value: Any) -> None:
    """Indented JSON on stdout; a number that is not finite becomes null."""
    print(json.dumps(_finite(value), indent=2, ensure_ascii=False, allow_nan=False))


def print_table(
    title: str, columns: Sequence[str], rows: Iterable[Sequence[object]], right: Iterable[int] = ()
) -> None:
    """A table on stdout.

    Args:
        title: Stands above it.
        columns: Headings.
        rows: One cell a column; None is left empty.
        right: Indices of columns to align right.
    """
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(title=title, box=box.SIMPLE_HEAD, title_justify="left", title_style="bold")
    aligned = set(right)
    for i, column in enumerate(columns):
        table.add_column(column, justify="right" if i in aligned else "left", overflow="fold")
    for row in rows:
        table.add_row(*(Text("" if cell is None else str(cell)) for cell in row))
    console = Console(width=None if sys.stdout.isatty() else PIPE_WIDTH)
    console.print(table)


def count(number: float | None) -> str | None:
    """A count in three digits and a suffix: 1.23M; None stays None."""
    if number is None:
        return None
    for size, suffix in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(number) >= size:
            return f"{number / size:.3g}{suffix}"
    return f"{number:g}"


def seconds(value: float) -> str:
    """A duration that a person can read: 8.1 s, 3 min 20 s, 2 h 05 min."""
    if value < 60:
        return f"{value:.1f} s"
    whole = round(value)
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(k): _finite(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(v) for v in value]
    if isinstance(value, float) and (value != value or value in (float("inf"), float("-inf"))):
        return None
    return value
