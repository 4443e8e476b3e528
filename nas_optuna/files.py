"""Files: written atomically, and text in any encoding that editors use."""

from __future__ import annotations

import codecs
import errno
import json
import os
import platform
import re
import secrets
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any, TypeVar

T = TypeVar("T", dict[str, Any], list[Any])

LIMIT = 64 * 2**20
"""The most bytes of a file that is read as text."""

_SQLITE = b"SQLite format 3\0"
_LOCK = "lock"
SCRATCH = ".nas-optuna-"
"""How the names of files and folders begin that are there only while something is written."""


@contextmanager
def scratch_folder(parent: Path) -> Iterator[Path]:
    """A temporary folder inside another; those of killed processes are removed first."""
    # A living process holds a lock on a file in its folder, which the kernel releases with the process. Other hosts
    # may not see the lock, so each removes only its own folders.
    host = re.sub(r"\W", "", platform.node())[:32]
    prefix = f"{SCRATCH}{host}-"
    for left in parent.glob(f"{prefix}*"):
        with suppress(OSError), (left / _LOCK).open("rb+") as lock:
            if _locked(lock):
                shutil.rmtree(left)
    with tempfile.TemporaryDirectory(prefix=prefix, dir=parent) as name:
        unseen = Path(name) / "new"
        with unseen.open("wb") as lock:
            if _locked(lock):
                unseen.rename(Path(name) / _LOCK)
            yield Path(name)


@contextmanager
def alone_in(folder: Path) -> Iterator[bool]:
    """Tell whether nobody else is in such a block with the same folder; True if the system has no locks."""
    try:
        descriptor = os.open(folder, os.O_RDONLY)
    except OSError:  # a folder that one may only write, or any on Windows
        yield True
        return
    try:
        yield _locked(descriptor) is not False
    finally:
        os.close(descriptor)


def _locked(file: int | IO[bytes]) -> bool | None:
    """Lock a file; False if another process holds the lock, None if the system has none."""
    try:
        import fcntl

        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except (ImportError, OSError):  # Windows, or a file system without locks
        return None
    return True


def is_database(path: Path) -> bool:
    """Whether a file is an SQLite database."""
    try:
        with path.open("rb") as file:
            return file.read(len(_SQLITE)) == _SQLITE
    except OSError:
        return False


def write_file(path: Path, content: str | bytes) -> None:
    """Write a file whole or not at all (the earlier one then stays); text is written in UTF-8."""
    data = content.encode() if isinstance(content, str) else content
    target = path.resolve() if path.is_symlink() else path
    if target.exists() and not target.is_file():  # a device
        target.write_bytes(data)
        return
    if is_database(target):
        raise FileExistsError(errno.EEXIST, "a database is not overwritten")
    partial = target.with_name(f"{SCRATCH}{os.getpid()}-{secrets.token_hex(4)}{target.suffix[:16]}")
    os.close(os.open(partial, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666))
    try:
        with suppress(FileNotFoundError):
            partial.chmod(target.stat().st_mode & 0o7777)
        partial.write_bytes(data)
        flush(partial)  # else a power cut may keep the new name and lose the content
        partial.replace(target)
    except BaseException:
        with suppress(OSError):
            partial.unlink()
        raise


def flush(path: Path) -> None:
    """Sync a file or a folder to the disk, if the file system can."""
    with suppress(PermissionError):  # folders on Windows
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def read_text(path: Path) -> str:
    r"""The text of a file in UTF-8, or in UTF-16 with a byte order mark, as Windows tools write them."""
    with path.open("rb") as file:
        content = file.read(LIMIT + 1)
    if len(content) > LIMIT:
        raise ValueError(f"it is larger than {LIMIT // 2**20} MiB")
    encoding = "utf-16" if content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)) else "utf-8-sig"
    try:
        text = content.decode(encoding)
    except UnicodeDecodeError:
        raise ValueError("it is not text in UTF-8; save it in this encoding") from None
    return text.replace("\r\n", "\n").replace("\r", "\n")


def read_json(path: Path, kind: type[T]) -> T:
    """What a JSON file of this package remembers; nothing if it is absent or damaged."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return kind()
    return found if isinstance(found, kind) else kind()
