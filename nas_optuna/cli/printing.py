"""What every command prints: facts on stdout, as JSON or as tables, and everything else on stderr."""

from __future__ import annotations

import json
import os
import shutil
import sys
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TextIO

from nas_optuna.cli.streams import discard
from nas_optuna.cli.tables import print_facts as print_facts
from nas_optuna.cli.tables import print_table as print_table
from nas_optuna.errors import LONGEST_ERROR, SpecError, named, printable, shortened
from nas_optuna.files import write_file
from nas_optuna.masking import mask_urls
from nas_optuna.report.columns import Column as Column

STDOUT = Path("-")
"""What ``--out -`` names."""

_quiet = False


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


def say(message: str) -> None:
    """A remark for a person, on stderr, so that stdout stays a table or JSON; nothing where ``--quiet`` was given."""
    if not _quiet:
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
    encoding = (getattr(sys.stdout, "encoding", None) or "utf-8").lower().replace("-", "")
    text = json.dumps(_sayable(value), indent=2, ensure_ascii=encoding != "utf8", allow_nan=False)
    write(text + "\n")


def write(text: str) -> None:
    """Text on stdout as it is."""
    sys.stdout.write(text)


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
    if not sys.stderr.isatty():
        return 10_000
    try:
        return int(os.environ.get("COLUMNS") or os.get_terminal_size(sys.stderr.fileno()).columns)
    except (OSError, ValueError):
        return shutil.get_terminal_size().columns


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
