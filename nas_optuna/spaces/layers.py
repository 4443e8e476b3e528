"""Layers whose widths a supernet can leave open.

Built with plain numbers, each *is* torch's own layer: a network of a search, an extracted and an exported one hold
nothing of ours. Built with a width that `Choices.elastic` left open, as in a supernet, it has the weights of the
largest width, and every smaller one is its first channels (Cai et al. 2020, "Once-for-all", section 3.2).

One choice is computed with sliced weights, at its own cost. Where choices are mixed, everything is computed, and a
layer multiplies the channels of its *input* by how much the mixed choices have of each: what stands between two layers
(a norm, an activation, a sum) need not keep zeros.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nas_optuna.errors import SpecError
from nas_optuna.spaces.elastic import Size, size_of


class ElasticLayer(nn.Module):
    """What elastic layers have in common.

    Attributes:
        inputs: Choices of the input's channels or features; None where there is one.
        outputs: Choices of the output's.
    """

    inputs: Size | None = None
    outputs: Size | None = None

    def masked(self, x: Tensor, dim: int) -> Tensor:
        """The input, weighted along a dimension where choices are mixed."""
        mask = None if self.inputs is None else self.inputs.mask()
        return x if mask is None else x * mask.to(x.dtype).view(-1, *[1] * (x.ndim - dim % x.ndim - 1))


def _cut(tensor: Tensor | None, count: int) -> Tensor | None:
    return None if tensor is None else tensor[:count]


class _OpenConv2d(ElasticLayer, nn.Conv2d):
    def __init__(self, in_channels: int, out_channels: int, *args: Any, **options: Any) -> None:
        super().__init__(int(in_channels), int(out_channels), *args, **options)
        self.inputs, self.outputs = size_of(in_channels), size_of(out_channels)
        self.depthwise = self.groups > 1
        if self.depthwise and not self.groups == in_channels == out_channels:
            raise SpecError("ElasticConv2d needs groups = 1, or as many groups as channels that come and go")
        if not isinstance(self.padding, tuple) or self.padding_mode != "zeros":
            raise SpecError("ElasticConv2d needs its padding as numbers, and zeros in it")

    def forward(self, x: Tensor) -> Tensor:
        """``[batch, in_channels, height, width]`` → ``[batch, out_channels, height', width']``."""
        out = self.outputs.alone if self.outputs else self.out_channels
        weight = self.weight[:out] if self.depthwise else self.weight[:out, : x.shape[1]]
        groups = out if self.depthwise else 1
        x = self.masked(x, 1)
        padding: Any = self.padding
        return F.conv2d(x, weight, _cut(self.bias, out), self.stride, padding, self.dilation, groups)


class _OpenLinear(ElasticLayer, nn.Linear):
    def __init__(self, in_features: int, out_features: int, *args: Any, **options: Any) -> None:
        super().__init__(int(in_features), int(out_features), *args, **options)
        self.inputs, self.outputs = size_of(in_features), size_of(out_features)

    def forward(self, x: Tensor) -> Tensor:
        """``[…, in_features]`` → ``[…, out_features]``."""
        out = self.outputs.alone if self.outputs else self.out_features
        return F.linear(self.masked(x, -1), self.weight[:out, : x.shape[-1]], _cut(self.bias, out))


class _OpenBatchNorm2d(ElasticLayer, nn.BatchNorm2d):
    def __init__(self, num_features: int, *args: Any, **options: Any) -> None:
        super().__init__(int(num_features), *args, **options)
        self.inputs = self.outputs = size_of(num_features)

    def forward(self, x: Tensor) -> Tensor:
        """``[batch, num_features, height, width]`` → the same shape."""
        count = x.shape[1]
        rate = 0.0 if self.momentum is None else self.momentum
        if self.training and self.num_batches_tracked is not None:
            self.num_batches_tracked.add_(1)
            rate = 1 / float(self.num_batches_tracked) if self.momentum is None else self.momentum
        mean, variance = _cut(self.running_mean, count), _cut(self.running_var, count)
        weight, bias = _cut(self.weight, count), _cut(self.bias, count)
        return F.batch_norm(x, mean, variance, weight, bias, self.training or mean is None, rate, self.eps)


class _OpenGroupNorm(ElasticLayer, nn.GroupNorm):
    def __init__(self, num_groups: int, num_channels: int, *args: Any, **options: Any) -> None:
        super().__init__(int(num_groups), int(num_channels), *args, **options)
        self.inputs = self.outputs = size_of(num_channels)

    def forward(self, x: Tensor) -> Tensor:
        """``[batch, num_channels, …]`` → the same shape; mixed choices are normalised each on its own."""
        weights = None if self.inputs is None else self.inputs.weights()
        if self.inputs is None or weights is None:
            return self._first(x, x.shape[1])
        parts = []
        for weight, count in zip(weights, self.inputs.choices, strict=True):
            behind = x.shape[1] - count
            parts.append(weight * F.pad(self._first(x[:, :count], count), (0, 0) * (x.ndim - 2) + (0, behind)))
        return torch.stack(parts).sum(0)

    def _first(self, x: Tensor, count: int) -> Tensor:
        return F.group_norm(x, self.num_groups, _cut(self.weight, count), _cut(self.bias, count), self.eps)


class ElasticConv2d(nn.Conv2d):
    """`torch.nn.Conv2d` whose channels may be elastic.

    Args:
        in_channels: A number, or what `Choices.elastic` gave.
        out_channels: A number, or what `Choices.elastic` gave.
        args: As torch's layer.
        options: As torch's layer. `groups` is 1, or as many as channels that come and go.

    Raises:
        SpecError: Other groups, or padding that is not given as numbers, beside an elastic width.

    Example:
        >>> ElasticConv2d(3, 16, 3, padding=1)
        Conv2d(3, 16, kernel_size=(3, 3), stride=(1, 1), padding=(1, 1))
    """

    def __new__(cls, in_channels: int, out_channels: int, *args: Any, **options: Any) -> nn.Conv2d:  # type: ignore[misc]
        """Torch's own layer where nothing is elastic."""
        elastic = size_of(in_channels) or size_of(out_channels)
        return (_OpenConv2d if elastic else nn.Conv2d)(in_channels, out_channels, *args, **options)


