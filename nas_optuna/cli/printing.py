"""Output of all commands: facts on stdout, as JSON or tables, and everything else on stderr."""

from __future__ import annotations

import os
import re
import sys
from codecs import lookup
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, redirect_stdout, suppress
from dataclasses import asdict, dataclass
from json import dumps
from pathlib import Path
from typing import Any, Literal, TextIO

from nas_optuna.errors import LONGEST_ERROR, SpecError, named, printable, shortened
from nas_optuna.files import is_database, write_file
from nas_optuna.lazily import lazily
from nas_optuna.masking import mask_stream, mask_urls
from nas_optuna.report.columns import Column as Column

with lazily():
    from rich.box import Box
    from rich.cells import cell_len
    from rich.console import Console, ConsoleOptions
    from rich.measure import Measurement
    from rich.table import Table

STDOUT = Path("-")  # the value of --out -

quiet = False
"""Whether only facts and errors are printed."""
_facts: TextIO | None = None  # the stream of facts while a command runs


def facts() -> TextIO:
    """The stream of facts: standard output, even while ``sys.stdout`` is redirected."""
    return _facts or sys.stdout


@contextmanager
def facts_apart() -> Iterator[None]:
    """Redirect what a user's code prints, e.g. a network's constructor, to stderr: stdout is for facts only."""
    global _facts
    before, _facts = _facts, facts()
    try:
        with redirect_stdout(sys.stderr):
            yield
    finally:
        _facts = before


def end_facts() -> None:
    """Send to stderr what others write while the process ends."""
    with suppress(OSError, ValueError):
        sys.stdout.flush()
    sys.stdout = sys.stderr


def print_error(message: str) -> None:
    """Print an error as one line on stderr, whatever a driver, a file name or a value puts into it."""
    print(f"error: {shortened(printable(message), LONGEST_ERROR)}", file=sys.stderr, flush=True)


def say(*messages: str) -> None:
    """Print remarks for a person on stderr, unless ``--quiet`` was given."""
    for message in () if quiet else messages:
        print("\n".join(map(printable, message.split("\n"))), file=sys.stderr, flush=True)


def say_next(steps: Sequence[tuple[str, str]]) -> None:
    """Print next commands, each with its purpose."""
    widest = max(len(command) for command, _ in steps)
    for i, (command, what) in enumerate(steps):
        say(f"{'      ' if i else 'next: '}{command:{widest}}  {what}")


def print_json(value: Any, out: Path = STDOUT) -> None:
    """Write indented JSON; passwords in URLs are masked.

    Numbers become null that are not finite, or have more digits than Python reads or writes.
    """
    text = dumps(_sayable(value), indent=2, ensure_ascii=_encoding() != "utf-8", allow_nan=False)
    escaped = re.sub("[\x7f-\x9f]", lambda found: f"\\u{ord(found[0]):04x}", text)  # which a terminal would obey
    write_out(out, f"{escaped}\n", ".json")


def write(text: str) -> None:
    """Print text unchanged, and at once: in a file that gets both streams, remarks stay below what they are about."""
    facts().write(text)
    facts().flush()


_ENDINGS = {".csv": "CSV", ".html": "HTML", ".json": "JSON", ".svg": "SVG"}
"""The formats that we write as text, by the end of a file's name."""
_ELSEWHERE = frozenset({".png", ".jpg", ".jpeg", ".gif", ".webp", ".pdf", ".xlsx", ".parquet", ".md"})
"""The ends of names of files that we do not write."""


def write_out(path: Path, text: str, ending: str) -> None:
    """Write a command's ``--out`` atomically, whose name must not end as that of another format; ``-`` is stdout."""
    if path == STDOUT:
        write(_in_encoding(text if text.endswith("\n") else text + "\n", ending))
        return
    if path.suffix.lower() in {*_ENDINGS, *_ELSEWHERE} - {ending}:
        raise SpecError(f"{named(path)} would hold {_ENDINGS[ending]}; give a file that ends in {ending} with --out")
    if path.is_dir():
        raise SpecError(f"{named(path)} is a folder; give a file with --out")
    try:
        write_file(path, text)
    except OSError as error:
        raise SpecError(f"cannot write {named(path)}: {error.strerror}; choose another --out") from error
    say(f"wrote {named(path)}")


def _encoding() -> str:
    """The encoding of facts, by Python's name for it."""
    return lookup(getattr(facts(), "encoding", None) or "utf-8").name


def _in_encoding(text: str, ending: str) -> str:
    """Text for stdout: in a page or a drawing, which name UTF-8 as theirs, another encoding gets references."""
    encoding = _encoding()
    if ending in (".html", ".svg") and encoding != "utf-8":
        return text.encode("ascii", "xmlcharrefreplace").decode()
    if text.encode(encoding, "ignore").decode(encoding) != text:
        say(f"? stands where {encoding} lacks a character; --out FILE keeps all")
    return text


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


_MOST_BITS = 14_000
"""An integer of more may have over 4,300 digits."""


