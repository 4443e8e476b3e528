"""What every command prints: facts on stdout, as JSON or as tables, and everything else on stderr."""

from __future__ import annotations

import codecs
import os
import sys
import textwrap
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from json import dumps
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

from nas_optuna.errors import LONGEST_ERROR, SpecError, named, printable, shortened
from nas_optuna.files import write_file
from nas_optuna.masking import mask_urls
from nas_optuna.report.columns import Column as Column

if TYPE_CHECKING:
    from rich.console import Console

STDOUT = Path("-")
"""What ``--out -`` names."""

_quiet = False
_facts: TextIO | None = None
"""Where a command prints its facts while it runs."""


def facts() -> TextIO:
    """The stream of facts: standard output, whatever ``sys.stdout`` is meanwhile."""
    return _facts or sys.stdout


@contextmanager
def facts_apart() -> Iterator[None]:
    """Send to stderr what code of the user's writes, such as the constructor of a network: stdout holds facts alone."""
    global _facts
    before, stdout = _facts, sys.stdout
    with _beside_descriptor_1(facts()) as stream:
        _facts, sys.stdout = stream, sys.stderr
        try:
            yield
        finally:
            _facts, sys.stdout = before, stdout


@contextmanager
def _beside_descriptor_1(stream: TextIO) -> Iterator[TextIO]:
    """A stream that ends where this one does, while whoever writes to descriptor 1 writes to stderr.

    Libraries in C and processes that a user's code starts know the descriptor alone.
    """
    try:
        is_descriptor_1 = stream.fileno() == 1
    except (OSError, ValueError, AttributeError):  # it is in memory
        is_descriptor_1 = False
    if not is_descriptor_1:
        yield stream
        return
    stream.flush()
    kept = os.dup(1)
    os.dup2(2, 1)
    try:
        lines = 1 if stream.isatty() else -1
        with open(os.dup(kept), "w", lines, encoding=stream.encoding, errors=stream.errors) as apart:
            _mask(apart)
            yield apart
    finally:
        with suppress(OSError, ValueError):  # what others wrote to it
            stream.flush()
        os.dup2(kept, 1)
        os.close(kept)


def end_facts() -> None:
    """Send to stderr what others write while the process ends."""
    with suppress(OSError, ValueError):
        sys.stdout.flush()
        os.dup2(2, 1)


def be_quiet(quiet: bool) -> None:
    """Whether `say` prints nothing from now on."""
    global _quiet
    _quiet = quiet


def is_quiet() -> bool:
    """Whether only facts and errors are printed."""
    return _quiet


def print_error(message: str) -> None:
    """One line on stderr, whatever a driver, a file name or a value put into the message."""
    _remark(f"error: {shortened(printable(message), LONGEST_ERROR)}")


def say(*messages: str) -> None:
    """Remarks for a person, on stderr, so that stdout stays a table or JSON; nothing if ``--quiet`` was given."""
    for message in () if _quiet else messages:
        _remark("\n".join(map(printable, message.split("\n"))))


def say_next(steps: Sequence[tuple[str, str]]) -> None:
    """Commands to type next, each with what it is for: beside it, or below it where the terminal is too narrow."""
    widest = max(len(command) for command, _ in steps)
    beside = max(len(f"next: {command:{widest}}  {what}") for command, what in steps) <= _width()
    for i, (command, what) in enumerate(steps):
        say(f"{'      ' if i else 'next: '}{command:{widest if beside else 0}}" + (f"  {what}" if beside else ""))
        if not beside:
            say(f"          {what}")


def print_json(value: Any) -> None:
    """Indented JSON on stdout; a number that is not finite becomes null, and passwords of URLs are replaced."""
    encoding = (getattr(facts(), "encoding", None) or "utf-8").lower().replace("-", "")
    text = dumps(_sayable(value), indent=2, ensure_ascii=encoding != "utf8", allow_nan=False)
    write(text + "\n")


def write(text: str) -> None:
    """Text on stdout as it is."""
    facts().write(text)


def write_out(path: Path, text: str) -> None:
    """Write what a command's ``--out`` asks for, whole or not at all; ``-`` is stdout."""
    if path == STDOUT:
        write(text if text.endswith("\n") else text + "\n")
        return
    if path.is_dir():
        raise SpecError(f"{named(path)} is a folder; give a file with --out")
    try:
        write_file(path, text)
    except OSError as error:
        raise SpecError(f"cannot write {named(path)}: {error.strerror}; choose another --out") from error
    say(f"wrote {named(path)}")


def refuse_stdout(path: Path | None) -> None:
    """Refuse ``--out -`` where what is written is no text."""
    if path == STDOUT:
        raise SpecError("--out - would write to the terminal what is no text; name a file or a folder")


def require_writable(path: Path) -> None:
    """Refuse an ``--out`` that cannot be written, before anything long begins."""
    refuse_stdout(path)
    if not path.absolute().parent.is_dir():
        raise SpecError(f"directory {path.parent} does not exist; make it, or choose another --out")
    if not os.access(path if path.exists() else path.parent, os.W_OK):
        raise SpecError(f"cannot write {path}: you may not; choose another --out")


def _remark(line: str) -> None:
    """A line on stderr. Where nobody reads it any more, a run goes on all the same."""
    stream: TextIO = sys.stderr
    # A command stays in one line, so that it can be copied.
    if len(line) > _width() and "nas-optuna " not in line and "\n" not in line:
        line = textwrap.fill(line, _width(), break_long_words=False, break_on_hyphens=False)
    try:
        print(line, file=stream, flush=True)
    except BrokenPipeError:
        discard(stream)


