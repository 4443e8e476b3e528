"""Whatever dies: every trial is trained, recorded exactly once, and at most one epoch of work is lost.

Run with ``pytest -n 0 -s -m slow tests/faults`` to see the account of each test.
"""

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import optuna
import pytest
from optuna.trial import TrialState

from tests.faults.harness import (
    EPOCHS,
    Account,
    Place,
    at_once,
    begin,
    finished,
    killed_script,
    objective,
    search,
    start,
)
from tests.helpers import tiny
from tests.processes import MariaDB, Server

pytestmark = pytest.mark.process


def sound(account: Account) -> bool:
    print(f"\n{account}")
    return (account.lost, account.doubled, account.wrong) == (0, 0, 0) and account.epochs_lost <= (
        account.kills + account.stops + account.restarts * 8
    )


def restart(server: Server | MariaDB, seconds: float) -> Callable[[], None]:
    def away() -> None:
        with server.away():
            time.sleep(seconds)

    return away


def test_killed_and_stopped_on_sqlite(tmp_path: Path) -> None:
    place = Place(f"sqlite:///{tmp_path}/s.db", tmp_path, {"NAS_OPTUNA_LEASE": "1"})
    account = search(place, trials=60, workers=3, kills=3, stops=1, stop_seconds=2.5)
    assert sound(account)
    assert account.trials >= 60
    assert (account.kills, account.stops) == (3, 1)


def test_the_trial_of_a_plain_script_that_was_killed_is_taken_up(tmp_path: Path) -> None:
    place = Place(f"sqlite:///{tmp_path}/s.db", tmp_path)
    study = place.study()
    assert at_once(killed_script, 1, place) == [-signal.SIGKILL]
    (left,) = study.trials
    assert left.state == TrialState.RUNNING
    last = start(place, 1)
    last.join(timeout=120)
    ended = study.trials[0]
    assert (ended.state, ended.params) == (TrialState.COMPLETE, left.params)
    assert sum(place.noted("trained").values()) == EPOCHS * finished(study), "it went on after the first epoch"


def test_the_trial_of_a_plain_script_that_was_killed_is_taken_up_by_the_script_itself(tmp_path: Path) -> None:
    place = Place(f"sqlite:///{tmp_path}/s.db", tmp_path)
    study = place.study()
    assert at_once(killed_script, 1, place) == [-signal.SIGKILL]
    params = study.trials[0].params
    optuna.load_study(study_name="s", storage=place.address).optimize(objective(tmp_path / "checkpoints"), n_trials=2)
    ended = study.trials
    assert [trial.state.name for trial in ended] == ["COMPLETE", "COMPLETE"]
    assert ended[0].params == params
    assert len(ended[0].intermediate_values) == EPOCHS


