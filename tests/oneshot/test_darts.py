"""The search: its gradients, its loop, and what stops it."""

import itertools
import math
from dataclasses import replace
from functools import cache
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from nas_optuna.data import BatchLoader, load_images
from nas_optuna.errors import Interrupted, SpecError, TrainingError
from nas_optuna.oneshot.price import with_cost
from nas_optuna.oneshot.strategies import find_strategy, strategy_options
from nas_optuna.oneshot.strategies.base import Job, Meter
from nas_optuna.oneshot.strategies.darts import DartsStrategy, GumbelSampler
from nas_optuna.spaces import SearchSpace
from nas_optuna.spaces.block import BlockSpace
from nas_optuna.spaces.conv import ConvSpace
from nas_optuna.spaces.function import space as space_function
from nas_optuna.spaces.macro import MacroSpace
from nas_optuna.spaces.mixing import MixedLayer
from nas_optuna.spaces.supernet import supernet_for
from nas_optuna.spec import StudySpec, SupernetSpec

BLOCK = BlockSpace(depth=2, candidates=("k3_f16", "k3_f24", "k5_f16"), input_size=8)
CONV = ConvSpace(depth=2, filters=(8, 16), kernels=(3, 5), input_size=8)


WHOLE = load_images("digits", train=True)


def images(start: int, stop: int) -> BatchLoader:
    """A fixed share of the digits."""
    return BatchLoader(WHOLE.subset(range(start, stop)), 32, 8, torch.device("cpu"))


def first_batch() -> tuple[Tensor, Tensor]:
    return next(images(0, 32).epoch())


def unit_table(space: SearchSpace) -> dict[str, float]:
    """A cost that grows with filters, kernel and pixels; enough to point somewhere."""
    return {
        op.key: dict(op.options).get("filters", 1)
        * dict(op.options).get("kernel", 1)
        * math.prod(op.output_shape[1:])
        / 1e4
        for op in space.reachable_operations()
    }


def search(
    space: SearchSpace, table: dict[str, float] | None = None, part: int = 1280, **options: object
) -> DartsStrategy:
    torch.manual_seed(0)
    given = {"strategy": "darts", "epochs": 3, "warmup_epochs": 1, "learning_rate": 0.05, "batch_size": 32} | options
    spec = SupernetSpec(**given)
    job = Job(supernet_for(space, alpha_init=spec.alpha_init), WHOLE.subset(range(part)), spec, table or {})
    made = find_strategy(spec.strategy)(job, strategy_options(spec))
    assert isinstance(made, DartsStrategy)
    return made


def _way(space: SearchSpace, strategy: str, update: str) -> Any:
    slow = space is BLOCK and strategy == "darts" and update == "alternating"  # every candidate, for half a minute each
    name = f"{strategy}-{update}-{space.name}"
    return pytest.param(space, strategy, update, id=name, marks=[pytest.mark.slow] if slow else [])


@pytest.mark.parametrize(
    ("space", "strategy", "update"),
    [
        _way(space, strategy, update)
        for space in (BLOCK, CONV)
        for strategy in ("darts", "gumbel")
        for update in ("alternating", "joint")
        if space is CONV or strategy == "darts" or update == "alternating"
    ],
)
def test_every_way_of_searching_learns(space: SearchSpace, strategy: str, update: str) -> None:
    found = search(space, strategy=strategy, update=update, epochs=6, alpha_learning_rate=0.03)
    start = {name: alpha.tolist() for name, alpha in found.supernet.alphas.items()}
    epochs = list(found.epochs())
    assert [e.number for e in epochs] == [1, 2, 3, 4, 5, 6]
    assert epochs[0].alphas == start, "alphas moved during the warm-up"
    moved = epochs[-1].alphas or {}
    assert all(moved[name] != start[name] for name in start)
    assert epochs[-1].loss < epochs[0].loss
    assert epochs[-1].accuracy > epochs[0].accuracy
    assert (epochs[-1].alpha_loss is None) == (update == "joint")
    assert moved == {name: alpha.tolist() for name, alpha in found.supernet.alphas.items()}


