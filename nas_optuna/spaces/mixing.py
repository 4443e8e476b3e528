"""A supernet's answers to a function's questions: all candidates of a layer, and elastic numbers."""

from __future__ import annotations

import itertools
import operator
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache, partialmethod, reduce
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map

from nas_optuna.errors import SpecError
from nas_optuna.spaces.architecture import Choice
from nas_optuna.spaces.base import Parameter
from nas_optuna.spaces.built import BuiltSpace
from nas_optuna.spaces.choices import Choices, made_module
from nas_optuna.spaces.supernet import ChoiceWeights


def constant(values: tuple[float, ...], like: Tensor, dtype: torch.dtype | None = None) -> Tensor:
    """Numbers as a tensor beside another one; kept outside of the CPU, since the host waits for each such copy."""
    # Not what belongs to a fake mode, to a compilation, or to a CUDA graph, which would not keep it alive.
    kept = like.device.type != "cpu" and type(like) is Tensor and not torch.compiler.is_compiling()
    if not kept or (like.is_cuda and torch.cuda.is_current_stream_capturing()):
        return like.new_tensor(values, dtype=dtype)
    return _kept(values, dtype or like.dtype, like.device)


@lru_cache(maxsize=1024)
def _kept(values: tuple[float, ...], dtype: torch.dtype, device: torch.device) -> Tensor:
    with torch.inference_mode(False):  # autograd refuses to save what is made in inference
        return torch.tensor(values, dtype=dtype, device=device)


@dataclass
class Open:
    """One parameter that a supernet leaves open, and how its choices enter the next forward pass."""

    name: str
    count: int
    pick: ChoiceWeights | None = None  # None computes the largest of an elastic number, and mixes layers evenly
    drawn: bool = False  # whether its choices change the size of what follows, and cannot be mixed

    @property
    def index(self) -> int | None:
        """The index of the one choice to compute; None if choices are mixed."""
        pick = self.pick
        return None if pick is None or (pick.weights is not None and not self.drawn) else pick.index


@dataclass(frozen=True)
class Size:
    """The choices of an elastic parameter, of two (the second varying fastest), or a plain number alone."""

    opens: tuple[Open, ...]
    choices: tuple[int, ...]

    @property
    def alone(self) -> int:
        """The number to compute with: that of the one choice, or the largest if choices are mixed."""
        indices = [opened.index for opened in self.opens]
        places = itertools.product(*(range(opened.count) for opened in self.opens))
        return max(
            choice
            for place, choice in zip(places, self.choices, strict=True)
            if all(i is None or i == j for i, j in zip(indices, place, strict=True))
        )

    def weights(self) -> Tensor | None:
        """``[choices]`` if choices are mixed, else None."""
        given = [None if opened.pick is None else opened.pick.weights for opened in self.opens]
        like = next((weights for weights in given if weights is not None), None)
        if like is None:
            return None
        parts = []
        for opened, weights in zip(self.opens, given, strict=True):
            if weights is None:
                weights = like.new_zeros(opened.count)
                weights[opened.index or 0] = 1
            parts.append(weights)
        return reduce(lambda a, b: torch.outer(a, b).flatten(), parts)

    def mixed(self, compute: Callable[[int], Tensor]) -> Tensor:
        """The result for the one choice, or the weighted sum of the results for all."""
        weights = self.weights()
        if weights is None:
            return compute(self.alone)
        return torch.stack(
            [weight * compute(choice) for weight, choice in zip(weights, self.choices, strict=True)]
        ).sum(0)

    def mask(self) -> Tensor | None:
        """``[largest]``: the total weight of the choices that have each channel; None if they are not mixed."""
        weights = self.weights()
        if weights is None:
            return None
        channel = torch.arange(self.alone, device=weights.device)
        inside = channel < constant(self.choices, weights, torch.int64)[:, None]
        return weights @ inside.to(weights.dtype)


class Elastic(int):
    """The largest choice of an elastic parameter, as a whole number; layers of `nas_optuna.layers` see the others."""

    # Sums, products and quotients with whole numbers stay elastic (``4 * width``, ``kernel // 2``), and so does the
    # product of two elastic numbers.

    size: Size

    def __new__(cls, size: Size) -> Elastic:
        """The largest of a size's choices."""
        made = super().__new__(cls, max(size.choices))
        made.size = size
        return made

    def __reduce__(self) -> tuple[type[Elastic], tuple[Size]]:
        return Elastic, (self.size,)  # otherwise copied as a plain int

    def __mul__(self, factor: int) -> int:
        if isinstance(factor, Elastic):
            products = itertools.product(self.size.choices, factor.size.choices)
            return Elastic(Size(self.size.opens + factor.size.opens, tuple(a * b for a, b in products)))
        return self._by(operator.mul, factor)

    def _by(self, operation: Callable[[int, int], int], number: int) -> int:
        if type(number) is not int:
            return operation(int(self), number)
        return Elastic(Size(self.size.opens, tuple(operation(choice, number) for choice in self.size.choices)))

    __rmul__ = __mul__
    __add__ = __radd__ = partialmethod(_by, operator.add)
    __sub__ = partialmethod(_by, operator.sub)
    __floordiv__ = partialmethod(_by, operator.floordiv)


