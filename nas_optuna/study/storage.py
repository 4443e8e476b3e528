"""Opening the database that a study lives in; every failure is one line, and no password is printed."""

from __future__ import annotations

import logging
import os
import shlex
import sqlite3
from contextlib import suppress
from functools import partial
from pathlib import Path
from urllib.parse import quote

from nas_optuna.errors import StudyError, shown
from nas_optuna.lazily import lazily
from nas_optuna.masking import is_secret, mask_urls

with lazily():
    from optuna import exceptions
    from sqlalchemy import URL, engine, exc

    from nas_optuna.study.database import Database, RetryingStorage, cause_of, idle_limits, persistently

DEFAULT_STORAGE = "sqlite:///nas-optuna.db"
_NOT_A_URL = (
    f"the storage is not a database URL; e.g. {DEFAULT_STORAGE} or postgresql+psycopg://USER:PASSWORD@HOST/DATABASE"
)
PATIENCE = 60.0
"""Seconds to wait for another process's write to SQLite, or for a database server that is away;
``NAS_OPTUNA_STORAGE_PATIENCE`` is another number."""

_LONGEST_URL = 4000
_LONGEST_WAIT = 1e7
_REMEDIES = {
    "readonly": "may you write to it, and to its folder? A URL with ?mode=ro only reads",
    "Incorrect string value": "the database lacks these letters; use others, or make one with CHARACTER SET utf8mb4",
    "Illegal mix of collations": "the database lacks these letters; use others, or make one with CHARACTER SET utf8mb4",
    "has no equivalent in encoding": "the database lacks these letters; use others, or make one with ENCODING 'UTF8'",
    "unable to open database file": "is the folder there, and may you write to it?",
    "is locked": "another process is writing; end it or try again",
    "disk I/O error": "is the disk full, or gone? No finished trial is lost",
    "is full": "free some space and try again; no finished trial is lost",
    "not a database": "name another file as the storage",
    "permission denied": "ask its owner for the right to use it",
    "malformed": "restore a copy, or name another file as the storage",
}
"""Remedies for a database's errors, by a part of their text."""
_DRIVERS = {
    "postgresql": ("'psycopg[binary]'", "postgresql+psycopg://"),
    "mysql": ("pymysql", "mysql+pymysql://"),
    "mariadb": ("pymysql", "mysql+pymysql://"),
}
"""Database → the package of a driver that works, and how its URL begins."""
NOT_A_DATABASE = (
    "the storage is no database: Optuna's gRPC proxy and journals cannot change a trial and its worker in one step, so"
    " that a killed worker could leave a trial that nobody takes up; name the database behind the proxy, or use SQLite"
    " on one machine and PostgreSQL on many"
)
"""Why a storage of Optuna's without transactions is refused."""
_ON_THE_NETWORK = frozenset({"nfs", "nfs4", "cifs", "smb3", "smbfs", "9p", "fuse.sshfs", "lustre", "beegfs", "gpfs"})
"""Network file systems, on which SQLite's locks and log are not reliable."""
MANY = 8
"""The most workers for which SQLite suffices: one process writes at a time, and a trial writes some twenty times."""


def storage_url(given: str | None = None) -> str:
    """The URL given, else ``NAS_OPTUNA_STORAGE``, else a file in the current folder."""
    return given if given is not None else os.environ.get("NAS_OPTUNA_STORAGE") or DEFAULT_STORAGE


def absolute(url: str) -> str:
    """The URL with an absolute path to its SQLite file, for a process that runs in another folder."""
    database = sqlite_file(url)
    if database is None:
        return url
    return _parsed(url).set(database=str(database.absolute())).render_as_string(hide_password=False)


def sqlite_file(url: str) -> Path | None:
    """The file of a SQLite URL, or None for another storage or SQLite in memory."""
    parsed = _parsed(url)
    path = parsed.database
    return Path(path) if parsed.get_backend_name() == "sqlite" and path and path != ":memory:" else None


def sqlite_url(file: Path) -> str:
    """The URL of a SQLite file, in whose path `sqlite_file` and SQLAlchemy read ``%`` and ``?`` as signs of a URL."""
    return URL.create("sqlite", database=str(file.absolute())).render_as_string(hide_password=False)


FORGETS = "this storage forgets everything when the command ends; --storage sqlite:///nas-optuna.db keeps it"
"""What is said where a study `is_kept` not."""


def is_kept(url: str) -> bool:
    """Whether what is stored there outlives the process, which SQLite in memory does not."""
    return not url.startswith("sqlite") or sqlite_file(url) is not None


def only_reads(url: str) -> bool:
    """Whether the URL of a SQLite file says that nothing is to be written."""
    return sqlite_file(url) is not None and _sqlite_settings(url, PATIENCE)[0] == "ro"


