"""A Gaussian process over architectures that proposes within milliseconds."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray
from optuna.distributions import BaseDistribution
from optuna.study import Study, StudyDirection
from optuna.trial import FrozenTrial
from scipy.linalg import cho_factor, cho_solve, solve_triangular
from scipy.linalg.lapack import dpotrf, dtrtrs
from scipy.special import ndtr

from nas_optuna.samplers.base import ArchitectureSampler, History, Observation, is_ordered
from nas_optuna.samplers.comparison import quantile_rank
from nas_optuna.samplers.config import configured
from nas_optuna.samplers.encoding import Tokens
from nas_optuna.samplers.learned_mean import LearnedMean, score_of
from nas_optuna.spaces import SearchSpace

Array = NDArray[np.float64]

MAX_POINTS = 200
"""The process is fitted to so many trials at most: the best half and the latest half."""

RANGES = (0.5, 1.0, 2.0, 4.0, 8.0)
"""Steps between choices over which likeness falls to 1/e; the one of the highest likelihood is taken."""

NOISES = (1e-4, 1e-2, 1e-1)
"""Variance of the noise in units of the signal's; likewise."""

FITTED_POINTS = 80
"""Range, noise and trend are chosen from so many of these points at most; every second or third of them, if need be."""

TRENDS = (0.0, 0.5, 2.0)
"""The variance of the trend, in units of the variance of the rest, is chosen from these by likelihood."""

PARENTS = 5
"""All neighbours of the best so many architectures are candidates."""

DISTANT_CANDIDATES = 150
"""Candidates that differ from one of the best in two parameters."""

RANDOM_CANDIDATES = 300

SCORED_STARTUP = 3
"""How many trials must have finished where a supernet's score says where to begin."""

MOST_AHEAD = 16
"""Among so many trials before ours, those without a choice are taken to be choosing now; older ones are dead."""

LONGEST = 7
"""A range of more levels than this is measured in steps of a seventh of it, so that numbers reach as far as choices."""


@dataclass(frozen=True)
class ArchitectureGPConfig:
    """Options of `ArchitectureGPSampler`.

    Attributes:
        n_startup_trials: So many trials must have finished before the process is fitted; until then, random.

    Raises:
        ValueError: A value is out of its range.
    """

    n_startup_trials: int = 3

    def __post_init__(self) -> None:
        if self.n_startup_trials < 1:
            raise ValueError(f"n_startup_trials must be at least 1, got {self.n_startup_trials}")


class ArchitectureGPSampler(ArchitectureSampler):
    """Bayesian optimisation with a Gaussian process that compares architectures parameter by parameter.

    Choices of an ordered parameter are the more alike the nearer they are; those of another are all equally unlike.
    The kernel is a polynomial of the parameters' mean likeness: effects of single parameters add up, then those of
    pairs, then of more (as the additive kernels of Duvenaud et al. 2011). To them comes a trend: how often each choice
    occurs in the network, whatever the layer. Only one range, one noise and the trend's share are fitted, by marginal
    likelihood on a small grid, which takes milliseconds where fitting a range for each parameter takes a tenth of a
    second; a trend that does not help has the share 0. Among unseen neighbours of the best architectures and random
    ones, the candidate of the highest expected improvement (Jones et al. 1998) is proposed.

    Running trials count as finished with the value that the process expects of them, so that workers do not crowd;
    likewise what other workers, proposing at this moment, are expected to propose.
    A pruned trial counts as the quantile of the complete ones at which it stood when it was pruned, an infeasible one
    as the worst. Several objectives are weighted at random for each trial (ParEGO, Knowles 2006).

    Floats and integers take part as levels of their range, each the more alike the nearer they are.

    In a study with a supernet of strategy ``"fair"`` the supernet's score is the process's mean, with a learned
    coefficient that fades (`samplers.learned_mean`), and the start is short: the score knows where to begin.

    Args:
        config: How to propose.
        seed: The study's seed; None draws one.
        ordered: Names of the parameters whose neighbouring choices are alike; None stands for those whose choices
            are all numbers.

    Example:
        >>> sampler = ArchitectureGPSampler(seed=0)
        >>> study = optuna.create_study(sampler=sampler)
    """

    numbers = True

    def __init__(
        self,
        config: ArchitectureGPConfig | None = None,
        *,
        seed: int | None = None,
        ordered: Collection[str] | None = None,
    ) -> None:
        super().__init__(seed)
        self._config = config or ArchitectureGPConfig()
        self._ordered = None if ordered is None else frozenset(ordered)

    def propose(self, history: History, study: Study, trial: FrozenTrial) -> Tokens:
        """The unseen candidate of the highest expected improvement."""
        rng = self._rng(trial)
        members = history.informative
        score = score_of(study, history)
        startup = self._config.n_startup_trials
        if len(members) < (min(SCORED_STARTUP, startup) if score else startup):
            return self._random(history, rng)
        kept, merit = merits(members, study.directions, rng)
        tokens = np.array([members[i].tokens for i in kept])
        parents = tokens[np.argsort(-merit, kind="stable")[:PARENTS]]
        candidates = [c for c in _candidates(parents, history.sizes, rng) if c not in history.seen]
        ordered = [is_ordered(name, d, self._ordered) for name, d in history.space.items()]
        mean = LearnedMean(score, list(map(tuple, tokens.tolist())), merit) if score else None
        process = GaussianProcess(history.sizes, ordered, tokens, merit, _groups(history.space), mean)
        if history.running:
            process.believe(np.array(list(history.running.values())))
        ahead = sum(trial.number - MOST_AHEAD <= number < trial.number for number in history.pending)
        for _ in range(ahead):  # what the workers ahead of us are about to choose
            choice = self._best(process, candidates, history, merit.max())
            if choice is None:
                break
            process.believe(np.array([choice]))
            candidates.remove(choice)
        history.read(study)  # a worker may have chosen meanwhile
        candidates = [c for c in candidates if c not in history.seen]
        choice = self._best(process, candidates, history, merit.max())
        return self._random(history, rng) if choice is None else choice

    def _best(
        self, process: GaussianProcess, candidates: Sequence[Tokens], history: History, best: float
    ) -> Tokens | None:
        """The allowed candidate of the highest expected improvement; only better ones are asked about."""
        if not candidates:
            return None
        improvement = expected_improvement(*process.predict(np.array(candidates)), best)
        ranked = (candidates[i] for i in np.argsort(-improvement, kind="stable"))
        return next((tokens for tokens in ranked if self._allows(history, tokens)), None)


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


