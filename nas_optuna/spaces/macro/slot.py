"""One slot of a macro network: which layer stands there, and how it is written."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cached_property
from typing import Any

LAYERS = ("conv", "ds", "ir", "maxpool", "avgpool", "skip")
"""Convolution, depthwise separable convolution, inverted residual bottleneck, poolings, and the input itself."""
ACTIVATIONS = ("relu", "silu", "gelu", "hardswish")
CONNECTIONS = ("plain", "res", "dense")
MERGES = ("add", "cat")
WEIGHTED = ("conv", "ds", "ir")
"""The layers that have weights, an activation, and branches."""
PARTS = ("layer", "kernel", "expansion", "activation", "connection", "branches", "merge")
"""The parameters of one slot, in order."""
_IN_WEIGHTED = ("kernel", "activation", "connection", "branches", "merge")
MATTERS: dict[str, tuple[str, ...]] = {
    "conv": _IN_WEIGHTED,
    "ds": _IN_WEIGHTED,
    "ir": (*_IN_WEIGHTED, "expansion"),
    "maxpool": ("kernel", "connection"),
    "avgpool": ("kernel", "connection"),
    "skip": (),
}
"""The parameters that matter to a layer; how branches are merged only where there are several."""

_TEXT = re.compile(
    rf"(?P<layer>{'|'.join(LAYERS)})(_k(?P<kernel>\d+))?(_e(?P<expansion>\d+))?(_(?P<activation>{'|'.join(ACTIVATIONS)}))?"
    rf"(_(?P<connection>res|dense))?(_b(?P<branches>\d+)(?P<merge>{'|'.join(MERGES)}))?"
)


@dataclass(frozen=True)
class Slot:
    """A layer with the choices that matter to it, made by `Slot.of`; all others are 0, empty, ``plain`` or 1."""

    layer: str
    kernel: int = 0
    expansion: int = 0
    activation: str = ""
    connection: str = "plain"
    branches: int = 1
    merge: str = ""

    @classmethod
    def of(cls, layer: str, *others: Any) -> Slot:
        """The slot of one choice for each of `PARTS`; what does not matter to the layer is left out."""
        given = dict(zip(PARTS[1:], others, strict=True))
        kept = {name: given[name] for name in MATTERS[layer] if name != "merge" or given["branches"] > 1}
        return cls(layer, **kept)

    @classmethod
    def parse(cls, text: str) -> Slot | None:
        """The slot of a string such as ``"ir_k5_e4_silu_res_b2cat"``; None where it has another form."""
        match = _TEXT.fullmatch(text)
        if match is None:
            return None
        part = match.groupdict()
        slot = cls(
            part["layer"],
            int(part["kernel"] or 0),
            int(part["expansion"] or 0),
            part["activation"] or "",
            part["connection"] or "plain",
            int(part["branches"] or 1),
            part["merge"] or "",
        )
        return slot if slot.text == text else None

    def params(self, name: str) -> dict[str, Any]:
        """The parameters that matter, where the slot has that name; what it does without is empty."""
        found = {part: getattr(self, part) for part in ("layer", *MATTERS[self.layer])}
        return {f"{name}.{part}": value for part, value in found.items() if value}

    def macs_per_position(self, channels: int) -> int:
        """Multiply-accumulates at each position of the feature maps, by a formula: there are thousands of slots."""
        inner, window = channels * self.expansion, self.kernel**2
        body = {
            "conv": window * channels**2,
            "ds": window * channels + channels**2,
            "ir": 2 * channels * inner + window * inner,
        }.get(self.layer, 0)
        merge = self.branches * channels**2 if self.merge == "cat" else 0
        dense = 2 * channels**2 if self.connection == "dense" else 0
        return self.branches * body + merge + dense

    @cached_property
    def text(self) -> str:
        """E.g. ``"ir_k5_e4_silu_res_b2cat"``; a plain connection and a single branch are not written."""
        parts = [self.layer]
        parts += [f"k{self.kernel}"] if self.kernel else []
        parts += [f"e{self.expansion}"] if self.expansion else []
        parts += [self.activation] if self.activation else []
        parts += [self.connection] if self.connection != "plain" else []
        parts += [f"b{self.branches}{self.merge}"] if self.branches > 1 else []
        return "_".join(parts)
