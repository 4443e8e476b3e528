"""The store for many hosts, real: create, run, go on, rank, delete."""

from pathlib import Path

import optuna
import pytest

from tests.helpers import Command, tiny
from tests.processes import Server

pytestmark = pytest.mark.process


@pytest.fixture(scope="module")
def url(postgresql: Server) -> str:
    return postgresql.url


def test_a_study_lives_in_postgresql(command: Command, url: str) -> None:
    storage = ("--storage", url)
    assert command("study", "create", "nas", *storage, *tiny(), "--pruner", "none").code == 0
    assert command("run", *storage, "--sampler", "random", "--trials", 2).code == 0
    assert command("run", *storage, "--sampler", "random", "--trials", 2).code == 0
    assert not Path("nas-optuna.db").exists()
    shown = command("study", "show", "--json", *storage).json
    assert sorted(trial["number"] for trial in shown["trials"]) == [0, 1, 2, 3]
    assert {trial["state"] for trial in shown["trials"]} == {"complete"}
    assert all(trial["architecture"] and trial["costs"]["macs"] and trial["epochs"] == 1 for trial in shown["trials"])
    best = command("best", "--json", *storage).json
    assert best["values"][0] == max(trial["values"][0] for trial in shown["trials"])

    local = command("run", "--sampler", "random", "--trials", 4, *tiny(), "--pruner", "none")
    assert local.code == 0
    values = [(trial["architecture"], trial["values"]) for trial in shown["trials"]]
    assert values == [(t["architecture"], t["values"]) for t in command("study", "show", "--json").json["trials"]]

    trial = optuna.load_study(study_name="nas", storage=url).ask()
    trial.set_user_attr("nas_optuna:worker", "elsewhere/boot/1/1")
    assert command("study", "release", "nas", trial.number, *storage).code == 0
    assert command("run", *storage, "--trials", 1).code == 0
    again = command("study", "release", "nas", trial.number, *storage)
    assert (again.code, len(again.err.splitlines())) == (2, 1)
    assert f"has no running trial {trial.number}" in again.err

    assert command("study", "delete", "nas", "--yes", *storage).code == 0
    assert command("study", "list", "--json", *storage).json == []


def test_a_wrong_database_is_refused_with_its_password_masked(command: Command, url: str) -> None:
    wrong = url.replace("postgres:@", "postgres:hidden@").replace("/postgres?", "/absent?")
    result = command("study", "list", "--storage", wrong)
    assert result.code == 2
    assert "hidden" not in result.err
    assert len(result.err.splitlines()) == 1
    assert 'database "absent" does not exist' in result.err
