"""Opening the database that a study lives in; every failure is one line, and no password is printed."""

from __future__ import annotations

import os
import re
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any

import optuna

from nas_optuna.errors import StudyError

if TYPE_CHECKING:
    from optuna.storages import RDBStorage

DEFAULT_STORAGE = "sqlite:///nas-optuna.db"
LOCK_TIMEOUT = 60
"""Seconds to wait for another process's write to SQLite."""

_REMEDIES = {
    "readonly": "may you write to it, and to its folder?",
    "unable to open database file": "is the folder there, and may you write to it?",
    "is locked": "another process is writing; end it or try again",
    "disk I/O error": "is the disk full, or gone? No finished trial is lost",
    "is full": "free some space and try again; no finished trial is lost",
    "not a database": "--storage names another",
    "malformed": "restore a copy, or name another with --storage",
}
"""What to do about what SQLite says."""


def storage_url(given: str | None = None) -> str:
    """The URL given, else ``NAS_OPTUNA_STORAGE``, else a file in the current folder."""
    return given or os.environ.get("NAS_OPTUNA_STORAGE") or DEFAULT_STORAGE


def masked(url: str) -> str:
    """The URL with its password replaced, wherever it stands."""
    hidden = re.sub(r"(://[^:/?#]*:).*@", r"\1***@", url)
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

    A SQLite file that is made here keeps a write-ahead log: readers do not block the writer, and a commit does not wait
    for the disk.

    Args:
        url: A SQLAlchemy URL, e.g. ``sqlite:///nas-optuna.db`` or ``postgresql+psycopg://user:password@host/database``.
        create: Whether a SQLite file that does not exist is made.

    Raises:
        StudyError: It cannot be opened, or was written by a newer Optuna.
    """
    database = sqlite_file(url)
    absent = database is not None and not database.exists()
    if absent and not create:
        raise StudyError(f"there is no database {database}; nas-optuna study create makes it, --storage names another")
    if url.partition("://")[2].partition("?")[0].count("@") > 1:
        raise StudyError(f"storage {masked(url)} has two @; write one in a user name or password as %40")
    import sqlalchemy.exc

    try:
        if database is not None and absent:
            with closing(sqlite3.connect(database)) as connection:
                connection.execute("PRAGMA journal_mode=WAL")
        storage = optuna.storages.RDBStorage(url, engine_kwargs=_engine_arguments(database))
    except sqlalchemy.exc.ArgumentError:
        raise StudyError(f"storage {masked(url)!r} is not a database URL; e.g. {DEFAULT_STORAGE}") from None
    except (sqlalchemy.exc.SQLAlchemyError, sqlite3.Error, ImportError, RuntimeError, ValueError, OSError) as error:
        if database is not None and absent:
            database.unlink(missing_ok=True)
        raise StudyError(f"cannot open storage {masked(url)}: {_reason(error)}") from None
    if database is not None:
        _rely_on_write_ahead_log(storage)
    return storage


def failure(error: BaseException) -> str | None:
    """One line for an error that a storage raised while it was used; None for any other error."""
    from sqlalchemy.exc import SQLAlchemyError

    if isinstance(error, optuna.exceptions.StorageInternalError) and error.__cause__ is not None:
        error = error.__cause__
    return f"the storage failed: {_reason(error)}" if isinstance(error, SQLAlchemyError) else None


def _engine_arguments(database: Path | None) -> dict[str, Any]:
    return {"connect_args": {"timeout": LOCK_TIMEOUT}} if database is not None else {}


def _rely_on_write_ahead_log(storage: RDBStorage) -> None:
    """Do not wait for the disk at each commit where the log makes that safe: a database of ours, not one of another."""
    from sqlalchemy import event

    def configure(connection: Any, _: Any) -> None:
        if connection.execute("PRAGMA journal_mode").fetchone() == ("wal",):
            connection.execute("PRAGMA synchronous=NORMAL")

    storage.engine.dispose()
    event.listen(storage.engine, "connect", configure)


def _reason(error: BaseException) -> str:
    """The last cause and its remedy in one line, without the URL that some drivers repeat."""
    text = masked(" ".join(str(getattr(error, "orig", None) or error).split()))[:300]
    if isinstance(error, ImportError):
        return f"{text}; install its driver, e.g. pip install 'psycopg[binary]'"
    if isinstance(error, RuntimeError):
        return f"{text} (was it written by a newer Optuna? upgrade with pip install -U optuna)"
    return next((f"{text}; {remedy}" for sign, remedy in _REMEDIES.items() if sign in text), text)
