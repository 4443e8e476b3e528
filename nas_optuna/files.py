"""Files: written so that nobody ever meets half of one, and text read as any editor may have written it."""

from __future__ import annotations

import codecs
import os
import secrets
import shutil
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

LIMIT = 64 * 2**20
"""Bytes of the largest file that is read as text."""

_PARTIAL = ".nas-optuna-part-"
"""What the name of everything that is not yet whole begins with."""
_LOCK = "lock"

_MARKS = (
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF32_LE, "utf-32"),  # before UTF-16, whose mark it begins with
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)


@contextmanager
def replacing(path: Path, mode: int = 0o666) -> Iterator[Path]:
    """Give a new, empty file that takes a path's name at the end of the block."""
    # Where the block raises, or the disk is full, the new file is removed and what the path named before stays whole.
    target = path.resolve() if path.is_symlink() else path
    if target.exists() and not target.is_file():
        yield target
        return
    _remove_abandoned(target.parent)
    partial = target.with_name(f"{_PARTIAL}{os.getpid()}-{secrets.token_hex(4)}{target.suffix[:16]}")
    with _locked(partial, mode):
        try:
            with suppress(FileNotFoundError):
                partial.chmod(target.stat().st_mode & 0o7777)
            yield partial
            flush(partial)  # else a power cut may keep the new name and lose the content
            partial.replace(target)
        except BaseException:
            with suppress(OSError):
                partial.unlink()
            raise


@contextmanager
def scratch_folder(parent: Path) -> Iterator[Path]:
    """A folder inside another that is removed at the end; those of processes that were killed are removed first."""
    _remove_abandoned(parent)
    with tempfile.TemporaryDirectory(prefix=_PARTIAL, dir=parent) as name, _locked(Path(name) / _LOCK, 0o600):
        yield Path(name)


@contextmanager
def _locked(path: Path, mode: int) -> Iterator[None]:
    """Make a file and hold a lock on it, which the kernel gives up with the process, however that ends."""
    unseen = path.with_name(f".new{path.name}")  # by whoever looks for files without a lock
    with open(os.open(unseen, os.O_CREAT | os.O_EXCL | os.O_WRONLY, mode), "wb") as file:
        if not _lock(file):
            file.close()  # Windows has no such locks, and renames no open file
        unseen.rename(path)
        yield


def _lock(file: IO[bytes]) -> bool:
    """Lock a file, where nobody else holds it and the system has such locks."""
    try:
        import fcntl
    except ImportError:
        return False
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True


def _remove_abandoned(folder: Path) -> None:
    """Remove what killed processes have left half-made in a folder: nobody holds its lock."""
    for left in folder.glob(f"{_PARTIAL}*"):
        with suppress(OSError):  # somebody else's, or whole meanwhile
            lock = left / _LOCK if left.is_dir() else left
            with lock.open("rb") as file:
                if _lock(file):
                    shutil.rmtree(left) if left.is_dir() else left.unlink()


def write_file(path: Path, content: str | bytes, mode: int = 0o666) -> None:
    """Write a file whole or not at all (then what was there is still there); text is written in UTF-8."""
    with replacing(path, mode) as partial:
        partial.write_bytes(content.encode() if isinstance(content, str) else content)


def flush(path: Path) -> None:
    """Let a file or a folder reach the disk, where the file system can say so."""
    with suppress(PermissionError):  # folders on Windows
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _without_waiting(name: str, flags: int) -> int:
    """Open a file; opening a pipe that nobody writes to would wait until somebody does."""
    descriptor = os.open(name, flags | getattr(os, "O_NONBLOCK", 0))
    if hasattr(os, "O_NONBLOCK"):
        os.set_blocking(descriptor, True)
    return descriptor


def read_text(path: Path) -> str:
    r"""The text of a file in UTF-8, or in UTF-16 or UTF-32 with a byte order mark, as Windows tools write them."""
    if "\0" in str(path):
        raise ValueError("a file name holds no NUL character")
    with open(path, "rb", opener=_without_waiting) as file:
        content = file.read(LIMIT + 1)
        if not content and stat.S_ISFIFO(os.fstat(file.fileno()).st_mode):
            raise ValueError("it is a pipe that nobody writes to")
    if len(content) > LIMIT:
        raise ValueError(f"it is larger than {LIMIT // 2**20} MiB")
    encoding = next((name for mark, name in _MARKS if content.startswith(mark)), "utf-8")
    try:
        text = content.decode(encoding)
    except UnicodeDecodeError:
        raise ValueError("it is not text in UTF-8; save it in this encoding") from None
    return text.replace("\r\n", "\n").replace("\r", "\n")
