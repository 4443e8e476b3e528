"""The macro space: layer types, kernels, activations, connections, branches, width and depth, stage by stage."""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from functools import cache, cached_property, partial
from typing import Any, cast

from torch import nn

from nas_optuna.errors import ArchitectureError, SpecError, checked, nearest, unknown
from nas_optuna.spaces.architecture import (
    Architecture,
    Choice,
    InputSize,
    positive_choices,
    require_choices,
    require_depth,
    require_positive,
)
from nas_optuna.spaces.base import Operation, Parameter, Shape
from nas_optuna.spaces.built import ChainSpace, Part, Task
from nas_optuna.spaces.choices import Choices
from nas_optuna.spaces.macro_layers import ACTIVATION_MODULES, Style, Transition, make_head, make_slot
from nas_optuna.spaces.mixing import optional

LAYERS = ("conv", "ds", "ir", "maxpool", "avgpool", "skip")
"""Convolution, depthwise separable convolution, inverted residual bottleneck, poolings, and the input itself."""
ACTIVATIONS = tuple(ACTIVATION_MODULES)
CONNECTIONS = ("plain", "res", "dense")
MERGES = ("add", "cat")
PARTS = ("layer", "kernel", "expansion", "activation", "connection", "branches", "merge")
"""The parameters of one slot, in order."""
_IN_WEIGHTED = tuple(part for part in PARTS[1:] if part != "expansion")
MATTERS: dict[str, tuple[str, ...]] = {
    "conv": _IN_WEIGHTED,
    "ds": _IN_WEIGHTED,
    "ir": PARTS[1:],
    "maxpool": ("kernel", "connection"),
    "avgpool": ("kernel", "connection"),
    "skip": (),
}
"""The parameters that matter to a layer; `merge` only with several branches."""
_LETTERS = {"kernel": "_k", "expansion": "_e", "activation": "_", "connection": "_", "branches": "_b"}
"""What stands before a choice in a slot's text."""
_OMITTED = (("connection", "plain"), ("branches", 1))
_HEAD = re.compile(r"w([0-9]+)_d([0-9]+)")

Slot = Mapping[str, Any]
"""The choices that matter to a slot's layer, by the names in `PARTS`."""


@cache  # the cost of a supernet needs each of a few thousand slots for every shape
def slot_of(layer: str, *others: Any) -> Slot:
    """The slot of one choice for each of `PARTS`, without choices that do not matter to the layer."""
    given = dict(zip(PARTS[1:], others, strict=True))
    kept = {name: given[name] for name in MATTERS[layer] if name != "merge" or given["branches"] > 1}
    return {"layer": layer, **kept}


@cache
def variants(*choices: tuple[Choice, ...]) -> dict[str, Slot]:
    """Every distinct slot that choices for each of `PARTS` give, by its text, in order."""
    slots = (slot_of(*values) for values in itertools.product(*cast(Any, choices)))
    return {slot_text(slot): slot for slot in slots}


def slot_text(slot: Slot) -> str:
    """E.g. ``"ir_k5_e4_silu_res_b2cat"``; a plain connection and a single branch are omitted."""
    written = {name: value for name, value in slot.items() if (name, value) not in _OMITTED}
    return "".join(f"{_LETTERS.get(name, '')}{value}" for name, value in written.items())


def macs_per_position(slot: Slot, channels: int) -> int:
    """Multiply-accumulates per position of the feature maps, by a formula, as there are thousands of slots."""
    inner, window, branches = channels * slot.get("expansion", 0), slot.get("kernel", 0) ** 2, slot.get("branches", 1)
    body = {
        "conv": window * channels**2,
        "ds": window * channels + channels**2,
        "ir": 2 * channels * inner + window * inner,
    }.get(slot["layer"], 0)
    merge = branches * channels**2 if slot.get("merge") == "cat" else 0
    dense = 2 * channels**2 if slot.get("connection") == "dense" else 0
    return int(branches * body + merge + dense)


NORMS = ("batch", "group", "none")
HEADS = ("linear", "hidden")
_SMALLEST_INPUT = 8
_SMALLEST_HALVED = 4
_LARGEST_GROUP = 8


def stage_stride(stage: int, sides: Sequence[int], stem_stride: int) -> int:
    """Stride of a stage's first convolution, for an input of that height and width."""
    return stem_stride if stage == 1 else 2 if min(sides) >= _SMALLEST_HALVED else 1


def strided(side: int, stride: int) -> int:
    """Side length after a convolution with same padding."""
    return (side - 1) // stride + 1