def _sayable(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(k): _sayable(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_sayable(v) for v in value]
    if isinstance(value, str):
        return mask_urls(value)
    if isinstance(value, float) and (value != value or value in (float("inf"), float("-inf"))):
        return None
    if isinstance(value, int) and value.bit_length() > _MOST_BITS:
        return None
    return value if value is None or isinstance(value, int | float) else str(value)


UNLIMITED = 10_000
"""The width of a table in a file or pipe, where no cell is wrapped or shortened."""
_FOLDED = 24
"""The least width of a column whose text is wrapped; in a narrower line, columns that may be left out are."""


def print_table(title: str, columns: Sequence[str | Column], rows: Iterable[Any], *, json: bool = False) -> None:
    """Print a table, or its rows as JSON.

    A column given as text only can be wrapped; a cell of None is empty.
    """
    if json:
        print_json([row if isinstance(row, dict) else asdict(row) for row in rows])
        return
    described = [Column(column, wrap=True) if isinstance(column, str) else column for column in columns]
    cells = [
        [_text(row[i] if column.of is None else column.of(row)) for i, column in enumerate(described)] for row in rows
    ]
    # With a height as well, rich does not take a dumb terminal, such as that of Emacs, for one of 80 columns.
    console = Console(file=facts(), width=_width(), height=25, highlight=False, markup=False, emoji=False)
    kept = _that_fit(described, cells, console.width)
    if title:
        console.print(_text(title), style="bold", overflow="fold")
    table = Table(
        box=Box("    \n    \n ─  \n    \n    \n    \n    \n    ", ascii=True),  # or rich would take another for ASCII
        show_edge=False,
        pad_edge=False,
        padding=(0, 1, 0, 0),
        show_header=any(described[i].heading for i in kept),
        header_style="bold",
        border_style="dim",
    )
    for column in (described[i] for i in kept):
        folds = column.wrap or column.shortest is not None
        side: Literal["left", "right"] = "right" if column.right else "left"
        table.add_column(_text(column.heading), justify=side, no_wrap=not folds, overflow="fold")
    for row in cells:
        table.add_row(*(_cell(row[i], described[i]) for i in kept))
    with console.capture() as drawn:
        console.print(table)
    write("\n".join(line.rstrip() for line in drawn.get().split("\n")) + "\n")


def _width() -> int:
    """The columns that COLUMNS names or the terminal has; elsewhere no cell is wrapped or shortened."""
    given = os.environ.get("COLUMNS", "")
    if given.isdecimal() and 0 < int(given) < UNLIMITED:
        return int(given)
    try:
        return os.get_terminal_size(facts().fileno()).columns or 80
    except (OSError, ValueError):  # a file, a pipe, or what has no descriptor
        return 80 if facts().isatty() else UNLIMITED


@dataclass(frozen=True)
class _Fitted:
    """A cell whose text is made to fit the width of its column."""

    text: str
    fit: Callable[[str, int], str]

    def __rich_measure__(self, console: Console, options: ConsoleOptions) -> Measurement:
        return Measurement(1, max(1, cell_len(self.text)))

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> Iterator[str]:
        yield self.fit(self.text, options.max_width)


def _cell(text: str, column: Column) -> str | _Fitted:
    """A text as rich should show it."""
    if column.shortest is not None:
        return _Fitted(text, shortened)
    return text if " " in text or not column.wrap else _Fitted(text, _folded)


def _folded(text: str, width: int) -> str:
    """A long word such as an architecture, broken after commas."""
    lines = [""]
    for part in re.findall("[^,]+,?|,", text):
        if lines[-1] and len(lines[-1] + part) > width:
            lines.append("")
        lines[-1] += part
    return "\n".join(lines)


def _that_fit(columns: Sequence[Column], cells: Sequence[Sequence[str]], width: int) -> list[int]:
    """Which columns are shown in a line of so many characters; rich narrows those that remain."""
    natural = [
        max(cell_len(text) for text in [column.heading, *(row[i] for row in cells)]) for i, column in enumerate(columns)
    ]
    least = [
        min(full, _FOLDED if column.wrap else full if column.shortest is None else column.shortest)
        for column, full in zip(columns, natural, strict=True)
    ]
    kept = [i for i, column in enumerate(columns) if natural[i] and (not column.rank or any(row[i] for row in cells))]
    while sum(least[i] + 2 for i in kept) - 2 > width and any(columns[i].rank for i in kept):
        kept.remove(max(kept, key=lambda i: (columns[i].rank, i)))
    return kept


def print_facts(title: str, rows: Iterable[tuple[str, object]]) -> None:
    """Print a table of names and values, without headings."""
    print_table(title, ("", ""), rows)


def _text(cell: object) -> str:
    """A cell as it will be shown: in one line, without control characters."""
    return "" if cell is None else printable(str(cell))


def prepare_streams(*, alone: bool = False) -> None:
    """Make sure that printing never raises an encoding error or shows a password, and that all three streams exist.

    A closed stream is opened on the null device. Otherwise the next file that the process opens, maybe the database,
    would get its number, and a library's output to standard error would go into that file. In a process that is this
    command `alone`, only facts reach standard output.
    """
    for number, (name, mode) in enumerate({"stdin": "r", "stdout": "w", "stderr": "w"}.items()):
        try:
            os.set_blocking(number, True)  # a slow reader is waited for, whatever a process before this one has set
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # gets the lowest free number, which is this one
            os.set_inheritable(number, True)  # as streams are: workers would open a file with this number, too
        if getattr(sys, name) is None:
            setattr(sys, name, open(number, mode, encoding="utf-8", closefd=False))  # noqa: SIM115 - as above
    if alone:  # libraries in C and processes that a user's code starts know descriptor 1, which becomes that of stderr
        sys.stdout.flush()
        lines, encoding = 1 if sys.stdout.isatty() else -1, sys.stdout.encoding
        sys.stdout = open(os.dup(1), "w", lines, encoding=encoding)  # noqa: SIM115 - for the rest of the process
        os.dup2(2, 1)
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="replace")
        mask_stream(stream, forgives=stream is sys.stderr or stream.isatty())
