"""Both spaces' supernets: the same networks as the space builds, and exact expected costs."""

import functools
import itertools
import math
import random
from typing import cast

import optuna
import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

from nas_optuna.costs.complexity import macs_table, size
from nas_optuna.errors import SpecError
from nas_optuna.spaces import SearchSpace
from nas_optuna.spaces.block import BlockSpace
from nas_optuna.spaces.conv import ConvSpace
from nas_optuna.spaces.mixing import MixedLayer
from nas_optuna.spaces.supernet import ChoiceWeights, GumbelSample, Supernet, supernet_for

BLOCK = BlockSpace(candidates=("k3_f16", "k3_f24", "k5_f24_relu", "skip"), input_size=32)
CONV = ConvSpace(depth=3, input_size=28)
SPACES = [
    BLOCK,
    CONV,
    ConvSpace(depth=3, in_channels=3, classes=7, input_size=25, filters=(4, 9), kernels=(3, 7)),
    BlockSpace(depth=3, candidates=("k3_f16", "skip"), input_size=(24, 9)),
    ConvSpace(depth=2, input_size=(20, 31), filters=(4, 8)),
]
space_case = pytest.mark.parametrize("space", SPACES, ids=["block", "conv", "conv-odd", "block-oblong", "conv-oblong"])


@functools.cache
def macs(space: SearchSpace) -> dict[str, float]:
    """Millions of multiply-accumulates of every operation."""
    return {key: count / 1e6 for key, count in macs_table(space).items()}


def randomise(supernet: Supernet, seed: int = 0) -> None:
    generator = torch.Generator().manual_seed(seed)
    for alpha in supernet.alphas.values():
        alpha.data.copy_(torch.randn(alpha.shape, generator=generator))


def draw(supernet: Supernet, seed: int = 0, temperature: float = 1.0) -> GumbelSample:
    rng = random.Random(seed)
    indices = {name: rng.randrange(len(alpha)) for name, alpha in supernet.alphas.items()}
    return GumbelSample(
        indices, {name: torch.zeros(len(alpha)) for name, alpha in supernet.alphas.items()}, temperature
    )


def one_hot(index: int, size: int) -> Tensor:
    return torch.nn.functional.one_hot(torch.tensor(index), size).float()


@space_case
@pytest.mark.parametrize("seed", range(5))
def test_one_hot_alphas_equal_the_derived_network(space: SearchSpace, seed: int) -> None:
    torch.manual_seed(seed)
    supernet = supernet_for(space)
    drawn = draw(supernet, seed)
    for name, alpha in supernet.alphas.items():
        alpha.data.fill_(-1e4)[drawn.indices[name]] = 0
    architecture = space.architecture(supernet.derive())
    network = supernet.extract(architecture)
    assert [type(m) for m in network.modules()] == [type(m) for m in space.build(architecture).modules()]
    images = torch.randn(4, *space.input_shape)
    expected = network(images)
    assert expected.std() > 1e-3
    for mode, differentiable in itertools.product(("mixture", "sampled"), (True, False)):
        out = supernet(images, supernet.picks(mode, drawn, differentiable=differentiable))
        torch.testing.assert_close(out, expected, rtol=1e-5, atol=1e-5)


def test_a_block_mixture_is_the_weighted_sum() -> None:
    supernet = supernet_for(BLOCK, alpha_init="uniform")
    x = torch.randn(2, 16, 8, 8)
    block = next(m for m in supernet.network.modules() if isinstance(m, MixedLayer) and m.name == "block2")
    weights = supernet.probabilities()["block2"]
    expected = torch.stack([w * candidate(x) for w, candidate in zip(weights, block, strict=True)]).sum(0)
    block.opened.pick = ChoiceWeights(None, weights)
    torch.testing.assert_close(block(x), expected)