def open_storage(url: str, *, create: bool = False, with_retry: bool = False) -> RetryingStorage:
    """Open a storage; any number of processes may do so at once, even if it does not exist yet."""
    # A SQLite file that is made here has a write-ahead log: readers do not block the writer, and a commit does not
    # wait for the disk.
    database = sqlite_file(url)
    absent = database is not None and not database.exists()
    patience = seconds_of("NAS_OPTUNA_STORAGE_PATIENCE", PATIENCE)
    if absent and not (create and _sqlite_settings(url, patience)[0] == "rw"):
        raise StudyError(f"there is no database {database}; nas-optuna run begins one, or name another storage")
    of_databases = (exc.SQLAlchemyError, exceptions.StorageInternalError, sqlite3.Error)
    failures = (*of_databases, ImportError, RuntimeError, ValueError, OSError)
    try:
        if database is not None and absent:
            # It gets its tables as every new database does; SQLite drops a log that an earlier file has left.
            database.touch()
        return persistently(
            partial(_open, url, database, patience), patience if with_retry else 0.0, is_undone=has_raced
        )
    except exc.ArgumentError:
        raise StudyError(_NOT_A_URL) from None
    except failures as error:
        raise StudyError(f"cannot open storage {mask_urls(url)}: {_reason(error, url)}") from None


def advice(url: str, workers: int) -> str | None:
    """One line of advice if a SQLite file does not suit so many workers; None if all is well."""
    database = sqlite_file(url)
    if database is None:
        return None
    kind = _file_system(database.absolute().parent)
    if kind in _ON_THE_NETWORK and workers > 1:
        return f"{database} lies on a network file system ({kind}), where SQLite is not safe; PostgreSQL is"
    if workers > MANY:
        return (
            f"{workers} workers on one SQLite file wait for each other; PostgreSQL lets more than {MANY} write at once"
        )
    return None


def _file_system(folder: Path) -> str:
    """The type of a folder's file system; empty if the system does not say."""
    try:
        lines = Path("/proc/self/mountinfo").read_text(encoding="utf-8").splitlines()
    except (OSError, ValueError):
        return ""
    mounts = ((line.split()[4], line.partition(" - ")[2].split()[0]) for line in lines if " - " in line)
    found = [(len(point), kind) for point, kind in mounts if folder.resolve().is_relative_to(point)]
    return max(found, default=(0, ""))[1]


def failure(error: BaseException) -> str | None:
    """One line for an error that a storage raised while it was used; None for any other error."""
    error = cause_of(error)
    is_altered = isinstance(error, LookupError) and "defined enum values" in str(error)  # SQLAlchemy's, for a row
    return f"the storage failed: {_reason(error)}" if isinstance(error, exc.SQLAlchemyError) or is_altered else None


def is_of_the_deleted(error: BaseException) -> bool:
    """Whether a storage raised it because somebody has deleted the study or trial that it was asked about."""
    said = ("Record does not exist", "no study has the id", "no trial has the id")  # Optuna's, and ours
    return isinstance(error, KeyError) and any(text in str(error) for text in said)


def _parsed(url: str) -> URL:
    """Read a URL."""
    if not url.isprintable() or len(url) > _LONGEST_URL:
        raise StudyError(_NOT_A_URL)
    scheme = url.partition(":")[0].partition("+")[0].lower()
    if scheme in ("grpc", "journal", "redis") or url.lower().endswith((".log", ".journal")):
        raise StudyError(NOT_A_DATABASE)
    is_file = url.startswith("sqlite")
    if not is_file and url.partition("://")[2].partition("?")[0].count("@") > 1:
        raise StudyError("the storage's URL has two @; write one in a user name or password as %40")
    try:
        parsed = engine.make_url(url)
        parsed.get_dialect()  # or a password in a URL without a scheme would count as one
    except ImportError:  # reported with its remedy when it is opened
        pass
    except (exc.ArgumentError, ValueError):
        raise StudyError(_NOT_A_URL) from None
    return parsed


def seconds_of(variable: str, default: float, *, least: float = 0.0) -> float:
    """The seconds that an environment variable sets."""
    text = os.environ.get(variable, "")
    try:
        seconds = float(text) if text else default
    except ValueError:
        seconds = -1.0
    if not least <= seconds < _LONGEST_WAIT:
        above = " above 0" if least else ""
        raise StudyError(f"{variable} must be a number of seconds{above}, got {text[:40]!r}")
    return seconds


