import random
import time
from pathlib import Path

import pytest
import torch

from nas_optuna import ConvSpace, Objective, SearchData
from nas_optuna.errors import TrainingError
from nas_optuna.execution import threads
from nas_optuna.execution.evaluator import TrainingEvaluator
from nas_optuna.execution.executors import local
from nas_optuna.execution.executors.contract import WorkerOptions
from nas_optuna.execution.executors.local import LocalExecutor
from nas_optuna.execution.threads import StepTimes, measure_steps
from nas_optuna.fitting.equal_seconds import time_network
from nas_optuna.spec import Recipe
from tests.helpers import RECIPE


@pytest.fixture(autouse=True)
def _new_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One that remembers nothing."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def test_more_threads_are_taken_only_where_they_gain() -> None:
    assert StepTimes({1: 3.0, 2: 2.9}).best() == 1
    assert StepTimes({1: 3.0, 2: 1.6, 4: 1.5}).best() == 2
    assert StepTimes({1: 8.0, 2: 4.1, 4: 2.1}).best() == 4


def test_workers_have_one_thread_where_networks_are_small() -> None:
    assert StepTimes({1: 3.0, 2: 2.9}).best(cores=2) == 1
    assert StepTimes({1: 8.0, 2: 4.1, 4: 2.1}).best(cores=4) == 1, "as much work, and better shared"
    assert StepTimes({1: 8.0, 2: 3.0, 4: 3.0}).best(cores=4) == 2


def test_it_says_what_was_measured() -> None:
    assert str(StepTimes({1: 0.00312, 2: 0.002})) == "a step takes 3.12 ms with 1 thread, 2 ms with 2"
    assert str(StepTimes({1: 2.27, 2: 0.9999})) == "a step takes 2.3 s with 1 thread, 1.0 s with 2"
    assert str(StepTimes({1: 0.9991, 2: 0.05})) == "a step takes 999 ms with 1 thread, 50 ms with 2"


@pytest.mark.parametrize(("epochs", "step"), [(1, 0.5), (10, 0.5)])
def test_measuring_takes_a_small_share_of_a_training(
    epochs: int, step: float, space: ConvSpace, data: SearchData, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With steps that take as long as is said: 4 steps an epoch, so that one epoch is not worth measuring."""

    taken = []

    class Slow(threads.TrainStep):
        def __call__(self, *batch: torch.Tensor) -> object:
            time.sleep(step)
            taken.append(step)
            return super().__call__(*batch)

    monkeypatch.setattr(threads, "usable_cores", lambda: 2)
    monkeypatch.setattr(threads, "TrainStep", Slow)
    recipe = Recipe(epochs=epochs, batch_size=len(data.train) // 4, input_size=8)
    times = measure_steps(TrainingEvaluator(space, data, recipe, torch.device("cpu")))
    assert sum(taken) <= 0.15 * epochs * 4 * step
    assert (times is not None) == (epochs > 1)


@pytest.fixture
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the measurement of steps take as long as it needs on a busy machine.

    A step here takes a millisecond, so that even a whole training's share would end with one pause of the machine.
    """
    monkeypatch.setattr(threads, "PATIENCE", 60.0)
    monkeypatch.setattr(threads, "MAX_SHARE", 1e6)


@pytest.mark.usefixtures("patient")
def test_real_steps_are_measured(space: ConvSpace, data: SearchData, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(threads, "usable_cores", lambda: 2)
    before = torch.get_num_threads()
    times = measure_steps(
        TrainingEvaluator(space, data, Recipe(epochs=30, batch_size=64, input_size=8), torch.device("cpu"))
    )
    assert times is not None
    assert set(times.seconds) == {1, 2}
    assert all(seconds > 0 for seconds in times.seconds.values())
    assert torch.get_num_threads() == before
    monkeypatch.setattr(threads, "TrainStep", None)  # what was measured once is remembered
    again = TrainingEvaluator(space, data, Recipe(epochs=30, batch_size=64, input_size=8), torch.device("cpu"))
    assert measure_steps(again) == times


def test_nothing_is_measured_where_there_is_nothing_to_choose(
    space: ConvSpace, data: SearchData, monkeypatch: pytest.MonkeyPatch
) -> None:
    evaluator = TrainingEvaluator(space, data, RECIPE, torch.device("cpu"))
    monkeypatch.setattr(threads, "usable_cores", lambda: 1)
    assert measure_steps(evaluator) is None
    monkeypatch.setattr(threads, "usable_cores", lambda: 2)
    monkeypatch.setattr(ConvSpace, "build", lambda *_: torch.nn.Linear(3, 3))
    assert measure_steps(evaluator.with_recipe(Recipe(epochs=50, batch_size=32, input_size=8))) is None, (
        "its trials say what is wrong"
    )


@pytest.mark.usefixtures("patient")
def test_a_network_that_fails_in_training_ends_no_measurement(
    space: ConvSpace, data: SearchData, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise ValueError("of a user's code")

    monkeypatch.setattr(threads, "usable_cores", lambda: 2)
    monkeypatch.setattr(threads.TrainStep, "__call__", fail)
    evaluator = TrainingEvaluator(space, data, RECIPE.model_copy(update={"epochs": 50}), torch.device("cpu"))
    assert measure_steps(evaluator) is None
    with pytest.raises(TrainingError, match="ValueError: of a user's code"):
        time_network(evaluator, space.reference or space.sample(random.Random(0)))


@pytest.mark.usefixtures("patient")
def test_an_objective_chooses_threads_when_it_is_asked(
    space: ConvSpace, data: SearchData, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(threads, "usable_cores", lambda: 2)
    objective = Objective(space, data, Recipe(epochs=30, batch_size=64, input_size=8), device="cpu")
    before = torch.get_num_threads()
    try:
        monkeypatch.setenv("OMP_NUM_THREADS", "1")
        assert objective.choose_threads() == ""
        monkeypatch.delenv("OMP_NUM_THREADS")
        said = objective.choose_threads()
        assert said.startswith(f"CPU threads: {torch.get_num_threads()} (a step takes ")
        assert "--" not in said
    finally:
        torch.set_num_threads(before)


def test_workers_have_the_threads_of_the_environment_without_a_measurement(
    space: ConvSpace, data: SearchData, monkeypatch: pytest.MonkeyPatch
) -> None:
    objective = Objective(space, data, Recipe(epochs=30, batch_size=64, input_size=8), device="cpu")
    monkeypatch.setattr(local, "usable_cores", lambda: 6)
    monkeypatch.setattr(local, "measure_steps", lambda _: pytest.fail("nothing is to be measured"))
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    before = torch.get_num_threads()
    torch.set_num_threads(3)  # as torch does where it is imported with that variable
    try:
        for options in (WorkerOptions(auto=True), WorkerOptions(2)):
            assert LocalExecutor(options).prepare(objective) == ["2 workers with 3 CPU threads each: 2 on cpu"]
        assert LocalExecutor(WorkerOptions(2, threads=1)).prepare(objective)[0].startswith("2 workers with 1 CPU")
    finally:
        torch.set_num_threads(before)
