"""Charts as SVG: a few kilobytes each, no script, in the style of the page around them (``base.html.j2``)."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import compress

from markupsafe import Markup

from nas_optuna.quantities import count
from nas_optuna.report.rendering import attribute
from nas_optuna.report.rendering import escaped as _text

WIDTH, HEIGHT = 480.0, 270.0
_LEFT, _RIGHT, _TOP, _BOTTOM = 66.0, 14.0, 10.0, 40.0

Point = tuple[float, float]


@dataclass(frozen=True)
class Series:
    """A series of points."""

    points: Sequence[Point]  # ``(x, y)``, in the order in which they are joined
    style: str  # CSS classes: ``"line s0"``, ``"pale"``, ``"dot s0"``, ``"dot faint"``
    titles: Sequence[str] = ()  # tooltips of dots
    errors: Sequence[float] = ()  # half lengths of error bars of dots
    name: str = ""  # in the legend; an unnamed series is left out there


def plot(series: Sequence[Series], x_label: str, y_label: str, *, log_x: bool = False, share: bool = False) -> Markup:
    """Lines and dots on two axes; the ticks and error bars of a `share`, such as an accuracy, end at 1."""
    most = 1.0 if share else math.inf
    kept = [_finite(one, log_x) for one in series]
    xs = [x for one in kept for x, _ in one.points]
    reach = [
        (y, e) for one in kept for (_, y), e in zip(one.points, one.errors or [0.0] * len(one.points), strict=True)
    ]
    ys = [min(y + sign * error, most) for y, error in reach for sign in (-1, 1)]
    if not xs:
        return Markup('<p class="faint">Nothing to show yet: {} against {}.</p>').format(y_label, x_label)
    x_at, x_ticks = _scale(min(xs), max(xs), _LEFT, WIDTH - _RIGHT, log_x, all(x == int(x) for x in xs))
    y_at, y_ticks = _scale(min(ys), max(ys), HEIGHT - _BOTTOM, _TOP)
    y_ticks = [tick for tick in y_ticks if tick[0] < most + 1e-9]
    parts = [_axes(x_at, x_ticks, y_at, y_ticks, x_label, y_label)]
    parts += [_drawn(one, x_at, lambda y: y_at(min(y, most))) for one in kept]
    return _svg("".join(parts), f"{y_label} against {x_label}", HEIGHT) + _legend(series)


def bars(rows: Sequence[tuple[str, float]], label: str) -> Markup:
    """Horizontal bars with a name and a share (0 to 1) each."""
    step, parts = 24.0, []
    top = max((value for _, value in rows), default=0.0) or 1.0
    for i, (name, value) in enumerate(rows):
        y = i * step
        parts.append(f'<text class="end" x="150" y="{y + 16:.0f}">{_text(name, 22)}</text>')
        parts.append(f'<rect class="bar" x="158" y="{y + 4:.0f}" height="16" rx="2" width="{270 * value / top:.1f}"/>')
        parts.append(f'<text x="{164 + 270 * value / top:.1f}" y="{y + 16:.0f}">{value:.0%}</text>')
    return _svg("".join(parts), label, step * len(rows) + 4)


def _finite(series: Series, log_x: bool) -> Series:
    kept = [math.isfinite(x) and math.isfinite(y) and (x > 0 or not log_x) for x, y in series.points]
    points, titles = list(compress(series.points, kept)), list(compress(series.titles, kept))
    return replace(series, points=points, titles=titles, errors=list(compress(series.errors, kept)))


def _scale(
    low: float, high: float, start: float, end: float, log: bool = False, whole: bool = False
) -> tuple[Callable[[float], float], list[tuple[float, str]]]:
    """A function from values to positions, and the ticks of the axis."""
    if low == high:
        low, high = (low / 2, high * 2) if log else (low - (abs(low) * 0.05 or 0.5), high + (abs(high) * 0.05 or 0.5))
    f = math.log10 if log else float
    a, b = f(low), f(high)
    a, b = a - 0.04 * (b - a), b + 0.04 * (b - a)

    def at(value: float) -> float:
        return start + (f(value) - a) / (b - a) * (end - start)

    values: list[float] = []
    if log:
        values = [m * 10.0**e for e in range(math.floor(a), math.ceil(b) + 1) for m in (1, 2, 5)]
        values = [v for v in values if a <= math.log10(v) <= b]
        values = values if len(values) <= 7 else values[:: math.ceil(len(values) / 6)]
    if len(values) < 2:  # a linear axis, or all values within one decade
        span = high - low
        step = 10.0 ** math.floor(math.log10(span / 4))
        step *= next(m for m in (1, 2, 5, 10) if span / (m * step) <= 6)
        step = max(step, 1.0) if whole else step
        values = [i * step for i in range(math.ceil(low / step), math.floor(high / step + 1e-6) + 1)]
    texts = [count(value) for value in values]
    return at, list(zip(values, texts if len({*texts}) == len(values) else [f"{v:,.9g}" for v in values], strict=True))


def _axes(
    x_at: Callable[[float], float], x_ticks: Sequence[tuple[float, str]], y_at: Callable[[float], float],
    y_ticks: Sequence[tuple[float, str]], x_label: str, y_label: str,
) -> str:  # fmt: skip
    bottom = HEIGHT - _BOTTOM
    parts = [f'<path class="grid" d="M{_LEFT} {bottom}H{WIDTH - _RIGHT}"/>']
    for value, text in x_ticks:
        parts.append(f'<text class="middle" x="{x_at(value):.1f}" y="{bottom + 16}">{text}</text>')
    for value, text in y_ticks:
        y = y_at(value)
        parts.append(f'<path class="grid" d="M{_LEFT} {y:.1f}H{WIDTH - _RIGHT}"/>')
        parts.append(f'<text class="end" x="{_LEFT - 6}" y="{y + 4:.1f}">{text}</text>')
    middle = (_LEFT + WIDTH - _RIGHT) / 2
    parts.append(f'<text class="middle" x="{middle}" y="{HEIGHT - 6}">{_text(x_label, 60)}</text>')
    parts.append(
        f'<text class="middle" transform="translate(12 {(bottom + _TOP) / 2}) rotate(-90)">{_text(y_label, 34)}</text>'
    )
    return "".join(parts)


def _drawn(series: Series, x_at: Callable[[float], float], y_at: Callable[[float], float]) -> str:
    places = [(x_at(x), y_at(y)) for x, y in series.points]
    if "dot" not in series.style:
        if len(places) == 1:
            return f'<circle class="dot {series.style}" cx="{places[0][0]:.1f}" cy="{places[0][1]:.1f}" r="2"/>'
        return f'<polyline class="{series.style}" points="{" ".join(f"{x:.1f},{y:.1f}" for x, y in places)}"/>'
    parts = []
    for i, (x, y) in enumerate(places):
        if series.errors:
            value, error = series.points[i][1], series.errors[i]
            colour = series.style.replace("dot", "error")
            parts.append(f'<path class="{colour}" d="M{x:.1f} {y_at(value - error):.1f}V{y_at(value + error):.1f}"/>')
        title = f"<title>{_text(series.titles[i], 200)}</title>" if series.titles else ""
        parts.append(f'<circle class="{series.style}" cx="{x:.1f}" cy="{y:.1f}" r="3.2">{title}</circle>')
    return "".join(parts)


def _legend(series: Sequence[Series]) -> Markup:
    named = [one for one in series if one.name]
    if not named:
        return Markup("")
    line, dot = '<path class="{}" d="M0 5H28"/>', '<circle class="{}" cx="14" cy="5" r="3"/>'
    items = "".join(
        '<span class="key"><svg class="chart" viewBox="0 0 28 10" style="width:28px">'
        f"{(dot if 'dot' in one.style else line).format(one.style)}</svg> {_text(one.name, 60)}</span>"
        for one in named
    )
    return Markup(f'<p class="legend">{items}</p>')


def _svg(inside: str, label: str, height: float) -> Markup:
    box = f"0 0 {WIDTH:.0f} {height:.0f}"
    return Markup(f'<svg class="chart" role="img" aria-label={attribute(label)} viewBox="{box}">{inside}</svg>')