def test_adamw_trains_the_weights_too() -> None:
    epochs = list(search(CONV, optimizer="adamw", learning_rate=3e-3, epochs=5).epochs())
    assert epochs[-1].loss < 0.95 * epochs[0].loss


def test_weights_stay_while_alphas_move_and_the_other_way_round() -> None:
    found = search(BLOCK)
    batch = first_batch()
    weights = [w.clone() for w in found.supernet.weights()]
    alphas = [a.clone() for a in found.supernet.alphas.values()]
    found.alpha_step(batch)
    assert all(torch.equal(w, v) for w, v in zip(found.supernet.weights(), weights, strict=True))
    moved = [a.clone() for a in found.supernet.alphas.values()]
    assert not any(torch.equal(a, b) for a, b in zip(moved, alphas, strict=True))
    found.weight_step(batch, joint=False)
    assert all(torch.equal(a, b) for a, b in zip(found.supernet.alphas.values(), moved, strict=True))
    assert not any(torch.equal(w, v) for w, v in zip(found.supernet.weights(), weights, strict=True))


@cache
def cost_of_search(**options: object) -> float:
    """The expected cost of what a search ends with."""
    found = search(CONV, unit_table(CONV), alpha_learning_rate=0.03, **options)
    cost = list(found.epochs())[-1].cost
    assert cost is not None
    return cost


@pytest.mark.parametrize(
    "options",
    [
        {"latency_weight": 1.0},
        {"latency_loss": "fbnet", "latency_weight": 0.2},
        {"latency_loss": "target", "latency_target": 0.1, "latency_weight": 5.0},
    ],
)
def test_latency_makes_the_derived_network_cheaper(options: dict[str, object]) -> None:
    assert cost_of_search(**options) < 0.95 * cost_of_search()


@pytest.mark.parametrize(
    ("options", "loss"),
    [
        ({"latency_weight": 0.5}, 3.5),
        ({"latency_loss": "fbnet", "latency_weight": 0.2}, 2 * 0.2 * math.log(3001) ** 0.6),
        ({"latency_loss": "target", "latency_weight": 4.0, "latency_target": 2.0}, 4.0),
        ({"latency_loss": "target", "latency_weight": 4.0, "latency_target": 3.5}, 2.0),
    ],
)
def test_latency_losses_are_their_formulas(options: dict[str, Any], loss: float) -> None:
    found = with_cost(SupernetSpec(**options), torch.tensor(2.0), torch.tensor(3.0))
    assert found.item() == pytest.approx(loss)


@space_function
def in_place(c: Any, task: Any) -> nn.Module:
    """Two candidates that change their input, before one that reads it."""
    activations = {"relu": lambda: nn.ReLU(inplace=True), "silu": lambda: nn.SiLU(inplace=True), "none": nn.Identity}
    stem = nn.Conv2d(task.channels, 8, 3, 2, 1)
    return nn.Sequential(stem, c.layer("activation", activations), nn.Flatten(), nn.Linear(128, task.classes))


RESUMED = {
    "conv": CONV,
    "block": BlockSpace(depth=2, candidates=("k3_f16", "k3_f24", "skip"), input_size=8),
    "macro": MacroSpace(stages=1, widths=[8, 16], depths=[1], layers=["conv", "maxpool"], branches=[1], input_size=8),
    "in place": in_place(in_channels=1, classes=10, input_size=8),
}


