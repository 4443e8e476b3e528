"""Watching a search for exploding gradients and for collapse."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from nas_optuna.costs.complexity import size
from nas_optuna.errors import TrainingError
from nas_optuna.spaces.supernet import Supernet

EXPLOSION = 100.0
"""The largest ratio of a window's median gradient norm to the largest earlier median."""
CHANCE = 10.0
"""The largest ratio of a window's median loss to the loss of guessing, ``log(classes)``, unless the loss falls.

A deep residual network without norm layers can begin with such a loss and learn nevertheless.
"""
COLLAPSE = 0.8
"""The mean probability from which on an argmax counts as a collapse that no changed choice makes smaller."""


class DivergenceMonitor:
    """Looks at the gradient norms and losses of one window of steps after the other."""

    def __init__(self, classes: int) -> None:
        self._guessing = math.log(max(classes, 2))
        self._largest: float | None = None
        self._lowest = math.inf

    def state_dict(self) -> dict[str, float | None]:
        """The state as plain numbers."""
        return {"largest_norm": self._largest, "lowest_loss": self._lowest}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore the state from that of a training."""
        self._largest, self._lowest = state["largest_norm"], state["lowest_loss"]

    def observe(self, norms: Sequence[float], losses: Sequence[float]) -> None:
        """Judge a window."""
        remedy = "lower supernet.learning_rate or supernet.clip, and look for a ReLU that is missing or doubled"
        if not all(map(math.isfinite, losses)):
            raise TrainingError(f"the supernet's loss is not finite; {remedy}", "non-finite loss")
        norm, loss = statistics.median(norms), statistics.median(losses)
        if not all(map(math.isfinite, norms)) or norm > EXPLOSION * (self._largest or math.inf):
            before = f", {self._largest:.3g} before" if self._largest else ""
            raise TrainingError(
                f"the supernet's gradients explode: median norm {norm:.3g}{before}; {remedy}", "gradient explosion"
            )
        if self._largest is not None and loss > max(CHANCE * self._guessing, self._lowest):
            raise TrainingError(
                f"the supernet's gradients explode: loss {loss:.3g}, guessing gives {self._guessing:.3g}; {remedy}",
                "gradient explosion",
            )
        self._largest, self._lowest = max(norm, self._largest or 0.0), min(loss, self._lowest)


def require_no_collapse(supernet: Supernet) -> None:
    """Raise once every parameter has settled on its cheapest choice."""
    mean = statistics.mean(max(p) for p in supernet.prior().values())
    if mean < COLLAPSE:
        return
    space = supernet.space
    derived = space.architecture(supernet.derive())
    macs, _ = size(space, derived)
    others = [size(space, other)[0] for other in space.neighbours(derived)]
    # Where all cost the same, none of them was chosen for being small.
    if others and min(others) >= macs and max(others) > macs:
        raise TrainingError(
            f"the search collapsed: every parameter settled on its smallest choice ({derived}), mean probability"
            f" {mean:.2f}; lower supernet.latency_weight, or raise supernet.warmup_epochs",
            "collapse",
        )
