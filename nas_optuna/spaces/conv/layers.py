"""The layers of the conv space's networks."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nas_optuna.spaces.elastic import choices_of, size_of
from nas_optuna.spaces.entangled import ElasticLayer, centred, centring, geometric_mean
from nas_optuna.spaces.layers import ElasticConv2d

POOLED = 0.57
"""``sqrt(E[max(0, x)²] / E[max(0, x1, x2, x3, x4)²])`` of independent standard normal variables: what pooling adds."""


class ConvLayer(nn.Module):
    """Convolution, 2×2 max pooling, ReLU.

    ReLU is monotonic, so ``relu(max_pool(x))`` equals ``max_pool(relu(x))`` and touches a quarter of the values.

    Args:
        in_channels: Channels of the input.
        filters: Channels of the output.
        kernel: Side of the kernel; padding is ``(kernel + 1) // 2``.
        stride: Stride of the convolution.
        centre: Whether a supernet's weights are centred.
    """

    def __init__(self, in_channels: int, filters: int, kernel: int, stride: int, centre: bool = False) -> None:
        super().__init__()
        padding = (kernel + 1) // 2
        self.conv = ElasticConv2d(in_channels, filters, kernel, stride, padding, balanced=POOLED, centre=centre)

    @property
    def nested(self) -> nn.Module:
        """The layer of which smaller widths are the first channels of this one's output."""
        return self.conv

    def forward(self, x: Tensor) -> Tensor:
        """``[batch, in_channels, side, side]`` → ``[batch, filters, output_side, output_side]``."""
        return F.relu(F.max_pool2d(self.conv(x), 2))


def head(channels: int, sizes: Sequence[tuple[int, int]], classes: int, centre: bool = False) -> nn.Module:
    """Flatten and one linear layer to the classes; in a supernet, one for every size that strides can leave."""
    if size_of(channels):
        return Heads(channels, sizes, classes, centre)
    ((height, width),) = sizes
    return nn.Sequential(nn.Flatten(), nn.Linear(channels * height * width, classes))


class Heads(ElasticLayer):
    """One linear layer for every size.

    Args:
        channels: Elastic channels of the input.
        sizes: Heights and widths.
        classes: Number of classes.
        centre: Whether weights are centred, as in `ElasticConv2d`.
    """

    matrix: Tensor
    scales_output = True

    def __init__(self, channels: int, sizes: Sequence[tuple[int, int]], classes: int, centre: bool) -> None:
        super().__init__()
        groups = choices_of(channels) if centre else ()
        self.register_buffer("matrix", centring(int(channels), groups), persistent=False)
        self.weight = nn.ParameterDict({_key(*s): nn.Parameter(torch.empty(classes, int(channels), *s)) for s in sizes})
        self.bias = nn.ParameterDict({_key(*s): nn.Parameter(torch.zeros(classes)) for s in sizes})
        inputs = geometric_mean(choices_of(channels))
        for (height, width), weight in zip(sizes, self.weight.values(), strict=True):
            nn.init.normal_(weight, std=1 / math.sqrt(inputs * height * width))

    def forward(self, x: Tensor) -> Tensor:
        """``[batch, channels, height, width]`` → ``[batch, classes]``."""
        self.given = tuple(x.shape[1:])  # what `state_for` needs to know
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
    """The key of a size's linear layer; that of a square is its side."""
    return str(height) if height == width else f"{height}x{width}"