@pytest.mark.parametrize("strategy", ["darts", "gumbel"])
@pytest.mark.parametrize("name", RESUMED)
def test_a_stopped_search_goes_on_with_the_same_numbers(name: str, strategy: str) -> None:
    """To the last bit: another process sums every gradient in the same order."""
    space, options = RESUMED[name], {"strategy": strategy, "epochs": 3, "part": 320}
    undisturbed = search(space, **options)
    whole = list(undisturbed.epochs())
    first = search(space, **options)
    begun = list(itertools.islice(first.epochs(), 2))
    second = search(space, **options)
    second.load_state_dict(first.state_dict())
    parts = begun + list(second.epochs())
    assert [(e.loss, e.alphas) for e in parts] == [(e.loss, e.alphas) for e in whole]
    resumed = second.supernet.state_dict()
    assert all(torch.equal(value, resumed[key]) for key, value in undisturbed.supernet.state_dict().items())


def test_an_interruption_ends_between_steps() -> None:
    stopping = search(BLOCK)
    stopping.job = replace(stopping.job, interrupted=lambda: True)
    with pytest.raises(Interrupted):
        next(stopping.epochs())


def test_draws_follow_the_probabilities() -> None:
    supernet = supernet_for(CONV)
    supernet.alphas["conv1.kernel"].data.copy_(torch.tensor([math.log(3.0), 0.0]))
    draws = GumbelSampler(supernet, seed=0)
    drawn = [draws.next(1.0).indices["conv1.kernel"] for _ in range(2000)]
    assert drawn.count(0) / 2000 == pytest.approx(0.75, abs=0.03)


class Copies(TorchDispatchMode):
    """Notes whether copies to another device wait; the meta device stands for one that is neither CUDA nor a CPU."""

    def __init__(self) -> None:
        super().__init__()
        self.unwaited: list[bool] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        given = kwargs or {}
        if func is not torch.ops.aten._to_copy.default:
            return func(*args, **given)
        self.unwaited.append(given.get("non_blocking", False))
        return torch.zeros(args[0].shape, device=given["device"])


def test_only_cuda_copies_without_waiting() -> None:
    supernet = supernet_for(CONV).to("meta")
    with Copies() as copies:
        GumbelSampler(supernet, seed=0).next(1.0)
    assert len(copies.unwaited) == 3
    assert not any(copies.unwaited)


def test_straight_through_gradient_is_that_of_the_gumbel_softmax() -> None:
    supernet = supernet_for(BLOCK, alpha_init="uniform")
    draw = GumbelSampler(supernet, seed=0).next(0.7)
    pick = supernet.picks("sampled", draw, differentiable=True)["block1"]
    assert pick.weights is not None
    assert pick.weights.detach().round(decimals=5).tolist() == [float(i == pick.index) for i in range(3)]
    scale = torch.tensor([1.0, 2.0, 3.0])
    alpha = supernet.alphas["block1"]
    (found,) = torch.autograd.grad((pick.weights * scale).sum(), alpha)
    soft = torch.softmax((alpha + draw.noise["block1"]) / 0.7, 0)
    (expected,) = torch.autograd.grad((soft * scale).sum(), alpha)
    torch.testing.assert_close(found, expected)


class DoubledBlock(nn.Module):
    """A residual that was wired wrongly: it multiplies instead of adding, so activations square."""

    def __init__(self, block: nn.Module) -> None:
        super().__init__()
        self.block = block

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.block(10 * x)
        return y * y


def test_an_explosion_at_the_start_is_found() -> None:
    found = search(BLOCK, learning_rate=0.1, clip=0)
    for block in found.supernet.network.modules():
        if isinstance(block, MixedLayer):
            for i, candidate in enumerate(block):
                block[i] = DoubledBlock(candidate)
    with pytest.raises(TrainingError) as error:
        list(found.epochs())
    assert error.value.cause == "non-finite loss"


def test_a_late_explosion_names_the_learning_rate() -> None:
    found = search(BLOCK, epochs=6, clip=0, schedule="constant")
    epochs = found.epochs()
    next(epochs)
    found.options = found.options.model_copy(update={"learning_rate": 1e4})
    with pytest.raises(TrainingError) as error:
        next(epochs)
    assert error.value.cause == "non-finite loss"
    assert "learning_rate" in str(error.value)


