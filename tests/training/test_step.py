"""The step: the same weights as the plainest loop, whatever it does to be fast."""

import copy
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from nas_optuna.costs.runtimes import TorchCompile
from nas_optuna.data import BatchLoader, load_images
from nas_optuna.errors import SpecError, TrainingError
from nas_optuna.spaces.conv import ConvSpace
from nas_optuna.spec import Recipe
from nas_optuna.training import TrainStep, fit, make_network
from nas_optuna.training.network import microbatch_size, resolve_precision
from nas_optuna.training.step import make_optimizer, rate_factor

CPU = torch.device("cpu")
SPACE = ConvSpace(input_size=28)
ARCHITECTURE = SPACE.parse("f16k3s1-f24k5s2-f32k3s1-f16k5s1-f24k3s2")
DOCUMENTS = Recipe(
    batch_size=20, optimizer="sgd", learning_rate=0.05, momentum=0.5, schedule="constant", init="default"
)


def batches(count: int, size: int = 20) -> list[tuple[torch.Tensor, torch.Tensor]]:
    digits = load_images("digits", True).subset(range(count * size))
    return list(BatchLoader(digits, size, 28, CPU).epoch(0))


def reference_network(ours: nn.Module) -> nn.Sequential:
    """ReLU before pooling, default memory format, with copies of our initial weights."""
    layers: list[nn.Module] = []
    for layer in ours[:-1]:  # type: ignore[index]
        conv = nn.Conv2d(
            layer.conv.in_channels,
            layer.conv.out_channels,
            layer.conv.kernel_size,
            layer.conv.stride,
            layer.conv.padding,
        )
        layers += [conv, nn.ReLU(), nn.MaxPool2d(2)]
    linear = nn.Linear(ours[-1][1].in_features, 10)  # type: ignore[index]
    network = nn.Sequential(*layers, nn.Flatten(), linear)
    with torch.no_grad():
        for theirs, mine in zip(network.parameters(), ours.parameters(), strict=True):
            theirs.copy_(mine)
    return network


def test_weights_after_20_steps_are_those_of_the_reference_loop() -> None:
    ours = make_network(SPACE, ARCHITECTURE, DOCUMENTS, CPU, seed=3)
    theirs = reference_network(ours)
    step = TrainStep(ours, DOCUMENTS, CPU, total_steps=20)
    optimizer = torch.optim.SGD(theirs.parameters(), lr=0.05, momentum=0.5)
    for images, labels in batches(20):
        step(images, labels)
        optimizer.zero_grad()
        F.cross_entropy(theirs(images.contiguous()), labels).backward()
        optimizer.step()
    for mine, other in zip(ours.parameters(), theirs.parameters(), strict=True):
        assert (mine - other).norm() <= 1e-4 * other.norm()


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_a_batch_in_parts_gives_the_weights_of_the_whole(optimizer: str, monkeypatch: pytest.MonkeyPatch) -> None:
    recipe = DOCUMENTS.model_copy(update={"optimizer": optimizer, "learning_rate": 1e-3})
    results = []
    for cache in (1, 10**12):  # one image at a time; everything at once
        monkeypatch.setattr("nas_optuna.training.network.CACHE_BYTES", cache)
        network = make_network(SPACE, ARCHITECTURE, recipe, CPU, seed=0)
        step = TrainStep(network, recipe, CPU, total_steps=5)
        for images, labels in batches(5):
            step(images, labels)
        results.append((torch.cat([p.detach().flatten() for p in network.parameters()]), step.read_sums()))
    assert torch.allclose(results[0][0], results[1][0], atol=2e-4)
    assert results[0][1] == pytest.approx(results[1][1], rel=1e-4)


def test_batch_normalisation_is_never_divided(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("nas_optuna.training.network.CACHE_BYTES", 1)
    images = torch.zeros(8, 1, 4, 4)
    assert microbatch_size(nn.Sequential(nn.Conv2d(1, 2, 3)), images) == 1
    assert microbatch_size(nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2)), images) == 8


def test_cosine_goes_from_the_peak_to_nothing() -> None:
    recipe = DOCUMENTS.model_copy(update={"schedule": "cosine"})
    step = TrainStep(make_network(SPACE, ARCHITECTURE, recipe, CPU, seed=0), recipe, CPU, total_steps=10)
    rates = []
    for images, labels in batches(10):
        step(images, labels)
        rates.append(step.optimizer.param_groups[0]["lr"])
    assert rates[0] == pytest.approx(0.05)
    assert rates == sorted(rates, reverse=True)
    assert rates[5] == pytest.approx(0.025)
    assert rates[-1] < 0.002