def _groups(space: Mapping[str, BaseDistribution]) -> list[int]:
    """Parameters whose names differ only in numbers and that have the same choices are one group, by first member."""
    kinds = [(re.sub(r"\d+", "#", name), repr(distribution)) for name, distribution in space.items()]
    return [kinds.index(kind) for kind in kinds]


def _kernel(likeness: Array) -> Array:
    """1 where two architectures are the same."""
    square = likeness * likeness  # NumPy's power takes ten times as long
    return 0.3 * likeness + 0.4 * square + 0.3 * square * square


def expected_improvement(mean: Array, deviation: Array, best: float) -> Array:
    """Of a normal variable over `best`."""
    z = (mean - best) / deviation
    improvement: Array = (mean - best) * ndtr(z) + deviation * np.exp(-0.5 * z**2) / np.sqrt(2 * np.pi)
    return improvement


def merits(
    members: Sequence[Observation], directions: Sequence[StudyDirection], rng: np.random.Generator
) -> tuple[list[int], Array]:
    """One figure for each trial, the higher the better, standardised over those that are kept.

    Args:
        members: Trials that are complete, or were pruned after at least one epoch.
        directions: One for each objective.
        rng: Draws the objectives' weights where there are several.

    Returns:
        Which trials are kept, at most `MAX_POINTS`; and their merit, ``[kept]``.
    """
    signs = np.array([1.0 if d == StudyDirection.MAXIMIZE else -1.0 for d in directions])
    unknown = [np.nan] * len(signs)
    gains = signs * np.array([m.trial.values or unknown for m in members], dtype=float)
    merit = _scalarise(gains, rng) if len(signs) > 1 else _finite(gains)[:, 0]
    infeasible = [m.violation > 0 for m in members]
    if np.isfinite(merit).any():
        merit[infeasible] = np.nanmin(merit)
    best = np.argsort(-np.nan_to_num(merit, nan=-np.inf), kind="stable")[: MAX_POINTS // 2]
    latest = range(max(0, len(members) - MAX_POINTS // 2), len(members))
    kept = sorted({*best.tolist(), *latest})
    merit = merit[kept]
    complete = merit[~np.isnan(merit)]
    others = [members[i].trial for i in kept]
    for i in np.flatnonzero(np.isnan(merit)):
        standing = quantile_rank(others[i], others, signs[0])
        merit[i] = np.quantile(complete, standing) if len(complete) else standing
    return kept, (merit - merit.mean()) / (merit.std() + 1e-12)


def _finite(gains: Array) -> Array:
    """Infinities become the extremes of the rest; NaN stays."""
    finite = gains[np.isfinite(gains)]
    low, high = (finite.min(), finite.max()) if len(finite) else (0.0, 0.0)
    return np.clip(gains, low, high)


def _scalarise(gains: Array, rng: np.random.Generator) -> Array:
    """Augmented Chebyshev over objectives scaled to [0, 1], with random weights (Knowles 2006, equation 2)."""
    gains = np.column_stack([_finite(column) for column in gains.T])
    low, high = np.nanmin(gains, 0), np.nanmax(gains, 0)
    losses = (high - gains) / np.maximum(high - low, 1e-12)
    weighted = rng.dirichlet(np.ones(gains.shape[1])) * losses
    merit: Array = -(weighted.max(1) + 0.05 * weighted.sum(1))
    return merit


def _candidates(parents: NDArray[Any], sizes: Sequence[int], rng: np.random.Generator) -> list[Tokens]:
    """Neighbours of the parents, more distant relatives, and random points; each once."""
    result = [parents]
    for parameter, size in enumerate(sizes):
        for token in range(size):
            neighbours = parents.copy()
            neighbours[:, parameter] = token
            result.append(neighbours)
    distant = parents[rng.integers(0, len(parents), DISTANT_CANDIDATES)]
    for _ in range(2):
        mutated = rng.integers(0, len(sizes), len(distant))
        distant[np.arange(len(distant)), mutated] = rng.integers(0, np.array(sizes)[mutated])
    result += [distant, rng.integers(0, sizes, (RANDOM_CANDIDATES, len(sizes)))]
    return list(dict.fromkeys(map(tuple, np.concatenate(result).tolist())))


@configured(ArchitectureGPConfig)
def arch(space: SearchSpace, seed: int, config: ArchitectureGPConfig) -> ArchitectureGPSampler:
    """A Gaussian process over architectures: the fewest trials; for trainings that take minutes."""
    ordered = [name for name, parameter in space.parameters.items() if parameter.ordered]
    return ArchitectureGPSampler(config, seed=seed, ordered=ordered)
