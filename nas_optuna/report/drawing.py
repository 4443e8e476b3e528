"""Drawings of networks: layers as boxes, tensors as arrows, each layer's share of the compute as a bar behind it."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from nas_optuna.hyperparameters import of_architecture
from nas_optuna.lazily import lazily
from nas_optuna.quantities import count
from nas_optuna.report.rendering import escaped, framed, save

with lazily():
    from optuna.trial import FrozenTrial

    from nas_optuna.devices import network_failures
    from nas_optuna.report.network_graph import Layer, Shape, graph_of
    from nas_optuna.spaces import SearchSpace
    from nas_optuna.spaces.architecture import Architecture

_BOX = 316.0
_HEIGHT = 48.0
_SMALL = 96.0
_SMALL_HEIGHT = 28.0
_GAP = 30.0
_LANE = 14.0
_MARGIN = 12.0
_LETTERS = 50
"""Characters that fit into the second line of a box."""

_STYLE = """
.nas-net { --paper: #ffffff; --ink: #1f2430; --faint: #667085; --line: #98a2b3; --box: #f5f7fb; --edge: #c9d1de;
  --share: #bcd3ff; --merge: #e6f4ea; font: 13px system-ui, "Segoe UI", Roboto, sans-serif; }
@media (prefers-color-scheme: dark) { .nas-net { --paper: #14171d; --ink: #e7eaf0; --faint: #9aa4b5; --line: #6b7689;
  --box: #1f242e; --edge: #3a4353; --share: #2b4a7e; --merge: #21382c; } }
.nas-net .paper { fill: var(--paper) } .nas-net text { fill: var(--ink) }
.nas-net .faint { fill: var(--faint); font-size: 11.5px }
.nas-net .title { font-weight: 600 } .nas-net .end { text-anchor: end } .nas-net .middle { text-anchor: middle }
.nas-net .box { fill: var(--box); stroke: var(--edge) } .nas-net .share { fill: var(--share) }
.nas-net .merge { fill: var(--merge) }
.nas-net .flow { fill: none; stroke: var(--line); stroke-width: 1.4 } .nas-net .head { fill: var(--line) }
""".strip()


@dataclass(frozen=True)
class Drawing:
    """A picture, which a notebook displays.

    Attributes:
        svg: The picture, one self-contained SVG element; it follows the reader's light or dark setting.
    """

    svg: str = field(repr=False)

    def save(self, path: Path | str) -> Path:
        """Write the picture to an SVG file.

        Raises:
            NasOptunaError: The file cannot be written.
        """
        return save(path, '<?xml version="1.0" encoding="UTF-8"?>\n' + self.svg + "\n")

    def _repr_svg_(self) -> str:
        return self.svg


def draw(space: SearchSpace, architecture: Architecture) -> Drawing:
    """Draw the network of an architecture; the title is its text."""
    with network_failures("the network cannot be drawn"):
        return Drawing(to_svg(graph_of(space, architecture), str(architecture)))


def draw_trial(space: SearchSpace, trial: FrozenTrial) -> Drawing:
    """Draw the network that a trial chose."""
    return draw(space, space.architecture(of_architecture(trial.params)))


@dataclass
class _Place:
    """Where a layer stands: the middle of its top edge, and its size."""

    x: float
    y: float = 0.0
    width: float = _BOX
    height: float = _HEIGHT

    @property
    def bottom(self) -> float:
        return self.y + self.height

    @property
    def right(self) -> float:
        return self.x + self.width / 2


@dataclass
class _Picture:
    layers: Sequence[Layer]
    title: str
    places: list[_Place] = field(default_factory=list)
    rows: list[int] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._place()
        self._macs = sum(layer.macs for layer in self.layers)
        self._params = sum(layer.params for layer in self.layers)

    def _place(self) -> None:
        """Put layers into rows by depth, each as near to its inputs as there is room."""
        for layer in self.layers:
            small = layer.kind in ("input", "sum", "product", "concat") and not layer.then
            self.places.append(_Place(0.0, 0.0, *((_SMALL, _SMALL_HEIGHT) if small else (_BOX, _HEIGHT))))
            self.rows.append(1 + max((self.rows[source] for source in layer.inputs), default=-1))
        y = _MARGIN + 34.0
        for row in range(max(self.rows) + 1):
            members = []
            for layer, place, at in zip(self.layers, self.places, self.rows, strict=True):
                if at == row:
                    above = [self.places[source].x for source in layer.inputs]
                    place.x, place.y = sum(above) / max(len(above), 1), y
                    members.append(place)
            _spread(members)
            y += max(place.height for place in members) + _GAP
        left = min(place.x - place.width / 2 for place in self.places) - _MARGIN
        for place in self.places:
            place.x -= left

    def svg(self) -> str:
        edges, right = self._edges()
        boxes = [self._box(layer, place) for layer, place in zip(self.layers, self.places, strict=True)]
        width = max(right, max(place.right for place in self.places)) + _MARGIN
        height = max(place.bottom for place in self.places) + _MARGIN
        parts = "".join([self._heading(width), *edges, *boxes])
        return framed("nas-net", f"Drawing of the network {self.title}", width, height, _STYLE, parts)

    def _heading(self, width: float) -> str:
        figures, room = f"{count(self._macs)} MACs · {count(self._params)} weights", width - 2 * _MARGIN
        squeezed = f' textLength="{room:.0f}" lengthAdjust="spacingAndGlyphs"' if len(self.title) > room / 8 else ""
        return (
            f'<text class="title" x="{_MARGIN}" y="20"{squeezed}>{escaped(self.title, round(room / 8))}</text>'
            f'<text class="faint" x="{_MARGIN}" y="36">{figures}</text>'
        )

    def _box(self, layer: Layer, place: _Place) -> str:
        left, small = place.x - place.width / 2, place.width == _SMALL
        shape = f'width="{place.width:.0f}" height="{place.height:.0f}" x="{left:.1f}" y="{place.y:.1f}" rx="6"'
        kind = "box merge" if layer.kind in ("sum", "product", "concat") else "box"
        parts = [f"<title>{escaped(self._tooltip(layer))}</title>", f'<rect class="{kind}" {shape}/>']
        if small:
            text = shape_text(layer.shape) if layer.kind == "input" else layer.title
            parts.append(f'<text class="middle" x="{place.x:.1f}" y="{place.y + 19:.1f}">{escaped(text)}</text>')
            return f"<g>{''.join(parts)}</g>"
        share = layer.macs / self._macs if self._macs else 0.0
        if share > 0.002:
            parts.append(
                f'<rect class="share" x="{left + 1:.1f}" y="{place.y + 1:.1f}" rx="5"'
                f' width="{max(3.0, share * (place.width - 2)):.1f}" height="{place.height - 2:.0f}"/>'
            )
        then = " · ".join(layer.then)
        room = _LETTERS - round(1.3 * len(shape_text(layer.shape)))  # figures are wider than letters
        texts = [
            ("title", left + 10, 19, escaped(layer.title, 33)),
            ("faint", left + 10, 38, escaped(then, room)),
            ("faint end", place.right - 10, 38, escaped(shape_text(layer.shape))),
            ("faint end", place.right - 10, 19, _percent(share) if layer.macs else ""),
        ]
        parts += [
            f'<text class="{c}" x="{x:.1f}" y="{place.y + y:.1f}">{text}</text>' for c, x, y, text in texts if text
        ]
        return f"<g>{''.join(parts)}</g>"

    def _tooltip(self, layer: Layer) -> str:
        text = " → ".join((layer.title, *layer.then)) + f", output {shape_text(layer.shape)}"
        text += f", {layer.macs:,} MACs" if layer.macs else ""
        return text + (f", {layer.params:,} weights" if layer.params else "")

    def _edges(self) -> tuple[list[str], float]:
        """The arrows, and the right end of the furthest."""
        edges, lanes, furthest = [], [list[tuple[float, float]]() for _ in range(60)], 0.0
        for number, layer in enumerate(self.layers):
            for source in layer.inputs:
                start, end = self.places[source], self.places[number]
                passed = self._between(source, number)
                if all(abs(place.x - start.x) >= (place.width + 16) / 2 for place in passed):
                    edges.append(_straight(start, end, [place.bottom for place in passed]))
                    continue
                right = max([start.right, end.right, *(place.right for place in passed)])
                free = next(
                    (i for i, taken in enumerate(lanes) if all(b <= start.y or a >= end.bottom for a, b in taken)), 59
                )
                lanes[free].append((start.y, end.bottom))
                lane = right + _LANE * (free + 1)
                furthest = max(furthest, lane)
                edges.append(_around(start, end, lane))
        return edges, furthest

    def _between(self, source: int, target: int) -> list[_Place]:
        rows = range(self.rows[source] + 1, self.rows[target])
        return [place for place, row in zip(self.places, self.rows, strict=True) if row in rows]


def _spread(members: list[_Place]) -> None:
    """Move the places of a row apart so that they do not overlap, keeping their mean."""
    before = sum(place.x for place in members)
    members.sort(key=lambda place: place.x)
    for one, next_ in itertools.pairwise(members):
        next_.x = max(next_.x, one.x + (one.width + next_.width) / 2 + _MARGIN)
    shift = (sum(place.x for place in members) - before) / len(members)
    for place in members:
        place.x -= shift


def to_svg(layers: Sequence[Layer], title: str) -> str:
    """The SVG element of traced layers."""
    return _Picture(layers, title).svg()


def _percent(share: float) -> str:
    return "under 1 %" if share < 0.005 else f"{share:.0%}".replace("%", " %")


def shape_text(shape: Shape) -> str:
    """``(16, 14, 14)`` → ``"16×14×14"``."""
    return "×".join(map(str, shape)) or "1"


def _straight(start: _Place, end: _Place, passed: Sequence[float]) -> str:
    """An arrow down from `start`, past the layers between, then over to `end`."""
    turn = max([start.bottom, *passed])
    middle = (turn + end.y - 7) / 2
    path = f"M{start.x:.1f} {start.bottom:.1f}V{turn:.1f}"
    path += f"C{start.x:.1f} {middle:.1f} {end.x:.1f} {middle:.1f} {end.x:.1f} {end.y - 6:.1f}"
    x, y = end.x, end.y
    return f'<path class="flow" d="{path}"/><path class="head" d="M{x:.1f} {y - 1:.1f}l-4.5 -8h9z"/>'


def _around(start: _Place, end: _Place, lane: float) -> str:
    """An arrow out of the right side of `start`, down a lane, and into the right side of `end`."""
    top, bottom = start.y + start.height * 0.7, end.y + end.height / 2
    path = f"M{start.right:.1f} {top:.1f}H{lane - 6:.1f}q6 0 6 6V{bottom - 6:.1f}q0 6 -6 6H{end.right + 7:.1f}"
    return f'<path class="flow" d="{path}"/><path class="head" d="M{end.right + 1:.1f} {bottom:.1f}l8 -4.5v9z"/>'
