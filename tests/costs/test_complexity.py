import math
import random
import time
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn
from torch.profiler import ProfilerActivity, profile
from torch.utils._python_dispatch import TorchDispatchMode

import nas_optuna as nas
from nas_optuna.costs.complexity import figures, log_sizes, macs_table, operation_macs
from nas_optuna.spaces import SearchSpace, create_space
from nas_optuna.spaces.conv import ConvSpace
from nas_optuna.spaces.shapes import QuickMeta

SPACE = ConvSpace()
TEXTS = [
    "f16k3s1-f16k3s1-f16k3s1-f16k3s1-f16k3s1",
    "f48k7s1-f48k7s1-f48k7s1-f48k7s1-f48k7s1",
    "f16k7s2-f48k3s1-f24k5s2-f32k7s1-f16k3s2",
    "f32k5s1-f24k3s2-f48k7s2-f16k5s1-f48k3s1",
]


def random_architecture(space: SearchSpace, seed: int) -> str:
    rng = random.Random(seed)
    return str(space.architecture({name: rng.choice(p.choices) for name, p in space.parameters.items()}))


def measured_peak(step: Callable[[], None]) -> int:
    """What the CPU allocator held at most during a second call of `step`.

    Scratch space, allocated and freed within one convolution (im2col columns, reordered weights), is left out: it is
    the library's, another one on each device.
    """
    step()
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiled:
        step()
    events = sorted(profiled.profiler.kineto_results.events(), key=lambda e: e.start_ns())
    convolutions = [
        (e.start_ns(), e.start_ns() + e.duration_ns())
        for e in events
        if e.name() in ("aten::convolution", "aten::convolution_backward")
    ]
    bytes_now = peak = 0
    held: list[int] = []
    for event in events:
        if event.name() != "[memory]":
            continue
        if any(start <= event.start_ns() <= end for start, end in convolutions):
            held.append(event.nbytes())
            continue
        bytes_now += sum(held) + event.nbytes()
        held.clear()
        peak = max(peak, bytes_now)
    return peak


def test_macs_of_a_network_counted_by_hand() -> None:
    # sides: 28 → conv k3 p2 → 30 → pool 15; 15 → conv k5 s2 p3 → 9 → pool 4
    space = ConvSpace(depth=2)
    architecture = space.parse("f16k3s1-f24k5s2")
    convolutions = [16 * 30 * 30 * 1 * 9, 24 * 9 * 9 * 16 * 25]
    linear = 24 * 4 * 4 * 10
    got = figures(space, architecture)
    assert got.macs == sum(convolutions) + linear
    assert [operation_macs(space, o) for o in space.operations(architecture)] == [*convolutions, linear]
    assert got.params == (16 * 9 + 16) + (24 * 16 * 25 + 24) + (24 * 16 * 10 + 10)
    assert got.weight_bytes == 4 * got.params


def test_the_table_is_the_sum_of_the_parts() -> None:
    table = macs_table(SPACE)
    assert len(table) == len(list(SPACE.reachable_operations()))
    for text in TEXTS:
        architecture = SPACE.parse(text)
        assert sum(table[o.key] for o in SPACE.operations(architecture)) == figures(SPACE, architecture).macs


@pytest.mark.parametrize("batch_size", [1, 64])
@pytest.mark.parametrize("name", ["conv", "block"])
def test_activation_bytes_are_those_of_the_cpu_allocator(name: str, batch_size: int) -> None:
    space = create_space(name, {}, in_channels=1, classes=10, input_size=28)
    texts = [*(TEXTS if name == "conv" else ()), *(random_architecture(space, seed) for seed in range(2))]
    images = torch.randn(batch_size, 1, 28, 28)
    for text in texts:
        architecture = space.parse(text)
        network = space.build(architecture)

        def infer(network: nn.Module = network) -> None:
            with torch.inference_mode():
                network(images)

        measured = images.nbytes + measured_peak(infer)
        counted = figures(space, architecture, batch_size).activation_bytes
        assert counted == pytest.approx(measured, rel=0.05), text


def test_counting_a_known_architecture_takes_no_time() -> None:
    architecture = SPACE.parse(TEXTS[0])
    figures(SPACE, architecture, 64)
    start = time.process_time()
    for _ in range(10):
        figures(SPACE, architecture, 64)
    assert (time.process_time() - start) / 10 < 3e-3


