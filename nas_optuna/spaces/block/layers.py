"""The layers of the block space's networks."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch.nn.functional as F
from torch import Tensor, nn


class Block(nn.Module):
    """A residual block at constant width: ``relu(x + project(relu(expand(x))))``.

    Args:
        channels: Channels of input and output.
        kernel: Side of the expanding convolution's kernel, odd; same padding.
        filters: Channels inside the block. Where they equal `channels` there is no projection.
        project_relu: Whether a ReLU follows the projection too. It makes every residual non-negative, so that
            activations can only grow from block to block.
    """

    def __init__(self, channels: int, kernel: int, filters: int, project_relu: bool = False) -> None:
        super().__init__()
        self.expand = nn.Conv2d(channels, filters, kernel, padding=kernel // 2)
        self.project = nn.Conv2d(filters, channels, 1) if filters != channels else None
        self.project_relu = project_relu

    def forward(self, x: Tensor) -> Tensor:
        """``[batch, channels, side, side]`` → the same shape."""
        residual = F.relu(self.expand(x))
        if self.project is not None:
            residual = self.project(residual)
        if self.project_relu:
            residual = F.relu(residual)
        return F.relu(x + residual)


def make_block(channels: int, options: Mapping[str, int]) -> nn.Module:
    """The block of a candidate; the identity where there are no options."""
    if not options:
        return nn.Identity()
    return Block(channels, options["kernel"], options["filters"], bool(options["project_relu"]))


def head(input_shape: Sequence[int], classes: int) -> nn.Module:
    """Flatten and one linear layer to the classes."""
    return nn.Sequential(nn.Flatten(), nn.Linear(math.prod(input_shape), classes))
