"""A network, initialised from a seed, on its device."""

from __future__ import annotations

import torch
from torch import nn

from nas_optuna.spaces import SearchSpace
from nas_optuna.spaces.architecture import Architecture
from nas_optuna.spec import Recipe


def make_network(
    space: SearchSpace, architecture: Architecture, recipe: Recipe, device: torch.device, seed: int
) -> nn.Module:
    """Build an architecture with initial weights that depend on the recipe and the seed alone.

    Weights are drawn on the CPU, so that they are the same on every device; torch's global generator is left as it was.

    Args:
        space: The space that the architecture is of.
        architecture: The architecture.
        recipe: Its `init` is used.
        device: Where the network is to live.
        seed: Seed of the weights.

    Returns:
        The network, in channels-last memory format.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = space.build(architecture)
        if recipe.init == "kaiming":
            network.apply(kaiming)
    return network.to(device).to(memory_format=torch.channels_last)


def kaiming(module: nn.Module) -> None:
    """He et al. 2015, section 2.2: keeps the variance of activations through layers with ReLU."""
    if isinstance(module, nn.Conv2d | nn.Linear):
        nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
        if module.bias is not None:
            nn.init.zeros_(module.bias)
