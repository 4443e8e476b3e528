"""The layers of the macro space's networks."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from nas_optuna.spaces.macro.slot import Slot

ACTIVATION_MODULES: dict[str, type[nn.Module]] = {
    "relu": nn.ReLU,
    "silu": nn.SiLU,
    "gelu": nn.GELU,
    "hardswish": nn.Hardswish,
}


def make_norm(norm: str, channels: int, group: int) -> nn.Module:
    """A norm layer.

    Args:
        norm: ``"batch"``, ``"group"`` or ``"none"``.
        channels: Channels of the input.
        group: Channels of one group.
    """
    if norm == "batch":
        return nn.BatchNorm2d(channels)
    if norm == "group":
        return nn.GroupNorm(channels // group, channels)
    return nn.Identity()


class ConvNorm(nn.Module):
    """Convolution with same padding, then a norm layer; the convolution has biases where there is no norm.

    Args:
        in_channels: Channels of the input.
        out_channels: Channels of the output.
        kernel: Side of the kernel, odd.
        stride: Stride of the convolution.
        groups: Groups of the convolution.
        norm: See `make_norm`.
        group: Channels of one group of a group norm.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel: int,
        stride: int = 1,
        groups: int = 1,
        *,
        norm: str,
        group: int,
    ) -> None:
        super().__init__()
        self.conv = nn.Conv2d(
            in_channels, out_channels, kernel, stride, kernel // 2, groups=groups, bias=norm == "none"
        )
        self.norm = make_norm(norm, out_channels, group)

    def forward(self, x: Tensor) -> Tensor:
        """``[batch, in_channels, height, width]`` → ``[batch, out_channels, height', width']``."""
        y: Tensor = self.norm(self.conv(x))
        return y


class Transition(nn.Sequential):
    """The first layer of a stage: a 3×3 convolution to the stage's width, norm and ReLU."""

    def __init__(self, in_channels: int, out_channels: int, stride: int, *, norm: str, group: int) -> None:
        super().__init__(ConvNorm(in_channels, out_channels, 3, stride, norm=norm, group=group), nn.ReLU())


class Body(nn.Sequential):
    """One branch of a slot: its convolutions, with the slot's activation between them and none at the end.

    Args:
        slot: What stands there; it has weights.
        channels: Channels of input and output.
        norm: See `make_norm`.
        group: Channels of one group of a group norm.
    """

    def __init__(self, slot: Slot, channels: int, *, norm: str, group: int) -> None:
        inner = channels * slot.expansion
        shapes = {
            "conv": [(channels, channels, slot.kernel, 1)],
            "ds": [(channels, channels, slot.kernel, channels), (channels, channels, 1, 1)],
            "ir": [(channels, inner, 1, 1), (inner, inner, slot.kernel, inner), (inner, channels, 1, 1)],
        }[slot.layer]
        layers: list[nn.Module] = []
        for before, after, kernel, groups in shapes:
            layers += [ACTIVATION_MODULES[slot.activation]()] if layers else []
            layers.append(ConvNorm(before, after, kernel, groups=groups, norm=norm, group=group))
        super().__init__(*layers)


class SlotLayer(nn.Module):
    """What stands in a slot: parallel branches, joined, and connected with the input. It keeps the shape.

    ``plain`` gives the branches' output, ``res`` adds the input, ``dense`` concatenates the input and takes a 1×1
    convolution back to the width. The activation follows, after a bottleneck only where the connection is dense.

    Args:
        slot: What stands there; not ``skip``.
        channels: Channels of input and output.
        norm: See `make_norm`.
        group: Channels of one group of a group norm.
    """

    def __init__(self, slot: Slot, channels: int, *, norm: str, group: int) -> None:
        super().__init__()
        self.slot = slot
        if slot.activation:
            self.branches = nn.ModuleList(Body(slot, channels, norm=norm, group=group) for _ in range(slot.branches))
        else:
            self.branches = nn.ModuleList([pooling(slot.layer, slot.kernel)])
        joined = slot.branches * channels
        self.merge = ConvNorm(joined, channels, 1, norm=norm, group=group) if slot.merge == "cat" else None
        self.dense = ConvNorm(2 * channels, channels, 1, norm=norm, group=group) if slot.connection == "dense" else None
        self.activation = ACTIVATION_MODULES[slot.activation]() if ends_active(slot.layer, slot.connection) else None

    def forward(self, x: Tensor) -> Tensor:
        """``[batch, channels, height, width]`` → the same shape."""
        outputs = [branch(x) for branch in self.branches]
        y: Tensor = sum(outputs[1:], start=outputs[0]) if self.merge is None else self.merge(torch.cat(outputs, 1))
        if self.dense is not None:
            y = self.dense(torch.cat([x, y], 1))
        elif self.slot.connection == "res":
            y = x + y
        return y if self.activation is None else self.activation(y)


def ends_active(layer: str, connection: str) -> bool:
    """Whether an activation is the last thing in a slot."""
    return layer in ("conv", "ds") or (layer == "ir" and connection == "dense")


def pooling(layer: str, kernel: int) -> nn.Module:
    """A pooling that keeps the size; the border does not count in an average."""
    if layer == "maxpool":
        return nn.MaxPool2d(kernel, 1, kernel // 2)
    return nn.AvgPool2d(kernel, 1, kernel // 2, count_include_pad=False)


def make_head(channels: int, classes: int, units: int) -> nn.Module:
    """Global average pooling and a linear layer, with one hidden layer between where `units` is above 0."""
    hidden = [nn.Linear(channels, units), nn.ReLU()] if units else []
    return nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), *hidden, nn.Linear(units or channels, classes))
