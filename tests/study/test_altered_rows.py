"""Whatever somebody has written into a database: a trial that cannot be read is shown as such, a study is refused."""

import json
import random
import shutil
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from nas_optuna.cli import main
from nas_optuna.study.schema import StudyKey
from tests.helpers import Command, tiny

HOSTILE = (
    *(
        "[]",
        "{}",
        "true",
        "null",
        '"x"',
        '""',
        "-1",
        "0",
        "1e300",
        "2e9",
        "NaN",
        "-Infinity",
        "[[1, 2], 3]",
        '{"a": {}}',
    ),
    *("not JSON", "", "[1", "1" * 5000, "[" * 2000, '{"mean": "x"}', '[{"architecture": 3}]', '{"chunks": -5}'),
)
"""Values of attributes, most of them JSON of another kind."""
NUMBERS = (1e300, -1.0, 0.5, 99.0, "x", None)
COMMANDS: tuple[tuple[str, ...], ...] = (
    ("study", "list"),
    ("best", "--json"),
    ("study", "show", "--all"),
    ("compare", "nas", "nas"),
    ("report",),
    ("study", "export", "--format", "json"),
    ("retrain", "--json"),
    ("run", "--trials", "1"),
)
TABLES = {
    "trial_user_attributes": "value_json",
    "study_user_attributes": "value_json",
    "trial_system_attributes": "value_json",
    "study_system_attributes": "value_json",
    "trial_params": "param_value",
    "trial_values": "value",
    "trial_intermediate_values": "intermediate_value",
    "trials": "state",
    "study_directions": "direction",
}


def alter(file: str, rng: random.Random) -> str:
    """Write something else into one row; returns what was done."""
    with closing(sqlite3.connect(file)) as connection, connection:
        rows = {name: connection.execute(f"SELECT rowid, * FROM {name}").fetchall() for name in TABLES}
        often = [*["trial_user_attributes"] * 5, *["study_user_attributes"] * 5]
        table = rng.choice([*often, *(name for name, found in rows.items() if found)])
        column, (rowid, *row) = TABLES[table], rng.choice(rows[table])
        value: Any = rng.choice(HOSTILE if column in ("value_json", "state", "direction") else NUMBERS)
        spec = f"{StudyKey.SPEC}"
        if table == "study_user_attributes" and spec in row and rng.random() < 0.7:
            stored = json.loads(row[-1])
            section = rng.choice([name for name, part in stored.items() if isinstance(part, dict) and part])
            key = rng.choice(list(stored[section]))
            stored[section][key] = rng.choice([[], {}, True, None, "x", -1, 1e300, 2e9, 10**20])
            value, row = json.dumps(stored), [section, key, stored[section][key]]
        connection.execute(f"UPDATE {table} SET {column} = ? WHERE rowid = ?", (value, rowid))
    return f"{table} {row}: {column} = {str(value)[:60]}"


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


def read_all(command: Command, commands: tuple[tuple[str, ...], ...], rounds: range, sound: Path) -> None:
    for number in rounds:
        for file in Path().glob("nas-optuna.db*"):
            file.unlink()
        shutil.copy(sound, "nas-optuna.db")
        what = alter("nas-optuna.db", random.Random(number))
        for words in commands:
            result = command(*words)  # which raises what would be a traceback
            assert result.code in (0, 2), (number, what, words, result)
            assert "Traceback" not in result.err, (number, what, words)
            if result.code == 2:
                errors = [line for line in result.err.splitlines() if line.startswith("error: ")]
                assert len(errors) == 1, (number, what, words, result.err)


def test_no_altered_row_is_a_traceback(database: Path, command: Command) -> None:
    read_all(command, COMMANDS[:6], range(12), database)


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_none_of_300_altered_rows_is_a_traceback(database: Path, command: Command) -> None:
    read_all(command, COMMANDS, range(300), database)


