"""A storage that waits for its database server, and that notices when its file is deleted."""

from __future__ import annotations

import inspect
import logging
import os
import secrets
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from pathlib import Path
from typing import Any, TypeVar

from optuna.exceptions import StorageInternalError
from optuna.storages import BaseStorage
from sqlalchemy.exc import DBAPIError

from nas_optuna.errors import Gone
from nas_optuna.study.database import Database
from nas_optuna.study.optuna_internals import CachedStorage

logger = logging.getLogger(__name__)

T = TypeVar("T")

_DISCONNECT_MARKERS = (
    "refused",
    "closed the connection",
    "connection is closed",
    "connection is lost",
    "terminating connection",
    "shutting down",
    "starting up",
    "not yet accepting",
    "recovery mode",
    "reset by peer",
    "broken pipe",
    "gone away",
    "lost connection",
    "too many clients",
    "no such file or directory",  # the server's socket
)
"""What drivers say of a server that may come back."""
_RETRYABLE_MARKERS = ("deadlock", "could not serialize access", "try restarting transaction")
"""What PostgreSQL and MySQL say of a transaction that they have undone and that may be repeated."""
_ATTEMPTS = 20


class RetryingStorage(CachedStorage):
    """Optuna's cache before a database, whose calls are tried again while its server is away, for `wait` seconds."""

    # Optuna's transactions may be repeated, because they set values rather than add to them.

    def __init__(self, database: Database, wait: float = 0.0, file: Path | None = None) -> None:
        super().__init__(database)
        self.database = database
        self.wait = wait
        self.give_up: Callable[[], bool] = never
        self._file = file
        self._file_identity = _identity_of(file)

    def __getstate__(self) -> dict[Any, Any]:
        return super().__getstate__() | {"give_up": never}

    def with_retry(self, work: Callable[[], T]) -> T:
        """Do one transaction, and again when the server is back, or has undone it for another one's sake."""
        if getattr(_working, "now", False):  # a call of Optuna's within another one
            return work()

        def checked() -> T:
            if self._file is not None and _identity_of(self._file) != self._file_identity:
                raise Gone(f"the database {self._file} was deleted or replaced while it was in use")
            return work()

        _working.now = True
        try:
            return persistently(checked, self.wait, give_up=lambda: self.give_up())
        finally:
            _working.now = False


_working = threading.local()
"""Whether this thread is within a call that is tried again."""


def never() -> bool:
    """Return False: nobody asked to give up."""
    return False


def persistently(
    work: Callable[[], T],
    wait: float,
    *,
    give_up: Callable[[], bool] = never,
    is_undone: Callable[[Exception], bool] | None = None,
) -> T:
    """Do something again while the server is away, for at most `wait` seconds, or where others have come between."""
    undone, pause, deadline = 0, 0.1, 0.0
    while True:
        try:
            return work()
        except Exception as error:
            if (is_undone or _is_undone)(error) and undone < _ATTEMPTS:
                undone += 1
                time.sleep(0.02 * undone * (0.5 + secrets.randbelow(100) / 100))
                continue
            if not wait or not is_away(error):
                raise
            if not deadline:
                deadline = time.monotonic() + wait
                logger.warning("the database server is away; waiting for it for up to %g s", wait)
            if time.monotonic() >= deadline or give_up():
                raise
        time.sleep(pause)
        pause = min(2 * pause, 1.0)


def _retried(name: str) -> Callable[..., Any]:
    method = getattr(CachedStorage, name)

    @wraps(method)
    def retried(self: RetryingStorage, *arguments: Any, **options: Any) -> Any:
        return self.with_retry(lambda: method(self, *arguments, **options))

    return retried


for _name, _ in inspect.getmembers(BaseStorage, inspect.isfunction):
    if not _name.startswith("_"):
        setattr(RetryingStorage, _name, _retried(_name))


def cause_of(error: BaseException) -> BaseException:
    """What is behind the error that Optuna makes of a database's."""
    return error.__cause__ or error if isinstance(error, StorageInternalError) else error


def is_away(error: BaseException) -> bool:
    """Whether a storage failed because its server is away, and may come back."""
    error = cause_of(error)
    if not isinstance(error, DBAPIError) or type(error.orig).__module__.startswith("sqlite3"):
        return False
    return error.connection_invalidated or any(sign in str(error.orig).lower() for sign in _DISCONNECT_MARKERS)


def _is_undone(error: BaseException) -> bool:
    """Whether a server has undone a transaction because it and another one waited for each other, as MySQL does."""
    error = cause_of(error)
    return isinstance(error, DBAPIError) and any(sign in str(error.orig).lower() for sign in _RETRYABLE_MARKERS)


def _identity_of(file: Path | None) -> tuple[int, int] | None:
    if file is None:
        return None
    try:
        found = os.stat(file)
    except OSError:
        return None
    return found.st_dev, found.st_ino


@contextmanager
def giving_up(storage: BaseStorage, when: Callable[[], bool]) -> Iterator[None]:
    """Within it nobody waits any longer for the database server as soon as `when` says so."""
    if not isinstance(storage, RetryingStorage):
        yield
        return
    storage.give_up = when
    try:
        yield
    finally:
        storage.give_up = never
