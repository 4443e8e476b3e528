"""A study of release 0.2 opens, goes on, is shown and retrained, and its leases, which were attributes, are obeyed."""

import sqlite3
from contextlib import closing
from pathlib import Path

import optuna
import pytest
from optuna.trial import TrialState

from nas_optuna.study import lease
from nas_optuna.study.storage import open_storage
from tests.helpers import Command

DUMP = Path(__file__).parent / "release_0_2.sql"
"""Three complete trials; two running ones of another host, of which the first's lease has lapsed; one that waits."""


@pytest.fixture
def old(place: Path) -> optuna.Study:
    with closing(sqlite3.connect("nas-optuna.db")) as connection, connection:
        connection.executescript(DUMP.read_text(encoding="utf-8"))
    return optuna.load_study(study_name="old", storage=open_storage("sqlite:///nas-optuna.db"))


def test_its_leases_are_obeyed(old: optuna.Study, caplog: pytest.LogCaptureFixture) -> None:
    assert lease.release_abandoned(old) == [3]
    assert "going on with trial 3, whose process" in caplog.text
    states = [trial.state for trial in old.trials]
    assert states == [TrialState.COMPLETE] * 3 + [TrialState.WAITING, TrialState.RUNNING, TrialState.WAITING]
    taken = lease.take_waiting(old)
    assert taken == 4
    assert lease.state(old, taken) == TrialState.RUNNING
    assert lease.release_abandoned(old) == []
    lease.release_by_hand(old, 4)
    assert old.trials[4].state == TrialState.WAITING


def test_it_goes_on(old: optuna.Study, command: Command) -> None:
    before = command("study", "show", "old", "--json").json["trials"]
    trained = [trial for trial in before if trial["state"] == "complete"]
    assert len(trained) == 3
    assert all(trial["architecture"] and trial["epochs"] for trial in trained)
    assert all(trial["accuracy"] == trial["values"][0] for trial in trained)
    best = command("best", "--study", "old", "--json").json
    assert best["number"] == max(trained, key=lambda trial: trial["values"][0])["number"]

    result = command("run", "--study", "old", "--trials", 2)
    assert result.code == 0, result.err
    after = {trial["number"]: trial for trial in command("study", "show", "old", "--json").json["trials"]}
    assert [after[trial["number"]] for trial in trained] == trained
    assert after[3]["state"] in ("complete", "pruned")
    assert after[5]["duplicate_of"] == 0, "what is enqueued again is known"
    report = command("retrain", "--study", "old", "--json")
    assert report.code == 0, report.err
    assert 0 < report.json["mean"] <= 1
