"""A study survives the death of its process, and a process survives a long study."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import optuna
import pytest

pytestmark = pytest.mark.process

TRIALS = 5
SETTINGS = ["space.depth=2", "data.train_limit=700", "recipe.epochs=6", "recipe.input_size=8", "pruner=median"]
COMMAND = [sys.executable, "-m", "nas_optuna", "run", "--study", "s", "--spec", "digits-quick", "--sampler", "random"]
COMMAND += [word for setting in SETTINGS for word in ("--set", setting)]


def start(folder: Path, trials: int) -> subprocess.Popen[bytes]:
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    command = [*COMMAND, "--trials", str(trials)]
    return subprocess.Popen(command, cwd=folder, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def outcome(folder: Path) -> list[dict[str, Any]]:
    study = optuna.load_study(study_name="s", storage=f"sqlite:///{folder}/nas-optuna.db")
    return [
        {
            "state": trial.state.name,
            "values": trial.values,
            "params": trial.params,
            "curve": trial.intermediate_values,
            "epochs": trial.user_attrs["nas_optuna:epochs"],
        }
        for trial in study.get_trials()
    ]


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_killed_ten_times_a_study_ends_with_the_same_values(tmp_path: Path) -> None:
    undisturbed, killed = tmp_path / "undisturbed", tmp_path / "killed"
    undisturbed.mkdir()
    killed.mkdir()
    began = time.monotonic()
    assert start(undisturbed, TRIALS).wait() == 0
    whole = time.monotonic() - began
    expected = outcome(undisturbed)

    rng = random.Random(0)
    kills = 0
    while kills < 10:
        left = TRIALS - _finished(killed)
        if left == 0:
            break
        process = start(killed, left)
        time.sleep(rng.uniform(0.4, 0.9) * whole / 2)
        if process.poll() is None:
            process.send_signal(signal.SIGKILL)
            kills += 1
        process.wait()
    while left := TRIALS - _finished(killed):
        assert start(killed, left).wait() == 0
    assert kills >= 5, "the study ended before it could be disturbed"
    assert json.loads(json.dumps(outcome(killed))) == json.loads(json.dumps(expected))


def _finished(folder: Path) -> int:
    if not (folder / "nas-optuna.db").exists():
        return 0
    try:
        study = optuna.load_study(study_name="s", storage=f"sqlite:///{folder}/nas-optuna.db")
    except KeyError:
        return 0
    return sum(trial.state.is_finished() for trial in study.get_trials(deepcopy=False))


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_memory_is_flat_over_200_trials() -> None:
    program = """
import resource, optuna, nas_optuna as nas
from pathlib import Path
optuna.logging.set_verbosity(optuna.logging.ERROR)
data = nas.load_data(nas.spec.DataSpec(train_limit=100))
objective = nas.Objective(nas.ConvSpace(depth=3, input_size=16), data, nas.Recipe(epochs=1), reuse_duplicates=False)
study = optuna.create_study(direction="maximize", sampler=optuna.samplers.RandomSampler(seed=0))
pages = lambda: int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()
study.optimize(objective, n_trials=20)
first = pages()
study.optimize(objective, n_trials=180)
print(first, pages())
"""
    done = subprocess.run(
        [sys.executable, "-c", "import nas_optuna.spec\n" + program],
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=True,
    )
    first, last = map(int, done.stdout.split())
    assert last < first * 1.05, f"{first / 2**20:.0f} MiB after 20 trials, {last / 2**20:.0f} MiB after 200"
