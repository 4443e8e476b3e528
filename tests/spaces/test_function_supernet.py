"""The supernet that comes with a function: the same networks as the function builds, and exact expected costs."""

import copy
import logging
import math
import random
from typing import Any

import pytest
import torch
from torch import nn

import nas_optuna as nas
from nas_optuna.costs.complexity import figures, macs_table
from nas_optuna.errors import SpecError
from nas_optuna.spaces.function import FunctionSpace
from nas_optuna.spaces.layers import ElasticLayer
from nas_optuna.spaces.supernet import ChoiceWeights, GumbelSample, supernet_for
from nas_optuna.testing.spaces import SupernetSuite

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


def draw(supernet: Any, architecture: Any) -> GumbelSample:
    tokens = dict(zip(supernet.space.parameters, supernet.space.tokens(architecture), strict=True))
    return GumbelSample(tokens, {name: torch.zeros(len(a)) for name, a in supernet.alphas.items()}, 1.0)


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
        assert operation.make()(given).shape == (2, *operation.output_shape)


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
    assert supernet.alphas_of(SPACE)["depth"] == [0.0, 0.0, 50.0]
    assert list(supernet.alphas_of(SPACE)) == list(SPACE.parameters)
    with pytest.raises(SpecError, match=r"the supernet keeps width = 8, and .* has 4; pin it: --set 'space.fix="):
        supernet.extract(SPACE.parse("width=4,depth=1,block.0.layer=skip"))


@pytest.mark.parametrize(("options", "kept"), [((16, 8, 4), 16), (("small", "large"), "large")])
def test_the_largest_is_kept_also_of_numbers_that_are_written_downwards(options: Any, kept: Any) -> None:
    @nas.space
    def build(c: Any, task: Any) -> nn.Module:
        width = {"small": 4, "large": 8}.get(size := c.choice("size", options, ordered=True), size)
        layer = c.layer("layer", {"linear": lambda: nn.Linear(64, width), "two": lambda: nn.LazyLinear(width)})
        return nn.Sequential(nn.Flatten(), layer, nn.Linear(width, task.classes))

    assert supernet_for(build(**SHAPE)).derive()["size"] == kept


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


def norm_of(kind: str, width: int) -> nn.Module:
    return nas.layers.ElasticBatchNorm2d(width) if kind == "batch" else nas.layers.ElasticGroupNorm(2, width)


@nas.space
def elastic(c: Any, task: Any, norm: str = "batch") -> nn.Module:
    """Two elastic widths, a multiple of one, layers of all kinds, and an activation that is not zero at zero."""
    first, second = c.elastic("first", [4, 8]), c.scope("two").elastic("width", [2, 6, 8])
    conv = nas.layers.ElasticConv2d
    layer = c.layer(
        "layer",
        {
            "conv3": lambda: conv(first, first, 3, padding=1),
            "depthwise": lambda: conv(first, first, 5, padding=2, groups=first, bias=False),
            "skip": nn.Identity,
            "bottleneck": lambda: nn.Sequential(conv(first, 2 * first, 1), nn.ReLU(), conv(2 * first, first, 1)),
        },
    )
    return nn.Sequential(
        conv(task.channels, first, 3, padding=1),
        norm_of(norm, first),
        nn.Sigmoid(),
        Residual(layer),
        conv(first, second, 1),
        norm_of(norm, second),
        nn.Flatten(),
        nas.layers.ElasticLinear(second * 64, task.classes),
    )


@pytest.mark.parametrize("norm", ["batch", "group"])
def test_elastic_widths_equal_the_networks_of_their_own(norm: str) -> None:
    torch.manual_seed(0)
    space = elastic(**SHAPE, norm=norm)
    assert space.size == 2 * 3 * 4
    supernet = supernet_for(space)
    assert supernet.space is space
    loader = [(torch.randn(16, 1, 8, 8), torch.zeros(16)) for _ in range(3)]
    images = torch.randn(4, 1, 8, 8)
    for architecture in space.enumerate():
        drawn = draw(supernet, architecture)
        for name, alpha in supernet.alphas.items():
            alpha.data.fill_(-1e4)[drawn.indices[name]] = 0
        supernet.recalibrate(architecture, loader, 3)
        supernet.eval()
        alone = supernet.extract(architecture).eval()
        assert not any(type(m).__module__.startswith("nas_optuna") for m in list(alone)[:3])
        expected = alone(images)
        assert expected.std() > 1e-3
        torch.testing.assert_close(supernet(images, supernet.path(architecture)), expected, rtol=1e-5, atol=1e-5)
        mixed = supernet(images, supernet.picks("mixture", drawn, differentiable=True))
        torch.testing.assert_close(mixed, expected, rtol=1e-5, atol=1e-5)


