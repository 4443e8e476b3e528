"""Columns of tables, for terminals and for pages."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Column:
    """A column of a table; `of` gives its cell in a row. Without it, rows are sequences of cells."""

    heading: str
    of: Callable[[Any], object] | None = None
    right: bool = False
    shortest: int | None = None  # the width to which its cells may be shortened before other columns are left out
    wrap: bool = False  # whether its text may be folded over several lines
    rank: int = 0  # 0 always stays; others are left out if empty, or, the highest first, if the terminal is too narrow


def filled(columns: Sequence[Column], rows: Sequence[Any]) -> dict[str, Any]:
    """A table for a template, without empty columns that may be left out, as on a terminal."""
    cells = {column: [column.of(row) if column.of else None for row in rows] for column in columns}
    kept = [column for column in columns if not column.rank or any(cells[column])]
    return {
        "columns": [column.heading for column in kept],
        "rows": list(zip(*(cells[column] for column in kept), strict=True)),
        "numbers": [place for place, column in enumerate(kept) if column.right],
    }
