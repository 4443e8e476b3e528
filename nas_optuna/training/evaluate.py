"""A network's figures on images that it was not trained on."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nas_optuna.data import BatchLoader
from nas_optuna.training.precision import autocast


@dataclass(frozen=True)
class Evaluation:
    """What a network says of a whole loader.

    Attributes:
        loss: Mean cross entropy.
        accuracy: Share of correct predictions, 0 … 1.
        confusion: ``[classes, classes]``, int64, on the host: row is the true class, column the predicted one.
    """

    loss: float
    accuracy: float
    confusion: Tensor


@torch.inference_mode()
def evaluate(network: nn.Module, loader: BatchLoader, device: torch.device, dtype: torch.dtype) -> Evaluation:
    """Run the network over a loader in its stored order, in evaluation mode; waits for the device once.

    Args:
        network: Left in the mode that it was in.
        loader: The images.
        device: Where both live.
        dtype: Autocast to this; float32 is no autocast.
    """
    was_training = network.training
    network.eval()
    loss = torch.zeros((), device=device)
    confusion: Tensor | None = None
    for images, labels in loader.epoch():
        with autocast(device, dtype):
            logits = network(images)
        loss += F.cross_entropy(logits.float(), labels, reduction="sum")
        classes = logits.shape[1]
        counts = torch.bincount(labels * classes + logits.argmax(1), minlength=classes * classes)
        confusion = counts if confusion is None else confusion + counts
    network.train(was_training)
    assert confusion is not None, "a loader has at least one batch"
    table = confusion.cpu().reshape(classes, classes)
    return Evaluation((loss / loader.size).item(), table.diagonal().sum().item() / loader.size, table)
