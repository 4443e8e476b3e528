"""What people write: names asked for twice, layers within layers, modules used again, work in place, recurrence."""

import copy
import functools
import random
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import nas_optuna as nas
from nas_optuna.costs.complexity import figures, macs_table
from nas_optuna.errors import SpecError
from nas_optuna.randomness import seeded
from nas_optuna.spaces import create_space
from nas_optuna.spaces.function import FunctionSpace
from nas_optuna.spaces.supernet import ChoiceWeights, supernet_for
from nas_optuna.training import make_network
from tests.helpers import RECIPE

SHAPE: dict[str, Any] = {"in_channels": 1, "classes": 10, "input_size": 8}
CPU = torch.device("cpu")


class Residual(nn.Module):
    def __init__(self, inner: nn.Module, times: int = 1) -> None:
        super().__init__()
        self.inner, self.times = inner, times

    def forward(self, x: Tensor) -> Tensor:
        for _ in range(self.times):
            x = x + self.inner(x)
        return x


def head(*layers: nn.Module, width: int = 4) -> nn.Module:
    stem = nn.Conv2d(1, width, 3, padding=1)
    return nn.Sequential(stem, *layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, 10))


def conv(kernel: int, width: int = 4) -> nn.Module:
    return nn.Conv2d(width, width, kernel, padding=kernel // 2)


@nas.space
def sharing(c: Any, task: Any) -> nn.Module:
    """Cells that are alike: each name is asked for three times."""
    candidates = {"conv3": lambda: conv(3), "conv5": lambda: conv(5), "pool": lambda: nn.AvgPool2d(3, 1, 1)}
    cells = [nn.Sequential(*(Residual(c.layer(f"edge{i}", candidates)) for i in range(3))) for _ in range(3)]
    return head(*cells)


@nas.space
def nesting(c: Any, task: Any) -> nn.Module:
    def inner(name: str) -> nn.Module:
        return nn.Sequential(c.layer(f"{name}.in", {"one": lambda: conv(1), "three": lambda: conv(3)}), nn.ReLU())

    def outer(name: str) -> nn.Module:
        made: nn.Module = c.layer(
            name, {"nested": lambda: inner(name), "plain": lambda: conv(5), "skip": lambda: nn.Identity()}
        )
        return made

    return head(*(Residual(outer(f"block{i}")) for i in range(3)))


@nas.space
def reusing(c: Any, task: Any) -> nn.Module:
    shared = conv(3)
    first, second, third = (
        c.layer(name, {"shared": lambda: shared, "own": lambda: conv(1), "wide": lambda: conv(5)}) for name in "abc"
    )
    return head(first, nn.ReLU(), second, nn.ReLU(), nn.AvgPool2d(2), third)


@nas.space
def in_place(c: Any, task: Any) -> nn.Module:
    candidates = {
        "relu": lambda: nn.Sequential(nn.ReLU(inplace=True), conv(3)),
        "silu": lambda: nn.Sequential(nn.SiLU(inplace=True), conv(1)),
        "plain": lambda: conv(3),
    }
    return head(*(c.layer(f"block{i}", candidates) for i in range(4)))


@nas.space
def recurring(c: Any, task: Any) -> nn.Module:
    width = c.elastic("width", [4, 8])
    elastic = nas.layers.ElasticConv2d
    cell = c.layer(
        "cell",
        {
            "conv3": lambda: elastic(width, width, 3, padding=1),
            "conv1": lambda: elastic(width, width, 1),
            "both": lambda: nn.Sequential(elastic(width, width, 1), nn.Tanh(), elastic(width, width, 3, padding=1)),
        },
    )
    mixer = c.layer("mixer", {"a": lambda: nn.Bilinear(6, 6, 6), "b": lambda: Product(6), "c": lambda: Pair(6)})
    return nn.Sequential(
        elastic(1, width, 3, padding=1),
        Residual(cell, times=3),
        nn.AvgPool2d(2),
        Residual(cell, times=2),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nas.layers.ElasticLinear(width, 6),
        Twofold(mixer),
        nn.Linear(6, 10),
    )


class Twofold(nn.Module):
    """Calls a layer of two inputs, one of them by its name or not, twice."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.inner(x, x + 1)
        z: Tensor = self.inner(y, x)
        return z


class Product(nn.Linear):
    def __init__(self, width: int) -> None:
        super().__init__(width, width)

    def forward(self, x: Tensor, y: Tensor) -> Tensor:  # type: ignore[override]
        return super().forward(x * y)


class Pair(Product):
    def forward(self, x: Tensor, y: Tensor) -> Tensor:  # type: ignore[override]
        return super().forward(x, y) - y


class InTrainingOnly(nn.Module):
    """Uses a layer twice in training, left out at random, and once in inference."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: Tensor) -> Tensor:
        if self.training and torch.rand(()) < 0.5:
            return x
        return self.inner(self.inner(x)) if self.training else self.inner(x)  # type: ignore[no-any-return]


@nas.space
def dropping(c: Any, task: Any) -> nn.Module:
    layers = {"conv3": lambda: conv(3), "conv1": lambda: conv(1), "pool": lambda: nn.AvgPool2d(3, 1, 1)}
    return head(*(Residual(InTrainingOnly(c.layer(f"layer{i}", layers))) for i in range(3)))


SPACES: dict[str, FunctionSpace] = {
    made.__name__: made(**SHAPE) for made in (sharing, nesting, reusing, in_place, recurring, dropping)
}


@pytest.mark.parametrize("name", list(SPACES))
def test_paths_mixtures_and_extracted_networks_agree(name: str) -> None:
    space = SPACES[name]
    with seeded(0):
        supernet = supernet_for(space).eval()
        images = torch.randn(3, *space.input_shape)
    rng = random.Random(0)
    for _ in range(15):
        architecture = space.sample(rng)
        alone = supernet.extract(architecture).eval()
        with torch.no_grad():
            expected = alone(images)
            path = supernet(images, supernet.path(architecture))
            certain = {
                name: ChoiceWeights(
                    None, torch.nn.functional.one_hot(torch.tensor(i), len(space.parameters[name].choices)).float()
                )
                for name, i in zip(space.parameters, space.tokens(architecture), strict=True)
            }
            mixed = supernet(images, certain)
        assert expected.std() > 1e-4
        torch.testing.assert_close(path, expected, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(mixed, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", list(SPACES))
def test_operations_add_up_and_their_expectation_is_exact(name: str) -> None:
    space = SPACES[name]
    table = macs_table(space)
    rng = random.Random(0)
    for _ in range(15):
        architecture = space.sample(rng)
        total = sum(table[operation.key] for operation in space.operations(architecture))
        assert total == figures(space, architecture).macs
    supernet = supernet_for(space)
    for alpha in supernet.alphas.values():
        alpha.data.copy_(torch.tensor([rng.gauss(0, 1) for _ in alpha]))
    prior, mean, share = supernet.prior(), 0.0, 0.0
    for architecture in space.enumerate():
        used = space.used(architecture)
        p = 1.0
        for parameter, value in used.items():
            p *= prior[parameter][space.parameters[parameter].choices.index(value)]
        share += p
        mean += p * sum(table[operation.key] for operation in space.operations(architecture))
    assert share == pytest.approx(1)
    assert float(supernet.expected_cost(table).detach()) == pytest.approx(mean, rel=1e-5)  # type: ignore[arg-type]


@pytest.mark.parametrize("name", list(SPACES))
def test_every_operation_can_be_built_and_measured_alone(name: str) -> None:
    space = SPACES[name]
    for operation in space.reachable_operations():
        given = torch.randn(3, *operation.input_shape)
        assert operation.make()(given).shape == (3, *operation.output_shape)


def weights_set(kind: str) -> Any:
    def build(c: Any, task: Any) -> nn.Module:
        layer = {
            "conv1d": nn.Conv1d(1, 4, 3),
            "conv2d": nn.Conv2d(1, 4, 3),
            "linear": nn.Linear(8, 8),
            "conv3d": nn.Conv3d(1, 4, (1, 3, 3)),
            "transposed": nn.ConvTranspose2d(1, 4, 3),
        }[kind]
        nn.init.constant_(layer.weight, 0.25)
        nn.init.constant_(layer.bias, float(c.choice("bias", [1, 2])))
        layer.weight.requires_grad_(False)
        return nn.Sequential(
            {"conv1d": nn.Flatten(2), "conv3d": nn.Unflatten(1, (1, 1))}.get(kind, nn.Identity()),
            layer,
            nn.Flatten(),
            nn.LazyLinear(10),
        )

    return build


@pytest.mark.parametrize("kind", ["conv1d", "conv2d", "conv3d", "linear", "transposed"])
def test_a_functions_network_keeps_what_it_set(kind: str) -> None:
    space = nas.space(weights_set(kind))(**SHAPE)
    assert RECIPE.init == "kaiming"
    layer = make_network(space, space.parse("bias=2"), RECIPE, CPU, seed=0)[1]  # type: ignore[index]
    assert float(layer.weight.min()) == float(layer.weight.max()) == 0.25
    assert float(layer.bias.min()) == 2
    assert not layer.weight.requires_grad


@pytest.mark.parametrize("name", ["conv", "block", "macro"])
def test_the_built_in_spaces_draw_their_weights_as_the_recipe_says(name: str) -> None:
    space = create_space(name, {}, **SHAPE)
    architecture = space.sample(random.Random(0))
    network = make_network(space, architecture, RECIPE, CPU, seed=0)
    assert all(float(m.bias.abs().max()) == 0 for m in network.modules() if isinstance(m, nn.Linear))


def test_a_candidate_may_give_a_tuple() -> None:
    class First(nn.Module):
        def __init__(self, inner: nn.Module) -> None:
            super().__init__()
            self.inner = inner

        def forward(self, x: Tensor) -> Tensor:
            output, (hidden, _) = self.inner(x.squeeze(1))
            return torch.cat([output.mean(1), hidden.movedim(0, 1).flatten(1)], 1)

    def build(c: Any, task: Any) -> nn.Module:
        layer = c.layer(
            "memory",
            {
                "both": lambda: nn.LSTM(8, 3, batch_first=True, bidirectional=True),
                "plain": lambda: nn.LSTM(8, 3, batch_first=True, bidirectional=True, bias=False),
            },
        )
        return nn.Sequential(First(layer), nn.Linear(12, task.classes))

    space = nas.space(build)(**SHAPE)
    supernet = supernet_for(space).eval()
    images = torch.randn(3, 1, 8, 8)
    table = macs_table(space)
    for architecture in space.enumerate():
        expected = supernet.extract(architecture)(images)
        torch.testing.assert_close(supernet(images, supernet.path(architecture)), expected)
        assert sum(table[o.key] for o in space.operations(architecture)) == figures(space, architecture).macs
    drawn = {"memory": ChoiceWeights(1, torch.tensor([0.0, 1.0]))}
    torch.testing.assert_close(supernet(images, drawn), expected)


def test_what_cannot_be_mixed_is_said_in_one_line() -> None:
    def one(c: Any, task: Any) -> nn.Module:
        class Loose(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.layer = c.layer("memory", {"lstm": lambda: nn.LSTM(8, 8), "linear": lambda: nn.Linear(8, 8)})
                self.out = nn.Linear(64, task.classes)

            def forward(self, x: Tensor) -> Tensor:
                y = self.layer(x.flatten(1, 2))
                y = y[0] if isinstance(y, tuple) else y
                made: Tensor = self.out(y.flatten(1))
                return made

        return Loose()

    space = nas.space(one)(**SHAPE)
    with pytest.raises(SpecError, match=r"'memory' cannot be mixed: .* 'lstm' gives \(\[.* 'linear' gives \["):
        supernet_for(space)


def test_a_supernet_that_shares_names_is_copied_whole() -> None:
    supernet = copy.deepcopy(supernet_for(SPACES["sharing"])).eval()
    architecture = SPACES["sharing"].sample(random.Random(1))
    images = torch.randn(2, 1, 8, 8)
    torch.testing.assert_close(
        supernet(images, supernet.path(architecture)), supernet.extract(architecture).eval()(images)
    )


class Nameless:
    """An object that can be called, and has no name to be pickled by."""

    def __call__(self, c: Any, task: Any) -> Any:
        raise AssertionError("it is refused before it is called")


@pytest.mark.parametrize("build", [functools.partial(print), Nameless(), 5])
def test_what_has_no_name_is_no_space(build: Any) -> None:
    with pytest.raises(SpecError, match="@space decorates a function"):
        nas.space(build)
