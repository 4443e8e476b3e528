"""The residual space: small convolutional networks with batch norm, which are common for images without a search.

A stem is followed by stages. A stage halves the picture and widens the network by one convolution, which is followed by
residual blocks of one type. ResNet-9 and VGG are points of this space, and its reference lies between them.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

from torch import Tensor, nn

from nas_optuna.layers import ElasticBatchNorm2d, ElasticConv2d, ElasticLinear
from nas_optuna.spaces.built import Task
from nas_optuna.spaces.choices import Choices
from nas_optuna.spaces.function import space
from nas_optuna.spaces.layers import kaiming

ACTIVATIONS: dict[str, type[nn.Module]] = {"relu": nn.ReLU, "silu": nn.SiLU, "gelu": nn.GELU}
WIDER = (0.5, 0.75, 1, 1.5, 2)
"""A stage's choices of width, as multiples of the reference's."""
DIVISOR = 8
"""Widths are multiples of this, which processors compute fastest."""
LARGEST_STEM = 32
"""The approximate pixels a side to which the stem reduces larger pictures."""
SMALLEST_HALVED = 7
"""The fewest pixels a side of an input that a stage halves."""


def reference(task: Task, *, width: int = 16, stages: int = 3) -> dict[str, Any]:
    """The params of a common network without a search, a small ResNet."""
    params: dict[str, Any] = {
        "stem.width": rounded(width),
        "stem.stride": stem_strides(task)[0],
        "downsampling": "pool after",
        "activation": "relu",
        "head": "average",
    }
    for stage in range(1, stages + 1):
        own = {"width": rounded(width * 2**stage), "depth": 1, "block": "basic", "kernel": 3, "attention": False}
        params |= {f"stage{stage}.{name}": value for name, value in own.items()}
    return params


@space(reference=reference)
def residual(c: Choices, task: Task, *, width: int = 16, stages: int = 3) -> nn.Module:
    """A residual network with batch norm."""
    activation = ACTIVATIONS[c.choice("activation", list(ACTIVATIONS))]
    downsampling = c.choice("downsampling", ["pool after", "pool first", "stride"])
    stride = c.choice("stem.stride", stem_strides(task), ordered=True)
    channels = c.elastic("stem.width", sorted({rounded(width * m) for m in (1, 1.5, 2)}))
    # The smallest odd kernel, at least 3, that sees every pixel.
    stem = conv(task.channels, channels, max(3, stride + (stride + 1) % 2), stride)
    layers: list[nn.Module] = [stem, ElasticBatchNorm2d(channels), activation()]
    side = -(-min(task.shape[1:]) // stride)
    for number in range(1, stages + 1):
        part = c.scope(f"stage{number}")
        wider = part.elastic("width", sorted({rounded(width * 2**number * m) for m in WIDER}))
        halves = side >= SMALLEST_HALVED
        layers += transition(channels, wider, downsampling if halves else "none", activation)
        layers += blocks(part, wider, activation)
        channels, side = wider, -(-side // 2) if halves else side
    pool = {"average": nn.AdaptiveAvgPool2d, "max": nn.AdaptiveMaxPool2d}[c.choice("head", ["average", "max"])](1)
    network = nn.Sequential(*layers, pool, nn.Flatten(), ElasticLinear(channels, task.classes))
    return network.apply(kaiming)


def stem_strides(task: Task) -> list[int]:
    """The strides that reduce the input to about `LARGEST_STEM` pixels a side, or half of that."""
    stride = 1
    while min(task.shape[1:]) > LARGEST_STEM * 1.75 * stride:
        stride *= 2
    return [stride, 2 * stride] if min(task.shape[1:]) >= 2 * DIVISOR * stride else [stride]


def rounded(channels: float) -> int:
    """The nearest multiple of `DIVISOR`.

    Examples:
        >>> rounded(20), rounded(3)
        (24, 8)
    """
    return max(DIVISOR, int(channels / DIVISOR + 0.5) * DIVISOR)


def conv(inputs: int, outputs: int, kernel: int = 3, stride: int = 1, groups: int = 1) -> nn.Module:
    """A convolution with same padding; the batch norm that follows provides the bias."""
    return ElasticConv2d(inputs, outputs, kernel, stride, kernel // 2, groups=groups, bias=False)


def transition(inputs: int, outputs: int, downsampling: str, activation: Callable[[], nn.Module]) -> list[nn.Module]:
    """From one stage's width to the next, with half the pixels a side unless `downsampling` is ``"none"``."""
    # Pooling comes before the norm and the activation, which then have a quarter of the work.
    made = [conv(inputs, outputs, 3, 2 if downsampling == "stride" else 1)]
    if downsampling == "pool first":
        made.insert(0, nn.MaxPool2d(2, ceil_mode=True))
    elif downsampling == "pool after":
        made.append(nn.MaxPool2d(2, ceil_mode=True))
    return [*made, ElasticBatchNorm2d(outputs), activation()]


