"""The backbone space: how much of a pretrained network to keep and to train, and at which input size."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from nas_optuna.errors import SpecError
from nas_optuna.spaces.choices import Choices
from nas_optuna.spaces.function import Task, space
from nas_optuna.spaces.pretrained import LITE0, Backbone, PretrainedBody

RATES = (0.05, 0.1, 0.2, 0.5)
FEWEST_STAGES = 3
"""The fewest stages that are kept; earlier ones respond to edges and colours only."""
SIZES = (64, 96, 128, 160, 192)
USUAL = 160
"""The reference's size: on 1,500 pictures of 32 pixels it was half a point ahead of 128 after five minutes."""
LARGE = 160
"""Pictures with at least this many pixels a side keep their size, or get three quarters of it."""


def reference(
    task: Task, *, model: str = LITE0, weights: str | None = None, sizes: Sequence[int] = ()
) -> dict[str, Any]:
    """The params of the usual first attempt: all stages, of which the last two learn."""
    stages = len(Backbone(model, weights).channels())
    known = _sizes(task, sizes)
    size = USUAL if USUAL in known else known[len(known) // 2]
    return {"input": size, "stages": stages, "frozen": stages - 2, "rate": 0.2, "dropout": 0.2}


@space(reference=reference)
def backbone(
    c: Choices, task: Task, *, model: str = LITE0, weights: str | None = None, sizes: Sequence[int] = ()
) -> nn.Module:
    """A part of a pretrained network, with a linear layer."""
    if task.channels not in (1, 3):
        raise SpecError(f"a backbone sees 1 or 3 channels, not {task.channels}; take another space")
    source = Backbone(model, weights)
    channels = source.channels()
    most = len(channels)
    size = c.choice("input", _sizes(task, sizes), ordered=True)
    stages = c.integer("stages", min(FEWEST_STAGES, most), most)
    frozen = min(c.integer("frozen", 0, most), stages)
    rate = c.choice("rate", RATES, ordered=True) if frozen < stages else 1.0
    body = PretrainedBody(source, stages, frozen, rate)
    layers: list[nn.Module] = [Colours()] if task.channels == 1 else []
    if (size, size) != task.shape[1:]:
        layers.append(nn.Upsample((size, size), mode="bilinear"))
    head = [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Dropout(c.choice("dropout", [0.0, 0.2, 0.5], ordered=True))]
    return nn.Sequential(*layers, body, *head, nn.Linear(channels[stages - 1], task.classes))


class Colours(nn.Module):
    """A grey picture as one of three equal colours."""

    def forward(self, x: Tensor) -> Tensor:
        """``[batch, 1, height, width]`` → ``[batch, 3, height, width]``."""
        return torch.cat((x, x, x), 1)


def _sizes(task: Task, sizes: Sequence[int]) -> list[int]:
    if sizes:
        return sorted(set(sizes))
    side = min(task.shape[1:])
    return [side * 3 // 4, side] if side >= LARGE else list(SIZES)