@pytest.mark.parametrize(
    ("key", "value", "flaw"),
    [
        ("nas_optuna:accuracy", "[]", "accuracy: Input should be a valid number"),
        ("nas_optuna:params", '"x"', "params: Input should be a valid number"),
        ("nas_optuna:seconds", '"long"', "seconds: Input should be a valid number"),
        ("nas_optuna:metrics", "3", "metrics: Input should be a valid dictionary"),
        ("nas_optuna:architecture", "{", "nas_optuna:architecture is not JSON"),
    ],
)
def test_a_trial_that_cannot_be_read_is_shown_as_such(
    database: Path, command: Command, key: str, value: str, flaw: str
) -> None:
    best = command("best", "--json").json["number"]
    with closing(sqlite3.connect("nas-optuna.db")) as connection, connection:
        connection.execute(
            "UPDATE trial_user_attributes SET value_json = ? WHERE key = ? AND trial_id ="
            " (SELECT trial_id FROM trials WHERE number = ?)",
            (value, key, best),
        )
    assert command("best", "--json").json["number"] != best
    records = {record["number"]: record for record in command("study", "show", "--json").json["trials"]}
    assert records[best]["state"] == "unreadable"
    assert records[best]["cause"] == f"its rows cannot be read: {flaw}"
    assert "1 unreadable" in command("study", "show").out
    assert command("run", "--trials", 1).code == 0


@pytest.mark.parametrize(
    ("key", "value", "flaw"),
    [
        (StudyKey.SUPERNET, "true", "supernet: Input should be a valid dictionary"),
        (StudyKey.RETRAINED, '[{"mean": "x"}]', "retrained.0.architecture: Field required"),
        (StudyKey.SPACE, "[]", "space: Input should be a valid dictionary"),
        (StudyKey.SPEC, "spec", "nas_optuna:spec is not JSON"),
    ],
)
def test_a_study_that_cannot_be_read_is_refused_in_a_line_and_leaves_the_others_alone(
    database: Path, command: Command, key: str, value: str, flaw: str
) -> None:
    assert command("study", "create", "other", *tiny()).code == 0
    with closing(sqlite3.connect("nas-optuna.db")) as connection, connection:
        change = "UPDATE study_user_attributes SET value_json = ? WHERE key = ? AND study_id = 1"
        connection.execute(change, (value, key))
    refused = command("best")
    assert (refused.code, refused.out) == (2, "")
    assert f"study 'nas' cannot be read: {flaw}; " in refused.err
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


def test_a_study_whose_name_is_no_text_leaves_the_others_alone(database: Path, command: Command) -> None:
    assert command("study", "create", "other", *tiny()).code == 0
    with closing(sqlite3.connect("nas-optuna.db")) as connection, connection:
        connection.execute("UPDATE studies SET study_name = x'ff00' WHERE study_name = 'nas'")
    assert "unknown study 'nas'; choose one of: other" in command("best").err
    assert command("study", "list").code == 0
    assert command("study", "delete", "other", "--yes").code == 0


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
    ("change", "code"),
    [
        ("DELETE FROM study_user_attributes WHERE key LIKE 'nas_optuna:retrained:confusion:0:%'", 0),
        ("DELETE FROM study_user_attributes WHERE key LIKE '%:cells:0'", 0),
        ("UPDATE study_user_attributes SET key = x'ff00' WHERE key = 'nas_optuna:space'", 2),
        ("UPDATE trial_params SET param_name = NULL WHERE trial_id = 2", 0),
        ("UPDATE trial_user_attributes SET key = x'ff00' WHERE trial_id = 2 AND key LIKE '%:accuracy'", 0),
        ("UPDATE trials SET state = 'GONE', datetime_start = 'x', number = 'y' WHERE trial_id = 2", 0),
    ],
)
def test_rows_of_any_kind_leave_a_study_that_is_shown_or_refused_and_can_be_deleted(
    database: Path, command: Command, change: str, code: int
) -> None:
    with closing(sqlite3.connect("nas-optuna.db")) as connection, connection:
        assert connection.execute(change).rowcount
    assert command("report").code == code
    for words in (("study", "list"), ("best",)):
        result = command(*words)
        assert result.code in (0, 2), result
        assert result.code == 0 or len([line for line in result.err.splitlines() if line.startswith("error: ")]) == 1
    assert command("study", "delete", "nas", "--yes").code == 0
    assert command("study", "list", "--json").json == []
    with closing(sqlite3.connect("nas-optuna.db")) as connection:
        for table in TABLES:
            assert connection.execute(f"SELECT count(*) FROM {table}").fetchone() == (0,), table
