"""What one epoch of a supernet's training gave, and how its figures are gathered."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from nas_optuna.oneshot.stability import DivergenceMonitor
from nas_optuna.spaces.architecture import Choice

WINDOW = 50
"""Steps between two looks at the losses and gradient norms, the only times that the loop waits for the device."""


@dataclass(frozen=True)
class Epoch:
    """What one epoch of a supernet's training gave.

    Attributes:
        number: Counted from 1.
        loss: Mean cross entropy of the weight steps.
        accuracy: Share of right answers in the weight steps, before each step.
        alpha_loss: Mean cross entropy of the alpha steps; None while alphas stand still, and in a joint update.
        gradient_norm: Median norm of the weights' gradient before clipping.
        temperature: Of the Gumbel-softmax; None where nothing is drawn from alphas.
        cost: Expected cost at the end of the epoch, in the table's unit; None without a table.
        alphas: Parameter name → logits at the end of the epoch.
        entropy: Parameter name → entropy of its probabilities in nats.
        derived: The most probable params.
        seconds: Wall-clock.
    """

    number: int
    loss: float
    accuracy: float
    alpha_loss: float | None
    gradient_norm: float
    temperature: float | None
    cost: float | None
    alphas: Mapping[str, list[float]]
    entropy: Mapping[str, float]
    derived: Mapping[str, Choice]
    seconds: float


class Meter:
    """Losses, hits and gradient norms, kept on the device and read once per window."""

    def __init__(self, watch: DivergenceMonitor) -> None:
        self._watch = watch
        self._pending: list[Tensor] = []
        self._losses: list[float] = []
        self._norms: list[float] = []
        self._hits = 0.0
        self._seen = 0
        self.alpha_losses: list[Tensor] = []

    def add(self, loss: Tensor, hits: Tensor, norm: Tensor, seen: int) -> None:
        """Take in one step's mean loss, right answers, gradient norm and number of images."""
        self._pending.append(torch.stack([loss.float(), hits.float(), norm.float()]))
        self._seen += seen
        if len(self._pending) == WINDOW:
            self.look()

    def look(self) -> None:
        """Read what is pending and let the watch judge it."""
        if self._pending:
            losses, hits, norms = torch.stack(self._pending).T.tolist()
            self._pending.clear()
            self._watch.observe(norms, losses)
            self._losses += losses
            self._norms += norms
            self._hits += sum(hits)

    def mean_loss(self) -> float:
        """Mean over steps."""
        return sum(self._losses) / len(self._losses)

    def accuracy(self) -> float:
        """Share of right answers."""
        return self._hits / self._seen

    def median_norm(self) -> float:
        """Median norm of the gradient before clipping."""
        return sorted(self._norms)[len(self._norms) // 2]

    def mean_alpha_loss(self) -> float | None:
        """Mean over the alphas' steps; None without any."""
        return torch.stack(self.alpha_losses).mean().item() if self.alpha_losses else None
