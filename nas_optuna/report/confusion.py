"""The confusion matrix of a retrained network, as a picture and as a table of its classes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING
from unicodedata import east_asian_width

from nas_optuna.errors import shortened
from nas_optuna.report.columns import Column
from nas_optuna.report.rendering import escaped, framed

if TYPE_CHECKING:
    from nas_optuna.execution.retrain import Pairs, TestReport

CLASS_COLUMNS = (
    Column("true class", lambda row: row[0], shortest=12),
    Column("accuracy", lambda row: f"{row[1]:.4f}", right=True),
    Column("images", lambda row: row[2], right=True, rank=1),
    Column("most often mistaken for", lambda row: row[3], wrap=True),
)
"""The columns of a table of `Confusion.accuracies`."""
MOST_NUMBERS = 24
"""The most classes for which each cell shows its number; with more, cells have colours alone."""

_STYLE = """
.nas-matrix { --paper: #ffffff; --ink: #1f2430; --faint: #5b6577; --edge: #d5dbe6; --right: #2f6fde; --wrong: #d9622b;
  font: 12px system-ui, "Segoe UI", Roboto, sans-serif; }
@media (prefers-color-scheme: dark) { .nas-matrix { --paper: #14171d; --ink: #e7eaf0; --faint: #a3adbd; --edge: #3a4353;
  --right: #7aa7f5; --wrong: #f09a6b; } }
.nas-matrix .paper { fill: var(--paper) } .nas-matrix text { fill: var(--ink) } .nas-matrix .axis { fill: var(--faint) }
.nas-matrix .cell { stroke: var(--edge); stroke-width: .5 } .nas-matrix .end { text-anchor: end }
.nas-matrix .middle { text-anchor: middle } .nas-matrix .right { fill: var(--right) }
.nas-matrix .wrong { fill: var(--wrong) }
""".strip()


@dataclass(frozen=True)
class Confusion:
    """A confusion matrix."""

    classes: Sequence[str]  # names of the classes
    counts: Pairs  # each image counts once per seed
    seeds: int = 1  # number of networks that were counted

    @classmethod
    def of(cls, report: TestReport) -> Confusion:
        """The confusion of a retraining's test images, summed over its seeds."""
        return cls(report.classes, report.predictions, len(report.seeds))

    @property
    def _rows(self) -> list[dict[int, int]]:
        """The confusion matrix's rows without zeros: for each true class, predicted class → number of images."""
        rows: list[dict[int, int]] = [{} for _ in self.classes]
        for (label, predicted), count in self.counts.items():
            rows[label][predicted] = count
        return rows

    def accuracies(self) -> list[tuple[str, float, int, str]]:
        """Each class that has test images, worst first: name, accuracy, images, classes it was mistaken for."""
        rows = []
        for i, counts in enumerate(self._rows):
            if total := sum(counts.values()):
                wrong = sorted(((n, -j) for j, n in counts.items() if j != i), reverse=True)[:3]
                taken = ", ".join(f"{self.classes[-j]} {n / total:.1%}" for n, j in wrong)
                rows.append((self.classes[i], counts.get(i, 0) / total, total // self.seeds, taken))
        return sorted(rows, key=lambda row: row[1])

    def svg(self) -> str:
        """The picture: one self-contained SVG element, which follows the reader's light or dark setting."""
        n = len(self.classes)
        cell = 30.0 if n <= MOST_NUMBERS else max(4.0, 600.0 / n)
        shown = math.ceil(14 / cell)  # every how many names are shown, so that they do not overlap
        upright = max(map(len, self.classes), default=0) > cell / 7  # names that do not fit side by side are turned
        left, top = 112.0, 112.0 if upright else 22.0
        parts = []
        for i, name in enumerate(self.classes):
            if i % shown == 0:
                middle = (i + 0.5) * cell + 4
                parts.append(_text(left - 6, top + middle, name, "end", 14))
                x, y = left + middle - (0 if upright else 4), top - 6
                turned = f' transform="rotate(-90 {x:.1f} {y:.1f})"' if upright else ""
                parts.append(_text(x, y, name, "" if upright else "middle", 14, turned))
        for i, row in enumerate(self._rows):
            total = sum(row.values()) or 1
            for j, count in sorted(({i: 0} | row).items()):
                x, y = left + j * cell, top + i * cell
                kind = "right" if i == j else "wrong"
                shade = f' fill-opacity="{0.12 + 0.78 * count / total:.2f}"' if count else ' fill-opacity="0"'
                title = f"{self.classes[i]} taken for {self.classes[j]}: {count} of {total}"
                parts.append(
                    f'<rect class="cell {kind}" x="{x:.1f}" y="{y:.1f}" width="{cell:.1f}" height="{cell:.1f}"{shade}>'
                    f"<title>{escaped(title)}</title></rect>"
                )
                if count and n <= MOST_NUMBERS:
                    parts.append(_text(x + cell / 2, y + cell / 2 + 4, str(count), "middle"))
        width, height = max(left + n * cell + 12, 360.0), top + n * cell + 26
        seeds = "" if self.seeds == 1 else f", sum of {self.seeds} seeds"
        parts.append(_text(12, height - 8, f"row: true class, column: predicted class{seeds}", "axis", 80))
        return framed("nas-matrix", "Confusion matrix", width, height, _STYLE, "".join(parts))


def _text(x: float, y: float, text: str, style: str, room: int = 40, turned: str = "") -> str:
    widths = [12 if east_asian_width(c) in "FW" else 9 if c.isupper() else 7 for c in shortened(text, room)]
    squeezed = f' textLength="{7.5 * room:.0f}" lengthAdjust="spacingAndGlyphs"' if sum(widths) > 7.5 * room else ""
    return f'<text class="{style}" x="{x:.1f}" y="{y:.1f}"{turned}{squeezed}>{escaped(text, room)}</text>'
