"""A Gaussian process over token sequences that is fitted within milliseconds."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import cho_factor, cho_solve, solve_triangular
from scipy.linalg.lapack import dpotrf, dtrtrs
from scipy.special import ndtr

from nas_optuna.samplers.encoding import Tokens

Array = NDArray[np.float64]

RANGES = (0.5, 1.0, 2.0, 4.0, 8.0)
"""Steps between choices over which likeness falls to 1/e; the one of the highest likelihood is taken."""

NOISES = (1e-4, 1e-2, 1e-1)
"""Variance of the noise in units of the signal's; the one of the highest likelihood is taken."""

FITTED_POINTS = 80
"""Range, noise and trend are chosen from so many of these points at most; every second or third of them, if need be."""

TRENDS = (0.0, 0.5, 2.0)
"""The variance of the trend, in units of the variance of the rest, is chosen from these by likelihood."""

LONGEST = 7
"""A range of more levels than this is measured in steps of a seventh of it, so that numbers reach as far as choices."""


class GaussianProcess:
    """A Gaussian process over token sequences; its range, noise and trend are chosen by marginal likelihood.

    Args:
        sizes: Choices of each parameter.
        ordered: For each parameter, whether neighbouring choices are alike.
        tokens: ``[points, parameters]`` integers.
        values: ``[points]``; mean 0 and variance 1 are assumed.
        groups: For each parameter, the group of those that mean the same in other layers; None puts each in its own.
        mean: What is expected beforehand, in units of `values`; the process models the rest.
    """

    def __init__(
        self,
        sizes: Sequence[int],
        ordered: Sequence[bool],
        tokens: NDArray[Any],
        values: Array,
        groups: Sequence[int] | None = None,
        mean: Callable[[Sequence[Tokens]], Array] | None = None,
    ) -> None:
        self._mean = mean or (lambda tokens: np.zeros(len(tokens)))
        values = values - self._mean(list(map(tuple, tokens.tolist())))
        self._offsets = np.concatenate(([0], np.cumsum(sizes)[:-1]))
        self._width = sum(sizes)
        points = self._one_hot(tokens)
        every = -(-len(points) // FITTED_POINTS)
        has_trend = groups is not None and len(set(groups)) < len(sizes)
        self._choose(sizes, ordered, groups or range(len(sizes)), has_trend, points[::every], values[::every])
        self._condition(points, values)

    def _choose(
        self,
        sizes: Sequence[int],
        ordered: Sequence[bool],
        groups: Sequence[int],
        has_trend: bool,
        points: Array,
        values: Array,
    ) -> None:
        """Take the range, the noise and the trend of the highest marginal likelihood."""
        best = -np.inf
        identity = np.eye(len(values))
        for reach in RANGES:
            likeness = _likeness(tuple(sizes), tuple(ordered), reach)
            slope = _slope(tuple(sizes), tuple(ordered), tuple(groups), reach)
            rest, trend = _kernel(points @ likeness @ points.T), points @ slope @ points.T
            for weight in TRENDS if has_trend else (0.0,):
                for noise in NOISES:
                    lower, _ = dpotrf(rest + weight * trend + noise * identity, lower=1, clean=0)
                    whitened, _ = dtrtrs(lower, values, lower=1)
                    # With the signal's variance at its own optimum, values' K⁻¹ values / n.
                    variance = max(float(whitened @ whitened) / len(values), 1e-12)
                    likelihood = -0.5 * len(values) * np.log(variance) - np.log(lower.diagonal()).sum()
                    if likelihood > best:
                        best = likelihood
                        self._likeness, self._slope = likeness, weight * slope
                        self._noise, self._variance = noise, variance

    def _one_hot(self, tokens: NDArray[Any]) -> Array:
        result = np.zeros((len(tokens), self._width))
        result[np.arange(len(tokens))[:, None], tokens + self._offsets] = 1
        return result

    def _condition(self, points: Array, values: Array) -> None:
        self._points, self._values = points, values
        covariance = self._covariance(points, points)
        self._factor = cho_factor(covariance + self._noise * np.eye(len(values)), lower=True)

    def believe(self, tokens: NDArray[Any]) -> None:
        """Condition on further points as though they had the values that are expected of them."""
        mean, _ = self._residual(tokens)
        self._condition(np.concatenate((self._points, self._one_hot(tokens))), np.concatenate((self._values, mean)))

    def predict(self, tokens: NDArray[Any]) -> tuple[Array, Array]:
        """Mean and standard deviation at each point, noise excluded; both ``[points]``."""
        residual, deviation = self._residual(tokens)
        return residual + self._mean(list(map(tuple, tokens.tolist()))), deviation

    def _residual(self, tokens: NDArray[Any]) -> tuple[Array, Array]:
        """What `predict` says beside the mean given beforehand."""
        points = self._one_hot(tokens)
        cross = self._covariance(self._points, points)
        mean = cho_solve(self._factor, self._values) @ cross
        explained = (solve_triangular(self._factor[0], cross, lower=True) ** 2).sum(0)
        prior = 1 + ((points @ self._slope) * points).sum(1)
        return mean, np.sqrt(self._variance * np.maximum(prior - explained, 1e-12))

    def _covariance(self, a: Array, b: Array) -> Array:
        return _kernel(a @ self._likeness @ b.T) + a @ self._slope @ b.T


@cache
def _likeness(sizes: tuple[int, ...], ordered: tuple[bool, ...], reach: float) -> Array:
    """Block-diagonal, by parameter: of each choice to each other, so that it sums to 1 over an architecture."""
    result = np.zeros((sum(sizes),) * 2)
    start = 0
    for size, order in zip(sizes, ordered, strict=True):
        index = np.arange(size)
        distance = np.abs(index[:, None] - index) * min(1.0, LONGEST / max(size - 1, 1))
        block = np.exp(-(distance if order else 1.0 * (index[:, None] != index)) / reach)
        result[start : start + size, start : start + size] = block / len(sizes)
        start += size
    return result


@cache
def _slope(sizes: tuple[int, ...], ordered: tuple[bool, ...], groups: tuple[int, ...], reach: float) -> Array:
    """Covariance of a trend: how often each choice occurs among the layers, whatever the layer.

    It is ``[choices of all parameters] * 2``, of mean 0 and variance 1 over the architectures of the space.
    """
    names = sorted(set(groups))
    result = np.zeros((sum(sizes),) * 2)
    offsets = np.concatenate(([0], np.cumsum(sizes)))
    for group in names:
        members = [i for i, g in enumerate(groups) if g == group]
        size = sizes[members[0]]
        block = _likeness((size,), (ordered[members[0]],), reach)
        centred = block - block.mean(0) - block.mean(1)[:, None] + block.mean()
        centred *= 1 / (max(np.trace(centred) / size, 1e-12) * len(members) * len(names))
        for i in members:
            for j in members:
                result[offsets[i] : offsets[i + 1], offsets[j] : offsets[j + 1]] = centred
    return result


def _kernel(likeness: Array) -> Array:
    """1 where two architectures are the same."""
    square = likeness * likeness  # NumPy's power takes ten times as long
    return 0.3 * likeness + 0.4 * square + 0.3 * square * square


def expected_improvement(mean: Array, deviation: Array, best: float) -> Array:
    """Return the expected improvement of normal variables over `best` (Jones et al. 1998); ``[points]``."""
    z = (mean - best) / deviation
    improvement: Array = (mean - best) * ndtr(z) + deviation * np.exp(-0.5 * z**2) / np.sqrt(2 * np.pi)
    return improvement
