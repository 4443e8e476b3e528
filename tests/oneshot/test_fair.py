"""Strategy fair: every path gets its share, alphas stand still, and a stopped training goes on."""

import itertools
import random
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

import nas_optuna as nas
from nas_optuna.data import BatchLoader, load_images
from nas_optuna.errors import Interrupted
from nas_optuna.oneshot.score import RECALIBRATION_BATCHES, SharedEvaluator, SharedFigures
from nas_optuna.oneshot.strategies.base import Job
from nas_optuna.oneshot.strategies.fair import FairOptions, FairStrategy
from nas_optuna.spaces import SearchSpace
from nas_optuna.spaces.block import BlockSpace
from nas_optuna.spaces.conv import ConvSpace
from nas_optuna.spaces.macro import MacroSpace
from nas_optuna.spaces.supernet import ChoiceWeights, Supernet, supernet_for
from nas_optuna.spec import SupernetSpec
from nas_optuna.training.network import kaiming

WHOLE = load_images("digits", train=True)
CONV = ConvSpace(depth=2, filters=(8, 16), kernels=(3, 5), input_size=8)
SPACES: dict[str, SearchSpace] = {
    "conv": CONV,
    "block": BlockSpace(depth=2, candidates=("k3_f16", "k3_f24", "skip"), input_size=8),
    "macro, batch norm": MacroSpace(stages=1, depths=(1, 2), widths=(8, 16), input_size=8, norm="batch"),
    "macro, group norm": MacroSpace(stages=1, depths=(1, 2), widths=(8, 16), input_size=8, norm="group"),
}


def loader(start: int, stop: int, batch_size: int = 32) -> BatchLoader:
    return BatchLoader(WHOLE.subset(range(start, stop)), batch_size, 8, torch.device("cpu"))


def training(space: SearchSpace, epochs: int | None = 3, **options: object) -> FairStrategy:
    torch.manual_seed(0)
    job = Job(supernet_for(space), WHOLE.subset(range(480)), SupernetSpec())
    return FairStrategy(job, FairOptions(**{"epochs": epochs, "batch_size": 32} | options))


@pytest.mark.parametrize("name", SPACES)
def test_weights_learn_and_alphas_stand_still(name: str) -> None:
    fair = training(SPACES[name], epochs=4, learning_rate=3e-3)
    before = {n: alpha.tolist() for n, alpha in fair.supernet.alphas.items()}
    epochs = list(fair.epochs())
    assert epochs[-1].loss < epochs[0].loss
    assert {n: alpha.tolist() for n, alpha in fair.supernet.alphas.items()} == before
    assert all(epoch.alphas is None for epoch in epochs)
    assert all(epoch.temperature is None for epoch in epochs)


def test_a_deep_residual_supernet_begins_near_guessing_and_learns() -> None:
    """The block space's default depth and candidates, with Kaiming's weights."""
    torch.manual_seed(0)
    supernet = supernet_for(BlockSpace(input_size=16)).apply(kaiming)
    job = Job(supernet, WHOLE.subset(range(1200)), SupernetSpec())
    fair = FairStrategy(job, FairOptions(learning_rate=3e-3, epochs=6))
    fair.begin_epoch(0)
    harsh = fair.step(next(iter(fair.images.epoch(0))))[0]
    supernet.apply(kaiming)
    supernet.stabilize_init()
    epochs = list(fair.epochs())
    assert harsh > 10
    assert epochs[0].loss < 2.5, "guessing gives 2.3"
    assert epochs[-1].accuracy > 0.3


def test_paths_are_drawn_evenly() -> None:
    fair = training(CONV, epochs=1)
    drawn: list[tuple[int, ...]] = []
    forward = fair.supernet.forward

    def recording(images: torch.Tensor, picks: dict[str, ChoiceWeights]) -> torch.Tensor:
        drawn.append(tuple(-1 if pick.index is None else pick.index for pick in picks.values()))
        return forward(images[:1], picks)

    fair.supernet.forward = recording  # type: ignore[method-assign, assignment]
    batch = next(loader(0, 1).epoch())
    fair.begin_epoch(0)
    for _ in range(400):
        fair.step(batch)
    for choices in zip(*drawn, strict=True):
        assert all(150 < choices.count(index) < 250 for index in (0, 1))
    assert len(set(drawn)) > 55, "most of the 64 architectures were never trained"


@nas.space
def dropping(c: Any, task: Any) -> nn.Module:
    layer = c.layer("layer", {"linear": lambda: nn.Linear(64, 16), "free": lambda: nn.Linear(64, 16, bias=False)})
    return nn.Sequential(nn.Flatten(), layer, nn.ReLU(), nn.Dropout(0.5), nn.Linear(16, task.classes))


@pytest.mark.parametrize("space", [CONV, dropping(in_channels=1, classes=10, input_size=8)], ids=["conv", "dropout"])
def test_a_stopped_training_goes_on_with_the_same_numbers(space: SearchSpace) -> None:
    whole = list(training(space).epochs())
    first = training(space)
    begun = list(itertools.islice(first.epochs(), 2))
    second = training(space)
    second.load_state_dict(first.state_dict())
    assert [e.loss for e in begun + list(second.epochs())] == [e.loss for e in whole]


