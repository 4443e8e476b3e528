"""The layers of any network and the tensors between them, found by watching one forward pass."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from nas_optuna.costs.complexity import flop_counter
from nas_optuna.randomness import RandomState
from nas_optuna.spaces import SearchSpace
from nas_optuna.spaces.architecture import Architecture
from nas_optuna.spaces.shapes import tensors_in

Shape = tuple[int, ...]

_LIGHT = ("activation", "pool", "norm", "dropout", "reshape", "elementwise")
"""Kinds that are written into the box of the layer before them, because another box would say little more."""
_UNSEEN = ("contiguous", "to", "float", "clone", "detach", "requires_grad_", "type", "cpu", "cuda", "identity")
"""Functions that change no value; drawings leave them out."""
_RESHAPES = ("flatten", "view", "reshape", "permute", "transpose", "unsqueeze", "squeeze", "unflatten")
_SUMS = ("add", "__add__", "__radd__", "__iadd__", "add_")
_PRODUCTS = ("mul", "__mul__", "__rmul__", "__imul__", "mul_")
_ACTIVATIONS = {
    "relu": "ReLU", "relu_": "ReLU", "relu6": "ReLU6", "gelu": "GELU", "silu": "SiLU", "elu": "ELU", "selu": "SELU",
    "leaky_relu": "leaky ReLU", "hardswish": "hard swish", "hardsigmoid": "hard sigmoid", "sigmoid": "sigmoid",
    "tanh": "tanh", "mish": "Mish", "softmax": "softmax", "log_softmax": "log softmax", "prelu": "PReLU",
}  # fmt: skip


@dataclass(frozen=True)
class Layer:
    """One step of a network's forward pass."""

    kind: str  # ``"input"``, ``"conv"``, ``"linear"``, ``"sum"``, ``"concat"``, ``"pool"``, … or ``"other"``
    title: str  # for people, e.g. ``"Conv 3×3, 16 filters"``
    shape: Shape  # shape of one output, without the batch
    macs: int = 0  # multiply-accumulates for one input
    params: int = 0  # number of weights
    inputs: tuple[int, ...] = ()  # places of the layers whose outputs it takes
    then: tuple[str, ...] = ()  # titles of layers that follow in the same box, e.g. ``("max pool 2×2", "ReLU")``


def graph_of(space: SearchSpace, architecture: Architecture) -> tuple[Layer, ...]:
    """The layers of an architecture's network, if possible without allocating weights."""
    try:
        with torch.device("meta"):
            return trace(space.build(architecture), space.input_shape)
    except (RuntimeError, NotImplementedError, ValueError):  # some modules read the values of tensors
        with RandomState(0, torch.device("cpu")).current():  # trainings in other threads may draw
            return trace(space.build(architecture), space.input_shape)


def trace(network: nn.Module, input_shape: Shape) -> tuple[Layer, ...]:
    """Run a new network once on one input and record every layer that it calls, in order."""
    # A layer is a function of torch that the network or a module of ``torch.nn`` calls. So no class has to be known,
    # and the network's code may branch.
    recorder = _Recorder(torch.zeros(1, *input_shape))
    with torch.no_grad(), recorder.flops, recorder:
        network.eval()(recorder.input)
    return _merged(recorder.layers)


class _Recorder(TorchFunctionMode):
    """Records every function that is called inside it, without the calls that it makes itself, and its tensors."""

    def __init__(self, image: Tensor) -> None:
        super().__init__()
        self.input = image
        self.layers = [Layer("input", "input", tuple(image.shape[1:]))]
        self.flops = flop_counter()
        self._made_by = {id(image): 0}
        self._alive: list[object] = [image]  # so that no id is reused
        self._counted: set[int] = set()

    def places(self, values: object) -> list[int]:
        """The layers that made the tensors in a nested structure."""
        found = (self._made_by.get(id(value)) for value in tensors_in(values))
        return list(dict.fromkeys(place for place in found if place is not None))

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Call a function; its result may be no tensor, e.g. a size."""
        kwargs = kwargs or {}
        before, sources = self.flops.get_total_flops(), self.places([args, kwargs])
        result = function(*args, **kwargs)
        if sources and (tensors := tensors_in(result)):
            self._alive += tensors
            self._note(function, args, kwargs, tensors, before, sources)
        return result

    def _note(
        self, function: Any, args: Any, kwargs: Any, tensors: Sequence[Tensor], before: int, sources: list[int]
    ) -> None:
        name = getattr(function, "__name__", str(function))
        kind, title = _function_title(name, args, kwargs, len(sources))
        if kind == "unseen" and len(sources) == 1:
            self._made_by |= {id(tensor): sources[0] for tensor in tensors}
            return
        weights = [value for value in tensors_in([args, kwargs]) if isinstance(value, nn.Parameter)]
        new = [weight for weight in weights if id(weight) not in self._counted]
        self._counted |= {id(weight) for weight in new}
        self._alive += new
        macs = (self.flops.get_total_flops() - before) // 2
        if kind == "elementwise" and title in name and (macs or new):  # e.g. attention
            kind, title = "other", title.removesuffix("_forward").replace("_", " ")
        shape, params = tuple(tensors[0].shape[1:]), sum(weight.numel() for weight in new)
        layer = Layer(kind, title, shape, macs=macs, params=params, inputs=tuple(sources))
        self._made_by |= {id(tensor): len(self.layers) for tensor in tensors}
        self.layers.append(layer)


def _merged(layers: Sequence[Layer]) -> tuple[Layer, ...]:
    """Merge each light layer into the box before it, unless something else takes that one's output."""
    users = Counter(source for layer in layers for source in layer.inputs)
    merged: list[Layer] = []
    number: list[int] = []
    for layer in layers:
        sources = tuple(number[source] for source in layer.inputs)
        before = layer.inputs[0] if len(layer.inputs) == 1 else 0
        if layer.kind in _LIGHT and before > 0 and users[before] == 1:
            box = merged[number[before]]
            merged[number[before]] = replace(
                box,
                shape=layer.shape,
                then=(*box.then, layer.title),
                macs=box.macs + layer.macs,
                params=box.params + layer.params,
            )
            number.append(number[before])
        else:
            number.append(len(merged))
            merged.append(replace(layer, inputs=sources))
    return tuple(merged)


