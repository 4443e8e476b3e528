"""Numbers that a supernet leaves open: a whole number that knows all its choices."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass
from functools import reduce

import torch
from torch import Tensor

from nas_optuna.spaces.supernet import ChoiceWeights


@dataclass
class Open:
    """One parameter that a supernet leaves open, and how its choices enter the next forward pass."""

    name: str
    count: int
    pick: ChoiceWeights | None = None  # None stands for the largest of an elastic number
    drawn: bool = False  # its choices change the size of what follows, and cannot be mixed

    @property
    def index(self) -> int | None:
        """The index of the one choice to compute; None where choices are mixed."""
        pick = self.pick
        return None if pick is None or (pick.weights is not None and not self.drawn) else pick.index


@dataclass(frozen=True)
class Size:
    """A number under each choice of an elastic parameter; of two, under each pair, the second's choices in a row."""

    opens: tuple[Open, ...]
    choices: tuple[int, ...]

    @property
    def of(self) -> Open:
        """The parameter, where it is one."""
        return self.opens[0]

    @property
    def alone(self) -> int:
        """The number to compute with: that of the one choice, or the largest where choices are mixed."""
        indices = [opened.index for opened in self.opens]
        places = itertools.product(*(range(opened.count) for opened in self.opens))
        return max(
            choice
            for place, choice in zip(places, self.choices, strict=True)
            if all(i is None or i == j for i, j in zip(indices, place, strict=True))
        )

    def weights(self) -> Tensor | None:
        """``[choices]`` where choices are mixed, else None."""
        given = [None if opened.pick is None else opened.pick.weights for opened in self.opens]
        like = next((weights for weights in given if weights is not None), None)
        if like is None:
            return None
        parts = []
        for opened, weights in zip(self.opens, given, strict=True):
            if weights is None:
                weights = like.new_zeros(opened.count)
                weights[opened.index or 0] = 1
            parts.append(weights)
        return reduce(lambda a, b: torch.outer(a, b).flatten(), parts)

    def mixed(self, compute: Callable[[int], Tensor]) -> Tensor:
        """The result for the one choice, or the weighted sum of the results for all."""
        weights = self.weights()
        if weights is None:
            return compute(self.alone)
        return torch.stack(
            [weight * compute(choice) for weight, choice in zip(weights, self.choices, strict=True)]
        ).sum(0)

    def mask(self) -> Tensor | None:
        """``[largest]``: how much of each channel the mixed choices have together; None where they are not mixed."""
        weights = self.weights()
        if weights is None:
            return None
        channel = torch.arange(self.alone, device=weights.device)
        inside = channel < torch.tensor(self.choices, device=weights.device)[:, None]
        return weights @ inside.to(weights.dtype)


class Elastic(int):
    """The largest choice of an elastic parameter, as a whole number; layers of `nas_optuna.layers` see the others."""

    # Added to, multiplied by or divided into whole numbers it stays elastic (``4 * width``, ``kernel // 2``), and so
    # does the product of two.

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
        return Elastic(Size(self.size.opens, tuple(map(change, self.size.choices))))

    def __mul__(self, factor: int) -> int:
        if isinstance(factor, Elastic):
            products = itertools.product(self.size.choices, factor.size.choices)
            return Elastic(Size(self.size.opens + factor.size.opens, tuple(a * b for a, b in products)))
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
    """Everything that a number may be: its choices where it is elastic, else itself."""
    size = size_of(number)
    return (number,) if size is None else size.choices
