"""The examples of a training of one's own: searched, pruned, resumed after a kill, and shown."""

import signal
import subprocess
import sys
import time
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import optuna
import pytest

from nas_optuna import Experiment, Interrupted, Measurement, StudySpec
from nas_optuna.cli import main
from tests.helpers import Command

pytestmark = pytest.mark.process

EXAMPLES = Path(__file__).parents[2] / "examples"
CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "regression": ("rmse:minimize", {"name": f"{EXAMPLES}/regression_evaluator.py:AngleEvaluator", "images": 200}),
    "lightning": ("val_accuracy:maximize", {"name": f"{EXAMPLES}/lightning_evaluator.py:LightningEvaluator"}),
}


def experiment(case: str, epochs: int = 3) -> Experiment:
    objective, evaluator = CASES[case]
    spec = {
        "objectives": [objective],
        "space": {"name": "conv", "depth": 2, "filters": [4, 8], "kernels": [3], "strides": [1, 2]},
        "evaluator": {**evaluator, "epochs": epochs},
        "sampler": "random",
        "pruner": {"name": "median", "n_startup_trials": 2},
    }
    return Experiment.from_spec(StudySpec.from_dict(spec), device="cpu")


@pytest.mark.parametrize("case", CASES)
def test_an_interrupted_training_goes_on_with_the_same_numbers(case: str, tmp_path: Path) -> None:
    evaluator = experiment(case).objective.evaluator
    architecture = evaluator.space.parse("f8k3s1-f8k3s2")

    def trained(folder: Path, stop: Any = lambda: False) -> Iterator[Measurement]:
        return evaluator.evaluate(architecture, resume=folder, stop=stop)

    whole = [measurement.metrics for measurement in trained(tmp_path / "whole")]
    asked = iter(range(10**6))
    first: list[Measurement] = []
    with pytest.raises(Interrupted):  # after the first step of the second epoch
        first.extend(trained(tmp_path / "parts", lambda: bool(first) and next(asked) >= 1))
    assert len(first) == 1
    assert [measurement.metrics for measurement in trained(tmp_path / "parts")] == whole


@pytest.mark.parametrize("case", ["regression", pytest.param("lightning", marks=pytest.mark.slow)])
def test_it_is_searched_pruned_and_survives_a_kill(case: str, command: Command) -> None:
    objective, evaluator = CASES[case]
    settings = [f"--set=evaluator.{key}={value}" for key, value in ({"epochs": 4} | evaluator).items()]
    space = ["--set=space.depth=2", "--set=space.filters=[4,8]", "--set=space.kernels=[3]"]
    how = ["--sampler", "random", "--pruner", "median", "--set=pruner.n_startup_trials=2"]
    arguments = ["run", "--trials", "8", "--objective", objective, *settings, *space, *how]
    code = "import sys; from nas_optuna.cli import main; sys.exit(main(sys.argv[1:]))"
    process = subprocess.Popen(
        [sys.executable, "-c", code, *arguments], stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL
    )
    deadline = time.monotonic() + 120
    while not list(Path.cwd().rglob("trial-*/*")) and time.monotonic() < deadline:
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()
    with warnings.catch_warnings(action="ignore"):  # Lightning's advice
        assert main(["run", "--trials", "8"]) == 0
    best = command("best", "--json").json
    study = optuna.load_study(study_name="nas", storage="sqlite:///nas-optuna.db")
    states = [trial.state.name for trial in study.trials]
    assert "RUNNING" not in states
    assert {"COMPLETE", "PRUNED"} <= set(states)
    assert best["number"] == study.best_trial.number
    assert 0 < study.best_value < (45 if case == "regression" else 1.01)
