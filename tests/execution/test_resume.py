"""A study that is stopped, killed or continued elsewhere is the study that it would have been."""

import re
import shlex
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import FrozenTrial, TrialState
from sqlalchemy.exc import OperationalError

from nas_optuna import ConvSpace, Objective, Recipe, SearchData, load_data
from nas_optuna.cli import main
from nas_optuna.errors import Interrupted
from nas_optuna.execution.loop import run
from nas_optuna.samplers import create_sampler
from nas_optuna.spec import DataSpec
from tests.helpers import RECIPE

SAMPLERS = ("random", "tpe", "gp", "nsga2", "qmc", "grid", "controller", "evolution")
OPTIONS: dict[str, dict[str, Any]] = {  # so that each has more than its random beginning within four trials
    "tpe": {"n_startup_trials": 3},
    "gp": {"n_startup_trials": 3},
    "nsga2": {"population_size": 3},
}

SESSION = """
import sys
sys.path[:0] = {path!r}
from tests.execution.test_resume import session
session({file!r}, {trials})
"""


def journal(file: str) -> JournalStorage:
    """Quicker than a database, and one storage more that the samplers are tried on."""
    return JournalStorage(JournalFileBackend(file))


def session(file: str, trials: int) -> None:
    """Run that many trials of a study for each sampler, as one process does."""
    recipe = Recipe(epochs=1, batch_size=64, input_size=8)
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    space = ConvSpace(depth=2, filters=(4, 8), kernels=(3, 5, 7), strides=(1,), input_size=8)
    objective = Objective(space, load_data(DataSpec(name="digits", train_limit=100)), recipe, device="cpu")
    for name in SAMPLERS:
        study = optuna.create_study(
            study_name=name,
            storage=journal(file),
            direction="maximize",
            sampler=create_sampler(name, space, 7, OPTIONS.get(name, {})),
            load_if_exists=True,
        )
        run(study, objective, trials=trials)


def history(file: str, name: str) -> list[tuple[dict[str, Any], float | None, str]]:
    trials = optuna.load_study(study_name=name, storage=journal(file)).trials
    return [(trial.params, trial.value, trial.state.name) for trial in trials]


@pytest.fixture(scope="module", params=[4, pytest.param(10, marks=pytest.mark.slow)])
def files(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str, int]:
    """Studies of all trials in one process, and of a half of them before another process runs the other half."""
    folder = tmp_path_factory.mktemp("studies")
    whole, parts, half = str(folder / "whole"), str(folder / "parts"), request.param
    session(whole, 2 * half)
    session(parts, half)
    code = SESSION.format(path=[str(Path(__file__).parents[2])], file=parts, trials=half)
    subprocess.run([sys.executable, "-W", "ignore", "-c", code], check=True, timeout=200)
    return whole, parts, half


@pytest.mark.process
@pytest.mark.parametrize("sampler", SAMPLERS)
def test_ten_trials_and_ten_more_elsewhere_are_twenty_in_one(files: tuple[str, str, int], sampler: str) -> None:
    whole, parts, half = files
    trials = history(whole, sampler)
    assert len(trials) == 2 * half
    assert trials == history(parts, sampler)
    assert len({tuple(params.values()) for params, _, _ in trials}) > half // 2


def test_the_seed_decides_and_nothing_else(space: ConvSpace, objective: Objective) -> None:
    def trials(seed: int) -> list[tuple[dict[str, Any], float | None]]:
        study = optuna.create_study(sampler=create_sampler("random", space, seed, {}), direction="maximize")
        run(study, objective, trials=5)
        return [(trial.params, trial.value) for trial in study.trials]

    assert trials(1) == trials(1)
    assert trials(1) != trials(2)


def test_a_grid_ends_by_itself_also_with_a_queue(space: ConvSpace, objective: Objective) -> None:
    study = optuna.create_study(sampler=create_sampler("grid", space, 0, {}), direction="maximize")
    study.enqueue_trial(dict(space.parse("f4k3s1-f4k3s1").params))
    run(study, objective, trials=100)
    points = {tuple(trial.params.values()) for trial in study.trials}
    assert len(points) == space.size == 36
    assert len(study.trials) <= 37


