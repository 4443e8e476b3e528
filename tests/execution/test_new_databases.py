"""Several processes make one database at once, or are killed while they do."""

from __future__ import annotations

import os
import signal
import sqlite3
from contextlib import closing
from pathlib import Path

import optuna
import pytest

from nas_optuna.execution.loop import run
from nas_optuna.study.storage import open_storage
from nas_optuna.study.studies import study_names
from tests.execution.small_studies import cheap, created, integrity, opened, url
from tests.faults.harness import at_once, command_line
from tests.helpers import tiny
from tests.processes import kill_after, logs, together

pytestmark = pytest.mark.process


@pytest.mark.parametrize("beginning", ["absent", "empty file"])
def test_a_sqlite_file_is_made_once_by_many(tmp_path: Path, beginning: str) -> None:
    for turn in range(2):
        folder = tmp_path / str(turn)
        folder.mkdir()
        if beginning == "empty file":
            (folder / "s.db").touch()
        assert together(4, created(url(folder)), folder / "log") == [0] * 4, logs(folder / "log")
        assert integrity(folder / "s.db") == "ok"
        trials = opened(folder).trials
        assert sorted(trial.number for trial in trials) == list(range(8))
        assert {trial.state.name for trial in trials} == {"COMPLETE"}
        assert not list(folder.glob(".nas-optuna-*"))


def test_a_database_that_another_program_makes_meanwhile_is_kept(tmp_path: Path) -> None:
    with closing(sqlite3.connect(tmp_path / "s.db")) as connection:
        connection.execute("CREATE TABLE mine (x)")
    open_storage(url(tmp_path), create=True)
    with closing(sqlite3.connect(tmp_path / "s.db")) as connection:
        assert connection.execute("SELECT name FROM sqlite_master WHERE name = 'mine'").fetchall() == [("mine",)]


def test_a_process_that_is_killed_while_it_makes_a_database_leaves_none(tmp_path: Path) -> None:
    for after in range(0, 60, 12):

        def work(number: int, after: int = after) -> int:
            kill_after(after)
            return created(url(tmp_path))(number)

        together(1, work)
        if (tmp_path / "s.db").exists():
            assert study_names(open_storage(url(tmp_path))) in ([], ["s"])
    assert created(url(tmp_path))(0) == 0


def test_the_command_line_started_four_times_at_once(tmp_path: Path) -> None:
    arguments = ["run", "--study", "s", "--spec", "digits-quick", "--trials", "1", "--sampler", "random", *tiny()]
    codes = at_once(command_line, 4, arguments, tmp_path)
    said = "".join(file.read_text() for file in tmp_path.glob("said.*"))
    assert codes == [0] * 4, said
    assert "Traceback" not in said
    assert said.count("created study 's'") == 1
    study = optuna.load_study(study_name="s", storage=f"sqlite:///{tmp_path}/nas-optuna.db")
    assert [trial.state.name for trial in study.trials] == ["COMPLETE"] * 4


def test_the_log_of_a_database_that_was_deleted_is_not_put_into_the_next(tmp_path: Path) -> None:
    def work(_: int) -> int:
        run(opened(tmp_path), cheap, trials=3)
        os.kill(os.getpid(), signal.SIGKILL)
        return 0

    together(1, work)
    assert (tmp_path / "s.db-wal").stat().st_size
    (tmp_path / "s.db").unlink()
    study = opened(tmp_path)
    assert study.trials == []
    assert run(study, cheap, trials=1).trials == 1
    assert integrity(tmp_path / "s.db") == "ok"
