"""A model that predicts final values of architectures from the learning curves of all trials.

A search pays for epochs. In some spaces the early epochs of a training tell most of its outcome; in others they
mislead. The model compares trainings at a few epochs, the rungs, and learns how well a rung predicts the next one:

    value at the next rung  =  ρ · value at this rung  +  β · sizes  +  a Gaussian process over architectures  +  noise

This is recursive co-kriging (Le Gratiet and Garnier, "Recursive co-kriging model for design of computer experiments
with multiple levels of fidelity", 2014). A training that reached a rung reached all below it, so each rung has its own
process, and an untried architecture is predicted from rung to rung. The variances of ρ and β are chosen by marginal
likelihood. If early epochs tell nothing, ρ is 0, and the last rung is the plain Gaussian process of ``arch``. ρ is also
0 if a rung does not rank trainings as the next one does: one network that never learns is last at both rungs, and would
make ρ large even though all other curves cross.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
from numpy.polynomial.hermite_e import hermegauss
from numpy.typing import NDArray

from nas_optuna.samplers.gaussian_process import Array, GaussianProcess, Space, expected_improvement
from nas_optuna.samplers.history import Tokens, best_and_latest

RUNGS = (0.1, 0.3, 0.6)
"""Trainings are compared after these shares of their epochs, and at the end."""

ENDED_SHARE = 0.4
"""Partial trainings may mislead: none is planned while whole ones took less than this share of all epochs."""

MIN_AT_RUNG, MIN_COMPLETE = 4, 2
"""Trainings that must have reached a rung, or the end, before it has a process."""

MIN_RANKED = 5
"""The order of fewer trainings than this is no evidence against early epochs."""

MAX_POINTS = 150
"""The most trainings to which a process is fitted: of a rung the best half and the latest half, of a cost its range."""

BOUNDS = 32
"""Number of bounds on the costs over which the improvement is averaged."""

MARGIN = 0.1
"""The lowest bound is below the cheapest network by this share of the range of costs."""

Improvement = Callable[[Array, Array], Array]
"""From means and standard deviations of certain architectures' final values to their expected improvement."""

NODES, _weights = hermegauss(15)
NODES, WEIGHTS = NODES[::-1], _weights[::-1] / _weights.sum()


@dataclass
class Curve:
    """One architecture's training, over all trials that trained it."""

    values: dict[int, float] = field(default_factory=dict)  # epoch → value, the higher the better
    final: float | None = None  # the value of the whole training; None if it has not ended
    costs: tuple[float, ...] = ()  # the other objectives of a whole training, the lower the better
    number: int = -1  # the latest trial
    running: bool = False  # whether a trial trains it now
    resumable: bool = False  # see `samplers.curves.is_paused`
    kept: int = 0  # epochs that need not be trained again; 0 if its weights are gone

    @property
    def last(self) -> int:
        """The last epoch that was reported; 0 before the first."""
        return max(self.values, default=0)


@dataclass(frozen=True)
class Forecast:
    """The predicted final values of architectures."""

    mean: Array  # ``[architectures]``
    deviation: Array  # the standard deviations, without the noise of the training
    later: list[Array]  # for each rung ahead, the standard deviations that remain once its value is known
    improvement: Improvement


@dataclass(frozen=True)
class _Level:
    """One rung."""

    step: int  # the epoch
    process: GaussianProcess  # over the standardised values at that epoch
    centre: float  # their mean
    scale: float  # their standard deviation


