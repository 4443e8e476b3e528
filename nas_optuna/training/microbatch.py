"""How many images of a batch are computed at once.

On the CPU large activations are limited by memory, not by arithmetic: a part whose largest activation fits in the last
cache is computed up to twice as fast as the whole batch (benchmarks/training.py), and gradients of parts add up to the
batch's.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from nas_optuna.training.inspection import mixes_images

CACHE_BYTES = 32 * 2**20
"""Bytes of a part's largest activation: about a last-level cache, and what glibc's allocator keeps rather than returns
to the kernel, which would clear it again for the next step."""


def microbatch_size(network: nn.Module, images: Tensor) -> int:
    """How many images of a batch to compute at once.

    Args:
        network: On the images' device, in the mode that it is to run in.
        images: A batch, ``[batch, channels, side, side]``, float32.

    Returns:
        The whole batch on other devices than the CPU, and where the images of a batch meet, as in batch normalisation,
        whose statistics are those of a whole batch.

    Examples:
        >>> microbatch_size(nn.Conv2d(1, 8, 3), torch.zeros(64, 1, 28, 28))
        64
        >>> microbatch_size(nn.Conv2d(1, 64, 3), torch.zeros(64, 1, 224, 224))
        2
    """
    if images.device.type != "cpu" or mixes_images(network, images):
        return len(images)
    return max(1, min(len(images), CACHE_BYTES // largest_activation(network, images[:1])))


def largest_activation(network: nn.Module, images: Tensor) -> int:
    """Bytes of the largest output of any layer, for these images.

    Args:
        network: On the images' device; it runs in evaluation mode and is left in the mode that it was in.
        images: ``[batch, channels, side, side]``, float32.

    Examples:
        >>> largest_activation(nn.Flatten(), torch.zeros(1, 1, 8, 8))
        256
    """
    largest = 1

    def look(module: nn.Module, inputs: object, output: object) -> None:
        nonlocal largest
        if isinstance(output, Tensor):
            largest = max(largest, output.nbytes)

    handles = [module.register_forward_hook(look) for module in network.modules()]
    was_training = network.training
    try:
        with torch.no_grad():
            network.eval()(images)
    finally:
        network.train(was_training)
        for handle in handles:
            handle.remove()
    return largest
