"""The layers of the macro space's networks, and with elastic numbers of its supernet."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nas_optuna.spaces.choices import Choices
from nas_optuna.spaces.layers import ElasticBatchNorm2d, ElasticConv2d, ElasticGroupNorm, ElasticLayer, ElasticLinear
from nas_optuna.spaces.mixing import Elastic, Size, size_of

ACTIVATION_MODULES: dict[str, type[nn.Module]] = {
    "relu": nn.ReLU,
    "silu": nn.SiLU,
    "gelu": nn.GELU,
    "hardswish": nn.Hardswish,
}
WEIGHTED = ("conv", "ds", "ir")
"""The layers that have weights, an activation, and branches."""
Make = Callable[[], nn.Module]


@dataclass(frozen=True)
class Style:
    """Common to all layers of a network: the norm, and the channels of one group of a group norm."""

    norm: str
    group: int

    def make_norm(self, channels: int) -> nn.Module:
        """The norm layer after a convolution."""
        if self.norm == "batch":
            return ElasticBatchNorm2d(channels)
        if self.norm == "group":
            return ElasticGroupNorm(channels // self.group, channels)
        return nn.Identity()


class ConvNorm(nn.Module):
    """Convolution with same padding, then a norm layer; without a norm the convolution has biases."""

    def __init__(
        self, in_channels: int, out_channels: int, kernel: int, style: Style, stride: int = 1, groups: int = 1
    ) -> None:
        super().__init__()
        self.conv: nn.Module = ElasticConv2d(
            in_channels, out_channels, kernel, stride, kernel // 2, groups=groups, bias=style.norm == "none"
        )
        self.norm = style.make_norm(out_channels)

    def forward(self, x: Tensor) -> Tensor:
        """``[batch, in_channels, height, width]`` → ``[batch, out_channels, height', width']``."""
        return cast(Tensor, self.norm(self.conv(x)))


class Transition(nn.Sequential):
    """The first layer of a stage: a 3×3 convolution to the stage's width, norm and ReLU."""

    def __init__(self, in_channels: int, out_channels: int, stride: int, style: Style) -> None:
        super().__init__(ConvNorm(in_channels, out_channels, 3, style, stride), nn.ReLU())


class Body(nn.Sequential):
    """One branch of a slot: its convolutions, with the slot's activation between them and none at the end."""

    def __init__(self, layer: str, channels: int, kernel: int, expansion: int, activation: Make, style: Style) -> None:
        inner = channels * expansion
        shapes = {
            "conv": [(channels, channels, kernel, 1)],
            "ds": [(channels, channels, kernel, channels), (channels, channels, 1, 1)],
            "ir": [(channels, inner, 1, 1), (inner, inner, kernel, inner), (inner, channels, 1, 1)],
        }[layer]
        layers: list[nn.Module] = []
        for before, after, size, groups in shapes:
            layers += [activation()] if layers else []
            layers.append(ConvNorm(before, after, size, style, groups=groups))
        super().__init__(*layers)


class Last(nn.Module):
    """The last of its inputs."""

    def forward(self, *xs: Tensor) -> Tensor:
        """Inputs of one shape → that shape."""
        return xs[-1]


class Add(nn.Module):
    """The sum of its inputs."""

    def forward(self, *xs: Tensor) -> Tensor:
        """Inputs of one shape → that shape."""
        return sum(xs[1:], start=xs[0])


class Concat(ConvNorm):
    """Concatenation, a 1×1 convolution back to the width of one input, and an optional activation."""

    def __init__(self, channels: int, count: int, style: Style, activation: Make | None = None) -> None:
        elastic = isinstance(channels, Elastic)
        super().__init__(int(channels) if elastic else count * channels, channels, 1, style)
        if elastic:
            self.conv = JoiningConv2d(channels, count, bias=style.norm == "none")
        self.activation = activation() if activation else nn.Identity()

    def forward(self, *xs: Tensor) -> Tensor:
        """Inputs ``[batch, channels, height, width]`` → that shape."""
        together = torch.cat(xs, 1)
        y = self.conv(together, len(xs)) if isinstance(self.conv, JoiningConv2d) else self.conv(together)
        return cast(Tensor, self.activation(self.norm(y)))


