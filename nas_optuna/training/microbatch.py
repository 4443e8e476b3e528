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
    """How many images of a batch, ``[batch, channels, side, side]``, to compute at once."""
    # Batch normalisation and the like need the statistics of a whole batch.
    if images.device.type != "cpu" or mixes_images(network, images):
        return len(images)
    return max(1, min(len(images), CACHE_BYTES // largest_activation(network, images[:1])))


def largest_activation(network: nn.Module, images: Tensor) -> int:
    """Bytes of the largest output of any layer in evaluation mode, for these images."""
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
