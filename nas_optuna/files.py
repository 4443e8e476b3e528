"""Writing a file so that nobody ever meets half of it."""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path


@contextmanager
def replacing(path: Path, mode: int = 0o666) -> Iterator[Path]:
    """Give a new, empty file that takes a path's name at the end of the block."""
    # Where the block raises, or the disk is full, the new file is removed and what the path named before stays whole.
    target = path.resolve() if path.is_symlink() else path
    if target.exists() and not target.is_file():
        yield target
        return
    partial = target.with_name(f".nas-optuna-{os.getpid()}-{secrets.token_hex(4)}{target.suffix[:16]}")
    os.close(os.open(partial, os.O_CREAT | os.O_EXCL | os.O_WRONLY, mode))
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


def write_file(path: Path, content: str | bytes, mode: int = 0o666) -> None:
    """Write a file whole or not at all; text is written in UTF-8.

    Raises:
        OSError: It cannot be written; what was there before is still there.

    Examples:
        >>> import tempfile
        >>> path = Path(tempfile.mkdtemp()) / "choice.json"
        >>> write_file(path, "{}")
        >>> path.read_text()
        '{}'
    """
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
