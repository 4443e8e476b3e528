"""A training that ends when time is up."""

import time
from itertools import islice
from pathlib import Path

import pytest
import torch

from nas_optuna.data import BatchLoader, load_images
from nas_optuna.fitting.clock import BUSIEST, END, Clock, Load, Plan, Speed, TimeBudget
from nas_optuna.fitting.equal_seconds import (
    EPOCHS,
    LARGER,
    TAUGHT_FROM,
    Timed,
    epochs_within,
    last_trainings,
    stages_of,
)
from nas_optuna.spaces import create_space
from nas_optuna.spec import Recipe
from nas_optuna.training import CheckpointFolder, EpochResult, fit


def epochs(*seconds: float) -> list[EpochResult]:
    return [EpochResult(i, 0.0, 0.0, 0.0, 0.0, taken, 1) for i, taken in enumerate(seconds, start=1)]


@pytest.mark.parametrize(
    ("seconds", "least", "epochs", "size"),
    [
        (40.0, 0.0, EPOCHS, 640),
        (0.35, 0.0, 10, 64),
        (-3.0, 0.0, 10, 64),
        (40.0, 39.0, EPOCHS, 640),
        (5.0, 6.0, 0, 64),
        (2400.0, 0.0, EPOCHS, 600 * 64),
        (8 * 3600.0, 0.0, 480, 600 * 64),
    ],
)
def test_a_training_on_from_a_search_has_no_epochs_where_time_is_short(
    seconds: float, least: float, epochs: int, size: int
) -> None:
    found = epochs_within(Recipe(batch_size=64), seconds, 0.1, 1000, least=least)
    assert found == {"epochs": epochs, "epoch_size": size}


@pytest.mark.parametrize(("passes", "least", "divided"), [(0.9, 0.0, False), (1.1, 0.0, True), (1.1, 0.9, False)])
def test_a_training_that_would_see_images_too_often_is_divided(passes: float, least: float, divided: bool) -> None:
    recipe, seconds = Recipe(batch_size=50), passes * TAUGHT_FROM * 0.2  # 20 steps of 10 ms are a pass
    found = last_trainings(recipe, seconds, Timed(0.01, 0.003, 9), 1000, least=least * seconds)
    assert ("teacher" in found) is divided
    stages = stages_of(found, recipe, TimeBudget(seconds), 0.0)
    taken = [s.recipe.epochs * (s.recipe.epoch_size or 0) / 50 * 0.01 for s in stages]
    taken[-1] *= 4 / 3 if divided else 1  # the teacher looks at each image, too
    assert sum(taken) == pytest.approx(seconds, rel=0.05)
    assert taken[0] == pytest.approx(seconds / len(stages), rel=0.05)
    for stage in stages:
        assert stage.pace is not None
        assert stage.pace([]) == stage.recipe.epochs


@pytest.mark.parametrize(("least", "taught"), [(10.0, True), (80.0, False)])
def test_a_larger_teacher_has_its_share_of_the_last_training(least: float, taught: bool) -> None:
    recipe, space = Recipe(batch_size=50), create_space("residual", {}, in_channels=1, classes=10, input_size=28)
    found = last_trainings(recipe, 100.0, Timed(0.01, 0.003, 9), 10_000, least, Timed(0.02, 0.01, 9))
    assert ("teacher" in found) is taught
    stages = stages_of(found, recipe, TimeBudget(100.0), 0.0, space if taught else None)
    assert [stage.space for stage in stages] == ([space, None] if taught else [None])
    steps = [s.recipe.epochs * (s.recipe.epoch_size or 0) / 50 for s in stages]
    seconds = [steps[0] * 0.02, steps[1] * 0.02] if taught else [steps[0] * 0.01]  # the student's looks through it, too
    assert sum(seconds) == pytest.approx(100, rel=0.05)
    assert seconds[0] == pytest.approx(100 * (LARGER if taught else 1), rel=0.05)


