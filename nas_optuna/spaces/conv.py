"""The conv space: filters, kernel and stride of each convolution of a chain."""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from functools import cache, partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nas_optuna.errors import ArchitectureError, checked
from nas_optuna.spaces.architecture import Architecture, InputSize, positive_choices, require_depth
from nas_optuna.spaces.base import Operation, Parameter, Shape
from nas_optuna.spaces.built import ChainSpace, Part, Task
from nas_optuna.spaces.choices import Choices
from nas_optuna.spaces.layers import ElasticConv2d, ElasticLayer, centred, centring, geometric_mean
from nas_optuna.spaces.mixing import Elastic, size_of

PARTS = ("filters", "kernel", "stride")
"""The parameters of one layer, in order."""
CENTRED_DEPTH = 3
"""The fewest convolutions of a chain for which a supernet's weights are centred. A shorter chain learns without
centring, which there would hide the very best networks."""
POOLED = 0.57
"""The gain of pooling: ``sqrt(E[max(0, x)²] / E[max(0, x1, x2, x3, x4)²])`` of independent standard normals."""


class ConvLayer(nn.Module):
    """Convolution with padding ``(kernel + 1) // 2``, 2×2 max pooling, ReLU."""

    # ReLU is monotonic, so ``relu(max_pool(x))`` equals ``max_pool(relu(x))`` and touches a quarter of the values.

    def __init__(self, in_channels: int, filters: int, kernel: int, stride: int, centre: bool = False) -> None:
        super().__init__()
        padding = (kernel + 1) // 2
        self.conv = ElasticConv2d(in_channels, filters, kernel, stride, padding, balanced=POOLED, centre=centre)

    @property
    def nested(self) -> nn.Module:
        """The convolution; smaller widths are the first channels of this layer's output."""
        return self.conv

    def forward(self, x: Tensor) -> Tensor:
        """``[batch, in_channels, side, side]`` → ``[batch, filters, output_side, output_side]``."""
        return F.relu(F.max_pool2d(self.conv(x), 2))


def head(channels: int, sizes: Sequence[tuple[int, int]], classes: int, centre: bool = False) -> nn.Module:
    """Flatten and a linear layer to the classes; in a supernet, one for every size that elastic strides give."""
    if isinstance(channels, Elastic):
        return Heads(channels, sizes, classes, centre)
    ((height, width),) = sizes
    return nn.Sequential(nn.Flatten(), nn.Linear(channels * height * width, classes))


class Heads(ElasticLayer):
    """One linear layer for every size that elastic strides give."""

    matrix: Tensor
    scales_output = True

    def __init__(self, channels: int, sizes: Sequence[tuple[int, int]], classes: int, centre: bool) -> None:
        super().__init__()
        groups = size_of(channels).choices if centre else ()
        self.register_buffer("matrix", centring(int(channels), groups), persistent=False)
        self.weight = nn.ParameterDict({_key(*s): nn.Parameter(torch.empty(classes, int(channels), *s)) for s in sizes})
        self.bias = nn.ParameterDict({_key(*s): nn.Parameter(torch.zeros(classes)) for s in sizes})
        inputs = geometric_mean(size_of(channels).choices)
        for (height, width), weight in zip(sizes, self.weight.values(), strict=True):
            nn.init.normal_(weight, std=1 / math.sqrt(inputs * height * width))

    def forward(self, x: Tensor) -> Tensor:
        """``[batch, channels, height, width]`` → ``[batch, classes]``."""
        self.given = tuple(x.shape[1:])  # for `state_for`
        return F.linear(x.flatten(1), *self._crop(*self.given))

    def _crop(self, channels: int, height: int, width: int) -> tuple[Tensor, Tensor]:
        """Weight ``[classes, channels * height * width]`` and bias ``[classes]`` for inputs of one shape."""
        key = _key(height, width)
        return centred(self.weight[key][:, :channels], self.matrix).flatten(1), self.bias[key]

    def state_for(self, target: nn.Module) -> dict[str, Tensor]:
        """See `ElasticLayer.state_for`."""
        weight, bias = self._crop(*self.given)
        return {"1.weight": weight, "1.bias": bias}


def _key(height: int, width: int) -> str:
    """The key of a size's linear layer; for a square, its side."""
    return str(height) if height == width else f"{height}x{width}"


def output_side(side: int, kernel: int, stride: int) -> int:
    """Side length after a convolution with padding ``(kernel + 1) // 2`` and a 2×2 max pooling."""
    return _side_before_pooling(side, kernel, stride) // 2


