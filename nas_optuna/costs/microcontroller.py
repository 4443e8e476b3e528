"""Memory of a microcontroller that a network needs in eight bits: flash for weights, an arena for activations.

They are counted as TensorFlow Lite Micro lays them out: operators run in the order of the forward pass, each with its
inputs and its output in the arena, and a buffer lives until it is read for the last time. Batch norm and an activation
that follows a layer are fused into it; nothing else works in place, ``y += x`` neither. A convolution with a stride, or
with another padding than ``kernel // 2``, needs another buffer for its padded input. The interpreter's own tables (a
few kilobytes) and the scratch space of kernels are not counted. `benchmarks/arena.py` compares the figures with the
interpreter's.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from nas_optuna.costs.complexity import operators_noted
from nas_optuna.costs.cost import Cost
from nas_optuna.lazily import lazily
from nas_optuna.spaces import SearchSpace
from nas_optuna.spaces.architecture import Architecture

with lazily():
    import torch
    from torch import Tensor, nn

    from nas_optuna.spaces.shapes import tensors_in

_BYTES_A_CHANNEL = 8
"""A bias and a scale, of 32 bits each."""

_FUSED = ("batch_norm", "relu", "hardtanh", "clamp", "hardswish", "silu", "gelu", "sigmoid", "dropout")
"""Parts of the names of operators that overwrite their input."""


class FlashCost(Cost):
    """Bytes of flash for the weights in eight bits, with a bias and a scale of 32 bits per output channel.

    Batch norm is folded into the layer before it.
    """

    name, label, unit = "flash", "flash (int8)", "bytes"

    def __call__(self, architecture: Architecture) -> float:
        """Bytes."""
        return float(_figures(self.context.space, architecture)[0])


class ArenaCost(Cost):
    """The most bytes of eight-bit activations that live at once for one image: the RAM of a microcontroller."""

    name, label, unit = "arena", "arena (int8)", "bytes"

    def __call__(self, architecture: Architecture) -> float:
        """Bytes."""
        return float(_figures(self.context.space, architecture)[1])


@lru_cache(maxsize=4_096)
def _figures(space: SearchSpace, architecture: Architecture) -> tuple[int, int]:
    with torch.device("meta"):
        network = space.build(architecture).eval()
        image = torch.empty(1, *space.input_shape)
    return flash_bytes(network), arena_bytes(network, image)


def flash_bytes(network: nn.Module) -> int:
    """Bytes of the weights of a network in eight bits."""
    transposed = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)  # whose weights begin with their inputs
    outputs = {id(layer.weight): layer.out_channels for layer in network.modules() if isinstance(layer, transposed)}
    matrices = [weight for weight in network.parameters() if weight.dim() > 1]
    return sum(w.numel() + _BYTES_A_CHANNEL * outputs.get(id(w), w.shape[0]) for w in matrices)


def arena_bytes(network: nn.Module, image: Tensor) -> int:
    """The most bytes of activations in eight bits that live at once; network and image are on the meta device."""
    operators = _operators(network, image)
    last = {buffer: i for i, operator in enumerate(operators) for buffer in operator.reads}
    place: dict[int, int] = {}  # the buffer that another one overwrites
    sizes = {_IMAGE: image.numel()}
    spans: dict[int, tuple[int, int]] = {_IMAGE: (0, 0)}
    for i, operator in enumerate(operators):
        reads = [place.get(buffer, buffer) for buffer in operator.reads]
        if operator.fused and len(reads) == 1 and last[operator.reads[0]] == i:
            place.update(dict.fromkeys(operator.writes, reads[0]))
            continue
        sizes |= operator.writes
        for buffer in (*reads, *operator.writes):
            spans[buffer] = (spans.get(buffer, (i, i))[0], i)
    return max(
        (sum(sizes[b] for b, (begins, ends) in spans.items() if begins <= i <= ends) for i in range(len(operators))),
        default=image.numel(),
    )


_IMAGE = 0


@dataclass(frozen=True)
class _Operator:
    """One operator of an interpreter."""

    reads: list[int]  # numbers of the buffers that it reads, without weights
    writes: dict[int, int]  # numbers of the buffers that it fills, and their elements
    fused: bool = False  # whether it may overwrite its input


def _operators(network: nn.Module, image: Tensor) -> list[_Operator]:
    """The operators of a network in order, with numbers for their buffers."""
    numbers = {image.untyped_storage()._cdata: _IMAGE}
    held: list[Tensor] = []  # keeps storages alive, so that none gets the address of another
    weights = {weight.untyped_storage()._cdata for weight in (*network.parameters(), *network.buffers())}
    count = itertools.count(_IMAGE + 1)
    found: list[_Operator] = []

    def note(function: Any, given: Any, result: Any) -> None:
        reads = [numbers[key] for t in tensors_in(given) if (key := t.untyped_storage()._cdata) in numbers]
        name = function.__name__.partition(".")[0]
        combines = name.endswith("_") and len(reads) > 1  # as y += x does, but no activation in place
        writes: dict[int, int] = {}
        for tensor in tensors_in(result):  # without the indices of a maximum, which only training needs
            key = tensor.untyped_storage()._cdata
            # An interpreter has y += x as y = y + x; what fills a part of a buffer, or copies, needs no other one.
            another = combines and name != "copy_" and tensor.nbytes == tensor.untyped_storage().nbytes()
            if tensor.is_floating_point() and tensor.numel() and (another or key not in numbers) and key not in weights:
                numbers[key] = next(count)
                writes[numbers[key]] = tensor.numel()
            held.append(tensor)
        padded = _padded(given[0]) if name.startswith("convolution") else 0
        if padded:  # by a separate operator
            around = {next(count): padded}
            found.append(_Operator(reads, around))
            reads = list(around)
        if writes or combines:  # views and activations in place need no memory
            found.append(_Operator(reads, writes, any(part in name for part in _FUSED)))

    with torch.no_grad(), operators_noted(note):
        network(image)
    return found


def _padded(args: Sequence[Any]) -> int:
    """Elements of a convolution's padded input if the convolution cannot pad it itself, else 0."""
    image, weight, _, stride, padding = args[:5]
    same = all(s == 1 and 2 * p == k - 1 for s, p, k in zip(stride, padding, weight.shape[2:], strict=True))
    if same or not any(padding):
        return 0
    height, width = (side + 2 * p for side, p in zip(image.shape[2:], padding, strict=True))
    return int(image.shape[0] * image.shape[1] * height * width)