@pytest.mark.parametrize("kind", ["postgresql", "mariadb"])
def test_a_frozen_host_loses_its_trial_to_another(kind: str, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    """Two hosts, whose clocks differ by an hour from the server's; one stands still for longer than its lease."""
    server: Server | MariaDB = request.getfixturevalue(kind)
    place = Place(server.fresh(), tmp_path, {"NAS_OPTUNA_LEASE": "2"})
    study = place.study()
    frozen = start(place, 20, host="one")
    while not place.noted("trained"):
        time.sleep(0.005)
    assert frozen.pid is not None
    while not (held := study.get_trials(deepcopy=False, states=(TrialState.RUNNING,))):
        pass
    os.kill(frozen.pid, signal.SIGSTOP)
    time.sleep(0.1)
    held = study.get_trials(deepcopy=False, states=(TrialState.RUNNING,))
    other = start(place, 20, host="two")
    other.join(timeout=60)
    if held:  # it may have been stopped between two trials
        deadline = time.monotonic() + 20
        while study.get_trials(deepcopy=False)[held[0].number].state != TrialState.COMPLETE:
            assert time.monotonic() < deadline, "nobody took it up"
            other = start(place, finished(study) + 1, host="two")
            other.join(timeout=60)
        ended = study.get_trials(deepcopy=False)[held[0].number]
        assert ended.user_attrs["host"] == "two"
    os.kill(frozen.pid, signal.SIGCONT)
    frozen.join(timeout=60)
    assert (frozen.exitcode, other.exitcode) == (0, 0)
    assert {trial.state for trial in study.get_trials(deepcopy=False)} == {TrialState.COMPLETE}
    assert set(place.noted("ends").values()) == {1}
    # The other host trains the epoch again that was not whole, and the frozen one ends its own when it wakes.
    assert sum(place.noted("trained").values()) <= EPOCHS * len(study.trials) + 2


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_a_thousand_trials_and_fifty_kills_on_sqlite(tmp_path: Path) -> None:
    place = Place(f"sqlite:///{tmp_path}/s.db", tmp_path)
    assert sound(search(place, trials=1000, workers=8, kills=50))


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_a_thousand_trials_fifty_kills_and_two_restarts_on_postgresql(postgresql: Server, tmp_path: Path) -> None:
    place = Place(postgresql.fresh(), tmp_path)
    away = restart(postgresql, 10)
    assert sound(search(place, trials=1000, workers=8, kills=50, disturbances={0.33: away, 0.66: away}))


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_two_beginnings_kills_a_stop_and_a_restart_on_mariadb(mariadb: MariaDB, tmp_path: Path) -> None:
    for turn in range(3):
        (tmp_path / str(turn)).mkdir()
        begun = Place(mariadb.fresh(), tmp_path / str(turn))
        assert at_once(begin, 2, begun, 2) == [0, 0]
        assert [trial.state for trial in begun.study().trials] == [TrialState.COMPLETE] * 4
    place = Place(mariadb.fresh(), tmp_path, {"NAS_OPTUNA_LEASE": "3"})
    away = restart(mariadb, 5)
    account = search(place, trials=200, workers=4, kills=10, stops=1, stop_seconds=6, disturbances={0.5: away}, seed=1)
    assert sound(account)
    assert account.kills == 10


FULL_DISK = """
set -e
mount -t tmpfs -o size=700k tmpfs /mnt
run() { "$0" -c "$CODE" run --storage sqlite:////mnt/s.db --workers 2 --threads 1 --sampler random "$@"; }
run --trials 500 $FILES $TINY > /dev/null && exit 99
mount -o remount,size=40m /mnt
run --trials 3 $FILES > /dev/null
"$0" -c "$CODE" study export --format json --storage sqlite:////mnt/s.db
"""


@pytest.mark.slow
@pytest.mark.parametrize("files", ["on the full disk", "elsewhere"])
def test_workers_on_a_full_disk_say_so_in_a_line_and_lose_nothing(place: Path, files: str) -> None:
    """A file system of 700 KiB, on which there is more space afterwards: nothing is imitated."""
    environment = {
        "CODE": "import sys; from nas_optuna.cli import main; sys.exit(main(sys.argv[1:]))",
        "TINY": " ".join(tiny(data__train_limit=100, reuse_duplicates="false")) + " --pruner none",
        "FILES": f"--files {place}" if files == "elsewhere" else "",
    }
    mounted = ["unshare", "-m", "sh", "-c", FULL_DISK, sys.executable]
    found = subprocess.run(mounted, env=os.environ | environment, capture_output=True, text=True, check=False)
    if "unshare:" in found.stderr or "mount:" in found.stderr:
        pytest.skip("needs the right to mount a file system")
    assert found.returncode == 0, found.stderr
    assert "Traceback" not in found.stderr
    (line,) = [line for line in found.stderr.splitlines() if line.startswith("error: ")]
    said = {"on the full disk": "cannot keep a checkpoint", "elsewhere": "the storage failed: database or disk is full"}
    assert line.startswith(f"error: {said[files]}")
    before = found.stderr.partition(line)[0]
    told = {int(number) for number in re.findall(r"^trial +(\d+)  complete", before, re.MULTILINE)}
    trials = json.loads(found.stdout)
    assert told <= {trial["number"] for trial in trials}
    assert {trial["state"].lower() for trial in trials} == {"complete"}
    assert len(trials) >= len(told) + 3