def _open(url: str, database: Path | None, patience: float) -> RetryingStorage:
    if database is None and url.startswith("sqlite"):  # in memory
        return RetryingStorage(Database(url, {}))
    if database is None:
        # A connection whose server has gone is replaced, but first the pool logs a traceback, although nothing is lost.
        logging.getLogger("sqlalchemy.pool").setLevel(logging.CRITICAL)
        scheme = url.partition(":")[0].partition("+")[0]
        settings = {"pool_pre_ping": True, "pool_events": idle_limits(scheme)}
        return RetryingStorage(Database(url, settings), patience)
    file = database.absolute()
    mode, timeout = _sqlite_settings(url, patience)
    opened = Database(url.partition("?")[0], {"creator": partial(_connect, file, timeout, mode)})
    opened.url = url  # whole, for the commands that we print
    return RetryingStorage(opened, file=file)


def _sqlite_settings(url: str, patience: float) -> tuple[str, float]:
    """What the URL of a SQLite file says after ``?``: how to open it, and the seconds to wait for a lock."""
    given = _parsed(url).normalized_query
    mode, timeout = given.get("mode", ("rw",))[-1], given.get("timeout", ("",))[-1]
    read = all(part.partition("=")[2] for part in url.partition("?")[2].split("&") if part)  # or it is dropped
    known = read and given.keys() <= {"mode", "timeout"} and mode in ("ro", "rw", "rwc")
    try:
        seconds = float(timeout or patience)
    except ValueError:
        seconds = -1.0
    if not known or not 0 <= seconds < _LONGEST_WAIT:
        raise StudyError(
            f"the storage's URL ends in {shown('?' + url.partition('?')[2])}; of a SQLite file it may say ?mode=ro,"
            " which only reads, and ?timeout=SECONDS; leave out the rest"
        )
    return "ro" if mode == "ro" else "rw", seconds


def _connect(database: Path, timeout: float, mode: str) -> sqlite3.Connection:
    """Connect to a SQLite file that exists: SQLite would make an empty one in the place of one that was deleted."""
    # With a write-ahead log, which our own databases have, it is safe not to wait for the disk at each commit.
    file = f"file:{quote(str(database))}?mode={mode}"
    connect = partial(sqlite3.connect, uri=True, timeout=timeout, check_same_thread=False)
    connection = connect(file)
    try:
        log = connection.execute("PRAGMA journal_mode").fetchone()
        is_new = mode == "rw" and connection.execute("PRAGMA page_count").fetchone() == (0,)
        if is_new and _file_system(database.parent) not in _ON_THE_NETWORK:
            with suppress(sqlite3.OperationalError):  # another process is doing so
                log = connection.execute("PRAGMA journal_mode=WAL").fetchone()
        if log == ("wal",):
            connection.execute("PRAGMA synchronous=NORMAL")
    except sqlite3.OperationalError:
        connection.close()
        # Where this process may not write, it can read without a log, if nobody has left or needs one.
        real = str(database.resolve())
        if os.access(os.path.dirname(real), os.W_OK) or any(os.path.exists(real + s) for s in ("-wal", "-journal")):
            raise
        connection = connect(f"{file}&immutable=1")
    return connection


def has_raced(error: BaseException) -> bool:
    """Whether other processes have created the tables at the same moment; theirs are then used."""
    cause = cause_of(error)
    return isinstance(cause, exc.IntegrityError) or any(s in str(cause).lower() for s in ("already exists", "deadlock"))


def _reason(error: BaseException, url: str = "") -> str:
    """The cause and its remedy in one line, without the password that some drivers repeat."""
    error = cause_of(error)
    text = _without_secrets(" ".join(str(getattr(error, "orig", None) or error).split()), url)[:300]
    if isinstance(error, OSError):
        text = f"{error.strerror or text}: unable to open database file"
    if isinstance(error, ImportError):
        missing = getattr(error.__cause__, "name", None) or getattr(error, "name", None) or "the driver"
        backend = _parsed(url).get_backend_name() if url else ""
        package, scheme = _DRIVERS.get(backend, (str(missing), ""))
        hint = f", and write {scheme}…" if scheme and not url.startswith(scheme) else ""
        return f"its driver {missing} is not installed; pip install {package}{hint}"
    if "storage upgrade" in text:
        return (
            f"its tables are those of an older Optuna; optuna storage upgrade --storage {shlex.quote(mask_urls(url))}"
        )
    if isinstance(error, RuntimeError):
        return f"its tables are those of a newer Optuna; upgrade with pip install -U optuna ({text})"
    return next((f"{text}; {remedy}" for sign, remedy in _REMEDIES.items() if sign in text), text)


def _without_secrets(text: str, url: str) -> str:
    if not url:
        return text
    parsed = _parsed(url)
    hidden = [str(parsed.password or "")]
    hidden += [value for key, many in parsed.normalized_query.items() if is_secret(key) for value in many]
    for secret in hidden:
        for form in {secret, quote(secret), quote(secret, safe="")} if len(secret) > 3 else ():
            text = text.replace(form, "***")
    return text
