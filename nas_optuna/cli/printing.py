"""Output of all commands: facts on stdout, as JSON or tables, and everything else on stderr."""

from __future__ import annotations

import codecs
import errno
import os
import sys
import textwrap
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict
from json import dumps
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

from nas_optuna.errors import LONGEST_ERROR, SpecError, named, printable, shortened
from nas_optuna.files import is_database, write_file
from nas_optuna.masking import mask_urls
from nas_optuna.report.columns import Column as Column

if TYPE_CHECKING:
    from rich.console import Console

STDOUT = Path("-")  # the value of --out -

_quiet = False
_facts: TextIO | None = None  # the stream of facts while a command runs


def facts() -> TextIO:
    """The stream of facts: standard output, even while ``sys.stdout`` is redirected."""
    return _facts or sys.stdout


@contextmanager
def facts_apart() -> Iterator[None]:
    """Redirect what a user's code prints, e.g. a network's constructor, to stderr: stdout is for facts only."""
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
    try:
        type(sys.stderr).flush(sys.stderr)  # or Python would try it, and end with a status of its own
    except (OSError, ValueError):
        discard(sys.stderr)


def be_quiet(quiet: bool) -> None:
    """Turn `say` off or on."""
    global _quiet
    _quiet = quiet


def is_quiet() -> bool:
    """Whether only facts and errors are printed."""
    return _quiet


def print_error(message: str) -> None:
    """Print an error as one line on stderr, whatever a driver, a file name or a value puts into it."""
    _remark(f"error: {shortened(printable(message), LONGEST_ERROR)}")


def say(*messages: str) -> None:
    """Print remarks for a person on stderr, unless ``--quiet`` was given."""
    for message in () if _quiet else messages:
        _remark("\n".join(map(printable, message.split("\n"))))


def say_next(steps: Sequence[tuple[str, str]]) -> None:
    """Print next commands, each with its purpose: on the same line, or below it if the terminal is narrow."""
    widest = max(len(command) for command, _ in steps)
    beside = max(len(f"next: {command:{widest}}  {what}") for command, what in steps) <= _width()
    for i, (command, what) in enumerate(steps):
        say(f"{'      ' if i else 'next: '}{command:{widest if beside else 0}}" + (f"  {what}" if beside else ""))
        if not beside:
            say(f"          {what}")


def print_json(value: Any, out: Path = STDOUT) -> None:
    """Write indented JSON; numbers that are not finite become null, and passwords in URLs are masked."""
    encoding = (getattr(facts(), "encoding", None) or "utf-8").lower().replace("-", "")
    write_out(out, dumps(_sayable(value), indent=2, ensure_ascii=encoding != "utf8", allow_nan=False) + "\n")


def write(text: str) -> None:
    """Print text unchanged."""
    facts().write(text)


def write_out(path: Path, text: str) -> None:
    """Write a command's ``--out`` atomically; ``-`` is stdout."""
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
    """Refuse ``--out -`` if the output is not text."""
    if path == STDOUT:
        raise SpecError("--out - would write to the terminal what is no text; name a file or a folder")


def require_writable(path: Path) -> None:
    """Refuse an ``--out`` that cannot be written, before long work begins."""
    refuse_stdout(path)
    if not path.absolute().parent.is_dir():
        raise SpecError(f"directory {path.parent} does not exist; make it, or choose another --out")
    if not os.access(path if path.exists() else path.parent, os.W_OK):
        raise SpecError(f"cannot write {path}: you may not; choose another --out")
    if is_database(path):
        raise SpecError(f"cannot write {path}: a database is not overwritten; choose another --out")


def _remark(line: str) -> None:
    """Print a line on stderr."""
    # A command stays on one line, so that it can be copied.
    if len(line) > _width() and "nas-optuna " not in line and "\n" not in line:
        line = textwrap.fill(line, _width(), break_long_words=False, break_on_hyphens=False)
    print(line, file=sys.stderr, flush=True)


def _width() -> int:
    """The width of stderr in characters; nothing is wrapped if it is not a terminal."""
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
    return value if value is None or isinstance(value, int | float) else str(value)


UNLIMITED = 10_000
"""The width of a table in a file or pipe, where no cell is wrapped or shortened."""
_GAP = 2
_FOLDED = 24
"""The least width of a column whose text is wrapped."""
_NARROWEST = 8
"""The width to which a cell is shortened as the last resort."""


