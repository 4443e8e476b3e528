"""The built-in metrics of a classifier: functions of ``outputs`` and ``targets``.

``outputs`` are float32 logits ``[n, classes]`` and ``targets`` int64 classes ``[n]``, both on one device. The result
is a scalar on that device, so that reading several metrics waits for the device once.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def confusion(predicted: Tensor, targets: Tensor, classes: int) -> Tensor:
    """Count predictions: ``[classes, classes]`` int64; row is the true class, column the predicted one."""
    table = torch.zeros(classes * classes, dtype=torch.int64, device=targets.device)
    # Not bincount: on CUDA that waits for the device to learn the largest value.
    table.index_add_(0, targets * classes + predicted, torch.ones_like(targets))
    return table.reshape(classes, classes)


def accuracy(outputs: Tensor, targets: Tensor) -> Tensor:
    """Share of right predictions."""
    return (outputs.argmax(1) == targets).float().mean()


def balanced_accuracy(outputs: Tensor, targets: Tensor) -> Tensor:
    """Mean over the classes that occur of the share of each that was recognised (mean recall)."""
    table = confusion(outputs.argmax(1), targets, outputs.shape[1]).double()
    found = table.sum(1)
    recall = table.diagonal() / found.clamp_min(1)
    return recall.sum() / (found > 0).sum().clamp_min(1)


def macro_f1(outputs: Tensor, targets: Tensor) -> Tensor:
    """Mean over the classes that occur, or were predicted, of the harmonic mean of precision and recall."""
    table = confusion(outputs.argmax(1), targets, outputs.shape[1]).double()
    either = table.sum(0) + table.sum(1)
    scores = 2 * table.diagonal() / either.clamp_min(1)
    return scores.sum() / (either > 0).sum().clamp_min(1)


def negative_log_likelihood(outputs: Tensor, targets: Tensor) -> Tensor:
    """Mean cross entropy, in nats."""
    return F.cross_entropy(outputs, targets)


def top5_accuracy(outputs: Tensor, targets: Tensor) -> Tensor:
    """Share of images whose class is among the five most probable ones."""
    best = outputs.topk(min(5, outputs.shape[1]), dim=1).indices
    return (best == targets[:, None]).any(1).float().mean()
