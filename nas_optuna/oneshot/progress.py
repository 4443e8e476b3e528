"""The figures of one epoch of a supernet's training, and how they are gathered."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from nas_optuna.execution.evaluator import Measurement
from nas_optuna.oneshot.stability import DivergenceMonitor
from nas_optuna.study.supernet_result import entropy, softmax

WINDOW = 50
"""Steps between two reads of losses and gradient norms; only then does the loop wait for the device."""


@dataclass(frozen=True)
class Epoch:
    """The figures of one epoch of a supernet's training."""

    number: int  # from 1
    loss: float  # mean cross entropy of the weight steps
    accuracy: float  # share of right answers in the weight steps, before each step
    gradient_norm: float  # median norm of the weights' gradient before clipping
    seconds: float
    alpha_loss: float | None = None  # of the alpha steps; None while alphas stand still, and in a joint update
    temperature: float | None = None  # the Gumbel-softmax's; None where nothing is drawn from alphas
    cost: float | None = None  # expected at the end, in the table's unit; None without alphas or a table
    alphas: Mapping[str, list[float]] | None = None  # parameter name → logits at the end; None where none are trained


def measured(epoch: Epoch) -> Measurement:
    """An epoch of a supernet as the measurement that callbacks get."""
    # Its metrics are ``train_loss``, ``train_accuracy`` and ``gradient_norm``; ``alpha_loss``, ``temperature``,
    # ``expected_cost`` and ``entropy/NAME`` in nats for each parameter where the strategy has them.
    optional = {"alpha_loss": epoch.alpha_loss, "temperature": epoch.temperature, "expected_cost": epoch.cost}
    metrics = {
        "train_loss": epoch.loss,
        "train_accuracy": epoch.accuracy,
        "gradient_norm": epoch.gradient_norm,
        **{name: value for name, value in optional.items() if value is not None},
        **{f"entropy/{name}": entropy(logits) for name, logits in (epoch.alphas or {}).items()},
    }
    return Measurement(epoch.number, metrics, epoch.seconds)


def write_history(file: Path, history: Sequence[Epoch], choices: Mapping[str, Sequence[object]]) -> None:
    """Write every epoch's figures, and each choice's probability where alphas trained, as CSV."""
    trained = any(epoch.alphas for epoch in history)
    columns = [f"{name}={choice}" for name, values in choices.items() for choice in values] if trained else []
    figures = ("number", "loss", "accuracy", "alpha_loss", "gradient_norm", "temperature", "cost", "seconds")
    with file.open("w", newline="", encoding="utf-8") as opened:
        writer = csv.writer(opened)
        writer.writerow([*figures, *columns])
        for epoch in history:
            p = [x for logits in (epoch.alphas or {}).values() for x in softmax(logits)]
            writer.writerow([*(getattr(epoch, name) for name in figures), *(f"{x:.5f}" for x in p)])


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
        """Read the pending figures and let the monitor judge them."""
        if self._pending:
            losses, hits, norms = torch.stack(self._pending).T.tolist()
            self._pending.clear()
            self._watch.observe(norms, losses)
            self._losses += losses
            self._norms += norms
            self._hits += sum(hits)

    def figures(self) -> dict[str, Any]:
        """The `Epoch`'s ``loss``, ``accuracy`` and ``gradient_norm``."""
        self.look()
        return {
            "loss": sum(self._losses) / len(self._losses),
            "accuracy": self._hits / self._seen,
            "gradient_norm": sorted(self._norms)[len(self._norms) // 2],
        }
