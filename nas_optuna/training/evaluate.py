"""A network's figures on images that it was not trained on."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nas_optuna.data import BatchLoader
from nas_optuna.training.microbatch import microbatch_size
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
    part: int | None = None
    for images, labels in loader.epoch():
        part = part or microbatch_size(network, images)
        with autocast(device, dtype):
            logits = torch.cat([network(some) for some in images.split(part)])
        loss += F.cross_entropy(logits.float(), labels, reduction="sum")
        classes = logits.shape[1]
        if confusion is None:
            confusion = torch.zeros(classes * classes, dtype=torch.int64, device=device)
        # Not bincount: on CUDA that waits for the device to learn the largest value.
        confusion.index_add_(0, labels * classes + logits.argmax(1), torch.ones_like(labels))
    network.train(was_training)
    assert confusion is not None, "a loader has at least one batch"
    table = confusion.cpu().reshape(classes, classes)
    return Evaluation((loss / loader.size).item(), table.diagonal().sum().item() / loader.size, table)
