"""Spaces in which some choices switch others off: no sampler spends a trial on a network that was tried."""

from typing import Any

import optuna
import pytest
from torch import nn

import nas_optuna as nas
from nas_optuna.samplers import SAMPLERS, create_sampler
from nas_optuna.samplers.base import ArchitectureSampler
from nas_optuna.samplers.wrapping import FixedSampler
from nas_optuna.spaces import SearchSpace
from nas_optuna.spaces.macro import MacroSpace
from nas_optuna.study.supernet_result import SupernetResult, write_result

optuna.logging.set_verbosity(optuna.logging.ERROR)
SHAPE: dict[str, Any] = {"in_channels": 1, "classes": 2, "input_size": 8}


@nas.space
def deep(c: Any, task: Any, most: int = 4, kinds: int = 9) -> nn.Module:
    layers = {f"kind{i}": nn.ReLU for i in range(kinds)}
    chain = [c.layer(f"block{i}", layers) for i in range(c.integer("depth", 1, most))]
    return nn.Sequential(*chain, nn.Flatten(), nn.Linear(64, task.classes))


@nas.space
def switched(c: Any, task: Any) -> nn.Module:
    """What is behind a condition is asked for under several names, and within another condition."""
    if c.choice("norm", [True, False]):
        c.choice("groups", [1, 2, 4])
    for i in range(3):
        if c.choice(f"kind{i}", ["conv", "pool", "skip"]) == "conv" and c.choice(f"wide{i}", [True, False]):
            c.choice(f"factor{i}", [2, 3, 4, 6])
    return nn.Sequential(nn.Flatten(), nn.Linear(64, task.classes))


SPACES = {
    "deep": deep(**SHAPE),
    "switched": switched(**SHAPE),
    "macro": MacroSpace(stages=2, depths=[1, 2], **SHAPE),
}


QUICK = ("random", "tpe", "nsga2", "qmc", "evolution", "neighbours", "controller", "arch", "supernet")
SLOW = ("gp", "curves")
"""They think for a second about some proposals."""
OPTIONS: dict[str, dict[str, Any]] = {"gp": {"n_startup_trials": 2}}
"""Samplers that begin with random trials: of these so few that the short test reaches what they propose themselves."""


def tried(space: SearchSpace, sampler: str, trials: int, seed: int = 0) -> list[str]:
    study = optuna.create_study(
        direction="maximize", sampler=create_sampler(sampler, space, seed, OPTIONS.get(sampler, {}))
    )
    if sampler == "supernet":  # which has a favourite in each parameter
        write_result(
            study, SupernetResult({n: [4.0] + [0.0] * (len(p.choices) - 1) for n, p in space.parameters.items()})
        )
    found: list[str] = []

    def score(trial: optuna.Trial) -> float:
        found.append(str(space.suggest(trial)))
        return float(sum(map(ord, found[-1])) % 101)

    study.optimize(score, n_trials=trials)
    return found


@pytest.mark.parametrize(
    ("sampler", "space"), [*((name, space) for name in QUICK for space in SPACES), *((name, "deep") for name in SLOW)]
)
def test_no_sampler_tries_a_network_twice(sampler: str, space: str) -> None:
    trials = 6 if sampler in SLOW else 50
    assert len(set(tried(SPACES[space], sampler, trials))) >= 0.96 * trials


def test_every_sampler_is_tried() -> None:
    assert {*QUICK, *SLOW, "grid"} == set(SAMPLERS.names())


def test_the_sizes_are_known() -> None:
    assert SPACES["deep"].size == 7_380
    assert SPACES["switched"].size == (3 + 1) * (4 + 1 + 1 + 1) ** 3


@pytest.mark.parametrize("sampler", ["grid", "random", "tpe", "qmc", "arch"])
def test_a_parameter_of_one_choice_changes_nothing(sampler: str) -> None:
    space = deep(**SHAPE, most=1, kinds=8)
    assert len(set(tried(space, sampler, 8))) == 8


