"""A network, initialised from a seed, on its device."""

from __future__ import annotations

import torch
from torch import nn

from nas_optuna.machine import laid_out
from nas_optuna.randomness import seeded
from nas_optuna.spaces import SearchSpace
from nas_optuna.spaces.architecture import Architecture
from nas_optuna.spaces.layers import kaiming
from nas_optuna.spaces.pretrained import PretrainedBody
from nas_optuna.spec import Recipe
from nas_optuna.training.failure import network_failures
from nas_optuna.training.precision import keep_grouped_in_float32, resolve_precision


def make_network(
    space: SearchSpace, architecture: Architecture, recipe: Recipe, device: torch.device, seed: int
) -> nn.Module:
    """Build an architecture with initial weights that depend on the recipe and the seed alone.

    Weights are drawn on the CPU, so that they are the same on every device. They come from a generator of their own, so
    that they are the same in every thread; torch's global generator is left as it was.

    Args:
        space: The space to which the architecture belongs.
        architecture: The architecture.
        recipe: Its `init` is used, where the space leaves its weights to it (`SearchSpace.draws_weights`).
        device: Where the network is to live.
        seed: The seed of the weights.

    Returns:
        The network, in the memory format that suits the device (`nas_optuna.machine`).

    Raises:
        TrainingError: The space's own code failed.
        SpecError: Pretrained weights are not on this machine.

    Examples:
        >>> from nas_optuna import ConvSpace
        >>> space = ConvSpace(depth=1, input_size=8)
        >>> network = make_network(space, space.parse("f16k3s1"), Recipe(), torch.device("cpu"), seed=0)
        >>> network(torch.zeros(2, 1, 8, 8)).shape
        torch.Size([2, 10])
    """
    with network_failures(f"{architecture} cannot be built"), seeded(seed):
        space.require_logits(architecture)
        network = space.build(architecture)
        if recipe.init == "kaiming" and space.draws_weights:
            network.apply(kaiming)
        for module in network.modules():
            if isinstance(module, PretrainedBody):
                module.load_pretrained()
        if device.type == "cpu" and resolve_precision(recipe.precision, device) == torch.bfloat16:
            keep_grouped_in_float32(network)
    return laid_out(network, device)