def test_watch_tells_growth_from_noise() -> None:
    watch = Meter(classes=10)
    for norm in (1.0, 30.0, 0.01, 90.0):
        watch.observe([norm] * 50, [2.3] * 50)
    watch.observe([1e6] + [1.0] * 49, [2.3] * 50)
    with pytest.raises(TrainingError, match="explode"):
        watch.observe([9001.0] * 50, [2.3] * 50)
    watch = Meter(classes=10)
    for falling in (60.0, 40.0, 24.0):
        watch.observe([1.0], [falling])
    with pytest.raises(TrainingError, match="guessing"):
        watch.observe([1.0], [25.0])
    with pytest.raises(TrainingError) as error:
        Meter(classes=10).observe([1.0, 1.0], [1.0, math.nan])
    assert error.value.cause == "non-finite loss"


def test_a_watch_that_goes_on_knows_what_it_has_seen() -> None:
    watch, resumed = Meter(classes=10), Meter(classes=10)
    watch.observe([1.0], [2.0])
    resumed.load_state_dict(watch.state_dict())
    for one in (watch, resumed):
        with pytest.raises(TrainingError, match=r"loss 30 \(guessing"):
            one.observe([1.0], [30.0])


def test_options_that_cannot_be_honoured_are_refused() -> None:
    with pytest.raises(SpecError, match="draws nothing"):
        search(BLOCK, temperature=1.0)
    search(CONV, temperature=1.0)
    search(BLOCK, strategy="gumbel", temperature_decay=0.9)
    second = search(BLOCK, order=2)  # a study that was stored with it opens, and so does its supernet
    with pytest.raises(SpecError, match=r"order=1"):
        second.begin_epoch(0)


@pytest.mark.parametrize(
    "section",
    [
        {"optimizer": "adamw", "update": "joint"},
        {"epochs": 3, "warmup_epochs": 3},
        {"latency_power": 0.5},
        {"latency_target": 2.0, "latency_weight": 1.0},
        {"latency_loss": "target", "latency_weight": 1.0},
        {"latency_loss": "fbnet"},
        {"mode": "mixed"},
        {"alpha_lr": 0.1},
    ],
)
def test_a_spec_that_contradicts_itself_is_refused(section: dict[str, object]) -> None:
    with pytest.raises(SpecError, match=r"supernet|strategy"):
        strategy_options(StudySpec.from_dict({"supernet": section}).supernet)


@pytest.mark.slow
@pytest.mark.timeout(900)  # half a minute on an idle core
def test_sampled_paths_of_a_deep_chain_leave_chance_within_the_default_budget() -> None:
    """Five layers that end at a side of 1, with no norm layer: the default optimizer, batch size and epochs."""
    space = ConvSpace(depth=5, input_size=16)
    defaults = {"epochs": 30, "warmup_epochs": 3, "learning_rate": 0.025, "batch_size": 64}
    epochs = list(search(space, part=1150, strategy="gumbel", **defaults).epochs())
    assert epochs[-1].accuracy > 0.2, "chance is 0.1"


def test_features_of_different_images_stay_apart_in_a_deep_chain() -> None:
    """Positive outputs of ReLU add up to one direction that all images share, unless weights are centred."""
    torch.manual_seed(0)
    space = ConvSpace(depth=5, input_size=16)
    supernet = supernet_for(space)
    images = next(BatchLoader(WHOLE.subset(range(64)), 64, 16, torch.device("cpu")).epoch())[0]
    for text in ("f16k7s2-f24k5s1-f16k7s2-f48k7s1-f32k5s2", "f32k3s2-f16k3s1-f24k3s2-f16k3s2-f48k3s2"):
        with torch.no_grad():
            features = supernet.extract(space.parse(text))[:-1](images).flatten(1)
        assert 0.02 < float(features.square().mean().sqrt()) < 5
        unit = torch.nn.functional.normalize(features, dim=1)
        assert float((unit @ unit.T).mean()) < 0.9
