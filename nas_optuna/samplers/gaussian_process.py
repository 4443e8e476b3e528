"""A Gaussian process over token sequences and known numbers of them, which is fitted within milliseconds.

Its mean is prior knowledge, as far as the study's own trials confirm it (`LearnedMean`).
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray
from optuna.study import Study
from scipy.linalg import cho_factor, cho_solve, solve_triangular
from scipy.linalg.lapack import dpotrf, dtrtrs
from scipy.special import ndtr

from nas_optuna.samplers.history import History, Tokens

Array = NDArray[np.float64]
Space = tuple[Sequence[int], Sequence[bool], Sequence[int]]
"""For each parameter: its number of choices, whether neighbouring ones are alike, and the group of those that mean the
same in other layers."""
Scorer = Callable[[Sequence[Tokens]], Array]
"""From token sequences to scores, the higher the better; ``[tokens]``."""
Beforehand = Callable[[Study, History, Sequence[bool]], Sequence[tuple[Scorer, float]]]
"""From a study, its history and the parameters' order to scores with their fading; see `LearnedMean`."""

SHRINKAGE = 2.0
"""Number of trials with which a coefficient is shrunk by half."""

RANGES = (0.5, 1.0, 2.0, 4.0, 8.0)
"""Candidates for the number of steps between choices over which similarity falls to 1/e."""

NOISES = (1e-4, 1e-2, 1e-1)
"""Candidates for the variance of the noise, in units of the signal's."""

FITTED_POINTS = 80
"""The most points from which hyperparameters are chosen; of more, every second or third is used."""

TRENDS = (0.0, 0.5, 2.0)
"""Candidates for the variance of the trend, in units of the variance of the rest."""

SLOPES = (0.0, 0.3, 1.0, 4.0)
"""Candidates for the prior variance of the coefficients of a group of numbers; 0 ignores the group."""

MAX_COMBINATIONS = 64
"""If there are more combinations of hyperparameters, they are improved one by one."""

PRIOR_POINTS = 2
"""With numbers, a prior worth this many points says that the variance is 1: many slopes fit a few points exactly."""

MAX_STEPS = 7
"""The most steps that a range is long, however many levels it has, so that numbers correlate as far as choices."""


