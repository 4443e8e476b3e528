"""Short trainings: what shared weights cannot tell, and the first epochs of a training of its own can.

Shared weights say how well an architecture does once it is trained; the value that a study looks for is also how fast
it learns. So a few random architectures are trained alone for a short time, which teaches the score how much shared
weights and each size are worth in this space, and the best by that score are trained a little longer, which decides
which of them comes first. Fewer epochs are a well studied proxy of a full training (Zhou et al. 2020, "EcoNAS").
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from nas_optuna.oneshot.score import FEWEST
from nas_optuna.spaces.architecture import Architecture

LIMIT = 2
"""Stand-alone trainings, counted in epochs, that the random ones may cost, and as many again the finalists."""
TEACHING_SHARE, FINAL_SHARE = 12, 6
"""The recipe's epochs divided by these are those of a random one and of a finalist; at least one epoch."""


@dataclass(frozen=True)
class ShortPlan:
    """How many architectures are trained for a short time, and for how long.

    Attributes:
        teachers: Random architectures.
        teaching_epochs: Epochs of each.
        finalists: Of the best by the score.
        final_epochs: Epochs of each finalist.

    Example:
        >>> ShortPlan.of(16, epochs=12, size=1000)
        ShortPlan(teachers=16, teaching_epochs=1, finalists=4, final_epochs=2)
        >>> ShortPlan.of(16, epochs=12, size=1000).epochs / 12  # in stand-alone trainings
        2.0
    """

    teachers: int
    teaching_epochs: int
    finalists: int
    final_epochs: int

    @classmethod
    def of(cls, count: int, epochs: int, size: int, trained: int = 0) -> ShortPlan:
        """The plan for a recipe and a space.

        Args:
            count: `SupernetSpec.short_trainings`.
            epochs: The recipe's.
            size: Architectures of the space.
            trained: The study's own trainings to the end, which teach the score in place of short ones.
        """
        teaching, final = max(1, epochs // TEACHING_SHARE), max(1, epochs // FINAL_SHARE)
        teachers = min(count, LIMIT * epochs // teaching, size) - trained
        finalists = min(count // 4, LIMIT * epochs // final, size)
        return cls(teachers if teachers >= FEWEST else 0, teaching, finalists if finalists > 1 else 0, final)

    @property
    def epochs(self) -> int:
        """Epochs of all of them."""
        return self.teachers * self.teaching_epochs + self.finalists * self.final_epochs


class ShortTrainings(Protocol):
    """Trains architectures alone by the study's recipe, and stops early.

    Attributes:
        plan: How many it is meant for.
    """

    @property
    def plan(self) -> ShortPlan:
        """How many it is meant for."""

    def __call__(self, architectures: Sequence[Architecture], epochs: int) -> list[float | None]:
        """Validation accuracy of each after so many epochs, 0 … 1; None where a training fails."""