def _width() -> int:
    """Characters of a line on stderr; where that is no terminal, nothing is folded."""
    return _columns(sys.stderr) if sys.stderr.isatty() else UNLIMITED


def _columns(stream: TextIO) -> int:
    """Columns of the terminal in which a stream ends, unless the user names another number."""
    with suppress(ValueError):
        if (wanted := int(os.environ.get("COLUMNS", "0"))) > 0:
            return wanted
    with suppress(OSError, ValueError):
        if found := os.get_terminal_size(stream.fileno()).columns:
            return found
    return 80


def _sayable(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(k): _sayable(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_sayable(v) for v in value]
    if isinstance(value, str):
        return mask_urls(value)
    if isinstance(value, float) and (value != value or value in (float("inf"), float("-inf"))):
        return None
    return value


UNLIMITED = 10_000
"""Columns of a table that goes to a file or pipe, so that no cell is folded or shortened."""
_GAP = 2
_FOLDED = 24
"""The least width of a column whose text is folded."""
_NARROWEST = 8
"""The width to which a cell is shortened where nothing else is left to leave out."""


def print_table(title: str, columns: Sequence[str | Column], rows: Iterable[Any], *, json: bool = False) -> None:
    """A table on stdout, or a list of its rows in JSON.

    A heading without more can be folded; a cell that is None is left empty.
    """
    if json:
        print_json([row if isinstance(row, dict) else row.to_dict() for row in rows])
        return
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
        line = plain("─", facts())
        table.add_row(*(Text(line * width, style="dim") for _, _, width in shown))
    for row in cells:
        table.add_row(*(Text(_cell(column, row[i], width)) for i, column, width in shown))
    console.width += _GAP  # rich reckons with a gap after the last column, and prints none
    with console.capture() as drawn:
        console.print(table)
    facts().write("\n".join(line.rstrip() for line in drawn.get().split("\n")) + "\n")


def print_facts(title: str, rows: Iterable[tuple[str, object]]) -> None:
    """A table of names and values on stdout, without headings."""
    print_table(title, ("", ""), rows)


def fit(columns: Sequence[Column], rows: Sequence[Sequence[str]], width: int) -> list[int]:
    """How wide each column is printed, with so many characters a line; 0 if it is left out."""
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
    return "\n".join(plain(printable(line), facts()) for line in ("" if cell is None else str(cell)).split("\n"))


def _cell(column: Column, text: str, width: int) -> str:
    return text if column.shortest is None else shortened(text, width, plain("…", facts()))


def _console() -> Console:
    from rich.console import Console

    width = _columns(facts()) if facts().isatty() or "COLUMNS" in os.environ else UNLIMITED
    return Console(file=facts(), width=width, highlight=False, markup=False, emoji=False)


_PLAIN = {
    **dict.fromkeys("·–—−─━", "-"),
    **{"…": "...", "×": "x", "±": "+/-", "→": "->", "≤": "<=", "≥": ">=", "≈": "~", "²": "^2", "│": "|", "•": "*"},
    **{"α": "alpha", "λ": "lambda", "ρ": "rho", "τ": "tau", "µ": "u"},
}
"""Our signs, written with what every encoding has."""
_HANDLER = "nas_optuna.plain"


def prepare_streams() -> None:
    """Make the standard streams such that printing to them never raises an encoding error nor shows a password.

    All three exist afterwards.

    A closed one is opened on the null device. Otherwise the next file that the process opens, which may be the
    database, would take its number, and whatever a library writes to standard error would go into it.
    """
    codecs.register_error(_HANDLER, _replaced)
    for number, mode in ((0, os.O_RDONLY), (1, os.O_WRONLY), (2, os.O_WRONLY)):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, mode)  # takes the lowest free number, which is this one
    sys.stdin = sys.stdin or open(0, encoding="utf-8", closefd=False)  # noqa: SIM115 - for the rest of the process
    sys.stdout = sys.stdout or open(1, "w", encoding="utf-8", closefd=False)  # noqa: SIM115
    sys.stderr = sys.stderr or open(2, "w", encoding="utf-8", closefd=False)  # noqa: SIM115
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors=_HANDLER)
        _mask(stream)


def _mask(stream: TextIO) -> None:
    """Let no password of a URL be written, whoever writes: a library's warning or a traceback may repeat one."""
    write = stream.write
    if getattr(write, "masks", False):
        return

    def masked(text: str) -> int:
        write(mask_urls(text))
        return len(text)

    masked.masks = True  # type: ignore[attr-defined]
    stream.write = masked  # type: ignore[method-assign]


def plain(text: str, stream: TextIO) -> str:
    """The text as `stream` will show it, so that widths are right: other signs for those that its encoding lacks."""
    encoding = getattr(stream, "encoding", None) or "utf-8"
    try:
        text.encode(encoding)
    except UnicodeEncodeError:
        codecs.register_error(_HANDLER, _replaced)
        return text.encode(encoding, _HANDLER).decode(encoding)
    return text


def discard(stream: TextIO) -> None:
    """Let nobody write what is still in the buffer: the reader is gone, or the disk is full."""
    with suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def _replaced(error: UnicodeError) -> tuple[str, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    wrong = error.object[error.start : error.end]
    return "".join(_PLAIN.get(c) or c.encode("ascii", "backslashreplace").decode("ascii") for c in wrong), error.end