def _sides(value: Any) -> str:
    """``3`` or ``(3, 3)`` → ``"3×3"``."""
    values = list(value) if isinstance(value, list | tuple) else [value, value]
    return "×".join(map(str, values))


def _pool_title(name: str, size: Any) -> str:
    lower = name.lower()
    kind = "average" if "avg" in lower else "max" if "max" in lower else "Lp"
    if "adaptive" in lower:
        sizes = set(size) if isinstance(size, list | tuple) else {size}
        return f"global {kind} pool" if sizes == {1} else f"adaptive {kind} pool to {_sides(size)}"
    return f"{kind} pool {_sides(size)}"


def _argument(place: int, name: str, args: Sequence[Any], kwargs: dict[str, Any], default: Any = None) -> Any:
    return args[place] if len(args) > place else kwargs.get(name, default)


def _function_title(name: str, args: Sequence[Any], kwargs: dict[str, Any], sources: int) -> tuple[str, str]:
    plain = name.strip("_")
    if name in _UNSEEN:
        return "unseen", name
    for names, kind, sign in ((_SUMS, "sum", "+"), (_PRODUCTS, "product", "×")):
        if name in names:
            return (kind, sign) if sources > 1 else ("elementwise", f"{sign} constant")
    if plain in ("cat", "concat", "concatenate", "stack"):
        return "concat", "concatenate" if plain != "stack" else "stack"
    if plain in _ACTIVATIONS:
        return "activation", _ACTIVATIONS[plain]
    if "pool" in plain:
        size = "output_size" if "adaptive" in plain else "kernel_size"
        return "pool", _pool_title(plain, _argument(1, size, args, kwargs))
    if plain.startswith("conv"):
        return _conv(plain, args, kwargs)
    if plain == "linear":
        return "linear", f"Linear, {_argument(1, 'weight', args, kwargs).shape[0]} outputs"
    if plain.endswith("_norm"):
        return "norm", plain.replace("_", " ")
    if plain == "hardtanh" and (_argument(1, "min_val", args, kwargs), _argument(2, "max_val", args, kwargs)) == (0, 6):
        return "activation", "ReLU6"  # the function that nn.ReLU6 calls
    if "dropout" in plain:
        share = _argument(1, "p", args, kwargs, 0.5)
        return ("dropout", f"dropout {share:g}") if share else ("unseen", plain)
    if plain in _RESHAPES:
        return "reshape", plain
    if plain == "mean" and sources == 1:
        return "pool", "mean"
    return ("other" if sources > 1 or plain == "getitem" else "elementwise"), plain.replace("getitem", "slice")


def _conv(name: str, args: Sequence[Any], kwargs: dict[str, Any]) -> tuple[str, str]:
    transposed = "transpose" in name
    weight, stride = _argument(1, "weight", args, kwargs), _argument(3, "stride", args, kwargs, 1)
    groups = _argument(6, "groups", args, kwargs, 1)
    filters, channels, *kernel = weight.shape
    if transposed:
        filters, channels = channels * groups, filters // groups
    kind = "Depthwise" if groups == channels * groups > 1 else "Conv"
    size = _sides(kernel) if len(kernel) > 1 else kernel[0]
    title = f"{'Transposed ' * transposed}{kind} {size}, {filters} filter{'s' * (filters != 1)}"
    title += f", {groups} groups" if 1 < groups < channels * groups else ""
    strides = {stride} if isinstance(stride, int) else set(stride)
    return "conv", title + (f", stride {max(strides)}" if strides != {1} else "")
