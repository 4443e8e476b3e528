"""Whatever somebody has written into a database: its study is refused in one line, and leaves the others alone."""

import shutil
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from nas_optuna.cli import main
from nas_optuna.study.schema import StudyKey
from tests.helpers import Command, tiny


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A study with trials, one of them from the queue, a retraining and a supernet."""
    folder = tmp_path_factory.mktemp("sound")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.delenv("NAS_OPTUNA_STORAGE", raising=False)
        Path("queue.json").write_text('["f16k3s1-f16k3s1"]')
        commands = ("study create nas", "run --trials 3 --enqueue queue.json", "retrain", "supernet train --budget 1")
        for words in commands:
            assert main([*words.split(), *(tiny() if "create" in words else ())]) == 0
        with closing(sqlite3.connect("nas-optuna.db")) as connection:
            connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    return folder / "nas-optuna.db"


@pytest.fixture
def database(place: Path, prepared: Path) -> Path:
    """The file of that study, with a copy in the current folder."""
    shutil.copy(prepared, "nas-optuna.db")
    return prepared


def change(sql: str, *values: object) -> None:
    with closing(sqlite3.connect("nas-optuna.db")) as connection, connection:
        assert connection.execute(sql, values).rowcount


def refused(command: Command, *words: str) -> str:
    """The only line of a command that refuses the study."""
    found = command(*words)
    assert (found.code, found.out) == (2, ""), found
    (line,) = (line for line in found.err.splitlines() if line.startswith("error: "))
    return line


@pytest.mark.parametrize(
    ("key", "value", "flaw"),
    [
        ("nas_optuna:accuracy", "[]", "trial 1: accuracy: Input should be a valid number"),
        ("nas_optuna:params", '"x"', "trial 1: params: Input should be a valid number"),
        ("nas_optuna:metrics", "3", "trial 1: metrics: Input should be a valid dictionary"),
        ("nas_optuna:architecture", "{", "Expecting property name"),
    ],
)
def test_a_study_with_an_altered_trial_is_refused_in_a_line(
    database: Path, command: Command, key: str, value: str, flaw: str
) -> None:
    change("UPDATE trial_user_attributes SET value_json = ? WHERE key = ? AND trial_id = 2", value, key)
    for words in (("best", "--json"), ("run", "--trials", "1"), ("study", "show"), ("report",)):
        line = refused(command, *words)
        assert "the study cannot be read: " in line
        assert flaw in line
        assert "restore a copy of the database, or delete the study" in line
    assert command("study", "delete", "nas", "--yes").code == 0


@pytest.mark.parametrize(
    ("key", "value", "flaw"),
    [
        (StudyKey.SUPERNET, "true", "supernet: Input should be a valid dictionary"),
        (StudyKey.RETRAINED, '["x"]', "retrained.0: Input should be a valid dictionary"),
        (StudyKey.SPACE, "[]", "space: Input should be a valid dictionary"),
        (StudyKey.SPEC, "spec", "JSONDecodeError"),
    ],
)
def test_a_study_that_cannot_be_read_leaves_the_others_alone(
    database: Path, command: Command, key: str, value: str, flaw: str
) -> None:
    assert command("study", "create", "other", *tiny()).code == 0
    change("UPDATE study_user_attributes SET value_json = ? WHERE key = ? AND study_id = 1", value, key)
    assert flaw in refused(command, "best")
    assert {row["name"] for row in command("study", "list", "--json").json} == {"nas", "other"}
    assert command("run", "--study", "other", "--trials", 1).code == 0
    assert command("study", "delete", "nas", "--yes").code == 0
    assert [row["name"] for row in command("study", "list", "--json").json] == ["other"]


@pytest.mark.parametrize("sampler", ["curves", "evolution", "arch"])
def test_a_search_goes_on_where_rows_of_a_trial_were_removed(database: Path, command: Command, sampler: str) -> None:
    with closing(sqlite3.connect("nas-optuna.db")) as connection, connection:
        connection.execute("DELETE FROM trials WHERE number = 1")
    result = command("run", "--trials", 2, "--sampler", sampler)
    assert result.code == 0, result.err
    assert command("study", "list", "--json").json[0]["trials"] == 4


def test_a_supernet_that_lost_a_part_is_refused_in_a_line(database: Path, command: Command) -> None:
    for change in ("value_json = '{}'", "key = 'gone'"):
        with closing(sqlite3.connect("nas-optuna.db")) as connection, connection:
            which = StudyKey.SUPERNET if "{}" in change else f"{StudyKey.ALPHAS}0"
            connection.execute(f"UPDATE study_user_attributes SET {change} WHERE key = ?", (which,))
        refused = command("supernet", "export")
        assert refused.code == 2
        assert "the supernet of study 'nas' cannot be read; train it again: nas-optuna supernet train" in refused.err
        shutil.copy(database, "nas-optuna.db")


@pytest.mark.parametrize(
    "sql",
    [
        "UPDATE study_user_attributes SET key = x'ff00' WHERE key = 'nas_optuna:space'",
        "UPDATE trial_user_attributes SET value_json = '' WHERE trial_id = 2",
        "UPDATE trials SET state = 'GONE' WHERE trial_id = 2",
        "UPDATE trials SET datetime_start = 'x' WHERE trial_id = 2",
        "UPDATE trial_params SET distribution_json = '{}' WHERE trial_id = 2",
    ],
)
def test_rows_of_any_kind_are_a_line_and_the_study_can_be_deleted(database: Path, command: Command, sql: str) -> None:
    change(sql)
    refused(command, "best")
    assert command("study", "list").code == 0
    assert command("study", "delete", "nas", "--yes").code == 0
    assert command("study", "list", "--json").json == []
