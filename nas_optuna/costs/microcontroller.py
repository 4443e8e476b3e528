"""What a network needs of a microcontroller, in eight bits: flash for its weights, an arena for its activations.

Counted as TensorFlow Lite Micro lays them out: operators run in the order of the forward pass, each with its inputs and
its output in the arena; batch norm and an activation that follows a layer are fused into it, and nothing else works in
place. The interpreter's own tables (a few kilobytes) and a kernel's scratch space are not counted.
"""

from __future__ import annotations

import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from nas_optuna.costs.cost import Cost
from nas_optuna.spaces import SearchSpace
from nas_optuna.spaces.architecture import Architecture

if TYPE_CHECKING:
    from torch import Tensor, nn

_BYTES_A_CHANNEL = 8
"""A bias and a scale, of 32 bits each."""

_FUSED = (
    "batch_norm",
    "relu",
    "hardtanh",
    "clamp",
    "hardswish",
    "silu",
    "gelu",
    "leaky_relu",
    "sigmoid",
    "hardsigmoid",
    "dropout",
)
"""Operators that write over their input, by a part of their name."""


class FlashCost(Cost):
    """Bytes of flash for the weights in eight bits, with a bias and a scale of 32 bits per output channel.

    Batch norm is folded into the layer before it.
    """

    name, label, unit = "flash", "flash (int8)", "bytes"

    def __call__(self, architecture: Architecture) -> float:
        """Bytes."""
        return float(_figures(self.context.space, architecture)[0])


class ArenaCost(Cost):
    """The most bytes of eight-bit activations that live at once, for one image: RAM of a microcontroller."""

    name, label, unit = "arena", "arena (int8)", "bytes"

    def __call__(self, architecture: Architecture) -> float:
        """Bytes."""
        return float(_figures(self.context.space, architecture)[1])


@lru_cache(maxsize=4_096)
def _figures(space: SearchSpace, architecture: Architecture) -> tuple[int, int]:
    import torch

    with torch.device("meta"):
        network = space.build(architecture).eval()
        image = torch.empty(1, *space.input_shape)
    return flash_bytes(network), arena_bytes(network, image)


def flash_bytes(network: nn.Module) -> int:
    """Bytes of the weights of a network in eight bits.

    Examples:
        >>> from torch import nn
        >>> flash_bytes(nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU()))
        280
    """
    matrices = [weight for weight in network.parameters() if weight.dim() > 1]
    return sum(weight.numel() + _BYTES_A_CHANNEL * weight.shape[0] for weight in matrices)


def arena_bytes(network: nn.Module, image: Tensor) -> int:
    """The most bytes of activations in eight bits that live at once while a network takes an image.

    Args:
        network: In eval mode, on the meta device.
        image: ``[1, channels, height, width]``, on the meta device.

    Examples:
        >>> import torch
        >>> from torch import nn
        >>> with torch.device("meta"):  # 3·64 bytes of image and 8·64 of features; ReLU works in place
        ...     arena_bytes(nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.ReLU()).eval(), torch.empty(1, 3, 8, 8))
        704
    """
    import torch

    with torch.no_grad(), _followed(network, image) as arena:
        network(image)
    last = max((i for i, (_, reads) in enumerate(arena.operators) if reads), default=0)
    images = image.numel()
    return max((live + (images if i <= last else 0) for i, (live, _) in enumerate(arena.operators)), default=images)


class _Arena:
    """Follows elements that live.

    Attributes:
        live: How many live now, without the image: whoever calls the network holds that longer than an interpreter.
        operators: Of each operator how many lived while it ran, and whether it read the image.
    """

    def __init__(self) -> None:
        self.live = 0
        self.operators: list[tuple[int, bool]] = []

    def add(self, storage: Any, elements: int) -> None:
        self.live += elements
        weakref.finalize(storage, self._remove, elements).atexit = False

    def _remove(self, elements: int) -> None:
        self.live -= elements


@contextmanager
def _followed(network: nn.Module, image: Tensor) -> Iterator[_Arena]:
    """Follow the elements of every tensor that the block makes; weights are known before it."""
    import torch
    from torch.utils._python_dispatch import TorchDispatchMode
    from torch.utils._pytree import tree_leaves
    from torch.utils.weak import WeakIdKeyDictionary

    known = WeakIdKeyDictionary()
    for weight in [*network.parameters(), *network.buffers()]:
        known[weight.untyped_storage()] = True
    arena = _Arena()
    given = image.untyped_storage()
    known[given] = True

    def tensors(values: Any) -> list[Tensor]:
        return [value for value in tree_leaves(values) if isinstance(value, torch.Tensor)]

    class Follower(TorchDispatchMode):
        def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            result = function(*args, **(kwargs or {}))
            for tensor in tensors(result):  # not the places of a maximum, which only training needs
                if tensor.is_floating_point() and tensor.untyped_storage() not in known:
                    known[tensor.untyped_storage()] = True
                    arena.add(tensor.untyped_storage(), tensor.numel())
            if not any(name in function.__name__ for name in _FUSED):
                arena.operators.append((arena.live, any(t.untyped_storage() is given for t in tensors(args))))
            return result

    with Follower():  # type: ignore[no-untyped-call]
        yield arena
