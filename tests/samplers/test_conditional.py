"""Spaces in which some choices switch others off: no sampler spends a trial on a network that was tried."""

from typing import Any

import optuna
import pytest
from torch import nn

import nas_optuna as nas
from nas_optuna.samplers import create_sampler
from nas_optuna.spaces import SearchSpace
from nas_optuna.spaces.macro import MacroSpace

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


def tried(space: SearchSpace, sampler: str, trials: int) -> list[str]:
    study = optuna.create_study(direction="maximize", sampler=create_sampler(sampler, space, 0, {}))
    found: list[str] = []

    def score(trial: optuna.Trial) -> float:
        found.append(str(space.suggest(trial)))
        return float(sum(map(ord, found[-1])) % 101)

    study.optimize(score, n_trials=trials)
    return found


@pytest.mark.parametrize("space", list(SPACES))
@pytest.mark.parametrize("sampler", ["arch", "evolution", "controller"])
def test_fifty_trials_try_fifty_networks(sampler: str, space: str) -> None:
    assert len(set(tried(SPACES[space], sampler, 50))) >= 48


def test_the_sizes_are_known() -> None:
    assert SPACES["deep"].size == 7_380
    assert SPACES["switched"].size == (3 + 1) * (4 + 1 + 1 + 1) ** 3


@pytest.mark.parametrize("sampler", ["grid", "arch", "evolution", "controller"])
def test_a_small_space_takes_as_many_trials_as_networks(sampler: str) -> None:
    space = deep(**SHAPE, most=3, kinds=2)
    assert space.size == 14
    found = tried(space, sampler, 50 if sampler == "grid" else 14)
    assert len(found) == len(set(found)) == 14


def test_a_grid_goes_on_where_another_sampler_stopped() -> None:
    space = deep(**SHAPE, most=2, kinds=2)
    study = optuna.create_study(sampler=create_sampler("random", space, 0, {}))
    study.optimize(lambda trial: float(len(str(space.suggest(trial)))), n_trials=3)
    study.sampler = create_sampler("grid", space, 0, {})
    before = {space.architecture(trial.params) for trial in study.trials}
    study.optimize(lambda trial: float(len(str(space.suggest(trial)))), n_trials=50)
    assert len(study.trials) == 3 + space.size - len(before)
    assert {space.architecture(trial.params) for trial in study.trials} == set(space.enumerate())