LONG = ["--pruner", "none", *("--set", "recipe.batch_size=4", "--set", "recipe.epochs=6")]
TINY = ["--set", "recipe.input_size=8", "--set", "space.depth=2", "--set", "data.train_limit=200"]
MAIN = [sys.executable, "-c", "import sys; from nas_optuna.cli import main; sys.exit(main(sys.argv[1:]))"]


def trials(folder: Path) -> list[FrozenTrial]:
    return optuna.load_study(study_name="nas", storage=f"sqlite:///{folder}/nas-optuna.db").trials


GIVEN = ["run", "--sampler", "random", "--seed", "5", "--trials", "3", *LONG, *TINY]


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory) -> list[FrozenTrial]:
    folder = tmp_path_factory.mktemp("uninterrupted")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        assert main(GIVEN) == 0
    return trials(folder)


STOPS = """
import os, pathlib
from nas_optuna import Callback

class Stop(Callback):
    def step_finished(self, subject, measurement):
        if subject.trial.number == 1 and measurement.step == 3 and not pathlib.Path("stopped").exists():
            pathlib.Path("stopped").touch()
            os.kill(os.getpid(), {number})
"""


@pytest.mark.process
@pytest.mark.parametrize(
    "number", [signal.SIGINT, pytest.param(signal.SIGTERM, marks=pytest.mark.slow), signal.SIGKILL]
)
def test_a_stopped_run_goes_on_as_if_nothing_had_been(
    uninterrupted: list[FrozenTrial], number: signal.Signals, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("stop.py").write_text(STOPS.format(number=int(number)))
    process = subprocess.run([*MAIN, *GIVEN, "--track", "stop.py:Stop"], capture_output=True, text=True, check=False)
    assert re.search("^trial +0  complete", process.stderr, re.MULTILINE)
    checkpoints = tmp_path / "nas-optuna-files" / "checkpoints" / "nas"
    states = [trial.state for trial in trials(tmp_path)]
    assert states[0] == TrialState.COMPLETE
    if number == signal.SIGKILL:
        assert states[1] == TrialState.RUNNING
        again = ["run", "--trials", "2", *GIVEN[1:5]]
    else:
        assert process.returncode == 130
        assert "Traceback" not in process.stderr
        assert states[1:] == [TrialState.WAITING]
        assert list(checkpoints.glob("trial-1-*/seed-0/epoch-*")), "the training goes on where it was"
        found = process.stderr.partition("Continue: nas-optuna ")[2]
        again = shlex.split(found)
        assert again[1:3] == ["--trials", "2"]
    assert main(again) == 0
    ours = trials(tmp_path)
    assert [(t.params, t.values, t.state, t.intermediate_values) for t in ours] == [
        (t.params, t.values, t.state, t.intermediate_values) for t in uninterrupted
    ]
    assert ours[1].user_attrs["nas_optuna:epochs"] == 6
    assert not list(checkpoints.glob("*")), "checkpoints of trials that have ended are removed"


def test_an_interrupted_objective_goes_back_into_the_queue(objective: Objective) -> None:
    study = optuna.create_study(direction="maximize", sampler=create_sampler("random", objective.space, 0, {}))

    def interrupted(trial: optuna.Trial) -> float:
        objective.space.suggest(trial)
        raise KeyboardInterrupt

    outcome = run(study, interrupted, trials=5)
    assert (outcome.trials, outcome.interrupted) == (0, True)
    (waiting,) = study.trials
    assert waiting.state == TrialState.WAITING
    assert run(study, objective, trials=1).trials == 1
    (complete,) = study.trials
    assert complete.state == TrialState.COMPLETE
    assert complete.params == waiting.params


@pytest.mark.parametrize(
    ("error", "state"),
    [(OperationalError("select", None, Exception("gone")), TrialState.WAITING), (ValueError(), TrialState.FAIL)],
)
def test_a_trial_fails_by_its_own_error_and_waits_after_the_storages(error: Exception, state: TrialState) -> None:
    study = optuna.create_study()

    def broken(trial: optuna.Trial) -> float:
        raise error

    with pytest.raises(type(error)):
        run(study, broken, trials=1)
    assert [trial.state for trial in study.trials] == [state]


def test_a_run_ends_with_its_time(objective: Objective) -> None:
    study = optuna.create_study(direction="maximize", sampler=create_sampler("random", objective.space, 0, {}))
    outcome = run(study, objective, timeout=1e-6)
    assert (outcome.trials, study.trials) == (0, [])
    outcome = run(study, objective, timeout=1.0)
    assert 1 <= outcome.trials == len(study.trials)


def test_an_objective_may_stop_the_study(objective: Objective) -> None:
    study = optuna.create_study(direction="maximize")

    def twice(trial: optuna.Trial) -> float:
        if trial.number == 1:
            trial.study.stop()
        return objective(trial)

    assert run(study, twice, trials=9).trials == 2


def test_a_failure_of_the_machine_keeps_the_trial_and_one_of_the_objective_does_not(objective: Objective) -> None:
    study = optuna.create_study(direction="maximize")

    def fail(error: Exception) -> Any:
        def objective(trial: optuna.Trial) -> float:
            raise error

        return objective

    for error, state in ((OSError("no space"), TrialState.WAITING), (ZeroDivisionError(), TrialState.FAIL)):
        with pytest.raises(type(error)):
            run(study, fail(error), trials=3)
        assert [trial.state for trial in study.trials] == [state]
    assert run(study, objective, trials=1).trials == 1


@pytest.mark.parametrize("objectives", [("accuracy",), ("accuracy", "macs")])
def test_a_training_whose_end_was_not_recorded_is_not_repeated(
    space: ConvSpace, data: SearchData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, objectives: tuple[str, ...]
) -> None:
    directions = ["maximize", "minimize"][: len(objectives)]
    study, trained = optuna.create_study(directions=directions, storage=f"sqlite:///{tmp_path}/s.db"), []

    def full(trial: optuna.Trial) -> float:
        trained.append(objective(trial))
        raise OSError("no space is left")

    objective = Objective(space, data, RECIPE, objectives=objectives, device="cpu", checkpoints=tmp_path)
    with pytest.raises(OSError, match="no space"):
        run(study, full, trials=1)
    evaluate = objective.evaluator.evaluate
    monkeypatch.setattr(objective.evaluator, "evaluate", None)
    run(study, objective, trials=1)
    (trial,) = study.trials
    assert trial.values == list(trained[0] if len(objectives) > 1 else trained)
    assert trial.state == TrialState.COMPLETE
    monkeypatch.setattr(objective.evaluator, "evaluate", evaluate)
    with pytest.raises(OSError, match="no space"):
        run(study, full, trials=1)
    recipe, began = RECIPE.model_copy(update={"learning_rate": 1e-6}), []
    other = Objective(space, data, recipe, objectives=objectives, device="cpu")
    monkeypatch.setattr(other.evaluator, "evaluate", lambda *a, **k: began.append(1) or evaluate(*a, **k))
    run(study, other, trials=1)
    assert began, "under other settings"


def test_what_an_earlier_training_had_is_not_the_result_of_one_that_was_stopped(
    space: ConvSpace, data: SearchData, tmp_path: Path
) -> None:
    """A trial whose end was not recorded is taken up under other settings, and stopped in its first epoch."""
    study = optuna.create_study(direction="maximize", storage=f"sqlite:///{tmp_path}/s.db")
    first = Objective(space, data, RECIPE, device="cpu", checkpoints=tmp_path)
    other = RECIPE.model_copy(update={"learning_rate": 1e-6})
    stopped, second = (
        Objective(space, data, other, device="cpu", checkpoints=tmp_path, interrupted=lambda stop=stop: stop)
        for stop in (True, False)
    )

    def full(trial: optuna.Trial) -> float:
        first(trial)
        raise OSError("no space is left")

    with pytest.raises(OSError, match="no space"):
        run(study, full, trials=1)
    with suppress(Interrupted):
        run(study, stopped, trials=1)
    assert study.trials[0].state == TrialState.WAITING
    run(study, second, trials=1)
    (trial,) = study.trials
    alone = Objective(space, data, other, device="cpu")(optuna.trial.FixedTrial(trial.params))
    assert trial.value == alone
