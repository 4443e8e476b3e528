"""The layers of the conv space's networks."""

from __future__ import annotations

import math

import torch.nn.functional as F
from torch import Tensor, nn


class ConvLayer(nn.Module):
    """Convolution, 2×2 max pooling, ReLU.

    ReLU is monotonic, so ``relu(max_pool(x))`` equals ``max_pool(relu(x))`` and touches a quarter of the values.

    Args:
        in_channels: Channels of the input.
        filters: Channels of the output.
        kernel: Side of the kernel; padding is ``(kernel + 1) // 2``.
        stride: Stride of the convolution.
    """

    def __init__(self, in_channels: int, filters: int, kernel: int, stride: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(in_channels, filters, kernel, stride, padding=(kernel + 1) // 2)

    def forward(self, x: Tensor) -> Tensor:
        """``[batch, in_channels, side, side]`` → ``[batch, filters, output_side, output_side]``."""
        return F.relu(F.max_pool2d(self.conv(x), 2))


def head(input_shape: tuple[int, ...], classes: int) -> nn.Module:
    """Flatten and one linear layer to the classes."""
    return nn.Sequential(nn.Flatten(), nn.Linear(math.prod(input_shape), classes))