def _side_before_pooling(side: int, kernel: int, stride: int) -> int:
    return (side + 2 * ((kernel + 1) // 2) - kernel) // stride + 1


class ConvSpace(ChainSpace):
    """A plain chain of convolutions, each followed by ReLU and 2×2 max pooling, then one linear layer.

    Its parameters are ``conv1.filters``, ``conv1.kernel``, ``conv1.stride``, ``conv2.filters``, …; all of
    them are ordered. Padding is ``(kernel + 1) // 2``, one more than same padding, so that with odd kernels and
    strides of at most 2 every side is at least 1, however deep the chain is; other networks cannot all be built.

    Args:
        depth: Number of convolutions.
        filters: Choices for a layer's output channels.
        kernels: Choices for its kernel's side, odd.
        strides: Choices for its stride.
        in_channels: Channels of an input image.
        classes: Number of classes.
        input_size: Side length of the input in pixels, or ``(height, width)``.

    Raises:
        SpecError: An option is not positive, a list of choices is empty or repeats itself.

    Examples:
        >>> space = ConvSpace(depth=2, input_size=28)
        >>> space.size
        576
        >>> network = space.build(space.parse("f16k3s1-f48k5s2"))  # of [n, 1, 28, 28], logits [n, 10]
    """

    name = "conv"
    settings = ("in_channels", "classes", "input_size", "depth")

    def __init__(
        self,
        *,
        depth: int = 5,
        filters: Sequence[int] = (16, 24, 32, 48),
        kernels: Sequence[int] = (3, 5, 7),
        strides: Sequence[int] = (1, 2),
        in_channels: int = 1,
        classes: int = 10,
        input_size: InputSize = 28,
    ) -> None:
        require_depth(depth=depth)
        super().__init__(Task(in_channels, classes, input_size))
        self.depth = depth
        given = zip(PARTS, (filters, kernels, strides), strict=True)
        self._choices = {part: positive_choices(part, values) for part, values in given}
        self.parameters = {
            f"conv{layer}.{part}": Parameter(values, ordered=True)
            for layer in range(1, depth + 1)
            for part, values in self._choices.items()
        }

    def build_with(self, c: Choices) -> nn.Module:
        """The network, built like in a space of your own."""
        layers: list[nn.Module] = []
        channels, sizes, centre = self.in_channels, {self.image_size}, self.depth >= CENTRED_DEPTH
        for i in range(1, self.depth + 1):
            width, kernel, stride = (c.elastic(f"conv{i}.{part}", choices) for part, choices in self._choices.items())
            layers.append(ConvLayer(channels, width, kernel, stride, centre=centre))
            channels = width
            sizes = {
                (output_side(height, k, s), output_side(width, k, s))
                for (height, width), k, s in itertools.product(sizes, size_of(kernel).choices, size_of(stride).choices)
            }
        return nn.Sequential(*layers, head(channels, sorted(sizes), self.classes, centre=centre))

    def format(self, params: Mapping[str, Any]) -> str:
        """E.g. ``"f16k3s1-f48k5s2"`` for two layers."""
        return "-".join(
            f"f{params[f'conv{i}.filters']}k{params[f'conv{i}.kernel']}s{params[f'conv{i}.stride']}"
            for i in range(1, self.depth + 1)
        )

    @checked
    def parse(self, text: str) -> Architecture:
        """The architecture of a string such as ``"f16k3s1-f48k5s2"``.

        Raises:
            ArchitectureError: The string has another form or depth, or a value is outside its choices.
        """
        numbers = list(map(int, re.findall("[0-9]+", text)))
        params = dict(zip(self.parameters, numbers, strict=False))
        if len(numbers) != len(self.parameters) or self.format(params) != text.strip().lower():
            raise ArchitectureError(
                f"{text!r} is not {self.depth} layers of the form f16k3s1, joined by '-' (filters, kernel, stride)"
            )
        return self.architecture(params)

    def make_chain(self) -> Iterator[Part]:
        """A ``conv`` operation per layer, then the ``head``."""
        for i in range(1, self.depth + 1):
            yield Part(tuple(f"conv{i}.{part}" for part in PARTS), conv_operation)
        yield Part((), partial(head_operation, classes=self.classes))


@cache  # a search needs the same few hundred repeatedly
def conv_operation(shape: Shape, filters: int, kernel: int, stride: int) -> Operation:
    """One layer, for an input of that ``(channels, height, width)``."""
    channels, *sides = shape
    height, width = (_side_before_pooling(side, kernel, stride) for side in sides)
    return Operation(
        "conv",
        (("filters", filters), ("kernel", kernel), ("stride", stride)),
        shape,
        (filters, height // 2, width // 2),
        partial(ConvLayer, channels, filters, kernel, stride),
        channels * kernel**2 * filters * height * width,
    )


@cache
def head_operation(shape: Shape, classes: int) -> Operation:
    """The linear layer at the end."""
    channels, height, width = shape
    return Operation("head", (), shape, (classes,), partial(head, channels, [(height, width)], classes))