def test_an_interruption_ends_between_steps() -> None:
    fair = training(CONV)
    fair.job = replace(fair.job, interrupted=lambda: True)
    with pytest.raises(Interrupted):
        next(fair.epochs())


def test_the_default_length_grows_with_the_space_not_with_the_images() -> None:
    assert training(CONV, epochs=None, batch_size=5).length == round(200 * 6 / 96)
    assert training(CONV, epochs=None, batch_size=10).length == round(200 * 6 / 48)
    assert training(ConvSpace(depth=3, input_size=8), epochs=None, batch_size=5).length == round(200 * 9 / 96)


def one_by_one(supernet: Supernet, space: SearchSpace, drawn: list[object]) -> list[SharedFigures]:
    """Each architecture as a network of its own with a copy of the weights."""
    images, labels = next(loader(500, 700, 200).epoch())
    found = []
    for architecture in drawn:
        network = supernet.extract(architecture).eval()  # type: ignore[arg-type]
        with torch.no_grad():
            logits = network(images)
        loss = torch.nn.functional.cross_entropy(logits, labels).item()
        found.append(SharedFigures((logits.argmax(1) == labels).float().mean().item(), loss))
    return found


@pytest.mark.parametrize("name", ["conv", "block", "macro, group norm"])
def test_shared_figures_are_those_of_the_extracted_networks(name: str) -> None:
    space = SPACES[name]
    fair = training(space, epochs=2, learning_rate=3e-3)
    list(fair.epochs())
    rng = random.Random(1)
    drawn = [space.sample(rng) for _ in range(12)]
    shared = SharedEvaluator(fair.supernet, loader(500, 700, 64))(drawn)
    for mine, own in zip(shared, one_by_one(fair.supernet, space, drawn), strict=True):
        assert mine.accuracy == pytest.approx(own.accuracy, abs=1e-6)
        assert mine.loss == pytest.approx(own.loss, rel=1e-4)


def test_networks_that_agree_share_what_they_agree_on() -> None:
    """Figures of architectures evaluated together are those of each alone, and take less work."""
    space = SPACES["conv"]
    fair = training(space, epochs=1, learning_rate=3e-3)
    list(fair.epochs())
    rng = random.Random(0)
    drawn = [space.sample(rng) for _ in range(60)]
    evaluate = SharedEvaluator(fair.supernet, loader(500, 700, 64))
    with FlopCounterMode(display=False) as together:
        shared = evaluate(drawn)
    with FlopCounterMode(display=False) as alone:
        own = [evaluate([architecture])[0] for architecture in drawn]
    for mine, its in zip(shared, own, strict=True):
        assert mine.accuracy == pytest.approx(its.accuracy, abs=1e-6)
        assert mine.loss == pytest.approx(its.loss, rel=1e-4)
    assert together.get_total_flops() < 0.7 * alone.get_total_flops()


def test_recalibration_takes_a_plain_mean_over_its_batches() -> None:
    space = SPACES["macro, batch norm"]
    supernet = training(space).supernet.eval()
    batches, architecture = list(loader(0, 480, 240).epoch()), space.sample(random.Random(0))
    first = next(name for name, _ in supernet.named_buffers() if name.endswith("running_mean"))
    found = []
    for some in (batches[:1], batches[1:], batches):
        supernet.recalibrate(architecture, some, len(some))
        found.append(supernet.get_buffer(first).clone())
    assert torch.allclose(found[2], (found[0] + found[1]) / 2, atol=1e-6)
    assert not torch.allclose(found[0], found[1], atol=1e-6)
    assert not any(module.training for module in supernet.modules())


def test_batch_norm_is_recalibrated_for_each_path() -> None:
    """Statistics are the path's own mean over the batches, whatever was evaluated before, and are put back."""
    space = SPACES["macro, batch norm"]
    fair = training(space, epochs=4, learning_rate=3e-3)
    list(fair.epochs())
    rng = random.Random(1)
    drawn = [space.sample(rng) for _ in range(6)]
    calibration = list(loader(0, 480, 480).epoch())
    before = {name: value.clone() for name, value in fair.supernet.named_buffers()}
    evaluate = SharedEvaluator(fair.supernet, loader(500, 700, 64), lambda: calibration)
    shared = evaluate(drawn)
    assert all(torch.equal(value, before[name]) for name, value in fair.supernet.named_buffers())
    assert evaluate(drawn[::-1]) == shared[::-1]
    for architecture, mine in zip(drawn, shared, strict=True):
        fair.supernet.recalibrate(architecture, calibration, RECALIBRATION_BATCHES)
        (own,) = one_by_one(fair.supernet, space, [architecture])
        assert mine.accuracy == pytest.approx(own.accuracy, abs=1e-6)
    for name, value in fair.supernet.named_buffers():
        value.copy_(before[name])
    stale = one_by_one(fair.supernet, space, drawn)
    assert sum(m.loss for m in shared) < sum(s.loss for s in stale), "recalibration did not help"
