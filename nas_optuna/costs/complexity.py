"""Compute and memory of an architecture, counted on meta tensors: no weights are allocated, nothing is computed.

If a network is a sequence of operations, its figures follow from those of the operations. These are cached, because
networks of a space share them: after the first few architectures a call takes microseconds. Any other network is
counted whole.
"""

from __future__ import annotations

import math
import weakref
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from nas_optuna.devices import network_failures
from nas_optuna.errors import TrainingError
from nas_optuna.lazily import lazily
from nas_optuna.spaces import Decomposable, Operation, SearchSpace, Shape, require_operations
from nas_optuna.spaces.architecture import Architecture

with lazily():
    import torch
    from torch import Tensor, nn
    from torch.utils.flop_counter import FlopCounterMode
    from torch.utils.weak import WeakIdKeyDictionary

    from nas_optuna.spaces.shapes import QuickMeta, require_module, tensors_in


@dataclass(frozen=True)
class ModelComplexity:
    """The costs of a network or of one of its operations, in float32."""

    macs: int  # multiply-accumulates of one forward pass of one image (convolutions and matrix products, no biases)
    params: int  # number of weights
    weight_bytes: int  # bytes of weights and buffers
    # the most bytes of activations that live at once, including the batch of inputs; neither a library's scratch space
    # inside a convolution is counted, nor weights and their gradients
    activation_bytes: int
    input_bytes: int  # bytes of the batch of inputs


def figures(space: SearchSpace, architecture: Architecture, batch_size: int = 1) -> ModelComplexity:
    """Count the costs of an architecture's network."""
    if not (isinstance(space, Decomposable) and space.sequential):
        return _network_figures(space, architecture, batch_size)
    parts = [_operation_figures(space, operation, batch_size) for operation in space.operations(architecture)]
    images = parts[0].input_bytes  # which the caller holds throughout, beside one operation's input and its work
    return ModelComplexity(
        macs=sum(part.macs for part in parts),
        params=sum(part.params for part in parts),
        weight_bytes=sum(part.weight_bytes for part in parts),
        activation_bytes=max((0 if i == 0 else images) + part.activation_bytes for i, part in enumerate(parts)),
        input_bytes=images,
    )


def size(space: SearchSpace, architecture: Architecture) -> tuple[int, int]:
    """Multiply-accumulates and parameters as in `figures`, but several times as fast, without memory."""
    if not (isinstance(space, Decomposable) and space.sequential):
        counted = figures(space, architecture)
        return counted.macs, counted.params
    sizes = [_operation_size(space, operation) for operation in space.operations(architecture)]
    return sum(macs for macs, _ in sizes), sum(params for _, params in sizes)


def log_sizes(space: SearchSpace, params: Mapping[str, Any]) -> tuple[float, ...]:
    """Log parameters and log multiply-accumulates of the network of params, of which a recipe's are ignored."""
    architecture = space.architecture({name: params[name] for name in space.parameters})
    try:
        macs, weights = size(space, architecture)
    except TrainingError:  # it cannot be built, as its trial will say
        return 0.0, 0.0
    return math.log1p(weights), math.log1p(macs)


def operation_macs(space: Decomposable, operation: Operation) -> int:
    """Multiply-accumulates of one operation for one image."""
    return _operation_figures(space, operation, 1).macs if operation.macs is None else operation.macs


def macs_table(space: SearchSpace) -> dict[str, int]:
    """`operation_macs` of every operation that the space can contain, by `Operation.key`."""
    made = require_operations(space, "a table of costs")
    return {operation.key: operation_macs(made, operation) for operation in made.reachable_operations()}


@lru_cache(maxsize=65_536)
def _operation_size(space: Decomposable, operation: Operation) -> tuple[int, int]:
    with torch.device("meta"):
        module = operation.make()
    return operation_macs(space, operation), sum(weight.numel() for weight in module.parameters())


@lru_cache(maxsize=65_536)
def _operation_figures(space: Decomposable, operation: Operation, batch_size: int) -> ModelComplexity:
    """Run one operation on meta tensors."""
    with torch.device("meta"):
        module = operation.make()
    return _module_figures(module, operation.input_shape, batch_size)


@lru_cache(maxsize=4_096)
def _network_figures(space: SearchSpace, architecture: Architecture, batch_size: int) -> ModelComplexity:
    """Run a whole network on meta tensors."""
    with network_failures(f"{architecture} cannot be built"):
        with torch.device("meta"), QuickMeta():
            network = require_module(space.build(architecture), space.name)
        return _module_figures(network, space.input_shape, batch_size)


