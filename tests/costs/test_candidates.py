"""What may be proposed, and the reference of it."""

import math
from typing import Any

import pytest
import torch
from torch import nn

import nas_optuna as nas
from nas_optuna.costs.candidates import Candidates
from nas_optuna.costs.study_costs import Limits, StudyCosts
from nas_optuna.errors import SpecError


@nas.space(reference={"width": 8, "depth": 1, "second": 4})
def known(c: Any, task: Any) -> nn.Module:
    width, activation = c.choice("width", [2, 4, 8], ordered=True), c.choice("activation", ["relu", "silu"])
    layers = [nn.Flatten(), nn.Linear(16, width), nn.ReLU() if activation == "relu" else nn.SiLU()]
    if c.choice("depth", [1, 2], ordered=True) == 2:
        second = c.choice("second", [2, 4], ordered=True)
        layers += [nn.Linear(width, second), nn.Linear(second, width)]
    return nn.Sequential(*layers, nn.Linear(width, task.classes))


SPACE = known(in_channels=1, classes=4, input_size=4)


def candidates(fixed: dict[str, Any], *listed: str, **limits: float) -> Candidates:
    costs = StudyCosts(SPACE, torch.device("cpu"), (), list(limits))
    return Candidates(Limits(limits, costs), fixed, tuple(map(SPACE.parse, listed)) or None)


@pytest.mark.parametrize(
    ("fixed", "limits", "reference"),
    [
        ({}, {}, "width=8,activation=relu,depth=1"),
        ({"activation": "silu"}, {}, "width=8,activation=silu,depth=1"),
        ({"second": 4}, {}, "width=8,activation=relu,depth=1"),  # which it does not use
        ({"depth": 2}, {"params": 200}, "width=4,activation=relu,depth=2,second=2"),
        ({"width": 8, "depth": 2, "second": 4}, {"params": 1000}, "width=8,activation=relu,depth=2,second=4"),
        ({"width": 8}, {"params": 100}, "None"),
    ],
)
def test_a_reference_has_the_pinned_values_also_where_a_limit_makes_it_smaller(
    fixed: dict[str, Any], limits: dict[str, float], reference: str
) -> None:
    found = candidates(fixed, **limits).reference()
    assert str(found) == reference
    assert found is None or found in candidates(fixed, **limits)


def test_a_reference_that_is_not_listed_is_left_out() -> None:
    listed = ("width=8,activation=silu,depth=1", "width=2,activation=relu,depth=1")
    assert candidates({}, *listed).reference() is None
    assert str(candidates({"activation": "silu"}, *listed).reference()) == listed[0]


@pytest.mark.parametrize("enumerated", [1024, 0])
def test_the_best_in_a_cost_may_be_proposed(enumerated: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("nas_optuna.costs.study_costs._ENUMERATED", enumerated)
    assert str(candidates({"depth": 2}).best_in_cost("macs", "minimize")) == "width=2,activation=relu,depth=2,second=2"
    listed = ("width=8,activation=relu,depth=1", "width=4,activation=silu,depth=1")
    assert str(candidates({}, *listed).best_in_cost("macs", "minimize")) == listed[1]
    assert candidates({"width": 8}, params=100).best_in_cost("macs", "minimize") is None


def test_proposals_are_judged_by_pins_list_and_limits() -> None:
    free = {"activation": "silu", "recipe.learning_rate": 0.1}  # a pinned parameter is not proposed
    assert candidates({"width": 4, "depth": 1}, params=200).allows(free)
    assert not candidates({"width": 4, "depth": 1}, params=20).allows(free)
    assert not candidates({"width": 4, "depth": 1}, "width=4,activation=relu,depth=1").allows(free)
    assert SPACE.parse("width=4,activation=relu,depth=1") not in candidates({"activation": "silu"})


def test_those_of_a_part_of_the_space_are_judged_as_those_of_the_whole() -> None:
    part = SPACE.fixed({"width": 4, "depth": 1})  # which has no second width
    silu, relu = map(part.parse, ("width=4,activation=silu,depth=1", "width=4,activation=relu,depth=1"))
    assert candidates({"activation": "silu"}).excess(silu) == 0
    assert candidates({"activation": "silu"}).excess(relu) == math.inf
    assert candidates({"second": 4}).excess(relu) == 0, "it does not use it"
    assert list(SPACE.fixed({"second": 4, "width": 4, "depth": 1}).enumerate()) == [relu, silu]
    assert 0 < candidates({}, params=80).excess(relu) < math.inf
    listed = candidates({}, str(relu), "width=8,activation=relu,depth=1")
    assert listed.excess(silu) == math.inf
    assert listed.listed_in(part) == (relu,)
    assert candidates({}).listed_in(part) is None


def test_a_limit_that_no_network_with_the_pinned_values_meets_is_refused() -> None:
    candidates({}, params=100).check()
    with pytest.raises(SpecError, match=r"with the pinned values has params of at most 100; .* or pin less"):
        candidates({"width": 8}, params=100).check()
