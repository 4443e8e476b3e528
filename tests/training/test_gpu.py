"""What only a CUDA device can show; run with  pytest -m gpu."""

import logging
from pathlib import Path

import pytest
import torch

from nas_optuna.data import Augmentation, BatchLoader, load_data
from nas_optuna.spaces.conv import ConvSpace
from nas_optuna.spec import Recipe
from nas_optuna.training import CheckpointFolder, EpochResult, TrainStep, fit, make_network
from nas_optuna.training.network import resolve_precision

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]
graphs = pytest.mark.skipif(torch.__version__ < "2.12", reason="torch before 2.12 trains without graphs")
SPACE = ConvSpace(input_size=16)
ARCHITECTURE = SPACE.parse("f16k3s1-f24k5s2-f32k3s1-f16k5s1-f24k3s2")
RECIPE = Recipe(epochs=3, batch_size=64, precision="fp32")


def run(recipe: Recipe, checkpoints: CheckpointFolder | None = None) -> tuple[torch.nn.Module, list[EpochResult]]:
    device = torch.device("cuda")
    data = load_data()
    network = make_network(SPACE, ARCHITECTURE, recipe, device, seed=0)
    train = BatchLoader(data.train, recipe.batch_size, 16, device)
    validation = BatchLoader(data.validation, 256, 16, device)
    return network, list(fit(network, train, validation, recipe, device, seed=0, checkpoints=checkpoints))


@graphs
@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_graphs_train_as_eager_steps_do(optimizer: str) -> None:
    rate = 0.02 if optimizer == "sgd" else 1e-3
    recipe = RECIPE.model_copy(update={"optimizer": optimizer, "learning_rate": rate})
    _, graphed = run(recipe)
    _, eager = run(recipe.model_copy(update={"cuda_graphs": False}))
    for a, b in zip(graphed, eager, strict=True):
        assert a.train_loss == pytest.approx(b.train_loss, rel=0.05)


@graphs
def test_full_batches_are_replayed_from_a_graph() -> None:
    device = torch.device("cuda")
    network = make_network(SPACE, ARCHITECTURE, RECIPE, device, seed=0)
    step = TrainStep(network, RECIPE, device, total_steps=100)
    data = load_data()
    for images, labels in BatchLoader(data.train, RECIPE.batch_size, 16, device).epoch(0):
        step(images, labels)
    assert step._graph is not None


@graphs
def test_a_progressive_training_replays_a_graph_of_each_size() -> None:
    device = torch.device("cuda")
    space, recipe = ConvSpace(input_size=32), RECIPE.model_copy(update={"progressive": 0.5})
    network = make_network(space, space.parse(str(ARCHITECTURE)), recipe, device, seed=0)
    batches = BatchLoader(load_data().train, recipe.batch_size, 32, device).epoch(0)
    step = TrainStep(network, recipe, device, total_steps=16)
    found = []
    for _ in range(16):
        step(*next(batches))
        found.append(step._graph)
    assert found[7] is not None
    assert found[8] is None
    assert found[15] not in (None, found[7])


def test_auto_precision_trains_to_the_same_accuracy() -> None:
    assert resolve_precision("auto", torch.device("cuda")) in (torch.bfloat16, torch.float16)
    _, fast = run(RECIPE.model_copy(update={"precision": "auto", "epochs": 6}))
    _, exact = run(RECIPE.model_copy(update={"epochs": 6}))
    assert fast[-1].accuracy == pytest.approx(exact[-1].accuracy, abs=0.05)


def test_checkpoints_restore_graphed_training(tmp_path: Path) -> None:
    folder = CheckpointFolder(tmp_path)
    run(RECIPE.model_copy(update={"epochs": 3}), folder)
    _, results = run(RECIPE.model_copy(update={"epochs": 4}), folder)
    assert [r.epoch for r in results] == [1, 2, 3, 4]


