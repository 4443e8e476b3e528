"""Opening the database that a study lives in; every failure is one line, and no password is printed."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import optuna

from nas_optuna.errors import StudyError

if TYPE_CHECKING:
    from optuna.storages import RDBStorage

DEFAULT_STORAGE = "sqlite:///nas-optuna.db"
LOCK_TIMEOUT = 60
"""Seconds to wait for another process's write to SQLite."""


def storage_url(given: str | None = None) -> str:
    """The URL given, else ``NAS_OPTUNA_STORAGE``, else a file in the current folder."""
    return given or os.environ.get("NAS_OPTUNA_STORAGE") or DEFAULT_STORAGE


def masked(url: str) -> str:
    """The URL with its password replaced, wherever it stands."""
    hidden = re.sub(r"(://[^:/@]*:)[^/]*@", r"\1***@", url)
    return re.sub(r"(?i)\b(password|passwd|pwd|sslpassword)=[^&]*", r"\1=***", hidden)


def files_folder(url: str) -> Path:
    """Where artifacts and checkpoints of a storage's studies are kept: beside a SQLite file, else here."""
    database = sqlite_file(url)
    return database.with_name(f"{database.stem}-files") if database else Path("nas-optuna-files")


def sqlite_file(url: str) -> Path | None:
    """The file of a SQLite URL, or None for another storage or SQLite in memory."""
    if not url.startswith("sqlite"):
        return None
    path = url.partition("://")[2].removeprefix("/").partition("?")[0]
    return Path(path) if path and path != ":memory:" else None


def open_storage(url: str, *, create: bool = False) -> RDBStorage:
    """Open a storage.

    A SQLite file is switched to write-ahead logging: readers do not block the writer, and a commit does not wait for
    the disk.

    Args:
        url: A SQLAlchemy URL, e.g. ``sqlite:///nas-optuna.db`` or ``postgresql+psycopg://user:password@host/database``.
        create: Whether a SQLite file that does not exist is made.

    Raises:
        StudyError: It cannot be opened, or was written by a newer Optuna.
    """
    database = sqlite_file(url)
    if database is not None and not create and not database.exists():
        raise StudyError(f"there is no database {database}; nas-optuna study create makes it, --storage names another")
    import sqlalchemy.exc

    arguments: dict[str, Any] = {}
    if database is not None:
        arguments = {"connect_args": {"timeout": LOCK_TIMEOUT}}
    existed = database is not None and database.exists()
    try:
        storage = optuna.storages.RDBStorage(url, engine_kwargs=arguments)
        if database is not None:
            _use_write_ahead_log(storage)
    except sqlalchemy.exc.ArgumentError as error:
        raise StudyError(f"storage {masked(url)!r} is not a database URL; e.g. {DEFAULT_STORAGE}") from error
    except (sqlalchemy.exc.SQLAlchemyError, ImportError, RuntimeError, ValueError, OSError) as error:
        if database is not None and not existed and database.exists() and database.stat().st_size == 0:
            database.unlink()
        raise StudyError(f"cannot open storage {masked(url)}: {_reason(error)}") from None
    return storage


def _use_write_ahead_log(storage: RDBStorage) -> None:
    from sqlalchemy import event

    def configure(connection: Any, _: Any) -> None:
        cursor = connection.cursor()
        cursor.execute("PRAGMA journal_mode=WAL")
        cursor.execute("PRAGMA synchronous=NORMAL")
        cursor.close()

    storage.engine.dispose()
    event.listen(storage.engine, "connect", configure)
    storage.engine.connect().close()


def _reason(error: BaseException) -> str:
    """The last cause in one line, without the URL that some drivers repeat."""
    cause = getattr(error, "orig", None) or error
    text = masked(" ".join(str(cause).split()))
    if "readonly" in text or "read-only" in text or "unable to open database file" in text:
        return f"{text}; is the folder there, and may you write to it?"
    if isinstance(error, ImportError):
        return f"{text}; install its driver, e.g. pip install 'psycopg[binary]'"
    if isinstance(error, RuntimeError):
        return f"{text} (was it written by a newer Optuna? upgrade with pip install -U optuna)"
    return text[:300]
