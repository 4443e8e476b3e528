"""What was done to a person's images while they were read: as data, and as lines for a person."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from nas_optuna.errors import named

VERBS = {"stretch": "stretched", "crop": "cropped", "pad": "padded"}

EXAMPLES = 3
"""Names given for each reason; the count says how many more there are."""


@dataclass(frozen=True)
class LeftOut:
    """What lies beside the images and is not used: why, how many of that kind, and the names of the first few."""

    reason: str
    count: int
    examples: tuple[str, ...]

    def __str__(self) -> str:
        more = ", …" if self.count > len(self.examples) else ""
        return f"left out: {self.reason} ({self.count}): {', '.join(self.examples)}{more}"


@dataclass(frozen=True)
class ReadingReport:
    """How one part of a data set was read.

    Attributes:
        layout: How the source is laid out; empty where there is nothing to say.
        smallest: ``(height, width)`` in pixels of the smallest image as it was found, by area.
        largest: The same of the largest image.
        sizes: How many different sizes were found; 0 where that is unknown.
        changes: What was done to pixels, one remark each.
        left_out: What was found and not used.
    """

    layout: str = ""
    smallest: tuple[int, int] = (0, 0)
    largest: tuple[int, int] = (0, 0)
    sizes: int = 0
    changes: tuple[str, ...] = ()
    left_out: tuple[LeftOut, ...] = ()

    @property
    def notes(self) -> tuple[str, ...]:
        """One line for each thing that a person should know."""
        return (*filter(None, (self.layout,)), *self.changes, *map(str, self.left_out))

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        return asdict(self)


class LeftOutCollector:
    """Collects what is not used, by reason, in the order in which the reasons came up."""

    def __init__(self) -> None:
        self._names: dict[str, list[str]] = {}

    def add(self, reason: str, name: str) -> None:
        """Note one more of that reason."""
        self._names.setdefault(reason, []).append(name)

    def listed(self) -> tuple[LeftOut, ...]:
        """One entry for each reason."""
        return tuple(LeftOut(reason, len(names), tuple(names[:EXAMPLES])) for reason, names in self._names.items())


def plural(count: int, noun: str) -> str:
    """``1 picture``, ``1,200 pictures``."""
    return f"{count:,} {noun}" + ("" if count == 1 else "s")


def dimensions(height: int, width: int) -> str:
    """``height×width``: everywhere in this order, as arrays have it."""
    return f"{height}×{width}"


def class_counts(classes: Sequence[str], counts: Sequence[int], listed: int = 12) -> str:
    """``cat 40, dog 38``; only the extremes where there are more than `listed` classes."""
    names = [named(name)[:40] for name in classes]
    if len(names) <= listed:
        return ", ".join(f"{name} {count:,}" for name, count in zip(names, counts, strict=True))
    fewest, most = (extreme(range(len(counts)), key=lambda i: counts[i]) for extreme in (min, max))
    return (
        f"{len(names)} classes of {counts[fewest]:,} to {counts[most]:,} images each"
        f" (fewest {names[fewest]}, most {names[most]})"
    )


def sizes_found(report: ReadingReport, stored: tuple[int, int]) -> str:
    """The sizes of the images as they were found: one, or how many and between which."""
    if report.sizes <= 1:
        return dimensions(*(report.largest if report.sizes else stored))
    return f"{report.sizes} sizes from {dimensions(*report.smallest)} to {dimensions(*report.largest)}"


def listing(names: Iterable[str], limit: int = EXAMPLES) -> str:
    """The first few names, quoted, and how many more there are."""
    found = [repr(named(name)) for name in names]
    more = f" and {len(found) - limit} more" if len(found) > limit else ""
    return ", ".join(found[:limit]) + more


def describe_resizing(found: str, one_shape: tuple[int, int] | None, output: tuple[int, int], policy: str) -> str:
    """``48×40 → 32×32, stretched``: what was found (`one_shape` where it is one) and what a network sees."""
    if one_shape == output:
        return dimensions(*output)
    change = f"{found} → {dimensions(*output)}"
    if one_shape is not None and one_shape[0] * output[1] == one_shape[1] * output[0]:
        return change
    return f"{change}, {VERBS[policy]}"