class CurveModel:
    """Predicts final values from the curves of a study."""

    may_look: bool  # whether whole trainings took enough of the epochs that partial ones may be planned

    def __init__(
        self,
        curves: Mapping[Tokens, Curve],
        epochs: int,  # of a whole training
        space: Space,
        known_of: Callable[[Sequence[Tokens]], Array],  # what is known before training, [architectures, numbers]
        images: int | None = None,  # on which accuracies were measured, from which the least noise of a value follows
    ) -> None:
        self.epochs = epochs
        self._images = images
        self._space = space
        self._known_of = known_of
        names = list(curves)
        known = known_of(names)
        self._typical, self._spread = known.mean(0), known.std(0) + 1e-9
        standardised = self._standardised(known)
        self._levels: list[_Level] = []
        tokens, found = np.array(names), list(curves.values())
        for step in rungs(epochs):
            values = np.array([value_at(curve, step, epochs) for curve in found])
            # Who told an end without its epochs cannot say what they are worth.
            below = self._levels[-1].step if self._levels else None
            told = np.array([below is None or below in curve.values for curve in found], bool)
            members = np.flatnonzero(np.isfinite(values) & told)
            if len(members) >= (MIN_COMPLETE if step == epochs else MIN_AT_RUNG):
                if len(members) > MAX_POINTS:
                    order = [found[i].number for i in members]
                    members = members[best_and_latest(values[members], MAX_POINTS, order)]
                self._add(step, tokens[members], values[members], standardised[members], [found[i] for i in members])

        ended = [i for i, curve in enumerate(found) if curve.final is not None]
        self.may_look = epochs * len(ended) >= ENDED_SHARE * sum(curve.last for curve in found)
        finals, costs = [found[i].final or 0.0 for i in ended], [found[i].costs for i in ended]
        self._target = Target([names[i] for i in ended], finals, costs, self._space, standardised[ended])

    @property
    def steps(self) -> list[int]:
        """The epochs of the rungs, in order."""
        return [level.step for level in self._levels]

    @property
    def is_complete(self) -> bool:
        """Whether there is a process of final values."""
        return bool(self._levels) and self._levels[-1].step == self.epochs

    def _standardised(self, known: Array) -> Array:
        result: Array = (known - self._typical) / self._spread / max(1, known.shape[1]) ** 0.5
        return result

    def _add(self, step: int, tokens: NDArray[np.int64], values: Array, known: Array, curves: Sequence[Curve]) -> None:
        centre, scale = float(values.mean()), float(values.std()) + 1e-9
        before = np.array([curve.values[self._levels[-1].step] for curve in curves]) if self._levels else None
        numbers = self._numbers(len(self._levels), known, before)
        if before is not None:
            numbers[-1] *= ranks_alike(before, values)
        noise = self._sampling_variance(values) / scale**2
        standardised = (values - centre) / scale
        process = GaussianProcess(self._space, tokens, standardised, numbers=numbers, least_noise=noise)
        self._levels.append(_Level(step, process, centre, scale))

    def _sampling_variance(self, values: Array) -> float:
        """The mean binomial variance of accuracies; 0 if the number of images is unknown."""
        if not self._images or values.min() < 0 or values.max() > 1:
            return 0.0
        return float((values * (1 - values)).mean()) / self._images

    def _numbers(self, place: int, known: Array, values: Array | None) -> list[Array]:
        """The numbers that a rung's process takes: those known, and the values at the rung below."""
        numbers = [known] if known.shape[1] else []
        if place:
            assert values is not None
            below = self._levels[place - 1]
            numbers.append(((values - below.centre) / below.scale)[:, None])
        return numbers

    def rung_of(self, last: int) -> int:
        """How many rungs a training has reached by its last epoch."""
        return sum(step <= last for step in self.steps)

    def forecast(
        self, tokens: Sequence[Tokens], reached: int = 0, values: Array | None = None, *, counted: bool = True
    ) -> Forecast:
        """Predict final values, given those at the last of the rungs reached; what is uncounted has typical numbers."""
        points = np.array(tokens)
        known = self._standardised(self._known_of(tokens)) if counted else np.zeros((len(points), len(self._typical)))
        ahead = self._levels[reached:]
        deviations, slopes = [], []
        for place, level in enumerate(ahead, start=reached):
            numbers = self._numbers(place, known, values)
            slope = 0.0
            if place:
                slope = float(level.process.coefficients(len(numbers) - 1)[0])
                slope *= level.scale / self._levels[place - 1].scale
            mean, deviation = level.process.predict(points, numbers)
            noise = 0.0 if level.step == self.epochs else level.process.noise
            values = level.centre + level.scale * mean
            deviations.append(level.scale * np.sqrt(deviation**2 + noise**2))
            slopes.append(slope)
        assert values is not None
        later: list[Array] = []
        variance, factor = np.zeros(len(points)), 1.0
        for deviation, slope in zip(reversed(deviations), reversed(slopes), strict=True):
            later.append(np.sqrt(variance))
            variance = variance + (factor * deviation) ** 2
            factor *= slope
        improvement = self._target.improvement(tokens, known if counted else None)
        return Forecast(values, np.sqrt(variance), later[::-1], improvement)

    def fantasize(self, tokens: Sequence[Tokens]) -> None:
        """Condition on running trainings as though they had their predicted values at each rung."""
        points, standardised = np.array(tokens), self._standardised(self._known_of(tokens))
        values: Array | None = None
        for place, level in enumerate(self._levels):
            numbers = self._numbers(place, standardised, values)
            values = level.centre + level.scale * level.process.predict(points, numbers)[0]
            level.process.fantasize(points, numbers)


