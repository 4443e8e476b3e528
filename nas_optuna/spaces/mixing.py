"""How a supernet answers a function's questions: with all candidates of a layer, and with numbers left open."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial, reduce
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_flatten, tree_map, tree_unflatten

from nas_optuna.errors import SpecError
from nas_optuna.spaces.architecture import Choice
from nas_optuna.spaces.base import Parameter
from nas_optuna.spaces.built import BuiltSpace
from nas_optuna.spaces.choices import Choices, made_module
from nas_optuna.spaces.elastic import Elastic, Open, Size, size_of
from nas_optuna.spaces.in_place import MemoryWatch, tensors_in


class MixedLayer(nn.ModuleList):
    """All candidates of one layer; one that changes its input (`in_place`, by training mode) gets a copy of it."""

    def __init__(self, opened: Open, labels: tuple[Choice, ...], candidates: list[nn.Module]) -> None:
        super().__init__(candidates)
        self.name = opened.name
        self.labels = labels
        self.opened = opened
        self.in_place: set[tuple[int, bool]] = set()
        self.unlike: dict[tuple[bool, bool], str] = {}  # by training mode and whether a choice is drawn: why
        self.watch: MemoryWatch | None = None

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """The weighted sum of all candidates, or the drawn one alone, times its straight-through weight of one."""
        # Of a drawn one only its own logit's path gets a gradient from the loss, as in GDAS (Dong & Yang 2019, 3.2).
        if self.watch is not None:
            return self._watched(self.watch, args, kwargs)
        pick = self.opened.pick
        if pick is not None and pick.index is not None:
            drawn = self[pick.index](*args, **kwargs)
            if pick.weights is None:
                return drawn
            self._require_alike(drawn=True)
            weight = pick.weights[pick.index]
            return tree_map(lambda leaf: leaf * weight if _is_mixable(leaf) else leaf, drawn)
        self._require_alike(drawn=False)
        outputs = [self._output(i, args, kwargs) for i in range(len(self))]
        if pick is None or pick.weights is None:
            return self._combined(outputs, args, _mean)
        weights = pick.weights
        return self._combined(
            outputs, args, lambda parts: reduce(torch.add, [w * part for w, part in zip(weights, parts, strict=True)])
        )

    def _output(self, i: int, args: Any, kwargs: Any) -> Any:
        """The output of one candidate; a candidate that works in place gets a copy of the input."""
        if (i, self.training) in self.in_place:
            args, kwargs = _copied((args, kwargs))
        return self[i](*args, **kwargs)

    def _watched(self, watch: MemoryWatch, args: Any, kwargs: Any) -> Any:
        """The mean of all candidates, each on a copy, whose memory is watched to find `in_place` and `unlike`."""
        given, copies, outputs = tensors_in((args, kwargs)), [], []
        for i in range(len(self)):
            own_args, own_kwargs = _copied((args, kwargs))
            copies.append(tensors_in((own_args, own_kwargs)))
            outputs.append(self[i](*own_args, **own_kwargs))
        mixed = self._combined(outputs, args, _mean)
        for i, label in enumerate(self.labels):  # when this layer has read its input itself
            for original, copy in zip(given, copies[i], strict=True):
                if watch.is_changed(copy):
                    self.in_place.add((i, self.training))
                    watch.spoil(original, partial(self._differ, label, _USES_CHANGED, False))
                for output, result in zip(tensors_in(outputs[i]), tensors_in(mixed), strict=True):
                    if watch.share_memory(output, copy):
                        watch.tie(original, result, partial(self._differ, label, _CHANGES_SHARED, False, True))
        return mixed

    def _differ(self, label: Choice, reason: str, *drawn: bool) -> None:
        for case in drawn:
            self.unlike.setdefault((self.training, case), reason.format(label))

    def _require_alike(self, *, drawn: bool) -> None:
        """Refuse what would compute something else than the network of one candidate."""
        if reason := self.unlike.get((self.training, drawn)):
            raise SpecError(f"layer {self.name!r} cannot be mixed: {reason}")

    def _combined(self, outputs: list[Any], args: Any, combine: Callable[[list[Tensor]], Tensor]) -> Any:
        flat = [tree_flatten(output) for output in outputs]
        leaves, structure = flat[0]
        for label, output, (others, other) in zip(self.labels, outputs, flat, strict=True):
            shapes = [getattr(leaf, "shape", None) for leaf in leaves]
            if other != structure or [getattr(leaf, "shape", None) for leaf in others] != shapes:
                given = ", ".join(_shown(arg) for arg in args)
                raise SpecError(
                    f"layer {self.name!r} cannot be mixed: for {given}, candidate {self.labels[0]!r} gives"
                    f" {_shown(outputs[0])} and {label!r} gives {_shown(output)}"
                )
        mixed = [
            combine([others[i] for others, _ in flat]) if _is_mixable(leaf) else leaf for i, leaf in enumerate(leaves)
        ]
        return tree_unflatten(mixed, structure)


_USES_CHANGED = "candidate {0!r} changes its input in place, and the network uses that input again; write inplace=False"
_CHANGES_SHARED = (
    "candidate {0!r} returns its own input, and the network changes one of the two in place and uses the other again;"
    " write inplace=False, and y = y + x rather than y += x"
)


def mixed_layers(network: nn.Module) -> list[MixedLayer]:
    """The mixed layers of a network, in its order."""
    return [module for module in network.modules() if isinstance(module, MixedLayer)]


def _copied(value: Any) -> Any:
    return tree_map(lambda leaf: leaf.clone() if isinstance(leaf, Tensor) else leaf, value)


def _mean(parts: list[Tensor]) -> Tensor:
    return reduce(torch.add, parts) / len(parts)


def _is_mixable(leaf: object) -> bool:
    return isinstance(leaf, Tensor) and (leaf.is_floating_point() or leaf.is_complex())


def _shown(value: Any) -> str:
    if isinstance(value, Tensor):
        return str(list(value.shape))
    if isinstance(value, tuple | list):
        return f"{type(value).__name__} of {', '.join(map(_shown, value))}"
    return type(value).__name__


class Mixing(Choices):
    """Builds all candidates of a layer and leaves elastic numbers open; a value keeps its largest or first choice."""

    def __init__(self, space: BuiltSpace) -> None:
        super().__init__(self._keep)
        self._space = space
        self.opened: dict[str, Open] = {}
        self.kept: dict[str, Choice] = {}

    def _keep(self, name: str, asked: Parameter) -> Choice:
        parameter = self._space.known(name, asked)
        self.kept[name] = parameter.choices[-1 if parameter.ordered else 0]
        return self.kept[name]

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
    """A layer that an elastic depth uses from `number` on; it keeps the shape."""

    def __init__(self, layer: nn.Module, depth: Size, number: int) -> None:
        super().__init__([layer])
        self.depth, self.number = depth, number

    def forward(self, x: Tensor) -> Tensor:
        """The layer's output where it is used; the share of the depths that use it, where they are mixed."""
        weights = self.depth.weights()
        if weights is None:
            return cast(Tensor, self[0](x)) if self.depth.alone >= self.number else x
        uses, reaches = (
            weights @ weights.new_tensor([float(depth >= number) for depth in self.depth.choices])
            for number in (self.number, self.number - 1)
        )
        share = uses / reaches.clamp_min(1e-12)  # of those depths that get this far
        return cast(Tensor, share * self[0](x) + (1 - share) * x)


def optional(layer: nn.Module, depth: int, number: int) -> nn.Module:
    """The layer itself; in a supernet, a layer that is skipped where the depth is below `number`."""
    size = size_of(depth)
    return layer if size is None else Optional(layer, size, number)
