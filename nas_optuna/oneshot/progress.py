"""What one epoch of a supernet's training gave, and how its figures are gathered."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from nas_optuna.oneshot.stability import DivergenceMonitor
from nas_optuna.training.soundness import require_number

WINDOW = 50
"""Steps between two looks at the losses and gradient norms, the only times that the loop waits for the device."""


@dataclass(frozen=True)
class Epoch:
    """What one epoch of a supernet's training gave.

    Attributes:
        number: Counted from 1.
        loss: Mean cross entropy of the weight steps.
        accuracy: Share of right answers in the weight steps, before each step.
        gradient_norm: Median norm of the weights' gradient before clipping.
        seconds: Wall-clock.
        alpha_loss: Mean cross entropy of the alpha steps; None while alphas stand still, and in a joint update.
        temperature: Of the Gumbel-softmax; None where nothing is drawn from alphas.
        cost: Expected cost at the end of the epoch, in the table's unit; None without alphas or a table.
        alphas: Parameter name → logits at the end of the epoch; None where the strategy trains none.
    """

    number: int
    loss: float
    accuracy: float
    gradient_norm: float
    seconds: float
    alpha_loss: float | None = None
    temperature: float | None = None
    cost: float | None = None
    alphas: Mapping[str, list[float]] | None = None

    def require_sound(self, number: int, shapes: Mapping[str, int] | None) -> None:
        """Check an epoch that comes from a file.

        Args:
            number: What its number must be.
            shapes: Parameter name → number of choices; None where the strategy trains no alphas.

        Raises:
            ValueError: It is damaged, or of another space.
        """
        require_number("number", self.number, number, number)
        for name in ("loss", "accuracy", "gradient_norm", "seconds"):
            require_number(name, getattr(self, name))
        for name in ("alpha_loss", "temperature", "cost"):
            if getattr(self, name) is not None:
                require_number(name, getattr(self, name))
        found = None if self.alphas is None else {name: len(logits) for name, logits in self.alphas.items()}
        if found != shapes:
            raise ValueError("its alphas are of another space")
        for name, logits in (self.alphas or {}).items():
            for value in logits:
                require_number(f"an alpha of {name}", value)


class Meter:
    """Losses, hits and gradient norms, kept on the device and read once per window."""

    def __init__(self, watch: DivergenceMonitor) -> None:
        self._watch = watch
        self._pending: list[Tensor] = []
        self._losses: list[float] = []
        self._norms: list[float] = []
        self._hits = 0.0
        self._seen = 0

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