def test_entangled_filters_and_kernels_mix_as_a_weighted_sum() -> None:
    """A layer's mixed output is the sum over kernels in weight space, and over filters on the output."""
    supernet = supernet_for(CONV)
    layer = supernet.network[0]
    x = torch.randn(2, 1, 28, 28)
    filters, kernels = torch.softmax(torch.randn(4), 0), torch.softmax(torch.randn(3), 0)

    def given(width: ChoiceWeights, kernel: ChoiceWeights) -> Tensor:
        picks = {"conv1.filters": width, "conv1.kernel": kernel, "conv1.stride": ChoiceWeights(1, None)}
        for name, pick in picks.items():
            supernet.opened[name].pick = pick
        return cast(Tensor, layer(x) if width.index is None else layer.conv(x))

    out = given(ChoiceWeights(None, filters), ChoiceWeights(None, kernels))
    before_pool = sum(p * given(ChoiceWeights(3, None), ChoiceWeights(i, None)) for i, p in enumerate(kernels))
    full = torch.relu(torch.max_pool2d(cast(Tensor, before_pool), 2))
    expected = torch.zeros_like(full)
    for p, f in zip(filters, (16, 24, 32, 48), strict=True):
        expected[:, :f] += p * full[:, :f] * math.sqrt(48 / f)
    torch.testing.assert_close(out, expected, rtol=1e-4, atol=1e-5)


def test_small_and_large_architectures_start_at_one_scale() -> None:
    """Without gains the smallest one's signal would be hundreds of times weaker than the largest one's."""
    torch.manual_seed(0)
    space = ConvSpace(input_size=28, depth=4)
    supernet = supernet_for(space)
    images = torch.randn(64, 1, 28, 28)
    scales = [
        supernet.extract(space.parse("-".join([layer] * 4)))[:-1](images).norm(dim=1).mean().item()
        for layer in ("f16k3s1", "f24k5s1", "f48k7s1")
    ]
    assert max(scales) < 3 * min(scales)


@space_case
@pytest.mark.parametrize("mode", ["mixture", "sampled"])
def test_the_loss_moves_every_weight_it_used_and_every_alpha(space: SearchSpace, mode: str) -> None:
    torch.manual_seed(0)
    supernet = supernet_for(space, alpha_init="uniform")
    images = torch.randn(8, *space.input_shape)
    labels = torch.randint(space.classes, (8,))
    picks = supernet.picks(mode, draw(supernet), differentiable=True)
    torch.nn.functional.cross_entropy(supernet(images, picks), labels).backward()
    for name, alpha in supernet.alphas.items():
        assert alpha.grad is not None, name
        assert alpha.grad.abs().max() > 0, name
    picks = supernet.picks(mode, draw(supernet), differentiable=False)
    supernet.zero_grad()
    torch.nn.functional.cross_entropy(supernet(images, picks), labels).backward()
    assert all(alpha.grad is None for alpha in supernet.alphas.values())


@space_case
def test_alphas_weights_and_prior(space: SearchSpace) -> None:
    supernet = supernet_for(space, alpha_init="uniform")
    assert list(supernet.alphas) == list(space.parameters)
    assert all(a.min() >= 0 and a.max() < 1 for a in supernet.alphas.values())
    weights = {id(p) for p in supernet.weights()}
    assert not weights & {id(a) for a in supernet.alphas.values()}
    assert len(weights) + len(supernet.alphas) == len(list(supernet.parameters()))
    params = supernet.derive()
    assert space.suggest(optuna.trial.FixedTrial(params)).params == params
    for name, p in supernet.prior().items():
        assert math.isclose(sum(p), 1, rel_tol=1e-6)
        assert p.index(max(p)) == space.parameters[name].choices.index(params[name])
    for name, p in supernet_for(space).prior().items():
        assert p == pytest.approx([1 / len(space.parameters[name].choices)] * len(p))


@space_case
def test_expected_cost_equals_the_mean_over_10000_drawn_networks(space: SearchSpace) -> None:
    table = macs(space)
    supernet = supernet_for(space)
    randomise(supernet)
    prior = supernet.prior()
    rng = random.Random(0)
    total = 0.0
    for _ in range(10_000):
        params = {n: rng.choices(space.parameters[n].choices, p)[0] for n, p in prior.items()}
        total += sum(table[op.key] for op in space.operations(space.architecture(params)))
    assert supernet.expected_cost(table).item() == pytest.approx(total / 10_000, rel=0.02)


