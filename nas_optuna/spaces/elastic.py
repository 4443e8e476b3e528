"""Numbers that a supernet leaves open: a whole number that knows what else it may be."""

from __future__ import annotations

from collections.abc import Callable
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
        drawn: Whether its choices cannot be mixed, since they change the size of what follows.
    """

    name: str
    pick: Pick | None = None
    drawn: bool = False


@dataclass(frozen=True)
class Size:
    """A number that follows from an elastic parameter.

    Attributes:
        of: The parameter.
        choices: The number under each of its choices.
    """

    of: Open
    choices: tuple[int, ...]

    @property
    def alone(self) -> int:
        """What to compute: the one choice, or the largest where choices are mixed."""
        pick = self.of.pick
        mixed = pick is None or (pick.weights is not None and not self.of.drawn)
        return max(self.choices) if mixed or pick is None else self.choices[pick.index or 0]

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

    Added to, multiplied by or divided into whole numbers it stays elastic: ``4 * width``, ``kernel // 2``.

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

    def _each(self, change: Callable[[int], int], number: int) -> int:
        if type(number) is not int:
            return change(int(self))
        return Elastic(Size(self.size.of, tuple(map(change, self.size.choices))))

    def __mul__(self, factor: int) -> int:
        return self._each(lambda choice: choice * factor, factor)

    __rmul__ = __mul__

    def __add__(self, number: int) -> int:
        return self._each(lambda choice: choice + number, number)

    __radd__ = __add__

    def __sub__(self, number: int) -> int:
        return self._each(lambda choice: choice - number, number)

    def __floordiv__(self, divisor: int) -> int:
        return self._each(lambda choice: choice // divisor, divisor)


def size_of(number: object) -> Size | None:
    """The choices of an elastic number; None of a plain one."""
    return number.size if isinstance(number, Elastic) else None


def choices_of(number: int) -> tuple[int, ...]:
    """Everything that a number may be: its choices where it is elastic, else itself.

    Example:
        >>> choices_of(3)
        (3,)
    """
    size = size_of(number)
    return (number,) if size is None else size.choices
