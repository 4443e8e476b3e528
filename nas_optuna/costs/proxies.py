"""What a network tells before it is trained: sizes, which are counted, and two proxies, which look at a few images.

Sizes grow with accuracy in most spaces. NASWOT asks how differently the network's activations see different images;
ZiCo how consistent its gradients are from batch to batch. Both take milliseconds and work with any module. What they
are worth depends on the space, so whoever uses them learns a coefficient, which may be 0.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np

from nas_optuna.costs.complexity import size
from nas_optuna.spaces import SearchSpace

if TYPE_CHECKING:
    from torch import Tensor, nn


class Sizes:
    """Log parameters and log multiply-accumulates of a space's networks, from params; params of a recipe are ignored.

    Args:
        space: The space.

    Examples:
        >>> from nas_optuna import ConvSpace
        >>> space = ConvSpace(depth=1, input_size=8)
        >>> [round(number, 1) for number in Sizes(space)(space.parse("f16k3s1").params)]
        [8.3, 9.8]
    """

    def __init__(self, space: SearchSpace) -> None:
        self._space = space

    def __call__(self, params: Mapping[str, Any]) -> tuple[float, ...]:
        """Return ``(log params, log macs)`` of the network that params stand for."""
        macs, weights = size(self._space, self._space.architecture({n: params[n] for n in self._space.parameters}))
        return float(np.log1p(weights)), float(np.log1p(macs))


def naswot(network: nn.Module, images: Tensor) -> float:
    """How differently a network's activations see different images, before any training."""
    # Every input of an activation function (``relu``, ``gelu``, ``silu``, …, as a module or not) is a binary code of
    # each image: where it is positive. The score is the log determinant of the matrix of how many places two images
    # agree in (Mellor et al., "Neural Architecture Search without Training", ICML 2021, section 3), divided by the
    # places, so that it does not grow with the network's size alone.
    import torch

    agreement = torch.zeros(len(images), len(images), dtype=torch.float64)
    places = 0
    with torch.no_grad(), _statistics_kept(network), _activation_inputs() as inputs:
        network(images)
        for values in inputs:
            if values.shape[:1] != images.shape[:1]:
                continue
            code = (values.flatten(1) > 0).float()
            same = code @ code.T + (1 - code) @ (1 - code).T
            agreement += same.double().cpu()
            places += code.shape[1]
    if not places:
        return -np.inf
    sign, value = torch.linalg.slogdet(agreement / places)
    return float(value) if sign > 0 else -np.inf


def zico(network: nn.Module, batches: Sequence[tuple[Tensor, Tensor]]) -> float:
    """How large and how consistent a network's gradients are over batches, before any training."""
    # The score is the sum over weighted layers of ``log(sum(mean |gradient| / standard deviation of gradient))`` (Li et
    # al., "ZiCo: Zero-shot NAS via Inverse Coefficient of Variation on Gradients", ICLR 2023, equation 15).
    import torch

    if len(batches) < 2:
        raise ValueError(f"zico compares gradients over batches, and got {len(batches)} of them; give at least 2")
    layers = {name: weight for name, weight in network.named_parameters() if weight.dim() > 1 and weight.requires_grad}
    gradients: dict[str, list[Tensor]] = {name: [] for name in layers}
    with _statistics_kept(network), torch.enable_grad():
        for images, labels in batches:
            loss = torch.nn.functional.cross_entropy(network(images), labels)
            found = torch.autograd.grad(loss, list(layers.values()), allow_unused=True)
            for name, gradient in zip(layers, found, strict=True):
                if gradient is not None:
                    gradients[name].append(gradient.detach())
    score = 0.0
    for columns in gradients.values():
        if len(columns) < 2:
            continue
        stacked = torch.stack(columns)
        deviation = stacked.std(0, correction=0)
        used = deviation > 0
        if used.any():
            score += float((stacked.abs().mean(0)[used] / deviation[used]).sum().log())
    return score


@contextmanager
def _statistics_kept(network: nn.Module) -> Iterator[None]:
    """Within it the network is in training mode; afterwards its mode and buffers are as before."""
    import torch

    modes = {module: module.training for module in network.modules()}
    buffers = {name: buffer.clone() for name, buffer in network.named_buffers()}
    network.train()
    try:
        yield
    finally:
        with torch.no_grad():
            for name, buffer in network.named_buffers():
                buffer.copy_(buffers[name])
        for module, mode in modes.items():
            module.training = mode


@contextmanager
def _activation_inputs() -> Iterator[list[Tensor]]:
    """Within it every input of an activation function is collected, also where no module calls it."""
    from torch.utils._python_dispatch import TorchDispatchMode

    names = ("relu", "relu_", "leaky_relu", "elu", "gelu", "silu", "silu_", "hardswish", "hardtanh", "mish", "sigmoid")
    inputs: list[Tensor] = []

    class Collector(TorchDispatchMode):
        def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            if function.__name__.partition(".")[0] in names:
                inputs.append(args[0].detach().clone())
            return function(*args, **(kwargs or {}))

    with Collector():  # type: ignore[no-untyped-call]
        yield inputs
