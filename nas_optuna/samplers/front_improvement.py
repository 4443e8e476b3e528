"""Expected improvement of one value, or of the hypervolume where other objectives are functions of the architecture.

Costs (multiply-accumulates, latency) are known before a training or are learned after a few, so that only the trained
value is uncertain. At each bound on the costs a network that is inside improves on the best value inside; the mean of
that over the bounds is the expected hypervolume improvement (Emmerich et al. 2006), without its usual recursion.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import cached_property, partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nas_optuna.samplers.gaussian_process import Array, GaussianProcess, expected_improvement
from nas_optuna.samplers.history import Tokens

BOUNDS = 32
"""Bounds on the costs over which improvement is averaged."""

MARGIN = 0.1
"""Bounds begin below the cheapest network by so much of the range of costs."""

Improvement = Callable[[Array, Array], Array]
"""From means and standard deviations of the final values of certain architectures to what they are worth."""
Space = tuple[Sequence[int], Sequence[bool], Sequence[int]]
"""Choices of each parameter, which parameters are ordered, and groups of those that mean the same in other layers."""


class Target:
    """What is to be improved: the best value, or the front of values and costs.

    Args:
        tokens: The architectures whose training has ended.
        finals: ``[architectures]``: their values, the higher the better.
        costs: Other objectives of each, the lower the better; empty where there are none.
        space: Choices of each parameter, which are ordered, and groups, as of `GaussianProcess`.
        known: ``[architectures, numbers]``: what is known of each before it is trained, standardised.
    """

    def __init__(
        self,
        tokens: Sequence[Tokens],
        finals: Sequence[float],
        costs: Sequence[tuple[float, ...]],
        space: Space,
        known: Array,
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
        """What certain architectures would improve, as a function of what is expected of them."""
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
    """Bounds on costs, ``[bounds, costs]``, and their shares of the volume; between positive costs by equal ratios."""
    low, high = table.min(0), table.max(0)
    shares = np.linspace(-MARGIN, 1, BOUNDS + 1)[:, None]
    edges = low * (high / low) ** shares if (low > 0).all() else low + (high - low) * shares
    rng = np.random.default_rng(0)
    # Several costs' bounds are paired at random.
    order = np.stack([rng.permutation(BOUNDS) for _ in low], 1)
    volumes = np.take_along_axis(np.diff(edges, axis=0), order, 0).prod(1)
    upper = edges[1:].copy()
    upper[-1] = np.inf  # dearer networks than any that is known may still be better
    return np.take_along_axis(upper, order, 0), volumes / max(float(volumes.sum()), 1e-300)


class _Cost:
    """One cost, learned from the networks that have it; a positive one by its logarithm."""

    def __init__(self, space: Space, points: NDArray[Any], costs: Array, known: Array) -> None:
        self._space, self._points, self._known = space, points, known
        self._is_log = bool((costs > 0).all())
        values = np.log(costs) if self._is_log else costs
        self._centre, self._scale = float(values.mean()), float(values.std()) + 1e-12
        self._values = (values - self._centre) / self._scale

    def predict(self, points: NDArray[Any], known: Array | None) -> Array:
        """The cost of each architecture; with nothing known of them beforehand, from their choices alone."""
        process, numbers = (self._process, [known]) if known is not None and known.shape[1] else (self._rough, [])
        values = self._centre + self._scale * process.predict(points, numbers)[0]
        found: Array = np.exp(values) if self._is_log else values
        return found

    @cached_property
    def _process(self) -> GaussianProcess:
        sizes, ordered, groups = self._space
        return GaussianProcess(sizes, ordered, self._points, self._values, groups, numbers=[self._known])

    @cached_property
    def _rough(self) -> GaussianProcess:
        sizes, ordered, groups = self._space
        return GaussianProcess(sizes, ordered, self._points, self._values, groups)