@pytest.mark.parametrize("sampler", ["grid", *QUICK, *SLOW])
def test_a_small_space_takes_as_many_trials_as_networks(sampler: str) -> None:
    space = deep(**SHAPE, most=3, kinds=2)
    assert space.size == 14
    found = tried(space, sampler, 50 if sampler == "grid" else 14)
    assert len(found) == len(set(found)) == 14


@pytest.mark.parametrize("name", ["grid", "arch", "random"])
def test_a_pinned_parameter_leaves_the_networks_that_do_not_use_it(name: str) -> None:
    space = deep(**SHAPE, most=2, kinds=2)
    pinned = {"block1": "kind1"}
    sampler = create_sampler(name, space, 0, {})
    assert isinstance(sampler, ArchitectureSampler)
    sampler.pinned = pinned
    study = optuna.create_study(sampler=FixedSampler(sampler, pinned))
    allowed = {space.architecture({**each.params, **pinned}) for each in space.enumerate()}
    found: list[nas.Architecture] = []

    def score(trial: optuna.Trial) -> float:
        found.append(space.suggest(trial))
        return 0.0

    study.optimize(score, n_trials=50 if name == "grid" else len(allowed))
    assert set(found) == allowed
    assert len(found) == len(allowed) == 4


def test_a_grid_goes_on_where_another_sampler_stopped() -> None:
    space = deep(**SHAPE, most=2, kinds=2)
    study = optuna.create_study(sampler=create_sampler("random", space, 0, {}))
    study.optimize(lambda trial: float(len(str(space.suggest(trial)))), n_trials=3)
    study.sampler = create_sampler("grid", space, 0, {})
    before = {space.architecture(trial.params) for trial in study.trials}
    study.optimize(lambda trial: float(len(str(space.suggest(trial)))), n_trials=50)
    assert len(study.trials) == 3 + space.size - len(before)
    assert {space.architecture(trial.params) for trial in study.trials} == set(space.enumerate())


def test_random_search_stays_uniform_among_what_is_left() -> None:
    space = deep(**SHAPE, most=2, kinds=2)  # two networks of one layer, each twice as likely as one of the four of two
    both_shallow = 0
    for seed in range(300):
        first, second = tried(space, "random", 2, seed)
        assert first != second
        both_shallow += first.startswith("depth=1") and second.startswith("depth=1")
    assert both_shallow == pytest.approx(300 * 1 / 2 * 1 / 3, abs=20)


@pytest.mark.parametrize("sampler", ["random", "tpe", "qmc", "evolution", "arch", "grid", "curves"])
@pytest.mark.parametrize("limits", [{}, {"params": 1200}])
def test_pins_and_limits_leave_no_repeat(sampler: str, limits: dict[str, float]) -> None:
    experiment = nas.Experiment.from_spec(
        nas.StudySpec.from_dict(
            {
                "sampler": sampler,
                "pruner": "none",
                "limits": limits,
                "data": {"name": "digits", "train_limit": 60},
                "space": {"name": "conv", "depth": 1, "filters": [4, 8], "kernels": [3, 5, 7], "strides": [1, 2]},
                "recipe": {"epochs": 1, "input_size": 8},
                "fixed": {"conv1.kernel": 5},
            }
        ),
        device="cpu",
    )
    study = experiment.create(optuna.storages.InMemoryStorage(), "s")
    networks = 3 if limits else 4
    experiment.run(study, trials=networks)
    assert len({str(trial.params) for trial in study.trials}) == networks


def test_a_network_may_be_trained_again_with_another_learning_rate() -> None:
    space = deep(**SHAPE, most=1, kinds=2)
    study = optuna.create_study(sampler=create_sampler("tpe", space, 0, {}))

    def score(trial: optuna.Trial) -> float:
        return trial.suggest_float("rate", 0, 1) + len(str(space.suggest(trial)))

    study.optimize(score, n_trials=20)
    assert len({trial.params["rate"] for trial in study.trials}) == 20


def test_two_workers_try_two_networks() -> None:
    space = deep(**SHAPE, most=1, kinds=2)
    study = optuna.create_study(sampler=create_sampler("random", space, 0, {}))
    first, second = study.ask(), study.ask()
    assert space.suggest(first) != space.suggest(second)
