"""The network of the macro space."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from nas_optuna.spaces.built import Task
from nas_optuna.spaces.choices import Choices

if TYPE_CHECKING:
    from torch import nn

_SMALLEST_HALVED = 4


def macro(
    c: Choices,
    task: Task,
    widths: Sequence[Sequence[int]],
    depths: Sequence[int],
    slot: Mapping[str, Sequence[Any]],
    norm: str,
    group: int,
    stem_stride: int,
    head_units: int,
) -> nn.Module:
    """The network of the macro space, as the function of a space of your own would build it."""
    from torch import nn

    from nas_optuna.spaces.macro.layers import Style, Transition, make_head, make_slot
    from nas_optuna.spaces.mixing import optional

    style = Style(norm, group)
    layers: list[nn.Module] = []
    channels, sides = task.channels, task.shape[1:]
    for number, choices in enumerate(widths, start=1):
        stage = c.scope(f"stage{number}")
        width, depth = stage.elastic("width", choices), stage.elastic("depth", depths)
        stride = stage_stride(number, sides, stem_stride)
        layers.append(Transition(channels, width, stride, style))
        slots = (make_slot(stage.scope(f"slot{i}"), slot, width, style) for i in range(1, depth + 1))
        layers += [optional(layer, depth, i) for i, layer in enumerate(slots, start=1)]
        channels, sides = width, (strided(sides[0], stride), strided(sides[1], stride))
    return nn.Sequential(*layers, make_head(channels, task.classes, head_units))


def stage_stride(stage: int, sides: Sequence[int], stem_stride: int) -> int:
    """Stride of a stage's first convolution, for an input of that height and width."""
    return stem_stride if stage == 1 else 2 if min(sides) >= _SMALLEST_HALVED else 1


def strided(side: int, stride: int) -> int:
    """Side length after a convolution with same padding."""
    return (side - 1) // stride + 1