def rungs(epochs: int) -> list[int]:
    """The epochs at which trainings are compared, including the last one.

    Examples:
        >>> rungs(90), rungs(5)
        ([9, 27, 54, 90], [1, 2, 3, 5])
    """
    return sorted({min(epochs, max(1, round(share * epochs))) for share in RUNGS} | {epochs})


def ranks_alike(values: Array, later: Array) -> bool:
    """Whether a rung ranks trainings as the next one does: Spearman's correlation exceeds its error under the null.

    Examples:
        >>> rung = np.array([0.1, 0.30, 0.31, 0.32, 0.33, 0.34])
        >>> crossed = np.array([0.1, 0.9, 0.8, 0.7, 0.6, 0.5])
        >>> ranks_alike(rung, 2 * rung), ranks_alike(rung, crossed)
        (True, False)
    """
    if len(values) < MIN_RANKED:
        return True
    ranks = [np.searchsorted(v := np.sort(x), x, "left") + np.searchsorted(v, x, "right") for x in (values, later)]
    a, b = (rank - rank.mean() for rank in ranks)
    return float(a @ b) >= float(np.sqrt((a @ a) * (b @ b) / (len(values) - 1))) > 0


def rate(forecast: Forecast, epochs: Array | float) -> Array:
    """Expected improvement per epoch if each is trained to the end; ``[architectures]``."""
    return forecast.improvement(forecast.mean, np.maximum(forecast.deviation, 1e-9)) / epochs


def rate_with_a_look(forecast: Forecast, later: Array, look: Array | float, rest: Array | float) -> Array:
    """Expected improvement per expected epoch if each is trained to a rung first, and then to the end or not."""
    # At the rung the mean moves by a normal variable, and the training goes on only above a threshold, namely that of
    # the best ratio (as in the Gittins index of Pandora's box, Weitzman 1979). If the rung tells nothing, this is never
    # more than `rate`.
    moved = np.sqrt(np.maximum(forecast.deviation**2 - later**2, 0.0))
    means = forecast.mean[:, None] + moved[:, None] * NODES
    gains = np.cumsum(WEIGHTS * forecast.improvement(means, np.maximum(later, 1e-9)[:, None]), 1)
    costs = np.reshape(look, (-1, 1)) + np.reshape(rest, (-1, 1)) * np.cumsum(WEIGHTS)
    result: Array = (gains / costs).max(1)
    return result


def value_at(curve: Curve, step: int, epochs: int) -> float:
    """The value at a rung, NaN before it; at the last rung it is the final value."""
    if step == epochs:
        return math.nan if curve.final is None else curve.final
    return curve.values.get(step, math.nan)


