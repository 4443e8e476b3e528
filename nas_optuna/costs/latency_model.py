"""Latency of any network of a space, learned from measured whole networks.

If a space has too many operations to measure each, a table holds whole networks. The latency of another network is a
sum over its operators, by kind: a term for each call, for the values it moves, for its weights and for its MACs. The
coefficients are not negative, and minimise the relative error on the measured networks.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any

import numpy as np

from nas_optuna.costs.complexity import operators_noted
from nas_optuna.lazily import lazily
from nas_optuna.spaces import SearchSpace
from nas_optuna.spaces.architecture import Architecture

with lazily():
    import torch
    from scipy.optimize import nnls
    from torch import Tensor

    from nas_optuna.spaces.shapes import QuickMeta, tensors_in

ALIGNED = 16
"""Runtimes lay channels out in blocks of this size, and use other kernels for blocks that are not full."""

WIDE = 64
"""From this many channels on, a MAC may take far longer, above all in eight bits."""


class LatencyModel:
    """Milliseconds of a network from its `operators`."""

    def __init__(self, networks: Sequence[Mapping[str, float]], measured_ms: Sequence[float]) -> None:
        self._names = sorted(set().union(*networks))
        counted = np.array([[found.get(name, 0.0) for name in self._names] for found in networks])
        latencies = np.array(measured_ms)[:, None]
        largest = np.maximum(counted.max(0), 1.0)
        shares, _ = nnls(counted / largest / latencies, np.ones(len(networks)))
        self._shares = shares / largest

    def __call__(self, network: Mapping[str, float]) -> float:
        """Milliseconds."""
        return float(sum(share * network.get(name, 0.0) for name, share in zip(self._names, self._shares, strict=True)))


@lru_cache(maxsize=16_384)
def operators(space: SearchSpace, architecture: Architecture) -> Mapping[str, float]:
    """Counts of an architecture's operators for one image, by kind, from a run on meta tensors."""
    from nas_optuna.spaces.function import FunctionSpace

    counted: Counter[str] = Counter({"network": 1})

    def note(function: Any, given: Any, result: Any) -> None:
        name = function.__name__.partition(".")[0].rstrip("_")
        if not function.is_view and "batch_norm" not in name:  # batch norm is folded into the layer before it
            counted.update(_operator(name, given[0], tensors_in(given[0]), tensors_in(result)))

    with torch.device("meta"), QuickMeta():  # `build` would also try a function's network, in twice the time
        network = space.built(architecture)[0] if isinstance(space, FunctionSpace) else space.build(architecture)
        image = torch.empty(1, *space.input_shape)
    with torch.no_grad(), operators_noted(note):
        network.eval()(image)
    return dict(counted)


def _operator(name: str, args: Any, given: Sequence[Tensor], made: Sequence[Tensor]) -> Mapping[str, float]:
    """The counts of one operator."""
    if not made:
        return {}
    weights: Sequence[Tensor] = ()
    if name == "convolution":
        given, weights = given[:1], given[1:]
        kind = "depthwise" if args[8] > 1 else "first" if given[0].shape[1] < ALIGNED // 2 else "convolution"
        name = f"{kind} {'x'.join(map(str, weights[0].shape[2:]))}"
    elif name in ("addmm", "mm"):
        given, weights = given[-2:-1], given[-1:]
    elif name.endswith("pool2d") or "pool2d_with_indices" in name:
        name = f"{name} {args[1]}"
    channels = [tensor.shape[1] for tensor in (*given[:1], *made[:1]) if tensor.ndim == 4]
    if any(count % ALIGNED for count in (channels[1:] if name.startswith("first") else channels)):
        name = f"{name} unaligned"
    moved = sum(math.prod(tensor.shape) for tensor in (*given, *made))
    found: dict[str, float] = {f"{name} calls": 1, f"{name} moved": moved}
    if weights:
        size = math.prod(weights[0].shape)
        macs = size * math.prod(made[0].shape[2:])
        found |= {f"{name} weights": size, f"{name} macs": macs}
        if given[0].shape[1] >= WIDE and given[0].ndim == 4:
            found[f"{name} macs of wide inputs"] = macs
    return found
