"""Widths that a supernet leaves open: a whole number that knows what else it may be."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

    from nas_optuna.spaces.supernet import Pick


@dataclass
class Open:
    """One elastic parameter of a supernet.

    Attributes:
        name: The parameter's name.
        pick: How its choices enter the next forward pass; None is the largest.
    """

    name: str
    pick: Pick | None = None


@dataclass(frozen=True)
class Size:
    """A size that follows from an elastic parameter.

    Attributes:
        of: The parameter.
        choices: The size under each of its choices.
    """

    of: Open
    choices: tuple[int, ...]

    @property
    def alone(self) -> int:
        """The size to compute: that of the one choice, or the largest where choices are mixed."""
        pick = self.of.pick
        return max(self.choices) if pick is None or pick.weights is not None else self.choices[pick.index or 0]

    def weights(self) -> Tensor | None:
        """``[choices]`` where choices are mixed, else None."""
        return None if self.of.pick is None else self.of.pick.weights

    def mask(self) -> Tensor | None:
        """``[largest]``: how much of each channel the mixed choices have together; None where they are not mixed."""
        import torch

        weights = self.weights()
        if weights is None:
            return None
        channel = torch.arange(max(self.choices), device=weights.device)
        inside = channel < torch.tensor(self.choices, device=weights.device)[:, None]
        return weights @ inside.to(weights.dtype)


class Elastic(int):
    """The largest choice of an elastic parameter, as a whole number; layers of `nas_optuna.layers` see the others.

    Multiplied by or divided into whole numbers, it stays elastic: ``4 * width``, ``width // 2``.

    Attributes:
        size: All choices.
    """

    size: Size

    def __new__(cls, size: Size) -> Elastic:
        """The largest of a size's choices."""
        made = super().__new__(cls, max(size.choices))
        made.size = size
        return made

    def __reduce__(self) -> tuple[type[Elastic], tuple[Size]]:
        return Elastic, (self.size,)  # an int would be copied as a plain number

    def __mul__(self, factor: int) -> int:
        """Elastic where the factor is a plain whole number."""
        if type(factor) is not int or factor < 1:
            return int(self) * factor
        return Elastic(Size(self.size.of, tuple(choice * factor for choice in self.size.choices)))

    __rmul__ = __mul__

    def __floordiv__(self, divisor: int) -> int:
        """Elastic where every choice can be divided."""
        if type(divisor) is not int or divisor < 1 or any(choice % divisor for choice in self.size.choices):
            return int(self) // divisor
        return Elastic(Size(self.size.of, tuple(choice // divisor for choice in self.size.choices)))


def size_of(number: int) -> Size | None:
    """The choices of an elastic number; None of a plain one."""
    return number.size if isinstance(number, Elastic) else None