@pytest.mark.parametrize("steps", [1, 2, 7, 100])
def test_one_cycle_rises_to_the_peak_and_ends_near_nothing(steps: int) -> None:
    factors = [rate_factor("one-cycle", step, steps) for step in range(steps)]
    peak = factors.index(max(factors))
    assert max(factors) == 1
    assert factors[: peak + 1] == sorted(factors[: peak + 1])
    assert factors[peak:] == sorted(factors[peak:], reverse=True)
    assert factors[-1] == pytest.approx(1 / max(1, steps - max(1, steps // 5)), rel=0.1)


def test_decay_leaves_norms_and_biases_alone() -> None:
    network = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(4 * 26 * 26, 10))
    for parameter in network.parameters():
        nn.init.ones_(parameter)
    recipe = Recipe(learning_rate=1e-2, weight_decay=0.5, decay_norms=False, schedule="constant")
    optimizer = make_optimizer(network, recipe, CPU, capturable=False)
    for parameter in network.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    shrunk = {name for name, parameter in network.named_parameters() if bool((parameter < 1).all())}
    assert shrunk == {"0.weight", "3.weight"}


def test_smoothed_labels_are_torchs() -> None:
    recipe = DOCUMENTS.model_copy(update={"label_smoothing": 0.2})
    network = make_network(SPACE, ARCHITECTURE, recipe, CPU, seed=0)
    images, labels = batches(1)[0]
    expected = F.cross_entropy(network(images), labels, reduction="sum", label_smoothing=0.2).item()
    step = TrainStep(network, recipe, CPU, total_steps=1)
    step(images, labels)
    assert step.read_sums()[0] == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_a_rate_that_is_a_tensor_is_each_groups_own(optimizer: str) -> None:
    """A CUDA graph reads rates from tensors, and a pretrained body has another rate than its head."""
    network = nn.Sequential(nn.Conv2d(1, 4, 3), nn.Flatten(), nn.Linear(4 * 26 * 26, 10))
    changed = {"optimizer": optimizer, "learning_rate": 0.5, "decay_norms": False, "weight_decay": 0.1}
    recipe = DOCUMENTS.model_copy(update=changed)
    groups = make_optimizer(network, recipe, CPU, capturable=True).param_groups
    groups[0]["lr"].fill_(0.125)
    assert [float(group["lr"]) for group in groups] == [0.125, 0.5]


OUT_OF_MEMORY = [
    torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 1.00 GiB"),
    RuntimeError("CUDA error: out of memory"),
    RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
]


class OutOfMemoryAbove(nn.Module):
    """Fails as CUDA's allocator does when a batch is larger than it can take."""

    def __init__(self, inner: nn.Module, limit: int, error: Exception = OUT_OF_MEMORY[0]) -> None:
        super().__init__()
        self.inner, self.limit, self.error = inner, limit, error

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if len(x) > self.limit:
            raise self.error
        result: torch.Tensor = self.inner(x)
        return result


def test_out_of_memory_halves_the_micro_batch_and_changes_nothing_else() -> None:
    results = []
    for limit in (1000, 10):
        inner = make_network(SPACE, ARCHITECTURE, DOCUMENTS, CPU, seed=0)
        step = TrainStep(OutOfMemoryAbove(inner, limit), DOCUMENTS, CPU, total_steps=4)
        for images, labels in batches(4):
            step(images, labels)
        results.append((step.micro_batches, torch.cat([p.detach().flatten() for p in inner.parameters()])))
        loss, correct = step.read_sums()
        assert 0 <= correct <= 80
        assert loss > 0
    assert [micro for micro, _ in results] == [1, 2]
    assert torch.allclose(results[0][1], results[1][1], atol=1e-5)


@pytest.mark.parametrize("error", OUT_OF_MEMORY, ids=["allocator", "driver", "library"])
def test_a_second_out_of_memory_is_told_with_its_cause(error: Exception) -> None:
    network = OutOfMemoryAbove(make_network(SPACE, ARCHITECTURE, DOCUMENTS, CPU, seed=0), limit=3, error=error)
    step = TrainStep(network, DOCUMENTS, CPU, total_steps=1)
    with pytest.raises(TrainingError) as caught:
        step(*batches(1)[0])
    assert caught.value.cause == "oom"


def test_other_failures_are_not_taken_for_lack_of_memory() -> None:
    step = TrainStep(make_network(SPACE, ARCHITECTURE, DOCUMENTS, CPU, seed=0), DOCUMENTS, CPU, total_steps=1)
    with pytest.raises(RuntimeError, match="channels"):
        step(torch.zeros(20, 3, 28, 28), torch.zeros(20, dtype=torch.int64))


def test_bf16_trains_on_the_cpu_and_fp16_is_refused() -> None:
    recipe = DOCUMENTS.model_copy(update={"precision": "bf16"})
    step = TrainStep(make_network(SPACE, ARCHITECTURE, recipe, CPU, seed=0), recipe, CPU, total_steps=2)
    for images, labels in batches(2):
        step(images, labels)
    assert step.network[0].conv.weight.dtype == torch.float32  # type: ignore[index, union-attr]
    with pytest.raises(SpecError, match="needs CUDA"):
        resolve_precision("fp16", CPU)


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_complex_weights_learn(optimizer: str) -> None:
    """A Fourier neural operator has complex weights, which torch's fused optimisers refuse."""

    class Fourier(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.filter = nn.Parameter(torch.ones(15, dtype=torch.complex64))
            self.end = nn.Linear(28 * 28, 10)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.end(torch.fft.irfft(torch.fft.rfft(x) * self.filter, n=28).flatten(1))

    network = Fourier()
    step = TrainStep(network, DOCUMENTS.model_copy(update={"optimizer": optimizer}), CPU, total_steps=2)
    for images, labels in batches(2):
        step(images, labels)
    assert bool((network.filter != 1).any())


def test_mixed_is_bf16_where_the_processor_has_it(monkeypatch: pytest.MonkeyPatch) -> None:
    for fast, expected in ((True, torch.bfloat16), (False, torch.float32)):
        monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda fast=fast: fast)
        monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: False)
        assert resolve_precision("mixed", CPU) == expected
    assert resolve_precision("mixed", torch.device("mps")) == torch.float32


def test_auto_asks_the_gpu_that_trains(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine may have an older GPU beside a newer one."""
    asked = [0]

    @contextmanager
    def on(device: torch.device) -> Iterator[None]:
        asked.append(device.index)
        yield
        asked.pop()

    monkeypatch.setattr(torch.cuda, "device", on)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: asked[-1] == 0)
    found = [resolve_precision("auto", torch.device("cuda", index)) for index in (0, 1)]
    assert found == [torch.bfloat16, torch.float16]


def test_forward_and_loss_stay_on_a_fake_cuda_device(monkeypatch: pytest.MonkeyPatch) -> None:
    from torch._subclasses.fake_tensor import FakeTensorMode

    from nas_optuna.data import loaders
    from nas_optuna.data.loaders import Augmentation, Preprocessor

    # What does not exist cannot be timed.
    monkeypatch.setattr(loaders, "memory_format", lambda device: torch.channels_last)
    digits = load_images("digits", True).subset(range(8))
    with FakeTensorMode():
        cuda = torch.device("cuda")
        with cuda:
            network = SPACE.build(ARCHITECTURE)
        images = torch.empty(8, 1, 8, 8, dtype=torch.uint8, device=cuda)
        labels = torch.empty(8, dtype=torch.int64, device=cuda)
        enlarged = Preprocessor(digits.pixel_format(16), cuda)(images)
        prepared = Preprocessor(digits.pixel_format(28), cuda)(Augmentation(flip=False)(images, None))  # type: ignore[arg-type]
        assert {enlarged.device.type, prepared.device.type} == {"cuda"}
        logits = network(prepared)
        loss = F.cross_entropy(logits.float(), labels, reduction="sum")
        sums = torch.zeros(2, device=cuda)
        sums += torch.stack((loss.detach(), (logits.detach().argmax(1) == labels).sum()))
        assert {logits.device.type, loss.device.type, sums.device.type} == {"cuda"}


class Sizes(nn.Module):
    """Takes images of any size, or of one only (-1: only in training), and remembers the sizes."""

    def __init__(self, only: int | None = None) -> None:
        super().__init__()
        self.seen: list[int] = []
        self.layer = nn.Conv2d(1, 10, 3)
        self.only = only

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.training and self.only == -1 and x.shape[-1] < 32:
            raise ValueError("Expected more than 1 spatial element when training")
        if self.only not in (None, -1, x.shape[-1]):
            raise RuntimeError("shapes cannot be multiplied")
        if self.training:
            self.seen.append(x.shape[-1])
        logits: torch.Tensor = self.layer(x).mean((2, 3))
        return logits


@pytest.mark.parametrize(
    ("side", "only", "sides"),
    [
        pytest.param(64, None, [40] * 6 + [64] * 4, id="large"),
        pytest.param(32, None, [20] * 6 + [32] * 4, id="just large enough"),
        pytest.param(28, None, [28] * 10, id="small"),
        pytest.param(32, 32, [32] * 10, id="a network of one size"),
        pytest.param(32, -1, [32] * 10, id="a network that trains at one size"),
    ],
)
def test_a_progressive_training_begins_with_smaller_images_where_it_can(
    side: int, only: int | None, sides: list[int]
) -> None:
    network = Sizes(only)
    step = TrainStep(network, Recipe(progressive=0.6), CPU, total_steps=10)
    for _ in range(10):
        network.seen.clear()
        step(torch.rand(4, 1, side, side), torch.zeros(4, dtype=torch.int64))
        assert network.seen[-1] == sides.pop(0)


@pytest.mark.parametrize(("epochs", "first"), [(24, 20), (25, 32)])
def test_images_that_are_seen_often_keep_their_size(epochs: int, first: int) -> None:
    network, recipe = Sizes(), Recipe(epochs=epochs, batch_size=5, progressive="auto")
    loader = BatchLoader(load_images("digits", True).subset(range(10)), 5, 32, CPU)
    next(fit(network, loader, None, recipe, CPU, seed=0))
    assert network.seen[-1] == first


def test_a_progressive_training_that_goes_on_is_at_its_place_in_the_schedule() -> None:
    network = Sizes()
    step = TrainStep(network, Recipe(progressive=0.5), CPU, total_steps=10)
    step.steps = 5
    step(torch.rand(4, 1, 32, 32), torch.zeros(4, dtype=torch.int64))
    assert network.seen[-1] == 32


def test_a_network_learns_what_its_teacher_sees() -> None:
    """Nine tenths of the targets are the teacher's probabilities, which are not smoothed once more."""
    teacher = nn.Sequential(nn.Flatten(), nn.Linear(64, 10)).eval()
    network, weights = nn.Sequential(nn.Flatten(), nn.Linear(64, 10)), copy.deepcopy(teacher.state_dict())
    images, labels = torch.rand(32, 1, 8, 8), torch.randint(10, (32,))
    targets = 0.9 * teacher(images).softmax(1) + 0.1 * F.one_hot(labels, 10)
    wanted = F.cross_entropy(network(images), targets, reduction="sum").item()
    for given in (labels, F.one_hot(labels, 10).float()):
        step = TrainStep(copy.deepcopy(network), Recipe(label_smoothing=0.1), CPU, total_steps=1, teacher=teacher)
        step(images, given)
        assert step.read_sums()[0] == pytest.approx(wanted, rel=1e-5)
    assert all(torch.equal(value, weights[name]) for name, value in teacher.state_dict().items())
    assert all(p.grad is None for p in teacher.parameters())


def compiled_by_a_step(network: nn.Module, images: torch.Tensor) -> None:
    TrainStep(network, Recipe(compile=True), CPU, 10)(images, torch.zeros(len(images), dtype=torch.long))


def compiled_by_a_runtime(network: nn.Module, images: torch.Tensor) -> None:
    TorchCompile().prepare(network.eval(), images, "cpu", "fp32", 1)()


@pytest.mark.slow
@pytest.mark.parametrize("use", [compiled_by_a_step, compiled_by_a_runtime])
def test_a_tenth_network_is_compiled_like_the_first(
    use: Callable[[nn.Module, torch.Tensor], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    compiled: list[object] = []

    def note(graph: torch.fx.GraphModule, inputs: object) -> Callable[..., Any]:
        compiled.append(graph)
        return graph.forward

    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend=note))
    for width in range(1, 11):
        use(nn.Sequential(nn.Flatten(), nn.Linear(64, width), nn.Linear(width, 10)), torch.rand(2, 1, 8, 8))
    assert len(compiled) == 10
