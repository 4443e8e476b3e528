"""One point of a search space."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

Choice = str | int | float | bool | None
"""What a categorical parameter may take: the types that every Optuna storage can keep."""


InputSize = int | tuple[int, int]
"""Side length of a square input in pixels, or ``(height, width)``."""


@dataclass(frozen=True)
class Architecture:
    """An immutable, hashable choice for every parameter of a search space.

    Made by a space (`SearchSpace.suggest`, `.architecture`, `.parse`), which guarantees that the choices
    are complete and in the space's order, so equal architectures compare and hash equal.

    Attributes:
        items: ``(parameter name, choice)`` pairs in the space's order.
        text: The canonical string, e.g. ``"f16k3s1-f48k5s2"``; ``space.parse(text)`` gives it back.

    Examples:
        >>> from nas_optuna import ConvSpace
        >>> ConvSpace(depth=1).parse("f16k3s1").params
        {'conv1.filters': 16, 'conv1.kernel': 3, 'conv1.stride': 1}
    """

    items: tuple[tuple[str, Choice], ...]
    text: str = field(compare=False)

    @property
    def params(self) -> Mapping[str, Choice]:
        """Optuna's params dict, valid for ``optuna.trial.FixedTrial`` and ``study.enqueue_trial``."""
        return dict(self.items)

    def __str__(self) -> str:
        return self.text