class JoiningConv2d(ElasticLayer):
    """A 1×1 convolution of several concatenated elastic inputs; each uses the first channels of its own part."""

    def __init__(self, channels: int, count: int, bias: bool) -> None:
        super().__init__()
        self.inputs = self.outputs = size_of(channels)
        like = nn.Conv2d(count * int(channels), int(channels), 1, bias=bias)
        self.weight, self.bias, self.count = like.weight, like.bias, count

    def _crop(self, width: int, count: int) -> Tensor:
        by_input = self.weight[:width].unflatten(1, (self.count, -1))
        return cast(Tensor, by_input[:, :count, :width].flatten(1, 2))

    def forward(self, x: Tensor, count: int) -> Tensor:
        """``[batch, count * channels, height, width]`` → ``[batch, channels, height, width]``."""
        mask = self.inputs.mask()
        x = x if mask is None else x * mask.repeat(count)[:, None, None]
        width = x.shape[1] // count
        return F.conv2d(x, self._crop(width, count), None if self.bias is None else self.bias[:width])

    def state_for(self, target: nn.Module) -> dict[str, Tensor]:
        """See `ElasticLayer.state_for`."""
        width, inputs = cast(nn.Conv2d, target).out_channels, cast(nn.Conv2d, target).in_channels
        weight = self._crop(width, inputs // width)
        return {"weight": weight} if self.bias is None else {"weight": weight, "bias": self.bias[:width]}


class Pool(nn.Module):
    """A pooling that keeps the size, with an elastic window; the border does not count in an average."""

    def __init__(self, layer: str, kernel: Size) -> None:
        super().__init__()
        self.kernel = kernel
        self.pools = nn.ModuleList(pooling(layer, size) for size in kernel.choices)

    def forward(self, x: Tensor) -> Tensor:
        """Keeps the shape."""
        return self.kernel.mixed(lambda kernel: cast(Tensor, self.pools[self.kernel.choices.index(kernel)](x)))


def pooling(layer: str, kernel: int) -> nn.Module:
    """The pooling of that kind; see `Pool`."""
    if isinstance(kernel, Elastic):
        return Pool(layer, kernel.size)
    if layer == "maxpool":
        return nn.MaxPool2d(kernel, 1, kernel // 2)
    return nn.AvgPool2d(kernel, 1, kernel // 2, count_include_pad=False)


class SlotLayer(nn.Module):
    """The layer of a slot: parallel branches, joined, and connected with the input. It keeps the shape."""

    # ``plain`` gives the branches' output, ``res`` adds the input, ``dense`` concatenates the input and takes a 1×1
    # convolution back to the width. The activation follows, after a bottleneck only where the connection is dense.

    def __init__(
        self, layer: str, s: Choices, options: Mapping[str, Sequence[Any]], channels: int, style: Style
    ) -> None:
        super().__init__()
        kernel = s.elastic("kernel", options["kernel"])

        def activation() -> nn.Module:
            return s.layer("activation", {name: ACTIVATION_MODULES[name] for name in options["activation"]})

        self.count, self.merge = 1, None
        if layer in WEIGHTED:
            expansion = s.elastic("expansion", options["expansion"]) if layer == "ir" else 1
            self.count = s.elastic("branches", options["branches"])
            self.branches = nn.ModuleList(
                Body(layer, channels, kernel, expansion, activation, style) for _ in range(self.count)
            )
        else:
            self.branches = nn.ModuleList([pooling(layer, kernel)])
        if self.count > 1:
            joins: dict[str, Make] = {"add": Add, "cat": partial(Concat, channels, int(self.count), style)}
            self.merge = s.layer("merge", {name: joins[name] for name in options["merge"]})
        dense = partial(Concat, channels, 2, style, activation if layer == "ir" else None)
        connections: dict[str, Make] = {"plain": Last, "res": Add, "dense": dense}
        self.dense = s.layer("connection", {name: connections[name] for name in options["connection"]})
        self.activation = activation() if layer in ("conv", "ds") else None

    def forward(self, x: Tensor) -> Tensor:
        """``[batch, channels, height, width]`` → the same shape."""
        size = size_of(self.count)
        outputs = [branch(x) for branch in list(self.branches)[: size.alone]]

        def joined(number: int) -> Tensor:
            return cast(Tensor, outputs[0] if number == 1 or self.merge is None else self.merge(*outputs[:number]))

        y = self.dense(x, size.mixed(joined))
        return y if self.activation is None else cast(Tensor, self.activation(y))


def make_slot(s: Choices, options: Mapping[str, Sequence[Any]], channels: int, style: Style) -> nn.Module:
    """The layer of a slot, by the answers of `s`."""
    return s.layer(
        "layer",
        {
            layer: nn.Identity if layer == "skip" else partial(SlotLayer, layer, s, options, channels, style)
            for layer in options["layer"]
        },
    )


def make_head(channels: int, classes: int, units: int) -> nn.Module:
    """Global average pooling and a linear layer, with a hidden layer between them if `units` is above 0."""
    hidden = [ElasticLinear(channels, units), nn.ReLU()] if units else []
    last = nn.Linear(units, classes) if units else ElasticLinear(channels, classes)
    return nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), *hidden, last)
