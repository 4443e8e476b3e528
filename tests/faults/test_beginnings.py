"""Many processes that begin at the same moment, on one database and on one queue.

Run with ``pytest -n 0 -s -m slow tests/faults`` to see the account of each test.
"""

import signal
import sqlite3
import time
from contextlib import closing
from pathlib import Path

import optuna
import pytest
from optuna.trial import TrialState

from nas_optuna.execution.loop import StopRequest, run
from nas_optuna.study.storage import open_storage
from nas_optuna.study.trial_queue import enqueue_all, enqueue_once
from tests.faults.harness import EPOCHS, SPACE, Place, at_once, begin, objective
from tests.processes import Server, kill_after, logs, together

pytestmark = pytest.mark.process

ARCHITECTURES = list(SPACE.enumerate())


def is_whole(place: Place, trials: int) -> bool:
    found = place.study().get_trials(deepcopy=False)
    numbers = [trial.number for trial in found]
    return numbers == list(range(trials)) and {trial.state for trial in found} == {TrialState.COMPLETE}


def integrity(file: Path) -> str:
    with closing(sqlite3.connect(file)) as connection:
        return str(connection.execute("PRAGMA integrity_check").fetchone()[0])


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_thirty_times_four_processes_begin_on_an_absent_sqlite_file(tmp_path: Path) -> None:
    began, well, whole = time.monotonic(), 0, 0
    for turn in range(30):
        folder = tmp_path / str(turn)
        folder.mkdir()
        place = Place(f"sqlite:///{folder}/s.db", folder)
        well += at_once(begin, 4, place, 2).count(0)
        whole += is_whole(place, 8) and integrity(folder / "s.db") == "ok"
    print(f"\nSQLite, absent file: {well} of 120 ended well, {whole} of 30 whole, {time.monotonic() - began:.0f} s")
    assert (well, whole) == (120, 30)


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_ten_times_four_processes_begin_on_a_fresh_postgresql_database(postgresql: Server, tmp_path: Path) -> None:
    began, well, whole = time.monotonic(), 0, 0
    for turn in range(10):
        folder = tmp_path / str(turn)
        folder.mkdir()
        place = Place(postgresql.fresh(), folder)
        well += at_once(begin, 4, place, 2).count(0)
        whole += is_whole(place, 8)
    print(f"\nPostgreSQL, fresh: {well} of 40 ended well, {whole} of 10 whole, {time.monotonic() - began:.0f} s")
    assert (well, whole) == (40, 10)


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_ten_times_eight_workers_on_a_queue_of_24(tmp_path: Path) -> None:
    began, well, once = time.monotonic(), 0, 0
    for turn in range(10):
        folder = tmp_path / str(turn)
        folder.mkdir()
        place = Place(f"sqlite:///{folder}/s.db", folder)
        for architecture in ARCHITECTURES[:24]:
            enqueue_all(place.study(), SPACE, [architecture.params], "enqueued")
        well += at_once(begin, 8, place, 3).count(0)
        assert is_whole(place, 24)
        epochs = place.noted("epochs")
        once += 24 * (len(epochs) == 24 * EPOCHS and set(epochs.values()) == {1})
    seconds = time.monotonic() - began
    print(f"\nqueue of 24, 8 workers: {well} of 80 ended well, {once} of 240 trained once, {seconds:.0f} s")
    assert (well, once) == (80, 240)


def cheap(trial: optuna.Trial) -> float:
    return float(trial.suggest_categorical("x", [0, 1, 2, 3]))


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_after_a_hundred_kills_before_a_statement_nothing_stays_running(tmp_path: Path) -> None:
    """Between taking and marking, telling, putting back: before every statement of four trials in turn."""
    began, kills, left, statement = time.monotonic(), 0, 0, 0
    place = Place(f"sqlite:///{tmp_path}/s.db", tmp_path)

    def work(_: int) -> int:
        study, stop = place.study(), StopRequest()
        kill_after(statement)

        def interrupted_at_times(trial: optuna.Trial) -> float:
            stop.asked = trial.number % 3 == 1
            if stop():
                raise KeyboardInterrupt  # so that it is put back
            return cheap(trial)

        while True:
            stop.asked = False
            run(study, interrupted_at_times, trials=1, stop=stop)

    while kills < 100:
        if kills % 2:
            place.study().enqueue_trial({"x": 1})
        codes = together(1, work, tmp_path / "log")
        assert codes == [-signal.SIGKILL], logs(tmp_path / "log")
        kills, statement = kills + 1, (statement + 1) % 97
        run(place.study(), cheap, trials=1)
        left += sum(t.state == TrialState.RUNNING for t in place.study().get_trials(deepcopy=False))
    print(f"\nkilled before a statement: kills {kills}, left running {left}, {time.monotonic() - began:.0f} s")
    assert left == 0


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("where", ["memory", "sqlite"])
def test_ten_times_four_threads_on_a_queue_of_24_give_what_one_gives(tmp_path: Path, where: str) -> None:
    began, scored = time.monotonic(), objective(None)

    def values(turn: int, jobs: int) -> list[float | None]:
        storage = None if where == "memory" else open_storage(f"sqlite:///{tmp_path}/{turn}.db", create=True)
        study = optuna.create_study(direction="maximize", storage=storage, pruner=optuna.pruners.NopPruner())
        for architecture in ARCHITECTURES[:24]:
            enqueue_all(study, SPACE, [architecture.params], "enqueued")
        study.optimize(scored, n_trials=24, n_jobs=jobs)
        assert len(study.trials) == 24
        return [trial.value for trial in study.trials]

    alone = values(0, 1)
    equal = sum(values(turn, 4) == alone for turn in range(1, 11))
    print(f"\nfour threads, {where}: {equal} of 10 equal to one thread, {time.monotonic() - began:.0f} s")
    assert equal == 10


@pytest.mark.parametrize("where", ["sqlite", "postgresql"])
def test_what_many_enqueue_at_once_is_enqueued_once(where: str, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    address = f"sqlite:///{tmp_path}/s.db" if where == "sqlite" else request.getfixturevalue("postgresql").fresh()
    place, chosen = Place(address, tmp_path), ARCHITECTURES[:5]
    place.study()

    def work(number: int) -> int:
        study = place.study()
        enqueue_once(study, SPACE, [architecture.params for architecture in chosen], "fixed")
        return 0

    assert together(6, work, tmp_path / "log") == [0] * 6, logs(tmp_path / "log")
    found = [trial.system_attrs["fixed_params"] for trial in place.study().trials]
    assert sorted(map(str, found)) == sorted(str(dict(architecture.params)) for architecture in chosen)
