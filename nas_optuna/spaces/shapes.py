"""Trial runs of networks on meta tensors: which layer fails on which shape, and the inputs of each layer."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from types import MappingProxyType
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.parameter import is_lazy
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves, tree_map

from nas_optuna.errors import NasOptunaError, SpecError
from nas_optuna.spaces.base import Shape


@dataclass(frozen=True)
class TensorSpec:
    """A tensor of a forward pass: its shape without the batch, the dimension of the batch, and its type."""

    shape: Shape
    batch: int | None
    dtype: torch.dtype

    @classmethod
    def of(cls, value: Any, other: Any = None) -> Any:
        """The description of a tensor; anything else is returned as it is."""
        if not isinstance(value, Tensor):
            return value
        sizes = list(value.shape)
        others = list(other.shape) if isinstance(other, Tensor) else [0] * len(sizes)
        batch = next((i for i, (a, b) in enumerate(zip(sizes, others, strict=True)) if a == _BATCH and a != b), None)
        return cls(tuple(size for i, size in enumerate(sizes) if i != batch), batch, value.dtype)

    def sizes(self, batch: int) -> list[int]:
        """The whole shape, for a batch of that size."""
        shape = list(self.shape)
        if self.batch is not None:
            shape.insert(self.batch, batch)
        return shape

    def zeros(self, batch: int, device: torch.device) -> Tensor:
        """Zeros of that shape, which share one value in memory."""
        return torch.zeros((), dtype=self.dtype, device=device).expand(*self.sizes(batch))


_BATCH = 2
"""The batch size of trial runs."""


@dataclass(frozen=True)
class Call:
    """One use of a chosen layer in a forward pass, with a `TensorSpec` for each input and output tensor."""

    name: str
    place: int
    inputs: Any
    outputs: Any

    @property
    def simple(self) -> bool:
        """Whether it maps one tensor to one tensor, each with the batch as its first dimension."""
        args, kwargs = self.inputs
        single = len(args) == 1 and not kwargs and isinstance(args[0], TensorSpec) and args[0].batch == 0
        return single and isinstance(self.outputs, TensorSpec) and self.outputs.batch == 0

    @property
    def input_shape(self) -> Shape:
        """The shape of the input for one image; several inputs are flattened and concatenated."""
        if self.simple:
            shape: Shape = self.inputs[0][0].shape
            return shape
        return (max(1, sum(math.prod(spec.shape) for spec in _specs(self.inputs))),)

    @property
    def output_shape(self) -> Shape:
        """The shape of the (first) output for one image."""
        return next((spec.shape for spec in _specs(self.outputs)), ())


def _specs(values: Any) -> list[TensorSpec]:
    return [leaf for leaf in tree_leaves(values) if isinstance(leaf, TensorSpec)]


def tensors_in(values: Any) -> list[Tensor]:
    """The tensors in a nested structure."""
    return [leaf for leaf in tree_leaves(values) if isinstance(leaf, Tensor)]


class QuickMeta(TorchFunctionMode):
    """Do not fill meta tensors, and let batch norm and clamps only allocate them, since torch is slow at these.

    Batch norm allocates its output and two statistics, which count as memory.
    """

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        named = kwargs or {}  # torch passes weight and bias by name, whatever the caller did
        if function is F.batch_norm and args[0].is_meta and args[0].dim() > 1:
            x, weights = args[0], (*args[1:5], named.get("weight"), named.get("bias"))
            if all(each is None or each.shape == x.shape[1:2] for each in weights):  # otherwise torch raises the error
                made = torch.empty_like(x), x.new_empty(x.shape[1]), x.new_empty(x.shape[1])
                return made[0]
        if function in _CLAMPS and args[0].is_meta:
            return args[0] if named.get("inplace") else torch.empty_like(args[0])
        if getattr(function, "__module__", "") == nn.init.__name__ or getattr(function, "__name__", "") in _FILLS:
            filled = args[0] if args else named.get("tensor")
            if isinstance(filled, Tensor) and filled.is_meta:
                return filled
        return function(*args, **named)


_CLAMPS = frozenset({F.hardtanh, F.relu6, F.hardswish, F.hardsigmoid})
_FILLS = frozenset({"uniform_", "normal_", "trunc_normal_", "fill_", "zero_"})


def try_out(network: nn.Module, layers: Mapping[str, Sequence[nn.Module]], shape: Shape) -> tuple[list[Call], Any]:
    """Run a network on two meta images; return the uses of the outermost chosen layers in order, and the output."""
    # Uses are recorded in evaluation mode. A `RuntimeError` names the layer that cannot take its input.
    with torch.no_grad(), blaming(network), QuickMeta():
        output = network(torch.empty(_BATCH, *shape, device="meta"))
    network.eval()  # costs are of inference; a layer may be used only in training, or be skipped at random
    used = _recorded(network, layers, shape, _BATCH)
    more: list[Any] = [None] * len(used)
    several = any(len(tree_leaves((args, kwargs))) > 1 or not isinstance(out, Tensor) for *_, args, kwargs, out in used)
    if several:
        more = [call[2:] for call in _recorded(network, layers, shape, _BATCH + 1)]
    calls = []
    for (name, place, *values), other in zip(used, more, strict=True):
        args, kwargs, out = tree_map(TensorSpec.of, tuple(values), *([other] if several else []))
        calls.append(Call(name, place, (args, kwargs), out))
    return calls, tree_map(TensorSpec.of, output)


def _recorded(network: nn.Module, layers: Mapping[str, Sequence[nn.Module]], shape: Shape, batch: int) -> list[Any]:
    """``(name, place, args, kwargs, output)`` of every use of a layer that is not inside another."""
    calls: list[Any] = []
    within: list[nn.Module] = []

    def leave(name: str, place: int, module: nn.Module, args: Any, kwargs: Any, output: Any) -> None:
        within.pop()
        if not within:
            calls.append((name, place, args, kwargs, output))

    places: dict[nn.Module, tuple[str, int]] = {}
    for name, modules in layers.items():
        for place, layer in enumerate(modules):
            places.setdefault(layer, (name, place))  # one module in several places is recorded once per call
    with ExitStack() as hooks, torch.no_grad(), blaming(network), QuickMeta():
        for layer, where in places.items():
            hooks.enter_context(layer.register_forward_pre_hook(lambda module, args: within.append(module)))
            hooks.enter_context(layer.register_forward_hook(partial(leave, *where), with_kwargs=True))
        network(torch.empty(batch, *shape, device="meta"))
    return calls


def require_module(made: Any, space: str) -> nn.Module:
    """What a space has built; refused if it is no network, or one whose `train` does not return it."""
    if not isinstance(made, nn.Module):
        raise SpecError(f"space {space!r}: its network must be an nn.Module, not a {type(made).__name__}")
    if made.train(made.training) is not made:
        raise SpecError(f"space {space!r}: train() of {type(made).__name__} must return self, as torch's does")
    return made


def settle(network: nn.Module, shape: Shape) -> None:
    """Initialise lazy modules by a first batch."""
    lazy = [p for p in [*network.parameters(), *network.buffers()] if is_lazy(p)]
    if lazy:
        was_training = network.training
        with torch.no_grad(), blaming(network):
            network.eval()(torch.zeros(2, *shape, device=lazy[0].device))
        network.train(was_training)


def not_logits(output: Any, classes: int) -> str | None:
    """Why an output, as described by `try_out`, is no batch of logits; None if it is one."""
    if isinstance(output, TensorSpec) and output.batch == 0 and output.shape == (classes,):
        return None
    given = output.sizes(_BATCH) if isinstance(output, TensorSpec) else f"a {type(output).__name__}"
    return (
        f"the network gives {given} for {_BATCH} images, not logits [{_BATCH}, {classes}], which our training needs;"
        " give an evaluator of your own for other outputs, which has no supernet"
    )


@contextmanager
def blaming(network: nn.Module, called: Mapping[nn.Module, str] = MappingProxyType({})) -> Iterator[None]:
    """Let an exception inside the block name the innermost running layer and the shape of its input."""
    # A module around it that is `called` something is named as well.
    running: list[tuple[str, nn.Module, Any]] = []

    def enter(name: str, module: nn.Module, args: Any) -> None:
        running.append((name, module, args[0] if args else None))

    hooks = ExitStack()
    for name, module in network.named_modules():
        hooks.enter_context(module.register_forward_pre_hook(partial(enter, name)))
        hooks.enter_context(module.register_forward_hook(lambda *_: running.pop() and None))
    try:
        with hooks:
            yield
    except Exception as error:
        if not running or isinstance(error, NasOptunaError):
            raise
        name, module, given = running[-1]
        shape = list(given.shape) if isinstance(given, Tensor) else f"a {type(given).__name__}"
        words = " ".join(str(error).split())
        if "meta tensor" in words:
            words += "; networks are tried on meta tensors, so forward must not depend on what values tensors have"
        place = f"layer {name!r}" if name else "the network"
        around = [f"{called[outer]}: " for _, outer, _ in running if outer in called]
        weight = getattr(module, "weight", None)
        made = f", weights {list(weight.shape)}" if isinstance(weight, Tensor) and not is_lazy(weight) else ""
        raise RuntimeError(
            f"{''.join(around)}{place} ({type(module).__name__}{made}) cannot take {shape}: {words}"
        ) from error


class Standin(nn.Module):
    """Returns zeros in the shapes of the replaced layers' outputs, one after another; it stands for all of them."""

    def __init__(self, outputs: Sequence[Any]) -> None:
        super().__init__()
        self._outputs, self._turn = outputs, 0

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Zeros, for the batch size of the first tensor."""
        like = next(leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor))
        output = self._outputs[self._turn]
        self._turn = (self._turn + 1) % len(self._outputs)
        return tree_map(
            lambda leaf: leaf.zeros(len(like), like.device) if isinstance(leaf, TensorSpec) else leaf, output
        )


class Alone(nn.Module):
    """A layer with several inputs or outputs, as a module from one tensor to one."""

    def __init__(self, layer: nn.Module, inputs: Any) -> None:
        super().__init__()
        self.layer = layer
        self.inputs = inputs

    def forward(self, x: Tensor) -> Tensor:
        """``[batch, features]``, split into the layer's inputs → its first output."""
        place = 0

        def cut(leaf: Any) -> Any:
            nonlocal place
            if not isinstance(leaf, TensorSpec):
                return leaf
            size = math.prod(leaf.shape)
            part = x[:, place : place + size] if leaf.batch is not None else x[0, place : place + size]
            place += size
            part = part.reshape(*(x.shape[:1] if leaf.batch is not None else ()), *leaf.shape)
            return part.movedim(0, leaf.batch or 0).to(leaf.dtype) if part.ndim else part.to(leaf.dtype)

        args, kwargs = tree_map(cut, self.inputs)
        return next(leaf for leaf in tree_leaves(self.layer(*args, **kwargs)) if isinstance(leaf, Tensor))


def without(network: nn.Module, layers: Mapping[str, Sequence[nn.Module]], calls: Sequence[Call]) -> nn.Module:
    """The network with stand-ins for the layers that were called."""
    replaced = {id(layers[call.name][call.place]) for call in calls}
    standin = Standin([call.outputs for call in calls])
    if id(network) in replaced:
        return standin
    for parent in list(network.modules()):
        for name, child in parent._modules.items():  # a module may have several names
            if id(child) in replaced:
                setattr(parent, name, standin)
    return network