def test_elastic_widths_learn_and_cost_what_they_cost() -> None:
    torch.manual_seed(0)
    space = elastic(**SHAPE)
    supernet = supernet_for(space)
    table = {key: float(macs) for key, macs in macs_table(space).items()}
    rng = random.Random(0)
    for alpha in supernet.alphas.values():
        alpha.data.copy_(torch.tensor([rng.gauss(0, 1) for _ in alpha]))
    prior, mean = supernet.prior(), 0.0
    for architecture in space.enumerate():
        shares = [prior[n][space.parameters[n].choices.index(v)] for n, v in architecture.items]
        mean += math.prod(shares) * figures(space, architecture).macs
    assert float(supernet.expected_cost(table).detach()) == pytest.approx(mean, rel=1e-5)
    picks = supernet.picks("mixture", draw(supernet, space.sample(rng)), differentiable=True)
    supernet(torch.randn(8, 1, 8, 8), picks).square().mean().backward()
    assert all(float(alpha.grad.abs().max()) > 0 for alpha in supernet.alphas.values())  # type: ignore[union-attr]
    twin = copy.deepcopy(supernet)
    twin.opened["first"].pick = ChoiceWeights(0, None)
    assert {m.inputs.alone for m in twin.modules() if isinstance(m, ElasticLayer) and m.inputs} >= {4}
    assert supernet.opened["first"].pick is not twin.opened["first"].pick


def test_norms_are_recalibrated_for_a_path() -> None:
    torch.manual_seed(0)
    supernet = supernet_for(SUPERNET_SPACE)
    assert supernet.has_norm
    architecture = SUPERNET_SPACE.parse("width=8,depth=3,block.0.layer=conv5,block.1.layer=skip,block.2.layer=conv3")
    loader = [(torch.randn(16, 1, 8, 8), torch.zeros(16)) for _ in range(2)]
    supernet.recalibrate(architecture, loader, 2)
    alone = supernet.extract(architecture)
    for module in alone.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.reset_running_stats()
            module.momentum = None
    with torch.no_grad():
        for images, _ in loader:
            alone(images)
    images = torch.randn(4, 1, 8, 8)
    found = supernet.eval()(images, supernet.path(architecture))
    torch.testing.assert_close(found, alone.eval()(images), rtol=1e-5, atol=1e-5)


def test_a_layer_within_a_layer_is_mixed_and_extracted() -> None:
    def build(c: Any, task: Any) -> nn.Module:
        inner = lambda: nn.Sequential(c.layer("in", {"a": lambda: nn.Conv2d(4, 4, 1), "b": nn.Identity}))  # noqa: E731
        outer = c.layer("out", {"nested": inner, "plain": lambda: nn.Conv2d(4, 4, 3, padding=1)})
        return nn.Sequential(nn.Conv2d(1, 4, 3), Residual(outer), nn.Flatten(), nn.LazyLinear(task.classes))

    torch.manual_seed(0)
    supernet = supernet_for(nas.space(build)(**SHAPE)).eval()
    images = torch.randn(2, 1, 8, 8)
    for text in ("out=nested,in=a", "out=nested,in=b", "out=plain"):
        architecture = supernet.space.parse(text)
        out = supernet(images, supernet.path(architecture))
        torch.testing.assert_close(out, supernet.extract(architecture).eval()(images))


def dense(c: Any, task: Any) -> nn.Module:
    width = c.elastic("width", [4, 8])
    return nn.Sequential(
        nas.layers.ElasticConv2d(1, width, 3), Twice(), nn.Flatten(), LINEAR(width * 2 * 36, task.classes)
    )


LINEAR = nas.layers.ElasticLinear


