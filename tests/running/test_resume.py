"""A study that is stopped, killed or continued elsewhere is the study that it would have been."""

import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.trial import TrialState

from nas_optuna import ConvSpace, Objective
from nas_optuna.running import worker
from nas_optuna.running.loop import run
from nas_optuna.running.records import Attribute
from nas_optuna.running.storage import open_storage
from nas_optuna.samplers import create_sampler

SAMPLERS = ("random", "tpe", "gp", "nsga2", "qmc", "grid", "controller", "evolution")
OPTIONS: dict[str, dict[str, Any]] = {  # so that each has more than its random beginning within twenty trials
    "tpe": {"n_startup_trials": 5},
    "gp": {"n_startup_trials": 5},
    "nsga2": {"population_size": 4},
}

SESSION = """
import sys, optuna
sys.path[:0] = {path!r}
from tests.running.test_resume import session
session({url!r}, 10)
"""


def session(url: str, trials: int) -> None:
    """Run that many trials of a study for each sampler, as one process does."""
    from nas_optuna import load_data
    from nas_optuna.spec import DataSpec
    from tests.running.conftest import RECIPE

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    space = ConvSpace(depth=2, filters=(4, 8), kernels=(3, 5, 7), strides=(1,), input_size=8)
    objective = Objective(space, load_data(DataSpec(name="digits", train_limit=100)), RECIPE, device="cpu")
    for name in SAMPLERS:
        study = optuna.create_study(
            study_name=name,
            storage=open_storage(url, create=True),
            direction="maximize",
            sampler=create_sampler(name, space, 7, OPTIONS.get(name, {})),
            load_if_exists=True,
        )
        run(study, objective, trials=trials)


def history(url: str, name: str) -> list[tuple[dict[str, Any], float | None, str]]:
    trials = optuna.load_study(study_name=name, storage=url).trials
    return [(trial.params, trial.value, trial.state.name) for trial in trials]


@pytest.fixture(scope="module")
def urls(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str]:
    """Twenty trials of each sampler in one process, and ten and ten in two others."""
    folder = tmp_path_factory.mktemp("studies")
    whole, parts = f"sqlite:///{folder}/whole.db", f"sqlite:///{folder}/parts.db"
    session(whole, 20)
    for _ in range(2):
        code = SESSION.format(path=[str(Path(__file__).parents[2])], url=parts)
        subprocess.run([sys.executable, "-W", "ignore", "-c", code], check=True, timeout=200)
    return whole, parts


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_ten_trials_and_ten_more_elsewhere_are_twenty_in_one(urls: tuple[str, str], sampler: str) -> None:
    whole, parts = (history(url, sampler) for url in urls)
    assert len(whole) == 20
    assert whole == parts
    assert len({tuple(params.values()) for params, _, _ in whole}) > 5


def test_another_seed_gives_other_trials(space: ConvSpace, objective: Objective, urls: tuple[str, str]) -> None:
    study = optuna.create_study(sampler=create_sampler("random", space, 8, {}), direction="maximize")
    run(study, objective, trials=5)
    assert [trial.params for trial in study.trials] != [params for params, _, _ in history(urls[0], "random")[:5]]


def test_a_grid_ends_by_itself_also_with_a_queue(space: ConvSpace, objective: Objective) -> None:
    study = optuna.create_study(sampler=create_sampler("grid", space, 0, {}), direction="maximize")
    study.enqueue_trial(dict(space.parse("f4k3s1-f4k3s1").params))
    run(study, objective, trials=100)
    points = {tuple(trial.params.values()) for trial in study.trials}
    assert len(points) == space.size == 36
    assert len(study.trials) <= 37


LONG = ["--pruner", "none", *("--set", "recipe.batch_size=4", "--set", "recipe.epochs=12")]
TINY = ["--set", "recipe.input_size=8", "--set", "space.depth=2", "--set", "data.train_limit=200"]
MAIN = [sys.executable, "-c", "import sys; from nas_optuna.cli import main; sys.exit(main(sys.argv[1:]))"]


def command(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*MAIN, *arguments], cwd=folder, capture_output=True, text=True, timeout=120, check=False)


def trials(folder: Path) -> list[optuna.trial.FrozenTrial]:
    return optuna.load_study(study_name="nas", storage=f"sqlite:///{folder}/nas-optuna.db").trials


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory) -> list[optuna.trial.FrozenTrial]:
    folder = tmp_path_factory.mktemp("uninterrupted")
    assert command(folder, "run", "--sampler", "random", "--seed", "5", "--trials", "3", *LONG, *TINY).returncode == 0
    return trials(folder)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_a_stopped_run_goes_on_as_if_nothing_had_been(
    uninterrupted: list[optuna.trial.FrozenTrial], number: signal.Signals, tmp_path: Path
) -> None:
    given = ["run", "--sampler", "random", "--seed", "5", "--trials", "3", *LONG, *TINY]
    with subprocess.Popen([*MAIN, *given], cwd=tmp_path, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        said = iter(process.stderr.readline, "")
        assert any(line.startswith("trial   0") for line in said)
        checkpoints = tmp_path / "nas-optuna-files" / "checkpoints" / "nas"
        deadline = time.monotonic() + 60
        while not list(checkpoints.glob("trial-1-*/seed-0/epoch-2")) and time.monotonic() < deadline:
            time.sleep(0.01)
        process.send_signal(number)
        rest = "".join(said)
    states = [trial.state for trial in trials(tmp_path)]
    assert states[0] == TrialState.COMPLETE
    if number == signal.SIGKILL:
        assert states[1] == TrialState.RUNNING
        again = ["run", "--trials", "2", *given[1:5]]
    else:
        assert process.returncode == 130
        assert "Traceback" not in rest
        assert states[1:] == [TrialState.WAITING]
        assert list(checkpoints.glob("trial-1-*/seed-0/epoch-*")), "the training goes on where it was"
        found = rest.partition("Continue: nas-optuna ")[2]
        again = shlex.split(found)
        assert again[1:3] == ["--trials", "2"]
    went_on = command(tmp_path, *again)
    assert went_on.returncode == 0, went_on.stderr
    ours = trials(tmp_path)
    assert [(t.params, t.values, t.state, t.intermediate_values) for t in ours] == [
        (t.params, t.values, t.state, t.intermediate_values) for t in uninterrupted
    ]
    assert ours[1].user_attrs["epochs"] == 12
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


def test_only_trials_of_ended_processes_are_taken_up(space: ConvSpace) -> None:
    study = optuna.create_study()
    host, boot, process, started = worker.this_worker().rsplit("/", 3)
    owners = {
        "this very process": worker.this_worker(),
        "one that has ended": f"{host}/{boot}/{process}/1",
        "one of an earlier boot": f"{host}/another/{process}/{started}",
        "one of another machine": f"elsewhere/{boot}/999999999/1",
        "unknown": None,
    }
    for owner in owners.values():
        trial = study.ask()
        if owner is not None:
            trial.set_user_attr(Attribute.WORKER, owner)
    assert worker.release_abandoned(study) == [1, 2]
    states = [trial.state for trial in study.trials]
    assert states == [TrialState.RUNNING, TrialState.WAITING, TrialState.WAITING, *[TrialState.RUNNING] * 2]


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
