"""Many processes on one study of a PostgreSQL server."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import optuna
import pytest
from optuna.trial import TrialState

from nas_optuna.errors import StudyError
from nas_optuna.execution.loop import run
from nas_optuna.study.storage import open_storage
from tests.execution.small_studies import cheap, created
from tests.processes import Server, logs, together

pytestmark = pytest.mark.process


def test_postgresql_is_begun_by_many(postgresql: Server, tmp_path: Path) -> None:
    for _ in range(2):
        address = postgresql.fresh()
        assert together(4, created(address), tmp_path / "log") == [0] * 4, logs(tmp_path / "log")
        study = optuna.load_study(study_name="s", storage=open_storage(address))
        assert sorted(trial.number for trial in study.trials) == list(range(8))
        assert {trial.state.name for trial in study.trials} == {"COMPLETE"}


def test_workers_wait_for_a_server_that_is_restarted(postgresql: Server, tmp_path: Path) -> None:
    address = postgresql.fresh()
    study = optuna.create_study(study_name="s", storage=open_storage(address))
    restarted, began = tmp_path / "restarted", tmp_path / "began"

    def work(number: int) -> int:
        while number == 0 and not began.exists():
            time.sleep(0.05)

        def objective(trial: optuna.Trial) -> float:
            time.sleep(0.05)
            return cheap(trial)

        again, ran = optuna.load_study(study_name="s", storage=open_storage(address, with_retry=True)), 0
        while not restarted.exists():
            ran += run(again, objective, trials=1).trials
        return 0 if (ran or not number) and run(again, objective, trials=2).trials == 2 else 1

    def restart() -> None:
        while len(study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))) < 6:
            time.sleep(0.05)
        with postgresql.away():
            with pytest.raises(StudyError, match="cannot open storage"):
                open_storage(address)
            time.sleep(1)
            began.touch()  # a worker that is started while the server is away
            time.sleep(1)
        restarted.touch()

    with ThreadPoolExecutor() as pool:
        restarting = pool.submit(restart)
        codes = together(3, work, tmp_path / "log")
        restarting.result(timeout=60)
    said = logs(tmp_path / "log")
    assert codes == [0] * 3, said
    assert "the database server is away; waiting for it" in said
    assert "Traceback" not in said
    assert {trial.state.name for trial in study.trials} == {"COMPLETE"}
    assert [trial.number for trial in study.trials] == list(range(len(study.trials)))