class Twice(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.cat([x, 2 * x], 1)


def plain(c: Any, task: Any) -> nn.Module:
    width = c.elastic("width", [4, 8])
    return nn.Sequential(nas.layers.ElasticConv2d(1, width, 3), nn.Flatten(), nn.Linear(width * 36, task.classes))


def branching(c: Any, task: Any) -> nn.Module:
    width = c.elastic("width", [4, 8])
    more = [] if width > 4 else [nn.Conv2d(4, 4, 1)]
    return nn.Sequential(nas.layers.ElasticConv2d(1, width, 3), *more, nn.Flatten(), LINEAR(width * 36, task.classes))


def grouped(c: Any, task: Any) -> nn.Module:
    width = c.elastic("width", [4, 8])
    conv = nas.layers.ElasticConv2d(1, width, 3), nas.layers.ElasticConv2d(width, width, 3, groups=2)
    return nn.Sequential(*conv, nn.Flatten(), LINEAR(width * 16, task.classes))


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (plain, r"layer '2' \(Linear\) has the shape \[10, 144\], in the supernet \[10, 288\], and is not elastic"),
        (dense, r"computes something else than its network where width = 4"),
        (branching, r"layer '1' \(Conv2d\) has the shape .*, in the supernet None"),
        (grouped, r"ElasticConv2d needs groups = 1"),
    ],
)
def test_what_cannot_be_elastic_is_refused_by_name(build: Any, message: str) -> None:
    space: FunctionSpace = nas.space(build)(**SHAPE)
    assert len([space.build(a) for a in space.enumerate()]) == 2  # each network alone is sound
    with pytest.raises(SpecError, match=message):
        supernet_for(space)


@pytest.mark.parametrize(
    ("options", "message"),
    [([16, 0], "at least 1"), ([1.5], "whole numbers"), ([], "at least one"), ([4, 4], "repeats")],
)
def test_widths_that_are_none_are_refused(options: list[Any], message: str) -> None:
    def build(c: Any, task: Any) -> nn.Module:
        return nn.Linear(c.elastic("width", options), 1)

    with pytest.raises(SpecError, match=message):
        nas.space(build)(**SHAPE)


class TestElastic(SupernetSuite):
    def make_space(self) -> FunctionSpace:
        return elastic(**SHAPE)


class TestOpenValues(SupernetSuite):
    def make_space(self) -> FunctionSpace:
        return SPACE


@nas.space
def kernels_and_strides(c: Any, task: Any, padded: bool = True) -> nn.Module:
    """An elastic kernel, also of a depthwise layer, an elastic stride, and a product of two elastic numbers."""
    width, kernel, factor = c.elastic("width", [4, 8]), c.elastic("kernel", [3, 5, 7]), c.elastic("factor", [1, 2])
    conv, inner = nas.layers.ElasticConv2d, width * factor
    return nn.Sequential(
        conv(task.channels, width, kernel, c.elastic("stride", [1, 2]), kernel // 2 if padded else 3),
        nn.ReLU(),
        conv(width, inner, 1),
        nas.layers.ElasticBatchNorm2d(inner),
        nn.Sigmoid(),
        conv(inner, inner, kernel, padding=kernel // 2, groups=inner),
        conv(inner, width, 1),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nas.layers.ElasticLinear(width, task.classes),
    )


def test_elastic_kernels_strides_and_products_equal_the_networks_of_their_own() -> None:
    torch.manual_seed(0)
    space = kernels_and_strides(**SHAPE)
    supernet = supernet_for(space).eval()
    assert supernet.must_draw == {"stride"}
    images = torch.randn(4, 1, 8, 8)
    table = {key: float(macs) for key, macs in macs_table(space).items()}
    cost = supernet.cost_model(table)
    for architecture in space.enumerate():
        drawn = draw(supernet, architecture)
        expected = supernet.extract(architecture).eval()(images)
        torch.testing.assert_close(supernet(images, supernet.path(architecture)), expected, rtol=1e-5, atol=1e-5)
        certain = {}
        for name, alpha in supernet.alphas.items():
            alpha.data.fill_(-1e4)[drawn.indices[name]] = 0
            certain[name] = torch.softmax(alpha.detach(), 0)
        mixed = supernet(images, supernet.picks("mixture", drawn, differentiable=True))
        torch.testing.assert_close(mixed, expected, rtol=1e-4, atol=1e-5)
        assert float(cost(certain)) == pytest.approx(figures(space, architecture).macs, rel=1e-5)


def test_an_elastic_kernel_needs_a_padding_that_grows_with_it() -> None:
    with pytest.raises(SpecError, match=r"elastic kernels .* padding must grow with them.*padding=kernel // 2"):
        supernet_for(kernels_and_strides(**SHAPE, padded=False))
