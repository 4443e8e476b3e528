"""What a person is told of images and of how they were read."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from nas_optuna.errors import named

VERBS = {"stretch": "stretched", "crop": "cropped", "pad": "padded"}

EXAMPLES = 3
"""Names given for each reason; the count says how many more there are."""


@dataclass(frozen=True)
class ReadingReport:
    """How one part of a data set was read.

    Attributes:
        sizes: ``(height, width)`` in pixels of the images as they were found, each once, by area; empty where that is
            unknown.
        notes: One line for each thing that a person should know: the layout, what was done to pixels, what is not used.
    """

    sizes: tuple[tuple[int, int], ...] = ()
    notes: tuple[str, ...] = ()


class LeftOutCollector:
    """Collects what is not used, by reason, in the order in which the reasons came up."""

    def __init__(self) -> None:
        self._names: dict[str, list[str]] = {}

    def add(self, reason: str, name: str) -> None:
        """Note one more of that reason."""
        self._names.setdefault(reason, []).append(name)

    def listed(self) -> tuple[str, ...]:
        """One line for each reason: how many of that kind, and the names of the first few."""
        return tuple(
            f"left out: {reason} ({len(names)}): {', '.join(names[:EXAMPLES])}{', …' if len(names) > EXAMPLES else ''}"
            for reason, names in self._names.items()
        )


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


def listing(names: Iterable[str], limit: int = EXAMPLES) -> str:
    """The first few names, quoted, and how many more there are."""
    found = [repr(named(name)) for name in names]
    more = f" and {len(found) - limit} more" if len(found) > limit else ""
    return ", ".join(found[:limit]) + more