def blocks(c: Choices, width: int, activation: Callable[[], nn.Module]) -> list[nn.Module]:
    """The blocks of a stage, all of one type."""
    depth = c.integer("depth", 0, 3)
    if depth == 0:
        return []
    kernel = c.choice("kernel", [3, 5], ordered=True)
    attention = c.choice("attention", [False, True])

    def chain(block: Callable[..., nn.Module]) -> nn.Module:
        return nn.Sequential(*(block(width, kernel, activation, attention) for _ in range(depth)))

    candidates = {name: functools.partial(chain, block) for name, block in BLOCKS.items()}
    return [c.layer("block", candidates)]


class Residual(nn.Module):
    """``x + body(x)``, followed by an optional activation."""

    def __init__(self, body: list[nn.Module], activation: nn.Module | None = None) -> None:
        super().__init__()
        self.body = nn.Sequential(*body)
        self.activation = activation or nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """``[batch, width, height, width]`` → the same shape."""
        out: Tensor = self.activation(x + self.body(x))
        return out


class Attention(nn.Module):
    """Squeeze-and-excitation: channels are weighted by a function of all channels' means (Hu et al. 2018)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        hidden = max(DIVISOR, int(width) // 4)
        self.weights = nn.Sequential(
            nn.AdaptiveAvgPool2d(1), ElasticConv2d(width, hidden, 1), nn.ReLU(), ElasticConv2d(hidden, width, 1)
        )

    def forward(self, x: Tensor) -> Tensor:
        """``[batch, width, height, width]`` → the same shape."""
        weights: Tensor = self.weights(x)
        return x * weights.sigmoid()


def _normed(inputs: int, outputs: int, kernel: int, groups: int = 1) -> list[nn.Module]:
    return [conv(inputs, outputs, kernel, groups=groups), ElasticBatchNorm2d(outputs)]


def plain(width: int, kernel: int, activation: Callable[[], nn.Module], attention: bool) -> nn.Module:
    """One convolution, as in VGG."""
    weighted = [Attention(width)] if attention else []
    return nn.Sequential(*_normed(width, width, kernel), *weighted, activation())


def basic(width: int, kernel: int, activation: Callable[[], nn.Module], attention: bool) -> nn.Module:
    """Two convolutions (He et al. 2016)."""
    body = [*_normed(width, width, kernel), activation(), *_normed(width, width, kernel)]
    return Residual([*body, *([Attention(width)] if attention else [])], activation())


def bottleneck(width: int, kernel: int, activation: Callable[[], nn.Module], attention: bool) -> nn.Module:
    """A convolution at half the width, between two 1×1 convolutions (He et al. 2016)."""
    inner = width // 2
    body = [*_normed(width, inner, 1), activation(), *_normed(inner, inner, kernel), activation()]
    return Residual([*body, *_normed(inner, width, 1), *([Attention(width)] if attention else [])], activation())


def inverted(width: int, kernel: int, activation: Callable[[], nn.Module], attention: bool) -> nn.Module:
    """A depthwise convolution at three times the width, between two 1×1 convolutions (Sandler et al. 2018)."""
    inner = 3 * width
    body = [*_normed(width, inner, 1), activation(), *_normed(inner, inner, kernel, inner), activation()]
    return Residual([*body, *([Attention(inner)] if attention else []), *_normed(inner, width, 1)])


BLOCKS = {"basic": basic, "plain": plain, "bottleneck": bottleneck, "inverted": inverted}