class MacroSpace(ChainSpace):
    """Stages of slots: the layer in each slot, and the width and depth of each stage.

    A stage begins with a 3×3 convolution to its width, with stride 2 from the second stage on while at least 4
    pixels are left. Its slots keep the shape. Every slot has its own layer, kernel, expansion, activation, connection
    and branches, as parameters with fixed names: ``stage1.width``, ``stage1.depth``, ``stage1.slot1.layer``,
    ``stage1.slot1.kernel``, … A parameter that does not matter (the kernel of a ``skip``, a slot beyond the stage's
    depth) has its first choice, so that equal networks are equal architectures.

    An architecture is written stage by stage: ``w32_d2.conv_k3_relu_res.ir_k5_e4_silu_b2cat-w48_d1.maxpool_k3``.

    Args:
        stages: Number of stages.
        widths: Choices for the channels of every stage, or one list of choices for each stage.
        depths: Choices for the number of slots that a stage uses.
        layers: Choices for a slot's layer: ``conv``, ``ds`` (depthwise separable), ``ir`` (inverted bottleneck),
            ``maxpool``, ``avgpool``, ``skip``.
        kernels: Choices for the side of its kernel or pooling window, odd.
        expansions: Choices for the factor by which a bottleneck is wider inside.
        activations: Choices from ``relu``, ``silu``, ``gelu``, ``hardswish``.
        connections: Choices from ``plain``, ``res`` (the input is added), ``dense`` (the input is concatenated, and a
            1×1 convolution follows).
        branches: Choices for the number of parallel copies of the layer.
        merges: Choices for joining their outputs: ``add``, ``cat`` (a 1×1 convolution follows).
        norm: ``batch``, ``group`` or ``none``, for the whole network.
        stem_stride: Stride of the first convolution: 1, 2 or 4.
        head: ``linear`` is global average pooling and a linear layer; ``hidden`` adds a hidden layer between them.
        head_units: Units of the hidden layer.
        in_channels: Channels of an input image.
        classes: Number of classes.
        input_size: Side length of the input in pixels, or ``(height, width)``; at least 8.

    Raises:
        SpecError: An option or one of its choices is refused.

    Examples:
        >>> space = MacroSpace(stages=1, widths=[8], depths=[1], layers=["conv", "skip"], branches=[1])
        >>> space.size
        37
        >>> str(space.from_tokens([0] * len(space.parameters)))
        'w8_d1.conv_k3_relu'
    """

    name = "macro"
    settings = (
        *("in_channels", "classes", "input_size", "norm", "stem_stride", "head_units"),
        *("stages", "slot_choices", "depths", "slots", "group"),
    )

    def __init__(
        self,
        *,
        stages: int = 3,
        widths: Sequence[int] | Sequence[Sequence[int]] = (16, 24, 32, 48),
        depths: Sequence[int] = (1, 2, 3),
        layers: Sequence[str] = LAYERS,
        kernels: Sequence[int] = (3, 5, 7),
        expansions: Sequence[int] = (2, 4),
        activations: Sequence[str] = ACTIVATIONS,
        connections: Sequence[str] = CONNECTIONS,
        branches: Sequence[int] = (1, 2, 3),
        merges: Sequence[str] = MERGES,
        norm: str = "batch",
        stem_stride: int = 1,
        head: str = "linear",
        head_units: int = 64,
        in_channels: int = 1,
        classes: int = 10,
        input_size: InputSize = 28,
    ) -> None:
        require_positive(head_units=head_units)
        require_depth(stages=stages)
        task = Task(in_channels, classes, input_size)
        if min(task.shape[1:]) < _SMALLEST_INPUT:
            raise SpecError(
                f"space 'macro' needs images of at least {_SMALLEST_INPUT} pixels a side, got"
                f" {task.shape[1]}x{task.shape[2]}; raise recipe.input_size"
            )
        _named("norm", [norm], NORMS)
        _named("head", [head], HEADS)
        if isinstance(stem_stride, bool) or stem_stride not in (1, 2, 4):
            raise SpecError(f"space option 'stem_stride' must be 1, 2 or 4, got {stem_stride!r}")
        self.norm = norm
        self.stem_stride = stem_stride
        self.head_units = head_units if head == "hidden" else 0
        self.stages = stages
        self._widths = _stage_widths(widths, stages)
        self.slot_choices: dict[str, tuple[Choice, ...]] = {
            "layer": _named("layers", layers, LAYERS),
            "kernel": positive_choices("kernels", kernels, odd=True),
            "expansion": positive_choices("expansions", expansions),
            "activation": _named("activations", activations, ACTIVATIONS),
            "connection": _named("connections", connections, CONNECTIONS),
            "branches": positive_choices("branches", branches),
            "merge": _named("merges", merges, MERGES),
        }
        self.depths = positive_choices("depths", depths)
        self.slots = max(self.depths)
        require_depth(depths=stages * self.slots, branches=max(branches))
        divisor = math.gcd(*(width for widths in self._widths for width in widths))
        self.group = max(d for d in range(1, _LARGEST_GROUP + 1) if divisor % d == 0)
        self._style = Style(norm, self.group)
        super().__init__(task)
        self.parameters = self._parameters()

    def _parameters(self) -> dict[str, Parameter]:
        found = {}
        for stage, choices in enumerate(self._widths, start=1):
            found[f"stage{stage}.width"] = Parameter(tuple(choices), ordered=True)
            found[f"stage{stage}.depth"] = Parameter(self.depths, ordered=True)
            for slot in range(1, self.slots + 1):
                for part, values in self.slot_choices.items():
                    numeric = part in ("kernel", "expansion", "branches")
                    found[f"stage{stage}.slot{slot}.{part}"] = Parameter(values, ordered=numeric)
        return found

    def build_with(self, c: Choices) -> nn.Module:
        """The network, built like in a space of your own."""
        layers: list[nn.Module] = []
        channels, sides = self.in_channels, self.image_size
        for number, choices in enumerate(self._widths, start=1):
            stage = c.scope(f"stage{number}")
            width, depth = stage.elastic("width", choices), stage.elastic("depth", self.depths)
            stride = stage_stride(number, sides, self.stem_stride)
            layers.append(Transition(channels, width, stride, self._style))
            for i in range(1, depth + 1):
                slot = make_slot(stage.scope(f"slot{i}"), self.slot_choices, width, self._style)
                layers.append(optional(slot, depth, i))
            channels, sides = width, (strided(sides[0], stride), strided(sides[1], stride))
        return nn.Sequential(*layers, make_head(channels, self.classes, self.head_units))

    @cached_property
    def size(self) -> int:
        """How many architectures there are, without choices that do not matter."""
        total = 1
        for stage in range(1, self.stages + 1):
            slots = [len(self._variants(stage, slot)) for slot in range(1, self.slots + 1)]
            depths = cast(tuple[int, ...], self.parameters[f"stage{stage}.depth"].choices)
            total *= len(self.parameters[f"stage{stage}.width"].choices) * sum(math.prod(slots[:d]) for d in depths)
        return total

    def _variants(self, stage: int, slot: int) -> dict[str, Slot]:
        """Every distinct layer that a slot can hold, by its text."""
        return variants(*(self.parameters[f"stage{stage}.slot{slot}.{part}"].choices for part in PARTS))

    def enumerate(self) -> Iterator[Architecture]:
        """Every architecture, each once; only for small spaces."""
        # Most combinations of choices differ in what does not matter: of three slots for a skip or a pooling,
        # 645 million give a thousand networks.
        for params in self._combinations(1):
            yield self.architecture(super().canonical(params))

    def _combinations(self, stage: int) -> Iterator[dict[str, Choice]]:
        """The params that matter to each distinct rest of a network, from a stage on."""
        if stage > self.stages:
            yield {}
            return
        width, depth = f"stage{stage}.width", f"stage{stage}.depth"
        for chosen in itertools.product(self.parameters[width].choices, self.parameters[depth].choices):
            places = range(1, cast(int, chosen[1]) + 1)
            for slots in itertools.product(*(self._variants(stage, place).values() for place in places)):
                own: dict[str, Choice] = {width: chosen[0], depth: chosen[1]}
                for place, slot in zip(places, slots, strict=True):
                    own |= {f"stage{stage}.slot{place}.{part}": choice for part, choice in slot.items()}
                yield from (own | rest for rest in self._combinations(stage + 1))

    def _slots_of(self, params: Mapping[str, Any], stage: int) -> dict[str, Slot]:
        """The slots that a stage uses, by name."""
        used = (f"stage{stage}.slot{slot}" for slot in range(1, params[f"stage{stage}.depth"] + 1))
        return {name: slot_of(*(params[f"{name}.{part}"] for part in PARTS)) for name in used}

    def canonical(self, params: Mapping[str, Any]) -> dict[str, Choice]:
        """See `SearchSpace.canonical`."""
        params = super().canonical(params)
        found: dict[str, Choice] = {}
        for stage in range(1, self.stages + 1):
            found |= {f"stage{stage}.{part}": params[f"stage{stage}.{part}"] for part in ("width", "depth")}
            for name, slot in self._slots_of(params, stage).items():
                found |= {f"{name}.{part}": choice for part, choice in slot.items()}
        return super().canonical(found)

    def format(self, params: Mapping[str, Any]) -> str:
        """E.g. ``"w32_d2.conv_k3_relu_res.ir_k5_e4_silu-w48_d1.maxpool_k3"``."""
        stages = []
        for stage in range(1, self.stages + 1):
            slots = list(map(slot_text, self._slots_of(params, stage).values()))
            stages.append(".".join([f"w{params[f'stage{stage}.width']}_d{len(slots)}", *slots]))
        return "-".join(stages)

    @checked
    def parse(self, text: str) -> Architecture:
        """The architecture of a string such as ``"w32_d1.conv_k3_relu_res-w48_d1.maxpool_k3"``."""
        stages = text.strip().lower().split("-")
        if len(stages) != self.stages:
            raise ArchitectureError(
                f"{text!r} is not {self.stages} stages joined by '-', each like w32_d1.conv_k3_relu_res"
            )
        params: dict[str, Choice] = {}
        for stage, written in enumerate(stages, start=1):
            begun, *slots = written.split(".")
            head = _HEAD.fullmatch(begun)
            if head is None or int(head[2]) != len(slots) or len(slots) > self.slots:
                raise ArchitectureError(
                    f"stage {written!r} does not begin with its width and its number of layers (up to {self.slots}),"
                    " like w32_d2.skip.skip"
                )
            params |= {f"stage{stage}.width": int(head[1]), f"stage{stage}.depth": int(head[2])}
            for number, text_of_slot in enumerate(slots, start=1):
                known = self._variants(stage, number)
                if text_of_slot not in known:
                    like = nearest(text_of_slot, known) or next(iter(known))
                    raise ArchitectureError(f"{text_of_slot!r} is no layer of stage {stage}; write it like {like}")
                params |= {f"stage{stage}.slot{number}.{part}": v for part, v in known[text_of_slot].items()}
        return self.architecture(super().canonical(params))

    def make_chain(self) -> Iterator[Part]:
        """A ``transition`` and the slots of each stage, then the ``head``; the kind of a slot is its text."""
        for stage in range(1, self.stages + 1):
            yield Part((f"stage{stage}.width",), partial(self.transition, stage))
            depth = f"stage{stage}.depth"
            for slot in range(1, max(cast(tuple[int, ...], self.parameters[depth].choices)) + 1):
                yield Part(
                    tuple(f"stage{stage}.slot{slot}.{part}" for part in PARTS), self.slot_operation, (depth, slot)
                )
        yield Part((), self.head_operation)

    def transition(self, stage: int, shape: Shape, width: int) -> Operation:
        """The first convolution of a stage, for an input of that shape."""
        channels, *sides = shape
        stride = stage_stride(stage, sides, self.stem_stride)
        output = (width, *(strided(side, stride) for side in sides))
        make = partial(Transition, channels, width, stride, self._style)
        return Operation(f"transition_{self.norm}", (("stride", stride),), shape, output, make)

    def slot_operation(self, shape: Shape, *choices: Any) -> Operation:
        """The operation of a slot with one choice for each of `PARTS`, for an input of that shape."""
        slot = slot_of(*choices)
        kind = slot_text(slot) if slot["layer"] == "skip" else f"{slot_text(slot)} {self.norm}"
        macs = macs_per_position(slot, shape[0]) * math.prod(shape[1:])
        return Operation(kind, (), shape, shape, partial(self._make_slot, slot, shape[0]), macs)

    def _make_slot(self, slot: Slot, channels: int) -> nn.Module:
        answers = Choices(lambda name, asked: slot[name])
        return make_slot(answers, self.slot_choices, channels, self._style)

    def head_operation(self, shape: Shape) -> Operation:
        """Global pooling and the linear layers."""
        make = partial(make_head, shape[0], self.classes, self.head_units)
        return Operation("head", (("units", self.head_units),), shape, (self.classes,), make)


def _named(option: str, values: Sequence[str], known: Sequence[str]) -> tuple[str, ...]:
    require_choices(option, values)
    for value in values:
        if value not in known:
            raise SpecError(unknown(f"choice of space option {option!r}:", str(value), known))
    return tuple(values)


def _stage_widths(widths: Sequence[int] | Sequence[Sequence[int]], stages: int) -> list[tuple[int, ...]]:
    """One tuple of choices for each stage."""
    if isinstance(widths, Sequence) and widths and all(isinstance(w, Sequence) for w in widths):
        if len(widths) != stages:
            raise SpecError(f"space option 'widths' has {len(widths)} lists for {stages} stages; give one for each")
        return [positive_choices("widths", cast(Sequence[int], choices)) for choices in widths]
    return [positive_choices("widths", cast(Sequence[int], widths))] * stages
