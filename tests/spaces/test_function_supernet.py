"""The supernet that comes with a function: the same networks as the function builds, and exact expected costs."""

import logging
import random
from typing import Any

import pytest
import torch
from torch import nn

import nas_optuna as nas
from nas_optuna.costs.complexity import figures, macs_table
from nas_optuna.errors import SpecError
from nas_optuna.oneshot.supernets import supernet_for
from nas_optuna.spaces.function import FunctionSpace
from nas_optuna.spaces.supernet import Draw

SHAPE: dict[str, Any] = {"in_channels": 1, "classes": 10, "input_size": 8}


class Residual(nn.Module):
    """Holds a layer where `Sequential` does not."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.relu(x + self.inner(x))


@nas.space
def network(c: Any, task: Any) -> nn.Module:
    width = c.choice("width", [4, 8], ordered=True)
    layers: list[nn.Module] = [nn.Conv2d(task.channels, width, 3, padding=1)]
    for i in range(c.integer("depth", 1, 3)):
        scope = c.scope(f"block.{i}")
        convs = {
            f"conv{k}": lambda k=k: nn.Sequential(nn.Conv2d(width, width, k, padding=k // 2), nn.BatchNorm2d(width))
            for k in (3, 5)
        }
        layers.append(Residual(scope.layer("layer", {**convs, "skip": nn.Identity})))
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, task.classes))


SPACE = network(**SHAPE)
SUPERNET_SPACE = SPACE.fixed({"width": 8, "depth": 3})


def draw(supernet: Any, architecture: Any) -> Draw:
    tokens = dict(zip(supernet.space.parameters, supernet.space.tokens(architecture), strict=True))
    return Draw(tokens, {name: torch.zeros(len(a)) for name, a in supernet.alphas.items()}, 1.0)


@pytest.mark.parametrize("seed", range(20))
def test_one_hot_alphas_equal_the_extracted_network(seed: int) -> None:
    torch.manual_seed(seed)
    supernet = supernet_for(SUPERNET_SPACE).eval()
    architecture = SUPERNET_SPACE.sample(random.Random(seed))
    drawn = draw(supernet, architecture)
    for name, alpha in supernet.alphas.items():
        alpha.data.fill_(-1e4)[drawn.indices[name]] = 0
    assert SUPERNET_SPACE.architecture(supernet.derive()) == architecture
    images = torch.randn(4, 1, 8, 8)
    expected = supernet.extract(architecture).eval()(images)
    assert expected.std() > 1e-3
    for mode in ("mixture", "sampled"):
        out = supernet(images, supernet.picks(mode, drawn, differentiable=True))
        torch.testing.assert_close(out, expected, rtol=1e-5, atol=1e-5)


def test_operations_add_up_to_the_network() -> None:
    table = macs_table(SPACE)
    for architecture in SPACE.sample_distinct(20, random.Random(0)):
        total = sum(table[operation.key] for operation in SPACE.operations(architecture))
        assert total == figures(SPACE, architecture).macs
    for operation in SPACE.reachable_operations():
        given = torch.zeros(2, *operation.input_shape)
        assert SPACE.build_operation(operation)(given).shape == (2, *operation.output_shape)


def test_expected_cost_is_the_mean_over_architectures() -> None:
    table = {key: float(macs) for key, macs in macs_table(SUPERNET_SPACE).items()}
    supernet = supernet_for(SUPERNET_SPACE)
    rng = random.Random(0)
    for alpha in supernet.alphas.values():
        alpha.data.copy_(torch.tensor([rng.gauss(0, 1) for _ in alpha]))
    mean = 0.0
    for architecture in SUPERNET_SPACE.enumerate():
        p = 1.0
        for name, value in architecture.items:
            choices = SUPERNET_SPACE.parameters[name].choices
            p *= supernet.prior()[name][choices.index(value)]
        mean += p * figures(SUPERNET_SPACE, architecture).macs
    cost = supernet.expected_cost(table)
    assert float(cost.detach()) == pytest.approx(mean, rel=1e-5)
    cost.backward()
    assert all(supernet.alphas[name].grad is not None for name in supernet.mixed)


def test_values_are_kept_at_the_largest_which_is_said(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        supernet = supernet_for(SPACE)
    assert "keeps width = 8, depth = 3" in caplog.text
    assert supernet.derive()["width"] == 8
    assert supernet.prior()["depth"] == pytest.approx([0, 0, 1])
    with pytest.raises(SpecError, match=r"the supernet keeps width = 8, and .* has 4; pin it"):
        supernet.extract(SPACE.parse("width=4,depth=1,block.0.layer=skip"))


def test_candidates_of_different_shapes_are_refused_with_both() -> None:
    def build(c: Any, task: Any) -> nn.Module:
        layer = c.layer("down", {"conv": lambda: nn.Conv2d(1, 4, 3), "wide": lambda: nn.Conv2d(1, 4, 3, padding=1)})
        return nn.Sequential(layer, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, task.classes))

    space = nas.space(build)(**SHAPE)
    with pytest.raises(SpecError, match=r"layer 'down' cannot be mixed.* \[2, 4, 6, 6\] and 'wide' .* \[2, 4, 8, 8\]"):
        supernet_for(space)


def test_a_function_without_layers_has_no_supernet() -> None:
    def build(c: Any, task: Any) -> nn.Module:
        units = c.choice("units", [4, 8])
        return nn.Sequential(nn.Flatten(), nn.Linear(64, units), nn.Linear(units, task.classes))

    space: FunctionSpace = nas.space(build)(**SHAPE)
    with pytest.raises(SpecError, match=r"no layer that a supernet could mix; write c\.layer"):
        supernet_for(space)
