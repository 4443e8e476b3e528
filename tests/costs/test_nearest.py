"""The network inside limits that is nearest to a good one outside."""

import time
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import nas_optuna as nas
from nas_optuna.costs.study_costs import Limits, StudyCosts, nearest_inside
from nas_optuna.spaces import SearchSpace, create_space


@pytest.fixture(scope="module")
def space() -> SearchSpace:
    return create_space("residual", {"width": 8}, in_channels=1, classes=10, input_size=16)


def limited(space: SearchSpace, **limits: float) -> Limits:
    return Limits(limits, StudyCosts(space, torch.device("cpu"), (), list(limits)))


@pytest.mark.parametrize("name", ["params", "macs", "memory"])
def test_half_the_cost_leaves_every_part_and_uses_most_of_the_limit(space: SearchSpace, name: str) -> None:
    reference = space.reference
    assert reference is not None
    most = limited(space, **{name: 1.0}).costs(reference, [name])[name] / 2
    limits = limited(space, **{name: most})
    found = nearest_inside(limits, reference)
    assert found is not None
    assert 0.5 * most < limits.costs(found, [name])[name] <= most
    depths = [value for key, value in found.params.items() if key.endswith("depth")]
    assert depths == [1, 1, 1] or name == "memory"


def test_what_is_inside_stays_as_it_is(space: SearchSpace) -> None:
    reference = space.reference
    assert reference is not None
    assert nearest_inside(limited(space, params=1e9), reference) == reference


def test_a_limit_below_everything_has_no_network(space: SearchSpace) -> None:
    reference = space.reference
    assert reference is not None
    assert nearest_inside(limited(space, params=10), reference) is None


def test_a_walk_ends_in_its_time(space: SearchSpace) -> None:
    reference, limits = space.reference, limited(space, params=20_000)
    assert reference is not None
    assert nearest_inside(limits, reference) is not None
    assert nearest_inside(limits, reference, until=time.monotonic() - 1) is None


class Shift(nn.Module):
    """Weights that cost no MACs."""

    def __init__(self, weights: int) -> None:
        super().__init__()
        self.weights = nn.Parameter(torch.zeros(weights))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.weights.sum()


@nas.space
def shifted(c: Any, task: Any) -> nn.Module:
    width, weights = c.choice("width", [1, 2, 4, 8], ordered=True), c.choice("weights", [1, 400], ordered=True)
    return nn.Sequential(nn.Flatten(), Shift(weights), nn.Linear(16, width), nn.Linear(width, task.classes))


@nas.space
def downwards(c: Any, task: Any) -> nn.Module:
    width = c.choice("width", [8, 4, 2, 1], ordered=True)
    return nn.Sequential(nn.Flatten(), nn.Linear(16, width), nn.Linear(width, task.classes))


def test_a_walk_goes_down_where_numbers_are_written_downwards() -> None:
    space = downwards(in_channels=1, classes=4, input_size=4)
    assert str(nearest_inside(limited(space, macs=90), space.parse("width=8"))) == "width=4"


def test_what_saves_nothing_of_one_limit_may_save_of_another() -> None:
    space = shifted(in_channels=1, classes=4, input_size=4)
    limits = limited(space, macs=90, params=400)  # of width 8 there are 160 and 172, beside the shift
    found = nearest_inside(limits, space.parse("width=8,weights=400"))
    assert str(found) == "width=4,weights=1"
