"""Reading a text file as any editor may have written it."""

from __future__ import annotations

import codecs
from pathlib import Path

LIMIT = 64 * 2**20
"""Bytes of the largest file that is read as text."""

_MARKS = (
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF32_LE, "utf-32"),  # before UTF-16, whose mark it begins with
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)


def read_text(path: Path) -> str:
    r"""The text of a file in UTF-8, or in UTF-16 or UTF-32 with a byte order mark, as Windows tools write them."""
    if "\0" in str(path):
        raise ValueError("a file name holds no NUL character")
    with path.open("rb") as file:
        content = file.read(LIMIT + 1)
    if len(content) > LIMIT:
        raise ValueError(f"it is larger than {LIMIT // 2**20} MiB")
    encoding = next((name for mark, name in _MARKS if content.startswith(mark)), "utf-8")
    try:
        text = content.decode(encoding)
    except UnicodeDecodeError:
        raise ValueError("it is not text in UTF-8; save it in this encoding") from None
    return text.replace("\r\n", "\n").replace("\r", "\n")