@pytest.mark.parametrize(("within", "left"), [(100.0, 45), (180.0, 85), (40.0, 15), (5.0, 1)])
def test_both_halves_have_their_share_of_another_time(within: float, left: int) -> None:
    recipe = Recipe(batch_size=50)
    found = last_trainings(recipe, 90.0, Timed(0.0001, 0.00003, 9), 1000) | {"within": 100.0}
    pace = stages_of(found, recipe, TimeBudget(within), 10.0)[0].pace
    assert pace is not None
    assert pace(epochs(1.0)) in (1 + left, left)  # of this very moment


def test_a_step_has_no_more_images_than_there_are() -> None:
    """Where a batch is larger than the training images, they would be drawn again and again for one step."""
    assert epochs_within(Recipe(batch_size=100_000), 40.0, 0.1, 12) == {"epochs": EPOCHS, "epoch_size": 10 * 12}
    images = load_images("digits", True).subset(range(12))
    loader, seen = BatchLoader(images, 100_000, 8, torch.device("cpu")), []
    network = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 10))
    network.register_forward_pre_hook(lambda _, inputs: seen.append(len(inputs[0])))
    recipe = Recipe(epochs=1, epoch_size=36, batch_size=100_000)
    list(fit(network, loader, None, recipe, torch.device("cpu"), seed=0))
    assert seen[-3:] == [12, 12, 12]


@pytest.mark.parametrize(
    ("taken", "planned"),
    [
        ((), 10),
        ((2.0,), 1 + 9),  # 20 s are left, of which 2 are kept
        ((1.0, 1.0), 2 + 18),
        ((4.0,), 1 + 4),
        ((20.0,), 1 + 1),
    ],
)
def test_epochs_follow_from_the_time_that_is_left(taken: tuple[float, ...], planned: int) -> None:
    clock = Clock(TimeBudget(20.2), reserve=2.0, epochs=10)
    assert clock(epochs(*taken)) == planned


def test_a_training_ends_with_its_schedule_however_often_it_goes_on(tmp_path: Path) -> None:
    """A clock is made anew at each start, with fewer epochs than an earlier one may have added."""
    cpu, folder = torch.device("cpu"), CheckpointFolder(tmp_path)
    loader = BatchLoader(load_images("digits", True).subset(range(100)), 50, 8, cpu)
    recipe = Recipe(epochs=2, epoch_size=100, batch_size=50)

    def trained(seconds: float, most: int) -> tuple[int, bool]:
        network = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 10))
        pace = Clock(TimeBudget(seconds), reserve=0.0, epochs=2)
        results = fit(network, loader, None, recipe, cpu, seed=0, checkpoints=folder, pace=pace)
        done = len(list(islice(results, most)))
        found = folder.load()
        assert found is not None
        steps, total = found.state["schedule"]
        return done, steps == pytest.approx(total)

    assert trained(1000.0, most=5) == (5, False)
    assert trained(1000.0, most=7) == (7, False)
    assert trained(0.0, most=100) == (8, True), "one epoch, in which the learning rate falls to zero"
    assert trained(1000.0, most=100) == (8, True), "none is added to what has ended"


def test_a_busy_machine_needs_a_larger_reserve() -> None:
    load = Load()
    assert load.reserve(0) == END
    assert load.reserve(200) > 3 * END
    time.sleep(1.3)  # as if others had computed meanwhile
    assert 1.2 < load() <= BUSIEST
    assert load.reserve(0) == pytest.approx(END * load(), rel=0.1)


def test_a_slow_first_epoch_does_not_end_a_training() -> None:
    """It warms up: a clock that took it for the pace of all left networks of one epoch."""
    clock = Clock(TimeBudget(10.0), reserve=3.0, epochs=40)
    assert clock(epochs(0.6)) > 10
    assert clock(epochs(0.6, 0.1, 0.1)) > 60


@pytest.mark.parametrize("seconds", [0.0, -20.0, 1e-9])
@pytest.mark.parametrize("retrain", [True, False])
def test_where_loading_took_all_of_the_time_the_reference_is_left(seconds: float, retrain: bool) -> None:
    plan = Plan.of(seconds, Speed(0.5, 4.0, 18), seconds / 4, retrain=retrain, selecting=1)
    assert [rung.networks for rung in plan.rungs] == [1]
    assert plan.confirming is None
