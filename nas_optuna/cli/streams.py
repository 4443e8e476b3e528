"""The standard streams as a terminal, a pipe or a scheduler gives them: closed, of any encoding, or with no reader."""

from __future__ import annotations

import codecs
import os
import sys
from contextlib import suppress
from typing import TextIO

from nas_optuna.masking import mask_urls

_PLAIN = {
    "…": "...",
    "×": "x",
    "±": "+/-",
    "·": "-",
    "–": "-",
    "—": "-",
    "−": "-",
    "→": "->",
    "≤": "<=",
    "≥": ">=",
    "≈": "~",
    "²": "^2",
    "α": "alpha",
    "λ": "lambda",
    "ρ": "rho",
    "τ": "tau",
    "µ": "u",
    "─": "-",
    "━": "-",
    "│": "|",
    "•": "*",
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