def size_of(number: int) -> Size:
    """The choices of an elastic or a plain number."""
    return number.size if isinstance(number, Elastic) else Size((), (number,))


class MixedLayer(nn.ModuleList):
    """All candidates of one layer; in a mixture, those that may change their input get a copy of it."""

    def __init__(self, opened: Open, labels: tuple[Choice, ...], candidates: list[nn.Module]) -> None:
        super().__init__(candidates)
        self.name = opened.name
        self.labels = labels
        self.opened = opened
        self.in_place = [any(map(_may_write, candidate.modules())) for candidate in candidates]

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """The weighted sum of all candidates, or the drawn one alone, times its straight-through weight of one."""
        # A drawn candidate gives only its own logit a gradient from the loss, as in GDAS (Dong & Yang 2019, 3.2).
        pick = self.opened.pick
        if pick is not None and pick.index is not None:
            drawn = self[pick.index](*args, **kwargs)
            if pick.weights is None:
                return drawn
            weight = pick.weights[pick.index]
            return tree_map(lambda leaf: leaf * weight if _is_mixable(leaf) else leaf, drawn)
        outputs = []
        for candidate, in_place in zip(self, self.in_place, strict=True):
            given, named = copied((args, kwargs)) if in_place else (args, kwargs)
            outputs.append(candidate(*given, **named))
        return self._combined(outputs, args, None if pick is None else pick.weights)

    def _combined(self, outputs: list[Any], args: Any, weights: Tensor | None) -> Any:
        shares = [1 / len(outputs)] * len(outputs) if weights is None else weights
        first, *others = map(_shapes, outputs)
        for label, other in zip(self.labels[1:], others, strict=True):
            if other != first:
                raise SpecError(
                    f"layer {self.name!r} cannot be mixed: for {', '.join(map(str, _shapes(args)))}, candidate"
                    f" {self.labels[0]!r} gives {first} and {label!r} gives {other}"
                )

        def mixed(*leaves: Any) -> Any:
            if not _is_mixable(leaves[0]):
                return leaves[0]
            return reduce(torch.add, [share * leaf for share, leaf in zip(shares, leaves, strict=True)])

        return tree_map(mixed, *outputs)


def _may_write(module: nn.Module) -> bool:
    ours = type(module).__module__.startswith(("torch.", "nas_optuna."))
    return not ours or bool(getattr(module, "inplace", False))


def copied(value: Any) -> Any:
    """A nested value with copies of its tensors."""
    return tree_map(lambda leaf: leaf.clone() if isinstance(leaf, Tensor) else leaf, value)


def _is_mixable(leaf: object) -> bool:
    return isinstance(leaf, Tensor) and (leaf.is_floating_point() or leaf.is_complex())


def _shapes(value: Any) -> Any:
    """The structure of a value, with shapes in place of tensors."""
    return tree_map(lambda leaf: list(leaf.shape) if isinstance(leaf, Tensor) else type(leaf).__name__, value)


class Mixing(Choices):
    """Builds all candidates of a layer and leaves elastic numbers open; a value keeps its largest or first choice."""

    def __init__(self, space: BuiltSpace) -> None:
        super().__init__(self._keep)  # so that `answers` are the values that are kept
        self._space = space
        self.opened: dict[str, Open] = {}

    def _keep(self, name: str, asked: Parameter) -> Choice:
        parameter = self._space.known(name, asked)
        return parameter.rising[-1 if parameter.ordered else 0]

    def _make_layer(
        self, name: str, parameter: Parameter, candidates: Mapping[str, Callable[[], nn.Module]]
    ) -> nn.Module:
        labels = self._space.known(name, parameter).choices
        made = [made_module(name, str(label), candidates[str(label)]) for label in labels]
        return MixedLayer(self._open(name, len(labels)), labels, made)

    def _make_elastic(self, name: str, parameter: Parameter) -> int:
        choices = cast(tuple[int, ...], self._space.known(name, parameter).choices)
        return Elastic(Size((self._open(name, len(choices)),), choices))

    def _open(self, name: str, count: int) -> Open:
        return self.opened.setdefault(name, Open(name, count))


class Optional(nn.ModuleList):
    """A shape-preserving layer that an elastic depth uses from `number` on."""

    def __init__(self, layer: nn.Module, depth: Size, number: int) -> None:
        super().__init__([layer])
        self.depth, self.number = depth, number

    def forward(self, x: Tensor) -> Tensor:
        """The layer's output if it is used; if depths are mixed, weighted by the share that uses it."""
        weights = self.depth.weights()
        if weights is None:
            return cast(Tensor, self[0](x)) if self.depth.alone >= self.number else x
        uses, reaches = (
            weights @ constant(tuple(float(depth >= number) for depth in self.depth.choices), weights)
            for number in (self.number, self.number - 1)
        )
        share = uses / reaches.clamp_min(1e-12)  # among the depths that get this far
        return cast(Tensor, share * self[0](x) + (1 - share) * x)


def optional(layer: nn.Module, depth: int, number: int) -> nn.Module:
    """The layer itself; in a supernet, a layer that is skipped where the depth is below `number`."""
    return Optional(layer, depth.size, number) if isinstance(depth, Elastic) else layer
