"""Parameters as tokens: an index into the choices, or a level of a number's range."""

from __future__ import annotations

import math
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.trial import FrozenTrial

Tokens = tuple[int, ...]
"""One token per parameter, in the natural order of the parameters' names."""

LEVELS = 33
"""The range of a number is divided into at most this many levels: four decades into factors of 1.3."""


@dataclass(frozen=True)
class Axis:
    """One parameter as tokens.

    Attributes:
        distribution: Optuna's distribution of the parameter.
        size: How many tokens there are.
    """

    distribution: BaseDistribution
    size: int

    @property
    def is_number(self) -> bool:
        """Whether the tokens are levels of a range, each of them the nearer to another the closer they are."""
        return not isinstance(self.distribution, CategoricalDistribution)

    def token(self, value: Any) -> int:
        """The token of a value that lies in the distribution."""
        if isinstance(self.distribution, CategoricalDistribution):
            return int(self.distribution.to_internal_repr(value))
        return min(self.size - 1, int(self.size * (self._scaled(value) - self._low) / self._length))

    def value(self, token: int, place: float) -> Any:
        """A value of that token; of a level, the one at `place` in it, from 0 to 1."""
        d = self.distribution
        if isinstance(d, CategoricalDistribution):
            return d.choices[token]
        assert isinstance(d, IntDistribution | FloatDistribution)
        scaled = self._low + (token + place) / self.size * self._length
        value = math.exp(scaled) if d.log else scaled
        if d.step is not None:
            value = d.low + round((value - d.low) / d.step) * d.step
        value = min(max(value, d.low), d.high)
        return int(value) if isinstance(d, IntDistribution) else float(value)

    def _scaled(self, value: float) -> float:
        return math.log(value) if getattr(self.distribution, "log", False) else float(value)

    @property
    def _low(self) -> float:
        d = self.distribution
        assert isinstance(d, IntDistribution | FloatDistribution)
        half = 0.5 * (d.step or 0.0)
        return self._scaled(d.low - half)

    @property
    def _length(self) -> float:
        d = self.distribution
        assert isinstance(d, IntDistribution | FloatDistribution)
        half = 0.5 * (d.step or 0.0)
        return self._scaled(d.high + half) - self._low


def axis(distribution: BaseDistribution) -> Axis:
    """The tokens of a parameter: its choices, every value of a short range of integers, or `LEVELS` of a range."""
    if isinstance(distribution, CategoricalDistribution):
        return Axis(distribution, len(distribution.choices))
    assert isinstance(distribution, IntDistribution | FloatDistribution)
    values = LEVELS
    if distribution.step is not None and not distribution.log:
        values = round((distribution.high - distribution.low) / distribution.step) + 1
    return Axis(distribution, 1 if distribution.single() else min(values, LEVELS))


class Encoding:
    """The parameters of a study as tokens.

    Attributes:
        axes: Parameter name → its tokens.
        sizes: How many tokens each parameter has.
        digest: Of the parameters' names, to tell tokens of other parameters.
    """

    def __init__(self, space: Mapping[str, BaseDistribution]) -> None:
        self.space = dict(space)
        self.axes = {name: axis(distribution) for name, distribution in space.items()}
        self.sizes = tuple(a.size for a in self.axes.values())
        self.digest = zlib.crc32("/".join(space).encode())

    def tokens(self, trial: FrozenTrial) -> Tokens | None:
        """What a trial chose, or None while a parameter is missing or has another distribution."""
        if any(trial.distributions.get(name) != d for name, d in self.space.items()):
            return None
        return tuple(a.token(trial.params[name]) for name, a in self.axes.items())

    def params(self, tokens: Tokens, rng: np.random.Generator | None = None) -> dict[str, Any]:
        """The values that tokens stand for; `rng` draws a number within its level, whose middle is taken without."""
        return {
            name: a.value(token, 0.5 if rng is None or not a.is_number else rng.random())
            for (name, a), token in zip(self.axes.items(), tokens, strict=True)
        }