class ElasticLinear(nn.Linear):
    """`torch.nn.Linear` whose features may be elastic.

    Args:
        in_features: A number, or what `Choices.elastic` gave.
        out_features: A number, or what `Choices.elastic` gave.
        args: As torch's layer.
        options: As torch's layer.

    Example:
        >>> ElasticLinear(32, 10)
        Linear(in_features=32, out_features=10, bias=True)
    """

    def __new__(cls, in_features: int, out_features: int, *args: Any, **options: Any) -> nn.Linear:  # type: ignore[misc]
        """Torch's own layer where nothing is elastic."""
        elastic = size_of(in_features) or size_of(out_features)
        return (_OpenLinear if elastic else nn.Linear)(in_features, out_features, *args, **options)


class ElasticBatchNorm2d(nn.BatchNorm2d):
    """`torch.nn.BatchNorm2d` whose channels may be elastic.

    Args:
        num_features: A number, or what `Choices.elastic` gave.
        args: As torch's layer.
        options: As torch's layer.

    Example:
        >>> type(ElasticBatchNorm2d(16)).__name__
        'BatchNorm2d'
    """

    def __new__(cls, num_features: int, *args: Any, **options: Any) -> nn.BatchNorm2d:  # type: ignore[misc]
        """Torch's own layer where nothing is elastic."""
        return (_OpenBatchNorm2d if size_of(num_features) else nn.BatchNorm2d)(num_features, *args, **options)


class ElasticGroupNorm(nn.GroupNorm):
    """`torch.nn.GroupNorm` whose channels may be elastic; the number of groups is not.

    Args:
        num_groups: Groups, which must divide every choice.
        num_channels: A number, or what `Choices.elastic` gave.
        args: As torch's layer.
        options: As torch's layer.

    Example:
        >>> type(ElasticGroupNorm(4, 16)).__name__
        'GroupNorm'
    """

    def __new__(cls, num_groups: int, num_channels: int, *args: Any, **options: Any) -> nn.GroupNorm:  # type: ignore[misc]
        """Torch's own layer where nothing is elastic."""
        return (_OpenGroupNorm if size_of(num_channels) else nn.GroupNorm)(num_groups, num_channels, *args, **options)
