"""Which storages are refused or advised against, and that messages name commands that can be typed."""

import shlex
from pathlib import Path

import optuna
import pytest
from optuna.storages import GrpcStorageProxy, InMemoryStorage
from optuna.storages._grpc.server import make_server

from nas_optuna.errors import StudyError
from nas_optuna.execution.loop import run
from nas_optuna.study import lease, storage
from nas_optuna.study.storage import advice, open_storage
from nas_optuna.study.studies import command
from tests.study import leases


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("grpc://localhost:13000", "gRPC proxy"),
        ("journal:///tmp/x", "gRPC proxy and journals cannot"),
        ("optuna.log", "gRPC proxy and journals cannot"),
        ("redis://localhost:6379", "gRPC proxy and journals cannot"),
        ("mysql://u:PW@h/x", "pip install pymysql, and write mysql.pymysql://"),
        ("mariadb://u:PW@h/x", "pip install pymysql, and write mysql.pymysql://"),
        ("postgresql+asyncpg://u:PW@h/x", r"pip install 'psycopg\[binary\]', and write postgresql\+psycopg://"),
        ("postgresql+psycopg2://u:PW@h/x", r"pip install 'psycopg\[binary\]', and write postgresql\+psycopg://"),
    ],
)
def test_a_storage_that_does_not_work_is_refused_with_the_remedy(url: str, reason: str) -> None:
    with pytest.raises(StudyError, match=reason) as caught:
        open_storage(url)
    assert "PW" not in str(caught.value)
    assert "\n" not in str(caught.value)


def test_the_grpc_proxy_is_refused_in_the_library_too() -> None:
    server = make_server(InMemoryStorage(), "localhost", 23417)
    server.start()
    try:
        study = optuna.create_study(storage=GrpcStorageProxy(host="localhost", port=23417))
        with pytest.raises(
            StudyError, match="gRPC proxy and journals cannot change a trial and its worker in one step"
        ):
            run(study, lambda trial: trial.suggest_float("x", 0, 1), trials=1)
        assert study.trials == []
    finally:
        server.stop(None)


def test_sqlite_is_advised_against_for_many_workers_and_on_a_network(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    url = f"sqlite:///{tmp_path}/x.db"
    assert storage._file_system(tmp_path) not in ("", *storage._ON_THE_NETWORK)
    study = optuna.create_study(storage=open_storage(url, create=True))
    for number in range(8):
        assert advice(url, number + 1) is None
        leases.give(study, study.ask()._trial_id, f"other/b/n/{number + 1}/1")
    lease.advise(study)
    (said,) = [record.getMessage() for record in caplog.records]
    assert said.startswith("9 workers on one SQLite file wait for each other; PostgreSQL")
    monkeypatch.setattr(storage, "_file_system", lambda folder: "nfs4")
    assert advice(url, 1) is None
    assert "network file system (nfs4)" in str(advice(url, 2))
    open_storage(f"sqlite:///{tmp_path}/y.db", create=True)
    assert (tmp_path / "x.db").read_bytes()[18:20] == b"\x02\x02", "a write-ahead log"
    assert (tmp_path / "y.db").read_bytes()[18:20] == b"\x01\x01", "none on a network"
    assert advice("postgresql+psycopg://h/x", 99) is None


def test_a_command_to_type_finds_the_study(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("NAS_OPTUNA_STORAGE", raising=False)
    here = optuna.create_study(study_name="it's; mine", storage=open_storage("sqlite:///nas-optuna.db", create=True))
    assert shlex.split(command(here, "run", "--study", here.study_name)) == [
        "nas-optuna",
        "run",
        "--study",
        "it's; mine",
    ]
    url = f"sqlite:///{tmp_path}/my own.db"
    there = optuna.create_study(storage=open_storage(url, create=True))
    assert shlex.split(command(there, "run"))[2:] == ["--storage", url]
    monkeypatch.setenv("NAS_OPTUNA_STORAGE", url)
    assert command(there, "run") == "nas-optuna run"
    assert command(optuna.create_study(), "run") == "nas-optuna run"