def test_counting_changes_neither_random_state_nor_memory() -> None:
    state = torch.get_rng_state()
    huge = ConvSpace(input_size=1 << 15)  # a batch of it would be terabytes
    assert figures(huge, huge.parse(TEXTS[1]), 1000).activation_bytes > 1 << 40
    assert torch.equal(state, torch.get_rng_state())


@pytest.mark.parametrize("name", ["conv", "block", "macro"])
def test_sizes_are_those_of_the_network(name: str) -> None:
    space = create_space(name, {}, in_channels=3, classes=10, input_size=32)
    architecture = space.sample(random.Random(0))
    weights = sum(weight.numel() for weight in space.build(architecture).parameters())
    assert log_sizes(space, {**architecture.params, "learning_rate": 0.1})[0] == pytest.approx(math.log1p(weights))


class _Product(nn.Module):
    """A layer and one more product of its output."""

    def __init__(self, product: Callable[[torch.Tensor, torch.Tensor], torch.Tensor]) -> None:
        super().__init__()
        self.linear, self.product = nn.Linear(8, 8), product

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        rows = x.squeeze(1)
        return self.product(self.linear(rows), rows)


@pytest.mark.parametrize(
    ("product", "macs"),
    [
        (torch.cdist, 8 * 8 * 8),
        (lambda a, b: torch.cdist(a.repeat(1, 5, 1), b.repeat(1, 4, 1), p=1)[:, :8, :8], 40 * 32 * 8),
        (torch.bmm, 8 * 8 * 8),
        (lambda a, b: a.baddbmm_(a.clone(), b), 8 * 8 * 8),
        (lambda a, b: torch.addbmm(b[0], a, b).expand_as(a), 8 * 8 * 8),
        (lambda a, b: a[0].clone().addmm_(a[0], b[0]).expand_as(a), 8 * 8 * 8),
        (lambda a, b: torch.addmv(a[0, 0], a[0], b[0, 0]).expand_as(a), 8 * 8),
        (lambda a, b: torch.conv_tbc(a, b.new_ones(3, 8, 8), b.new_ones(8), 1), 8 * 8 * 3 * 8),
    ],
)
def test_every_way_to_write_a_product_is_priced(
    product: Callable[[torch.Tensor, torch.Tensor], torch.Tensor], macs: int
) -> None:
    def build(c: Any, task: Any) -> nn.Module:
        c.choice("any", [1, 2])
        return nn.Sequential(_Product(product), nn.Flatten(), nn.Linear(64, 10))

    space = nas.space(build)(in_channels=1, classes=10, input_size=8)
    assert figures(space, space.parse("any=1")).macs == 8 * 8 * 8 + macs + 64 * 10


def test_a_deformable_convolution_costs_what_a_plain_one_does() -> None:
    from torchvision.ops import DeformConv2d

    class Deformed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.offset, self.conv = nn.Conv2d(1, 18, 3, padding=1), DeformConv2d(1, 4, 3, padding=1)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            made: torch.Tensor = self.conv(x, self.offset(x))
            return made

    def build(c: Any, task: Any) -> nn.Module:
        c.choice("any", [1, 2])
        return nn.Sequential(Deformed(), nn.Flatten(), nn.Linear(256, 10))

    space = nas.space(build)(in_channels=1, classes=10, input_size=8)
    assert figures(space, space.parse("any=1")).macs == 64 * (18 + 4) * 9 + 2560


@pytest.mark.parametrize("training", [True, False])
def test_a_batch_norm_on_meta_tensors_computes_nothing(training: bool) -> None:
    asked: list[str] = []

    class Listener(TorchDispatchMode):
        def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            asked.append(function.__name__)
            return function(*args, **(kwargs or {}))

    with torch.device("meta"):
        layer, x = nn.BatchNorm2d(4).train(training), torch.empty(2, 4, 8, 8)
    with torch.no_grad(), QuickMeta(), Listener():
        assert layer(x).shape == x.shape
    assert {name.partition(".")[0] for name in asked} <= {"empty_like", "new_empty", "add_"}