class GaussianProcess:
    """A Gaussian process over token sequences; its hyperparameters are chosen by marginal likelihood."""

    # Known numbers of each point (sizes, an earlier value) enter linearly. The coefficients of a group of them have a
    # normal prior whose variance is chosen, too, so that numbers that do not help are ignored.

    def __init__(
        self,
        space: Space,
        tokens: NDArray[Any],  # [points, parameters]
        values: Array,  # [points], of mean 0 and variance 1
        mean: Callable[[Sequence[Tokens]], Array] | None = None,  # the prior mean of values; the rest is modelled
        numbers: Sequence[Array] = (),  # groups of known numbers, each [points, numbers], standardised
        least_noise: float = 0.0,  # the least variance of the noise, in units of the values' variance
    ) -> None:
        self._mean = mean or (lambda tokens: np.zeros(len(tokens)))
        values = values - self._mean(list(map(tuple, tokens.tolist())))
        self._offsets = np.concatenate(([0], np.cumsum(space[0])[:-1]))
        self._width = sum(space[0])
        self._starts = np.cumsum([0, *(group.shape[1] for group in numbers)])
        self._kernels = (tuple(space[0]), tuple(space[1]), tuple(space[2]))
        points = self._one_hot(tokens)
        every = -(-len(points) // FITTED_POINTS)
        self._choose(points[::every], values[::every], [group[::every] for group in numbers], least_noise)
        self._condition(points, values, self._scaled(numbers, len(points)))

    def _choose(self, points: Array, values: Array, numbers: Sequence[Array], least_noise: float) -> None:
        """Take the hyperparameters with the highest marginal likelihood."""
        sizes, ordered, groups = self._kernels
        has_trend = len(set(groups)) < len(sizes)
        grids = [range(len(RANGES)), range(len(TRENDS) if has_trend else 1), range(len(NOISES))]
        grids += [range(len(SLOPES))] * len(numbers)
        signals: dict[tuple[int, int], Array] = {}
        for reach in grids[0]:
            similarity = _similarity(sizes, ordered, RANGES[reach])
            slope = _slope(sizes, ordered, groups, RANGES[reach])
            rest, common = _kernel(points @ similarity @ points.T), points @ slope @ points.T
            signals |= {(reach, trend): rest + TRENDS[trend] * common for trend in grids[1]}
        linear = [group @ group.T for group in numbers]
        identity = np.eye(len(values))
        known: dict[tuple[int, ...], tuple[float, float]] = {}

        def likelihood(chosen: tuple[int, ...]) -> float:
            if chosen not in known:
                reach, trend, noise, *slopes = chosen
                covariance = signals[reach, trend] + NOISES[noise] * identity
                for place, product in zip(slopes, linear, strict=True):
                    covariance += SLOPES[place] * product
                known[chosen] = _profile(covariance, values, PRIOR_POINTS if linear else 0)
            return known[chosen][0]

        best = _maximise(likelihood, grids)
        reach, trend, noise, *slopes = best
        self._variance = known[best][1]
        self._similarity = _similarity(sizes, ordered, RANGES[reach])
        self._slope = TRENDS[trend] * _slope(sizes, ordered, groups, RANGES[reach])
        self._noise = max(NOISES[noise], least_noise / self._variance)
        self._slopes = [SLOPES[place] ** 0.5 for place in slopes]

    def _one_hot(self, tokens: NDArray[Any]) -> Array:
        result = np.zeros((len(tokens), self._width))
        result[np.arange(len(tokens))[:, None], tokens + self._offsets] = 1
        return result

    def _scaled(self, numbers: Sequence[Array], points: int) -> Array:
        """The numbers side by side, ``[points, numbers]``, scaled so that their products are covariances."""
        scaled = [weight * group for weight, group in zip(self._slopes, numbers, strict=True)]
        return np.concatenate(scaled, 1) if scaled else np.zeros((points, 0))

    def _condition(self, points: Array, values: Array, numbers: Array) -> None:
        self._points, self._values, self._numbers = points, values, numbers
        covariance = self._covariance(points, points, numbers, numbers)
        self._factor = cho_factor(covariance + self._noise * np.eye(len(values)), lower=True)
        self._weights: Array = cho_solve(self._factor, values)

    @property
    def noise(self) -> float:
        """Standard deviation of the noise."""
        return float(np.sqrt(self._variance * self._noise))

    def coefficients(self, group: int) -> Array:
        """The slopes of the mean in the numbers of a group; ``[numbers]``."""
        own = self._numbers[:, self._starts[group] : self._starts[group + 1]]
        grown: Array = self._slopes[group] * (self._weights @ own)
        return grown

    def fantasize(self, tokens: NDArray[Any], numbers: Sequence[Array] = ()) -> None:
        """Condition on further points as though they had their predicted values."""
        mean, _ = self._residual(tokens, numbers)
        points = np.concatenate((self._points, self._one_hot(tokens)))
        known = np.concatenate((self._numbers, self._scaled(numbers, len(tokens))))
        self._condition(points, np.concatenate((self._values, mean)), known)

    def predict(self, tokens: NDArray[Any], numbers: Sequence[Array] = ()) -> tuple[Array, Array]:
        """Mean and standard deviation at each point, without noise; both ``[points]``."""
        residual, deviation = self._residual(tokens, numbers)
        return residual + self._mean(list(map(tuple, tokens.tolist()))), deviation

    def _residual(self, tokens: NDArray[Any], numbers: Sequence[Array]) -> tuple[Array, Array]:
        """The prediction without the prior mean."""
        points, known = self._one_hot(tokens), self._scaled(numbers, len(tokens))
        cross = self._covariance(self._points, points, self._numbers, known)
        mean = self._weights @ cross
        explained = (solve_triangular(self._factor[0], cross, lower=True) ** 2).sum(0)
        prior = 1 + ((points @ self._slope) * points).sum(1) + (known**2).sum(1)
        return mean, np.sqrt(self._variance * np.maximum(prior - explained, 1e-12))

    def _covariance(self, a: Array, b: Array, known_a: Array, known_b: Array) -> Array:
        covariance = _kernel(a @ self._similarity @ b.T) + a @ self._slope @ b.T
        return covariance + known_a @ known_b.T if known_a.size else covariance


def _profile(covariance: Array, values: Array, prior: float) -> tuple[float, float]:
    """The log likelihood with the signal's variance at its optimum, and that variance, values' K⁻¹ values / n."""
    lower, _ = dpotrf(covariance, lower=1, clean=0)
    whitened, _ = dtrtrs(lower, values, lower=1)
    count = len(values) + prior
    scale = prior / float(covariance.diagonal().mean()) if prior else 0.0
    variance = max((float(whitened @ whitened) + scale) / count, 1e-12)
    return -0.5 * count * np.log(variance) - float(np.log(lower.diagonal()).sum()), variance


def _maximise(value: Callable[[tuple[int, ...]], float], grids: Sequence[range]) -> tuple[int, ...]:
    """The best of all combinations if they are few, or else the result of improving each place twice."""
    if np.prod([len(grid) for grid in grids]) <= MAX_COMBINATIONS:
        return max(itertools.product(*grids), key=value)
    best = tuple(len(grid) // 2 for grid in grids)
    for place in [*reversed(range(len(grids)))] * 2:
        best = max(((*best[:place], n, *best[place + 1 :]) for n in grids[place]), key=value)
    return best


@cache
def _similarity(sizes: tuple[int, ...], ordered: tuple[bool, ...], reach: float) -> Array:
    """Similarity of each parameter's choices, block-diagonal; those of an architecture to itself sum to 1."""
    result = np.zeros((sum(sizes),) * 2)
    start = 0
    for size, order in zip(sizes, ordered, strict=True):
        index = np.arange(size)
        distance = np.abs(index[:, None] - index) * min(1.0, MAX_STEPS / max(size - 1, 1))
        block = np.exp(-(distance if order else 1.0 * (index[:, None] != index)) / reach)
        result[start : start + size, start : start + size] = block / len(sizes)
        start += size
    return result


@cache
def _slope(sizes: tuple[int, ...], ordered: tuple[bool, ...], groups: tuple[int, ...], reach: float) -> Array:
    """Covariance of the trend: how often each choice occurs among the layers, whatever the layer."""
    # It is ``[choices of all parameters] * 2``, with mean 0 and variance 1 over the architectures of the space.
    names = sorted(set(groups))
    result = np.zeros((sum(sizes),) * 2)
    offsets = np.concatenate(([0], np.cumsum(sizes)))
    for group in names:
        members = [i for i, g in enumerate(groups) if g == group]
        size = sizes[members[0]]
        block = _similarity((size,), (ordered[members[0]],), reach)
        centred = block - block.mean(0) - block.mean(1)[:, None] + block.mean()
        centred *= 1 / (max(np.trace(centred) / size, 1e-12) * len(members) * len(names))
        for i in members:
            for j in members:
                result[offsets[i] : offsets[i + 1], offsets[j] : offsets[j + 1]] = centred
    return result


def _kernel(similarity: Array) -> Array:
    """The kernel as a polynomial of the mean similarity; 1 for equal architectures."""
    square = similarity * similarity  # NumPy's power takes ten times as long
    return 0.3 * similarity + 0.4 * square + 0.3 * square * square


def expected_improvement(mean: Array, deviation: Array, best: float) -> Array:
    """Return the expected improvement of normal variables over `best` (Jones et al. 1998); ``[points]``."""
    z = (mean - best) / deviation
    improvement: Array = (mean - best) * ndtr(z) + deviation * np.exp(-0.5 * z**2) / np.sqrt(2 * np.pi)
    return improvement


class LearnedMean:
    """A prior mean: the sum of ``coefficient · score``, each coefficient learned from the residual of those before it.

    The score of a supernet or of an earlier study tells where good architectures are, and the process models the
    residual. Coefficients are those of a ridge regression, so that a score that does not help is ignored. They fade as
    trials arrive, because many trainings need no prior (the prior of πBO, Hvarfner et al. 2022, fades, too).
    """

    # Each score comes with the number of trials after which half of its coefficient is left; merit is standardised.
    def __init__(self, scores: Sequence[tuple[Scorer, float]], tokens: Sequence[Tokens], merit: Array) -> None:
        self._terms: list[tuple[Scorer, float, float]] = []
        rest = merit
        for scorer, fading in scores:
            values = scorer(tokens)
            centre = float(values.mean())
            centred = values - centre
            slope = float(centred @ rest / (centred @ centred + SHRINKAGE * max(centred.var(), 1e-9)))
            coefficient = max(0.0, slope) / (1 + (len(merit) / fading) ** 2)  # a negative correlation is ignored
            rest = rest - coefficient * centred
            self._terms.append((scorer, centre, coefficient))

    def __call__(self, tokens: Sequence[Tokens]) -> Array:
        """The mean at each token sequence, in units of merit; ``[tokens]``."""
        result: Array = np.zeros(len(tokens))
        for scorer, centre, coefficient in self._terms:
            if coefficient > 0:
                result += coefficient * (scorer(tokens) - centre)
        return result