@space_case
def test_expected_cost_of_one_hot_alphas_is_the_networks(space: SearchSpace) -> None:
    table = macs(space)
    supernet = supernet_for(space)
    drawn = draw(supernet)
    for name, alpha in supernet.alphas.items():
        alpha.data.fill_(-1e4)[drawn.indices[name]] = 0
    architecture = space.architecture(supernet.derive())
    expected = sum(table[op.key] for op in space.operations(architecture))
    assert supernet.expected_cost(table).item() == pytest.approx(expected, rel=1e-5)


@space_case
def test_gradient_of_expected_cost_matches_finite_differences(space: SearchSpace) -> None:
    table = macs(space)
    supernet = supernet_for(space).double()
    randomise(supernet)
    supernet.expected_cost(table).backward()
    step = 1e-4
    for alpha in supernet.alphas.values():
        assert alpha.grad is not None
        for i in range(len(alpha)):
            around = []
            for sign in (1, -1):
                alpha.data[i] += sign * step
                around.append(supernet.expected_cost(table).item())
                alpha.data[i] -= sign * step
            numeric = (around[0] - around[1]) / (2 * step)
            assert float(alpha.grad[i]) == pytest.approx(numeric, rel=1e-5, abs=1e-8)


@space_case
def test_cost_alone_moves_every_alpha_towards_the_cheaper(space: SearchSpace) -> None:
    table = macs(space)
    supernet = supernet_for(space)
    supernet.expected_cost(table).backward()
    smallest = min(space.enumerate(), key=lambda architecture: size(space, architecture))
    for name, alpha in supernet.alphas.items():
        assert alpha.grad is not None
        cheapest = space.parameters[name].choices.index(smallest.params[name])
        assert int(alpha.grad.argmin()) == cheapest
        assert alpha.grad[cheapest] < 0 < alpha.grad.max()


@space_case
def test_a_table_of_another_space_is_refused(space: SearchSpace) -> None:
    table = dict(macs(space))
    table.popitem()
    with pytest.raises(SpecError, match="lacks 1 operations"):
        supernet_for(space).expected_cost(table)


@space_case
@pytest.mark.parametrize("mode", ["mixture", "sampled"])
def test_forward_and_cost_stay_on_the_device(space: SearchSpace, mode: str) -> None:
    """Fake CUDA tensors refuse to meet one that was left on the CPU."""
    table = macs(space)
    with FakeTensorMode(), torch.device("cuda"):
        supernet = supernet_for(space)
        noise = {name: torch.zeros(len(alpha)) for name, alpha in supernet.alphas.items()}
        drawn = GumbelSample(dict.fromkeys(supernet.alphas, 0), noise, 1.0)
        images = torch.empty(4, *space.input_shape)
        for differentiable in (True, False):
            logits = supernet(images, supernet.picks(mode, drawn, differentiable=differentiable))
            assert logits.device.type == "cuda"
        assert supernet.expected_cost(table).device.type == "cuda"


def test_twenty_blocks_of_nine_candidates_train_and_derive() -> None:
    nine = (*(f"k{k}_f{f}" for k in (3, 5) for f in (8, 16, 24, 36)), "skip")
    space = BlockSpace(depth=20, candidates=nine, input_size=16, pool=[5, 10, 15])
    torch.manual_seed(0)
    supernet = supernet_for(space)
    optimizer = torch.optim.SGD(supernet.parameters(), lr=0.01)
    images, labels = torch.randn(4, 1, 16, 16), torch.arange(4)
    losses = []
    for seed in range(6):
        picks = supernet.picks("mixture", draw(supernet, seed), differentiable=True)
        loss = torch.nn.functional.cross_entropy(supernet(images, picks), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0]
    assert supernet.extract(space.architecture(supernet.derive()))(images).shape == (4, 10)


def test_wrong_options_are_refused() -> None:
    with pytest.raises(SpecError, match="did you mean 'alpha_init'"):
        supernet_for(CONV, alpha_int="zero")
    with pytest.raises(SpecError, match="'zero' or 'uniform'"):
        supernet_for(BLOCK, alpha_init="normal")
    with pytest.raises(SpecError, match="must be odd"):
        supernet_for(ConvSpace(kernels=(3, 4)))
