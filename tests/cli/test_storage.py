"""What the command line does with names of studies and URLs of storages that it cannot use."""

import json
import os
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.exceptions import StorageInternalError
from sqlalchemy.exc import ProgrammingError

from nas_optuna.errors import Interrupted
from nas_optuna.oneshot.training import SupernetTraining
from nas_optuna.report.facts import StudyFacts
from nas_optuna.study import storage
from nas_optuna.study.storage import open_storage
from nas_optuna.study.studies import command as studies_command
from nas_optuna.study.studies import load_study
from tests.helpers import Command, tiny


@pytest.mark.parametrize("name", ["", "a\nb", "x" * 600])
def test_the_command_line_refuses_a_name_before_anything_is_created(command: Command, place: Path, name: str) -> None:
    for arguments in (("run", "--study", name, *tiny()), ("study", "create", name, *tiny())):
        result = command(*arguments)
        assert (result.code, len(result.err.splitlines())) == (2, 1), result.err
        assert "a study's name" in result.err
        assert len(result.err) < 500
    assert list(place.iterdir()) == []


def test_a_study_that_is_listed_and_not_found_is_no_misspelling(
    command: Command, study: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def damaged(**_: object) -> optuna.Study:
        raise KeyError("Record does not exist.")

    monkeypatch.setattr(optuna, "load_study", damaged)
    result = command("best", "--study", study)
    assert (result.code, "cannot be read, as if that were damaged; restore a copy" in result.err) == (2, True)
    listed = command("study", "list")
    assert (listed.code, "cannot be read" in listed.out) == (0, True)


def test_a_study_of_300_characters_runs(command: Command) -> None:
    result = command("run", "--study", "x" * 300, "--trials", 1, *tiny())
    assert result.code == 0, result.err


SECRET = "s3cr3tPW"


@pytest.mark.parametrize(
    "url",
    [
        f"postgresql+psycopg://u:{SECRET}/x",
        f"postgresql+psycopg:/u:{SECRET}@h/x",
        f"postgresql+psycopg//u:{SECRET}@h/x",
        f"postgresql+psycopg://u:{SECRET}\n@h/x",
        f"postgresql+psycopg://u:a@{SECRET}@h/x",
        f"postgresql+nodriver://u:{SECRET}@127.0.0.1/x",
        f"u:{SECRET}@h/x",
        f"{SECRET}://u@h/x",
        f"sqlite:///x.db\0{SECRET}",
        f"sqlite:/{SECRET}",
        f"postgresql+psycopg://u:{SECRET}@127.0.0.1:1/x?options=a@b",
        f"postgresql+psycopg://u@127.0.0.1:1/x?password={SECRET}",
        f"postgresql+psycopg://u@127.0.0.1:1/x?connect_timeout=1&sslpassword={SECRET}",
        f"postgresql+psycopg://u:{{{SECRET}}}@127.0.0.1:1/x",
        f"mysql://u:{SECRET}@127.0.0.1:1/x",
        f"sqlite:///{SECRET * 1000}",
    ],
)
def test_no_url_shows_its_password(command: Command, place: Path, url: str) -> None:
    for arguments in (("run", *tiny()), ("study", "list"), ("study", "create", *tiny())):
        result = command(*arguments, "--storage", url)
        assert (result.code, result.out, len(result.err.splitlines())) == (2, "", 1), result.err
        assert SECRET not in result.err
        assert len(result.err) < 500
    assert list(place.iterdir()) == []


@pytest.mark.parametrize(
    ("url", "remedy"),
    [
        ("mysql://u:p@127.0.0.1:1/x", "pip install pymysql, and write mysql+pymysql://…"),
        ("postgresql+psycopg2://u:p@127.0.0.1:1/x", "pip install 'psycopg[binary]', and write postgresql+psycopg://…"),
        ("oracle+cx_oracle://u:p@127.0.0.1:1/x", "its driver cx_Oracle is not installed; pip install cx_Oracle"),
    ],
)
def test_a_missing_driver_is_named_with_its_package(command: Command, url: str, remedy: str) -> None:
    assert remedy in command("study", "list", "--storage", url).err


def test_tables_of_an_older_optuna(command: Command, study: str) -> None:
    with closing(sqlite3.connect("nas-optuna.db")) as connection, connection:
        connection.execute("UPDATE alembic_version SET version_num = 'v3.0.0.a'")
    result = command("study", "list")
    assert result.code == 2
    assert "optuna storage upgrade --storage sqlite:///nas-optuna.db" in result.err
    assert "newer" not in result.err


def test_a_storage_in_memory_has_no_hints_to_what_is_gone(command: Command) -> None:
    for url in ("sqlite:///:memory:", "sqlite://"):
        result = command("run", "--trials", 1, *tiny(), "--json", "--storage", url)
        assert result.code == 0, result.err
        assert len(json.loads(result.out)) == 1
        assert "next:" not in result.err
        assert "forgets everything" in result.err
        assert "next:" not in command("study", "create", *tiny(), "--storage", url).err
    assert "next:" in command("run", "--trials", 1, *tiny()).err


@pytest.mark.parametrize("url", ["sqlite://", "sqlite:///kept.db"])
def test_a_supernet_in_memory_has_no_hints_to_what_is_gone(
    command: Command, monkeypatch: pytest.MonkeyPatch, url: str
) -> None:
    small = tiny(supernet__epochs=1, supernet__short_trainings=0, supernet__evaluations=10)
    train = ("supernet", "train", "--spec", "digits-quick", "--storage", url, *small)
    assert ("next:" in command(*train).err) == ("kept" in url)

    def stopped(*given: object) -> None:
        raise Interrupted("stopped in epoch 1")

    monkeypatch.setattr(SupernetTraining, "train", stopped)
    result = command(*train)
    assert result.code == 130
    assert ("nothing is lost. Continue: " in result.err) == ("kept" in url)
    assert "stopped in epoch 1" in result.err


def test_a_storage_with_braces_and_spaces_in_its_name(command: Command) -> None:
    for name in ("{x}.db", "a b.db", "#.db", "é.db"):
        url = f"sqlite:///{name}"
        assert command("study", "create", *tiny(), "--storage", url).code == 0
        assert Path(name).is_file()
        assert command("study", "list", "--json", "--storage", url).json[0]["name"] == "nas"


@pytest.mark.parametrize("text", ["many", "-1", "nan"])
def test_a_patience_that_is_none(command: Command, study: str, monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    monkeypatch.setenv("NAS_OPTUNA_STORAGE_PATIENCE", text)
    assert "NAS_OPTUNA_STORAGE_PATIENCE must be a number of seconds" in command("study", "list").err


def test_a_url_that_only_reads_does_only_that(command: Command, study: str) -> None:
    database = Path("nas-optuna.db")
    with closing(sqlite3.connect(database)) as connection:
        before = list(connection.iterdump())
    url = f"sqlite:///{database}?mode=ro"
    for arguments in (("study", "list"), ("best",), ("study", "show", "nas")):
        result = command(*arguments, "--storage", url)
        assert result.code == 0, result.err
        assert "Warning" not in result.err
    result = command("run", "--trials", 1, "--storage", url)
    assert result.code == 2
    assert "readonly database; may you write to it" in result.err.splitlines()[-1]
    assert "NoteWriter" not in result.err
    with closing(sqlite3.connect(database)) as connection:
        assert list(connection.iterdump()) == before


def test_a_study_that_cannot_be_deleted_keeps_its_files(command: Command, study: str, place: Path) -> None:
    before = sorted(place.glob("nas-optuna-files/**/*"))
    assert [each for each in before if each.is_file()]
    result = command("study", "delete", "nas", "--yes", "--storage", "sqlite:///nas-optuna.db?mode=ro")
    assert result.code == 2
    assert "readonly database; may you write to it" in result.err.splitlines()[-1]
    assert sorted(place.glob("nas-optuna-files/**/*")) == before


@pytest.mark.parametrize("words", [("retrain",), ("supernet", "train", "--epochs", 1)])
def test_nothing_is_trained_whose_results_the_database_could_not_keep(
    command: Command, study: str, words: tuple[Any, ...]
) -> None:
    url = "sqlite:///nas-optuna.db?mode=ro"
    result = command(*words, "--storage", url)
    assert result.code == 2
    assert "readonly database; may you write to it" in result.err.splitlines()[-1]
    assert not list(Path().rglob("epoch-*")), "a checkpoint"
    assert "nas-optuna retrain" not in command("best", "--storage", url).err
    assert "nas-optuna retrain" in command("best").err


def test_a_database_in_a_folder_where_nobody_may_write_is_read(
    command: Command, study: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    class WithoutLog(sqlite3.Connection):
        """A connection in a folder where SQLite may not create the files of its write-ahead log."""

        def execute(self, sql: str, *values: object) -> sqlite3.Cursor:
            if sql.startswith("PRAGMA"):
                raise sqlite3.OperationalError("attempt to write a readonly database")
            return super().execute(sql, *values)

    with closing(sqlite3.connect("nas-optuna.db")) as connection:  # the copy's only reader empties its log
        connection.execute("SELECT * FROM studies").fetchall()
    real, access, may_write = sqlite3.connect, os.access, [True]

    def connect(file: str, **options: Any) -> sqlite3.Connection:
        return real(file, factory=sqlite3.Connection if "immutable=1" in file else WithoutLog, **options)

    monkeypatch.setattr(sqlite3, "connect", connect)
    monkeypatch.setattr(os, "access", lambda path, mode: may_write[0] if mode == os.W_OK else access(path, mode))
    refused = command("study", "list")
    assert (refused.code, len(refused.err.splitlines())) == (2, 1)
    may_write[0] = False
    assert command("best", "--study", study).code == 0
    Path("link").symlink_to("nas-optuna.db")
    for left in map(Path, ("nas-optuna.db-wal", "nas-optuna.db-journal")):  # of a process that was killed
        left.touch()
        assert command("best", "--study", study).code == 2
        assert command("best", "--study", study, "--storage", "sqlite:///link").code == 2
        left.unlink()
    written = command("study", "delete", study, "--yes")
    assert written.code == 2
    assert "may you write to it" in written.err


def test_a_study_that_nobody_has_run_is_not_run_where_its_database_only_reads(command: Command) -> None:
    assert command("study", "create", *tiny()).code == 0
    result = command("run", "--trials", 1, "--storage", "sqlite:///nas-optuna.db?mode=ro")
    assert result.code == 2
    assert "readonly database; may you write to it" in result.err.splitlines()[-1]


@pytest.mark.parametrize(
    "words", [("run", "--trials", 1, *tiny()), ("best",), ("report", "--out", "r.html"), ("study", "show"), ("pareto",)]
)
def test_a_study_that_is_deleted_under_a_command_is_one_line(
    command: Command, monkeypatch: pytest.MonkeyPatch, words: tuple[Any, ...]
) -> None:
    assert command("run", "--trials", 1, *tiny()).code == 0
    read = StudyFacts.__init__

    def delete_and_read(self: StudyFacts, study: optuna.Study) -> None:
        optuna.delete_study(study_name="nas", storage="sqlite:///nas-optuna.db")
        read(self, study)

    monkeypatch.setattr(StudyFacts, "__init__", delete_and_read)
    result = command(*words)
    assert (result.code, result.err.splitlines()[-1]) == (1, "error: the study was deleted while this command used it")


def test_a_url_with_a_timeout_is_used_without_a_remark(command: Command) -> None:
    url = "sqlite:///other.db?timeout=5"
    assert command("study", "create", "mine", *tiny(), "--storage", url).code == 0
    result = command("study", "list", "--storage", url)
    assert (result.code, result.err) == (0, "")
    assert "mine" in result.out


@pytest.mark.parametrize("said", ["timeout=1e3", "timeout=.5", "mode=rw&timeout=2"])
def test_what_a_url_may_say_of_a_sqlite_file(command: Command, said: str) -> None:
    assert command("study", "create", "mine", *tiny(), "--storage", f"sqlite:///other.db?{said}").code == 0
    result = command("study", "list", "--storage", f"sqlite:///other.db?{said}")
    assert (result.code, result.err) == (0, "")


@pytest.mark.filterwarnings("error")
def test_a_command_for_a_study_has_the_whole_url(study: str) -> None:
    url = "sqlite:///nas-optuna.db?mode=ro&timeout=5"
    loaded = load_study(open_storage(url), "nas")
    assert studies_command(loaded, "best") == f"nas-optuna best --storage '{url}'"
    assert loaded.trials


def test_the_command_for_a_new_study_has_the_timeout(command: Command) -> None:
    made = command("study", "create", "mine", *tiny(), "--storage", "sqlite:///other.db?timeout=5")
    assert "--storage 'sqlite:///other.db?timeout=5'" in made.err


def test_rights_that_are_lacking_are_named_with_a_remedy(
    command: Command, study: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        problem = ProgrammingError("SELECT 1", {}, RuntimeError("permission denied for table version_info"))
        raise StorageInternalError("An exception is raised during the commit.") from problem

    monkeypatch.setattr(storage, "_open", refuse)
    result = command("best", "--study", study)
    assert result.err.endswith("permission denied for table version_info; ask its owner for the right to use it\n")