def _module_figures(module: nn.Module, input_shape: Shape, batch_size: int) -> ModelComplexity:
    with torch.device("meta"):
        x = torch.empty(batch_size, *input_shape)
    counter = flop_counter()
    with torch.no_grad(), _tracked(module.eval(), x) as live, counter, QuickMeta():
        module(x)
    weights = list(module.parameters())
    return ModelComplexity(
        macs=counter.get_total_flops() // (2 * batch_size),
        params=sum(w.numel() for w in weights),
        weight_bytes=sum(t.numel() * t.element_size() for t in [*weights, *module.buffers()]),
        activation_bytes=x.nbytes + live["most"],
        input_bytes=x.nbytes,
    )


def flop_counter() -> FlopCounterMode:
    """Torch's counter of floating-point operations, twice the MACs, extended by products that it leaves out."""

    def trilinear(a: Any, b: Any, c: Any, more_a: Any, more_b: Any, more_c: Any, *rest: Any, **options: Any) -> int:
        def opened(shape: Any, more: Any) -> list[int]:
            sizes = list(shape)
            for dim in sorted(more):
                sizes.insert(dim, 1)
            return sizes

        return 2 * math.prod(map(max, opened(a, more_a), opened(b, more_b), opened(c, more_c)))

    def product(first: Any, *rest: Any, **options: Any) -> int:
        return 2 * int(math.prod(first))

    def added(bias: Any, matrix: Any, *rest: Any, **options: Any) -> int:
        return 2 * int(math.prod(matrix))

    def added_product(bias: Any, first: Any, second: Any, *rest: Any, **options: Any) -> int:
        return 2 * int(math.prod(first)) * int(second[-1])

    def distances(first: Any, *rest: Any, out_shape: Any, **options: Any) -> int:
        return 2 * int(math.prod(out_shape)) * int(first[-1])

    def over_time(x: Any, weight: Any, *rest: Any, out_shape: Any, **options: Any) -> int:
        return 2 * int(math.prod(out_shape)) * int(math.prod(weight[:-1]))

    def deformable(x: Any, weight: Any, *rest: Any, out_shape: Any, **options: Any) -> int:
        return 2 * int(math.prod(out_shape)) * int(math.prod(weight[1:]))

    aten = torch.ops.aten
    more: dict[Any, Any] = {aten._trilinear: trilinear, aten.mv: product, aten.dot: product, aten.vdot: product}
    more |= dict.fromkeys((aten.addmv, aten.addmv_), added)
    more |= dict.fromkeys((aten.addmm_, aten.baddbmm_, aten.addbmm, aten.addbmm_), added_product)
    more |= {aten._cdist_forward: distances, aten._euclidean_dist: distances, aten.conv_tbc: over_time}
    if hasattr(torch.ops.torchvision, "deform_conv2d"):  # torchvision was imported
        more[torch.ops.torchvision.deform_conv2d] = deformable
    return FlopCounterMode(display=False, custom_mapping=more)


@contextmanager
def _tracked(module: nn.Module, x: Tensor) -> Iterator[Counter[str]]:
    """The bytes of the storages that torch makes inside the block: those that live now, and the most at any time."""
    known, live = WeakIdKeyDictionary(), Counter(now=0, most=0)
    for tensor in (x, *module.parameters(), *module.buffers()):
        known[tensor.untyped_storage()] = True

    def note(function: Any, given: Any, result: Any) -> None:
        for storage in (tensor.untyped_storage() for tensor in tensors_in(result)):
            if storage not in known:
                known[storage] = True
                live.update(now=storage.nbytes())
                live["most"] = max(live.values())
                weakref.finalize(storage, live.update, now=-storage.nbytes()).atexit = False

    with operators_noted(note):
        yield live


def operators_noted(note: Callable[[Any, Any, Any], None]) -> AbstractContextManager[Any]:
    """Call `note` with each operator that torch runs inside the block, its ``(args, kwargs)`` and its result."""
    from torch.utils._python_dispatch import TorchDispatchMode

    class Noting(TorchDispatchMode):
        def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            result = function(*args, **(kwargs or {}))
            note(function, (args, kwargs), result)
            return result

    return Noting()  # type: ignore[no-untyped-call]