class Target:
    """The goal of the search: the best value, or the hypervolume if there are costs as further objectives.

    Costs (multiply-accumulates, latency) are functions of the architecture, known before training or learned from a few
    trainings, so that only the trained value is uncertain. For each bound on the costs, a network inside improves on
    the best value inside; the mean over the bounds is the expected hypervolume improvement (Emmerich et al. 2006),
    without its usual recursion.
    """

    def __init__(
        self,
        tokens: Sequence[Tokens],  # the architectures whose training has ended
        finals: Sequence[float],  # their values, the higher the better
        costs: Sequence[tuple[float, ...]],  # their other objectives, the lower the better; empty if there are none
        space: Space,
        known: Array,  # what is known before training, standardised, [architectures, numbers]
    ) -> None:
        self._best = max(finals, default=-math.inf)
        self._exact = dict(zip(tokens, costs, strict=True))
        table = np.array(costs)
        self._costs: list[_Cost] = []
        if not table.size:
            return
        self._costs = [_Cost(space, np.array(tokens), column, known) for column in table.T]
        self._bounds, self._weights = _bounds(table)
        inside = (table[:, None] <= self._bounds).all(2)
        self._thresholds = np.where(inside, np.array(finals)[:, None], min(finals)).max(0)

    def improvement(self, tokens: Sequence[Tokens], known: Array | None) -> Improvement:
        """The expected improvement of architectures, as a function of their predicted values."""
        if not self._costs:
            return partial(expected_improvement, best=self._best)
        points = np.array(tokens)
        costs = np.stack([cost.predict(points, known) for cost in self._costs], 1)
        for place, one in enumerate(tokens):
            if one in self._exact:
                costs[place] = self._exact[one]
        inside = (costs[:, None] <= self._bounds).all(2).astype(float)

        def gained(mean: Array, deviation: Array) -> Array:
            improved = expected_improvement(mean[..., None], deviation[..., None], self._thresholds)
            result: Array = (improved * (inside if mean.ndim == 1 else inside[:, None])) @ self._weights
            return result

        return gained


def _bounds(table: Array) -> tuple[Array, Array]:
    """Bounds on costs, ``[bounds, costs]``, and their shares of the volume; positive costs are spaced by ratios."""
    low, high = table.min(0), table.max(0)
    shares = np.linspace(-MARGIN, 1, BOUNDS + 1)[:, None]
    edges = low * (high / low) ** shares if (low > 0).all() else low + (high - low) * shares
    # A cost that all networks share bounds nothing, and has no part in the volumes.
    widths = np.where(low == high, 1.0, np.diff(edges, axis=0))
    rng = np.random.default_rng(0)
    # The bounds of several costs are paired at random.
    order = np.stack([rng.permutation(BOUNDS) for _ in low], 1)
    volumes = np.take_along_axis(widths, order, 0).prod(1)
    upper = np.where(low == high, np.inf, edges[1:])
    upper[-1] = np.inf  # more expensive networks than all known ones may be better
    return np.take_along_axis(upper, order, 0), volumes / max(float(volumes.sum()), 1e-300)


class _Cost:
    """One cost, learned from trained networks; the logarithm of it if all are positive."""

    def __init__(self, space: Space, points: NDArray[Any], costs: Array, known: Array) -> None:
        if len(costs) > MAX_POINTS:  # evenly from the cheapest to the dearest
            spread = np.linspace(0, len(costs) - 1, MAX_POINTS).round().astype(int)
            chosen = np.argsort(costs, kind="stable")[spread]
            points, costs, known = points[chosen], costs[chosen], known[chosen]
        self._space, self._points, self._known = space, points, known
        self._is_log = bool((costs > 0).all())
        values = np.log(costs) if self._is_log else costs
        self._centre, self._scale = float(values.mean()), float(values.std()) + 1e-12
        self._values = (values - self._centre) / self._scale
        self._processes: dict[bool, GaussianProcess] = {}

    def predict(self, points: NDArray[Any], known: Array | None) -> Array:
        """The cost of each architecture, from its choices and the numbers known of it."""
        numbers = [known] if known is not None and known.shape[1] else []
        values = self._centre + self._scale * self._process(bool(numbers)).predict(points, numbers)[0]
        found: Array = np.exp(values) if self._is_log else values
        return found

    def _process(self, is_known: bool) -> GaussianProcess:
        if is_known not in self._processes:
            numbers = [self._known] if is_known else []
            self._processes[is_known] = GaussianProcess(self._space, self._points, self._values, numbers=numbers)
        return self._processes[is_known]
