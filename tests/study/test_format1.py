"""A study that the first version made opens, goes on, is shown and retrained."""

import sqlite3
from contextlib import closing
from pathlib import Path

import optuna

from tests.helpers import Command

DUMP = Path(__file__).parent / "format1.sql"


def test_a_study_of_format_1_goes_on(command: Command) -> None:
    with closing(sqlite3.connect("nas-optuna.db")) as connection, connection:
        connection.executescript(DUMP.read_text(encoding="utf-8"))
    before = command("study", "show", "old", "--json").json["trials"]
    trained = [trial for trial in before if trial["state"] == "complete"]
    assert trained
    assert all(trial["architecture"] and trial["epochs"] and trial["costs"]["macs"] for trial in trained)
    assert all(trial["accuracy"] == trial["values"][0] for trial in trained)
    best = command("best", "--study", "old", "--json").json
    assert best["number"] == max(trained, key=lambda trial: trial["values"][0])["number"]

    again = trained[0]["architecture"]
    Path("again").write_text(again)
    result = command("run", "--study", "old", "--trials", 2, "--enqueue", "again")
    assert result.code == 0, result.err
    after = command("study", "show", "old", "--json").json["trials"]
    by_number = {trial["number"]: trial for trial in after}
    assert [by_number[trial["number"]] for trial in before if trial["state"] != "waiting"] == [
        trial for trial in before if trial["state"] != "waiting"
    ]
    new = [trial for trial in after if trial["number"] not in {trial["number"] for trial in before}]
    repeated = [trial for trial in new if trial["architecture"] == again]
    assert repeated
    assert repeated[0]["duplicate_of"] is None, "what decided the old value is not known for certain"
    assert repeated[0]["values"] == trained[0]["values"], "the same training gives the same number"

    report = command("retrain", "--study", "old", "--json")
    assert report.code == 0, report.err
    assert 0 < report.json["mean"] <= 1
    study = optuna.load_study(study_name="old", storage="sqlite:///nas-optuna.db")
    assert study.user_attrs["nas_optuna:data"]["fingerprint"], "from now on the images are known by their content"