def print_table(title: str, columns: Sequence[str | Column], rows: Iterable[Any], *, json: bool = False) -> None:
    """Print a table, or its rows as JSON.

    A column given as text only can be wrapped; a cell of None is empty.
    """
    if json:
        print_json([row if isinstance(row, dict) else asdict(row) for row in rows])
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
    console.width += _GAP  # rich counts a gap after the last column, but does not print it
    with console.capture() as drawn:
        console.print(table)
    facts().write("\n".join(line.rstrip() for line in drawn.get().split("\n")) + "\n")


def print_facts(title: str, rows: Iterable[tuple[str, object]]) -> None:
    """Print a table of names and values, without headings."""
    print_table(title, ("", ""), rows)


def fit(columns: Sequence[Column], rows: Sequence[Sequence[str]], width: int) -> list[int]:
    """The width of each column for a line of so many characters; 0 leaves it out."""
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
    """Narrow the widest columns until the line fits, or none can become narrower."""
    while (excess := _total(widths, kept) - width) > 0:
        flexible = [i for i in kept if widths[i] > least[i]]
        if not flexible:
            return
        widest = max(flexible, key=lambda i: widths[i])
        widths[widest] = max(least[widest], widths[widest] - max(1, excess // len(flexible)))


def panel(title: str, lines: Sequence[str]) -> None:
    """Print lines in a frame; a long line is wrapped."""
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
    """A cell as it will be shown: in the encoding of stdout, without control characters."""
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
"""Our special characters in ASCII."""
_HANDLER = "nas_optuna.plain"


def prepare_streams() -> None:
    """Make sure that printing never raises an encoding error or shows a password, and that all three streams exist.

    Nor does anything that is written to stderr or to a terminal end a run: a reader may be gone, a disk full.
    A closed stream is opened on the null device. Otherwise the next file that the process opens, maybe the database,
    would get its number, and a library's output to standard error would go into that file.
    """
    codecs.register_error(_HANDLER, _replaced)
    for number, mode in ((0, os.O_RDONLY), (1, os.O_WRONLY), (2, os.O_WRONLY)):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, mode)  # gets the lowest free number, which is this one
        with suppress(OSError):  # a slow reader is waited for, whatever a process before this one has set
            os.set_blocking(number, True)
    sys.stdin = sys.stdin or open(0, encoding="utf-8", closefd=False)  # noqa: SIM115 - for the rest of the process
    sys.stdout = sys.stdout or open(1, "w", encoding="utf-8", closefd=False)  # noqa: SIM115
    sys.stderr = sys.stderr or open(2, "w", encoding="utf-8", closefd=False)  # noqa: SIM115
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors=_HANDLER)
        _mask(stream)


_PASSING = (errno.EAGAIN, errno.ENOSPC, errno.EDQUOT)
"""Errors of a stream that may take the next line: a reader was slow, a disk is full now."""


def _mask(stream: TextIO) -> None:
    """Mask passwords of URLs in everything that is written: a library's warning or a traceback may repeat one."""
    write, flush = stream.write, stream.flush
    if getattr(write, "masks", False):
        return
    forgiven: tuple[type[OSError], ...] = (OSError,) if stream is sys.stderr or stream.isatty() else ()

    def forgiving(step: Callable[..., object], *given: str) -> None:
        try:
            step(*given)
        except forgiven as error:
            if error.errno not in _PASSING:
                discard(stream)

    def masked(text: str) -> int:
        forgiving(write, mask_urls(text))
        return len(text)

    def flushed() -> None:
        forgiving(flush)

    masked.masks = True  # type: ignore[attr-defined]
    stream.write, stream.flush = masked, flushed  # type: ignore[method-assign]


def plain(text: str, stream: TextIO) -> str:
    """The text as `stream` will show it, with replacements for characters that its encoding lacks."""
    encoding = getattr(stream, "encoding", None) or "utf-8"
    try:
        text.encode(encoding)
    except UnicodeEncodeError:
        codecs.register_error(_HANDLER, _replaced)
        return text.encode(encoding, _HANDLER).decode(encoding)
    return text


def discard(stream: TextIO) -> None:
    """Discard what is still in the buffer, because the reader is gone or the disk is full."""
    with suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def _replaced(error: UnicodeError) -> tuple[str, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    wrong = error.object[error.start : error.end]
    return "".join(_PLAIN.get(c) or c.encode("ascii", "backslashreplace").decode("ascii") for c in wrong), error.end
