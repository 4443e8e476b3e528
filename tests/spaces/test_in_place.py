"""Mixtures of candidates that work in place, where the network around them uses the same memory again."""

import itertools
import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import nas_optuna as nas
from nas_optuna.errors import SpecError
from nas_optuna.randomness import seeded
from nas_optuna.spaces.architecture import Architecture
from nas_optuna.spaces.function import FunctionSpace
from nas_optuna.spaces.function_supernet import FunctionSupernet
from nas_optuna.spaces.supernet import ChoiceWeights

Layer = Callable[[Tensor], Tensor]


def writes_output(x: Tensor, layer: Layer) -> Tensor:
    y = layer(x)
    y += 1
    return y


def writes_output_and_uses_input(x: Tensor, layer: Layer) -> Tensor:
    return layer(x).relu_() - x


def writes_input(x: Tensor, layer: Layer) -> Tensor:
    y = layer(x)
    x.mul_(3)
    return y


def adds_in_place(x: Tensor, layer: Layer) -> Tensor:
    y = layer(x)
    y += x * 2
    return y


def keeps_a_view(x: Tensor, layer: Layer) -> Tensor:
    part = x[:, 1:3]
    return layer(x) + torch.cat([part, part], 1)


AROUND: dict[str, Callable[[Tensor, Layer], Tensor]] = {
    "chain": lambda x, layer: layer(x),
    "before": lambda x, layer: x * 2 + layer(x),
    "after": lambda x, layer: layer(x) + x * 2,
    "dense": lambda x, layer: torch.cat([layer(x)[:, :2], x[:, 2:]], 1),
    "twice": lambda x, layer: layer(x) * 2 + layer(x),
    "again": lambda x, layer: layer(layer(x)),
    "of a view": lambda x, layer: layer(x.flatten(2).unflatten(2, (8, 8))) + x * 2,
    "of a copy": lambda x, layer: layer(x.clone()) + x * 2,
    **{f.__name__: f for f in (writes_output, writes_output_and_uses_input, writes_input, adds_in_place, keeps_a_view)},
}
"""What a network does around a layer."""


class Around(nn.Module):
    def __init__(self, layer: nn.Module, way: str) -> None:
        super().__init__()
        self.layer, self.way = layer, way

    def forward(self, x: Tensor) -> Tensor:
        return AROUND[self.way](x, self.layer)


def conv() -> nn.Module:
    return nn.Conv2d(4, 4, 3, padding=1)


def within(way: str, inner: nn.Module) -> nn.Module:
    """A candidate that holds a choice itself."""
    return Around(inner, way)


CANDIDATES: dict[str, Callable[[], nn.Module]] = {
    "conv": conv,
    "skip": nn.Identity,
    "dropout": lambda: nn.Dropout(0.0),
    "relu": lambda: nn.LeakyReLU(inplace=True),
    "relu_conv": lambda: nn.Sequential(nn.LeakyReLU(inplace=True), conv()),
    "conv_relu": lambda: nn.Sequential(conv(), nn.LeakyReLU(inplace=True)),
    "view_relu": lambda: nn.Sequential(nn.Flatten(2), nn.CELU(inplace=True), nn.Unflatten(2, (8, 8))),
}


def space_of(*layers: tuple[str, tuple[str, ...]], nested: str | None = None) -> FunctionSpace:
    """A chain of layers, each with what is around it and its candidates; `nested` is one that holds the first."""

    def build(c: Any, task: Any) -> nn.Module:
        made = [
            Around(c.layer(f"layer{i}", {name: CANDIDATES[name] for name in names}), way)
            for i, (way, names) in enumerate(layers)
        ]
        if nested is not None:
            inner = made[0]
            made[0] = Around(c.layer("outer", {"inner": lambda: inner, "conv": conv}), nested)
        return nn.Sequential(conv_in(), *made, nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(16, 10))

    return nas.space(build)(in_channels=1, classes=10, input_size=8)


def conv_in() -> nn.Module:
    return nn.Conv2d(1, 4, 3, padding=1)


@dataclass
class Differences:
    """What was found of the mixtures that stand for one network each: one-hot and straight-through."""

    unequal: int = 0  # compute something else
    refused: int = 0
    would_differ: int = 0  # of those that are refused


