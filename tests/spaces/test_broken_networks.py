"""Spaces with networks that cannot be built: limits and costs leave them aside, and only their trials fail."""

from typing import Any

import optuna
import pytest
import torch
from torch import nn

import nas_optuna as nas
from nas_optuna.costs.study_costs import Limits, StudyCosts, best_in_cost, nearest_inside
from nas_optuna.errors import SpecError, TrainingError
from nas_optuna.pruners import create_pruner
from nas_optuna.spaces.function import FunctionSpace
from nas_optuna.study.schema import TrialKey, attribute
from tests.helpers import RECIPE

SHAPE: dict[str, Any] = {"in_channels": 1, "classes": 10, "input_size": 16}


@nas.space(reference={"stride": 1, "depth": 3})
def striding(c: Any, task: Any) -> nn.Module:
    """Too small for its kernels after two layers with a stride of 4."""
    stride = c.choice("stride", [4, 1], ordered=True)
    layers = [nn.Conv2d(1 if i == 0 else 4, 4, 3, stride) for i in range(c.integer("depth", 2, 5))]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, task.classes))


SPACE = striding(**SHAPE)
BROKEN = SPACE.parse("stride=4,depth=4")


def costs(space: FunctionSpace = SPACE) -> StudyCosts:
    return StudyCosts(space, torch.device("cpu"))


def test_a_broken_network_is_told_with_its_layer_and_the_shape_of_its_input() -> None:
    for ask in (SPACE.build, costs(), SPACE.operations):
        with pytest.raises(TrainingError, match=r"stride=4,depth=4 .*layer '2' \(Conv2d.* cannot take \[2, 4, 1, 1\]"):
            ask(BROKEN)


@pytest.mark.parametrize("name", ["curves", "arch", "random"])
def test_only_its_trials_fail_and_they_name_it(name: str) -> None:
    objective = nas.Objective(striding, nas.load_data("digits"), RECIPE.model_copy(update={"input_size": 16}))
    sampler, pruner = nas.create_sampler(name, objective.space, seed=0), create_pruner("curves", RECIPE.epochs, {})
    study = optuna.create_study(direction="maximize", sampler=sampler, pruner=pruner if name == "curves" else None)
    study.enqueue_trial(dict(BROKEN.params))
    study.optimize(objective, n_trials=4, catch=(TrainingError,))
    first = study.trials[0]
    assert first.state.name == "FAIL"
    assert attribute(first, TrialKey.ARCHITECTURE) == str(BROKEN)
    assert "cannot take [2, 4, 1, 1]" in attribute(first, TrialKey.CAUSE)
    assert any(trial.state.name == "COMPLETE" for trial in study.trials)


def test_it_is_outside_of_every_limit_and_never_the_cheapest() -> None:
    limits = Limits({"macs": 10_000_000.0}, costs())
    limits.check()
    assert limits.total_excess(BROKEN) == float("inf")
    assert str(best_in_cost(costs(), "macs")) == "stride=4,depth=2"
    walk = nearest_inside(Limits({"params": 550.0}, costs()), SPACE.parse("stride=1,depth=5"))
    assert str(walk) == "stride=1,depth=4"
    assert nearest_inside(limits, BROKEN) is None


def test_a_limit_that_nothing_meets_names_the_smallest_network_that_works() -> None:
    with pytest.raises(SpecError, match=r"the smallest possible is [\d,]+, of stride=4,depth=2"):
        Limits({"macs": 10.0}, costs()).check()


def test_a_parameter_that_is_called_like_a_setting_of_the_recipe_is_refused() -> None:
    def build(c: Any, task: Any) -> nn.Module:
        width = c.scope("recipe").choice("epochs", [4, 8])
        return nn.Sequential(nn.Flatten(), nn.Linear(256, width), nn.Linear(width, task.classes))

    with pytest.raises(SpecError, match=r"'recipe\.epochs' of the space has a name of the recipe"):
        nas.Objective(nas.space(build), nas.load_data("digits"), RECIPE.model_copy(update={"input_size": 16}))


def test_a_network_without_a_weight_that_learns_is_told_so() -> None:
    def build(c: Any, task: Any) -> nn.Module:
        return nn.Sequential(nn.Flatten(), nn.Linear(256, task.classes)).requires_grad_(c.choice("learns", [False]))

    objective = nas.Objective(nas.space(build), nas.load_data("digits"), RECIPE.model_copy(update={"input_size": 16}))
    with pytest.raises(TrainingError, match="no weight that learns"):
        objective(optuna.trial.FixedTrial({"learns": False}))


def test_a_space_whose_networks_refuse_their_images_is_refused_with_their_reason() -> None:
    class Refusing(nn.Module):
        def forward(self, images: torch.Tensor) -> torch.Tensor:
            raise TrainingError("too few channels")

    def refusing(c: Any, task: Any) -> nn.Module:
        return Refusing()

    with pytest.raises(SpecError, match="space 'refusing': TrainingError: too few channels"):
        nas.space(refusing)(**SHAPE)
