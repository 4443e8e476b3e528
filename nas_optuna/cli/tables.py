"""Tables that choose their columns by the width of the terminal. Text of users is never markup."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from nas_optuna.cli.streams import plain
from nas_optuna.errors import printable, shortened
from nas_optuna.report.columns import Column

if TYPE_CHECKING:
    from rich.console import Console

UNLIMITED = 10_000
"""Columns of a table that goes to a file or pipe, so that no cell is folded or shortened."""
_GAP = 2
_FOLDED = 24
"""The least width of a column whose text is folded."""
_NARROWEST = 8
"""The width to which a cell is shortened where nothing else is left to leave out."""


def print_table(title: str, columns: Sequence[str | Column], rows: Iterable[Any]) -> None:
    """A table on stdout. A heading without more can be folded; a cell that is None is left empty."""
    from rich.table import Table
    from rich.text import Text

    described = [Column(column, wrap=True) if isinstance(column, str) else column for column in columns]
    cells = [
        [_text(row[i] if column.of is None else column.of(row)) for i, column in enumerate(described)] for row in rows
    ]
    console = _console()
    widths = fit(described, cells, console.width)
    shown = [(i, column, width) for i, (column, width) in enumerate(zip(described, widths, strict=True)) if width]
    if title:
        console.print(Text(_text(title), style="bold", overflow="fold"))
    table = Table(box=None, padding=(0, _GAP, 0, 0), pad_edge=False, show_header=any(c.heading for _, c, _ in shown))
    for _, column, width in shown:
        table.add_column(
            Text(_text(column.heading), style="bold"),
            justify="right" if column.right else "left",
            width=width,
            overflow="fold",
            no_wrap=not column.wrap,
        )
    if table.show_header and cells:
        line = plain("─", sys.stdout)
        table.add_row(*(Text(line * width, style="dim") for _, _, width in shown))
    for row in cells:
        table.add_row(*(Text(_cell(column, row[i], width)) for i, column, width in shown))
    console.width += _GAP  # rich reckons with a gap after the last column, and prints none
    with console.capture() as drawn:
        console.print(table)
    sys.stdout.write("\n".join(line.rstrip() for line in drawn.get().split("\n")) + "\n")


def print_facts(title: str, facts: Iterable[tuple[str, object]]) -> None:
    """A table of names and values on stdout, without headings."""
    print_table(title, ("", ""), facts)


def fit(columns: Sequence[Column], rows: Sequence[Sequence[str]], width: int) -> list[int]:
    """How wide each column is printed, with so many characters a line; 0 where it is left out."""
    from rich.cells import cell_len

    natural = [
        max([cell_len(column.heading), *(max(map(cell_len, row[i].split("\n"))) for row in rows)])
        for i, column in enumerate(columns)
    ]
    least = [
        min(full, _FOLDED if column.wrap else full if column.shortest is None else column.shortest)
        for column, full in zip(columns, natural, strict=True)
    ]
    kept = [i for i, column in enumerate(columns) if natural[i] and (not column.rank or any(row[i] for row in rows))]
    while _total(least, kept) > width and any(columns[i].rank for i in kept):
        kept.remove(max(kept, key=lambda i: (columns[i].rank, i)))
    widths = [natural[i] if i in kept else 0 for i in range(len(columns))]
    _narrow(widths, least, kept, width)
    flexible = [column.wrap or column.shortest is not None for column in columns]
    _narrow(widths, [min(w, _NARROWEST) if f else w for w, f in zip(least, flexible, strict=True)], kept, width)
    return widths


def _narrow(widths: list[int], least: Sequence[int], kept: Sequence[int], width: int) -> None:
    """Take from the widest columns until the line fits, or no column can give more."""
    while (excess := _total(widths, kept) - width) > 0:
        flexible = [i for i in kept if widths[i] > least[i]]
        if not flexible:
            return
        widest = max(flexible, key=lambda i: widths[i])
        widths[widest] = max(least[widest], widths[widest] - max(1, excess // len(flexible)))


def panel(title: str, lines: Sequence[str]) -> None:
    """Lines in a frame on stdout; a line that is too long is folded."""
    from rich.panel import Panel
    from rich.text import Text

    console = _console()
    body = Text("\n".join(map(_text, lines)), overflow="fold")
    if console.width == UNLIMITED:
        console.print(Text(_text(title)), body, sep="\n")
    else:
        console.print(Panel(body, title=Text(_text(title), style="bold"), title_align="left", expand=False))


def _total(widths: Sequence[int], kept: Sequence[int]) -> int:
    return sum(widths[i] for i in kept) + _GAP * (len(kept) - 1)


def _text(cell: object) -> str:
    """A cell as it will be shown: in the encoding of stdout, without what a terminal would obey."""
    return "\n".join(plain(printable(line), sys.stdout) for line in ("" if cell is None else str(cell)).split("\n"))


def _cell(column: Column, text: str, width: int) -> str:
    return text if column.shortest is None else shortened(text, width, plain("…", sys.stdout))


def _console() -> Console:
    from rich.console import Console

    if sys.stdout.isatty() or "COLUMNS" in os.environ:
        return Console(width=shutil.get_terminal_size().columns, highlight=False, markup=False, emoji=False)
    return Console(width=UNLIMITED, highlight=False, markup=False, emoji=False)