def differences(space: FunctionSpace) -> Differences:
    """Compare all mixtures with their networks."""
    with seeded(0):
        supernet = FunctionSupernet(space)
        images = torch.randn(3, 1, 8, 8)
    found, unlike = Differences(), supernet.unlike

    def differs(picks: dict[str, ChoiceWeights]) -> bool:
        return not torch.allclose(supernet(images, picks), expected, rtol=1e-4, atol=1e-5)

    for training, architecture in itertools.product((False, True), space.enumerate()):
        expected = supernet.extract(architecture).train(training)(images)
        supernet.train(training)
        torch.testing.assert_close(supernet(images, supernet.path(architecture)), expected)
        for picks in one_hot(supernet, architecture):
            try:
                found.unequal += differs(picks)
            except SpecError:
                found.refused += 1
                supernet.unlike = {}
                found.would_differ += differs(picks)
                supernet.unlike = unlike
    return found


def one_hot(supernet: FunctionSupernet, architecture: Architecture) -> list[dict[str, ChoiceWeights]]:
    """The mixture and the straight-through draw that stand for one architecture."""
    found: list[dict[str, ChoiceWeights]] = [{}, {}]
    for name, pick in supernet.path(architecture).items():
        weights = torch.zeros(len(supernet.alphas[name]))
        weights[pick.index] = 1
        found[0][name], found[1][name] = ChoiceWeights(None, weights), ChoiceWeights(pick.index, weights)
    return found


@pytest.mark.parametrize("way", AROUND)
def test_a_mixture_is_its_network_or_is_refused(way: str) -> None:
    """A layer is refused where it would compute something else, and nowhere else."""
    with torch.no_grad():
        for name in CANDIDATES:
            space = space_of((way, tuple({"conv": 0, name: 0, "conv_relu": 0})))
            found = differences(space)
            assert found.unequal == 0, name
            assert (found.refused > 0) == (found.would_differ > 0), name
            if name in ("conv", "conv_relu") or way in ("chain", "of a copy"):
                assert found.refused == 0, name


@pytest.mark.parametrize("seed", range(12))
def test_no_mixture_of_several_layers_is_another_network(seed: int) -> None:
    draw = random.Random(seed)
    layers = [(draw.choice(list(AROUND)), tuple(draw.sample(list(CANDIDATES), 2))) for _ in range(2)]
    nested = draw.choice(list(AROUND)) if seed % 2 else None
    with torch.no_grad():
        assert differences(space_of(*layers, nested=nested)).unequal == 0


def test_a_candidate_is_compared_inside_each_other_choice() -> None:
    with torch.no_grad():
        found = differences(space_of(("chain", ("conv", "relu")), nested="after"))
    assert found.unequal == 0
    assert found.would_differ > 0


def test_a_draw_is_not_refused_where_only_mixtures_differ() -> None:
    supernet = FunctionSupernet(space_of(("after", ("conv", "relu"))))
    images = torch.randn(2, 1, 8, 8)
    mixed, drawn = one_hot(supernet, architecture := supernet.space.parse("layer0=relu"))
    with pytest.raises(SpecError, match="cannot be mixed"):
        supernet(images, mixed)
    with torch.no_grad():
        torch.testing.assert_close(supernet(images, drawn), supernet.extract(architecture)(images))


@pytest.mark.parametrize(("way", "other"), [("after", "relu_conv"), ("writes_input", "skip")])
def test_what_is_refused_tells_where_and_the_remedy(way: str, other: str) -> None:
    supernet = FunctionSupernet(space_of((way, ("conv", other))))
    picks = {"layer0": ChoiceWeights(None, torch.tensor([0.5, 0.5]))}
    with pytest.raises(SpecError, match=f"cannot be mixed: where layer0={other}, a candidate .* write inplace=False"):
        supernet(torch.randn(2, 1, 8, 8), picks)


def test_a_candidate_that_draws_numbers_is_mixed() -> None:
    class Noisy(nn.Conv2d):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x) + torch.rand_like(x)

    def build(c: Any, task: Any) -> nn.Module:
        candidates = {"a": lambda: Noisy(1, 1, 1), "b": lambda: Noisy(1, 1, 1)}
        return nn.Sequential(c.layer("layer", candidates), nn.Flatten(), nn.Linear(64, 10))

    assert FunctionSupernet(nas.space(build)(in_channels=1, classes=10, input_size=8)).unlike == {}
