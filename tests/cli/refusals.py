"""What every refusal has in common."""

import sqlite3
from contextlib import closing
from pathlib import Path

from tests.helpers import Command

DATABASE = Path("nas-optuna.db")
RUN = ("run", "--trials", 1)


def content() -> list[str] | None:
    """All that a database holds, its log included; None where there is none."""
    if not DATABASE.exists():
        return None
    with closing(sqlite3.connect(DATABASE)) as connection:
        return list(connection.iterdump())


def refused(command: Command, *arguments: object, says: tuple[str, ...]) -> None:
    """Run, and check all that every refusal has in common."""
    before, files = content(), sorted(Path.cwd().iterdir())
    result = command(*arguments)
    assert result.code == 2
    assert result.out == ""
    assert len(result.err.splitlines()) == 1, result.err
    assert result.err.startswith("error: ")
    for part in says:
        assert part in result.err
    assert content() == before
    if before is None:
        assert sorted(Path.cwd().iterdir()) == files