def test_out_of_memory_halves_the_micro_batch(caplog: pytest.LogCaptureFixture) -> None:
    device = torch.device("cuda")
    space = ConvSpace(input_size=224)
    recipe = Recipe(batch_size=256, precision="fp32")
    network = make_network(space, space.parse("-".join(["f48k7s1"] * 5)), recipe, device, seed=0)
    step = TrainStep(network, recipe, device, total_steps=1)
    images = torch.zeros(256, 1, 224, 224, device=device)
    labels = torch.zeros(256, dtype=torch.int64, device=device)
    total = torch.cuda.get_device_properties(device).total_memory
    need = 256 * 48 * 226 * 226 * 4 * 2.0  # half a batch takes 1.4 times its first activations, a whole one 2.8 times
    torch.cuda.set_per_process_memory_fraction(min(1.0, need / total))
    try:
        with caplog.at_level(logging.WARNING):
            step(images, labels)
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
        torch.cuda.empty_cache()
    assert step.micro_batches == 2
    assert "without CUDA graphs" in caplog.text


@pytest.mark.parametrize("seed", [None, 3])
def test_streaming_gives_the_resident_batches(seed: int | None) -> None:
    device = torch.device("cuda")
    images = load_data().train
    loaders = [
        BatchLoader(images, 64, 16, device, Augmentation(shift=2), resident=r).epoch(seed) for r in (True, False)
    ]
    for (a, b), (c, d) in zip(*loaders, strict=True):
        assert torch.equal(a, c)
        assert torch.equal(b, d)


@graphs
def test_graphs_give_each_group_its_own_rate() -> None:
    device = torch.device("cuda")
    recipe = RECIPE.model_copy(update={"decay_norms": False, "weight_decay": 0.1, "optimizer": "sgd"})
    network = make_network(SPACE, ARCHITECTURE, recipe, device, seed=0)
    step = TrainStep(network, recipe, device, total_steps=8)
    frozen, moving = step.optimizer.param_groups
    frozen["factor"] = 0.0
    before = [[p.detach().clone() for p in group["params"]] for group in (frozen, moving)]
    for _ in range(6):
        step(torch.randn(64, 1, 16, 16, device=device), torch.randint(10, (64,), device=device))
    assert step._graph is not None
    assert all(torch.equal(a, b) for a, b in zip(frozen["params"], before[0], strict=True))
    assert not any(torch.equal(a, b) for a, b in zip(moving["params"], before[1], strict=True))


class Stochastic(torch.nn.Module):
    """Leaves its layer out at random, as the host decides."""

    def __init__(self, inner: torch.nn.Module) -> None:
        super().__init__()
        self.inner, self.kept = inner, 0

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.training and torch.rand(()) < 0.5:
            return x
        self.kept += 1
        result: torch.Tensor = self.inner(x)
        return result


@graphs
@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_a_network_that_draws_on_the_host_is_trained_eagerly(optimizer: str) -> None:
    device, recipe = torch.device("cuda"), RECIPE.model_copy(update={"optimizer": optimizer})
    layer = Stochastic(torch.nn.Linear(16 * 16, 16 * 16))
    network = torch.nn.Sequential(torch.nn.Flatten(), layer, torch.nn.Linear(16 * 16, 10)).to(device)
    step = TrainStep(network, recipe, device, total_steps=40)
    for _ in range(40):
        step(torch.randn(64, 1, 16, 16, device=device), torch.randint(10, (64,), device=device))
    assert step._graph is None
    assert 8 < layer.kept < 36
    assert all(bool(p.isfinite().all()) for p in network.parameters())


@graphs
@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two CUDA devices")
def test_a_graph_is_of_the_device_of_its_network() -> None:
    losses = []
    for name in ("cuda:0", "cuda:1"):
        device = torch.device(name)
        data = load_data()
        network = make_network(SPACE, ARCHITECTURE, RECIPE, device, seed=0)
        train = BatchLoader(data.train, RECIPE.batch_size, 16, device)
        losses.append([result.train_loss for result in fit(network, train, None, RECIPE, device, seed=0)])
    assert losses[1] == pytest.approx(losses[0], rel=0.05)
