"""What a Gaussian process could reach on the synthetic tables if it knew how they were made: two samplers.

The scores of a synthetic table are drawn from a normal distribution whose covariance follows from `tables.synthetic`.
Here a process has exactly this covariance, asks about every architecture, and proposes the one of the highest expected
improvement after three random ones. `linked` sees the score itself rather than the accuracy, which is a bent score.
No choice of kernel, range or noise can be expected to do better, so its regret is what a sampler may be measured by.

    python benchmarks/compare.py regret --table synthetic --samplers benchmarks/known_covariance.py:known
"""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
from numpy.typing import NDArray
from optuna.distributions import CategoricalDistribution
from optuna.samplers import BaseSampler, RandomSampler
from optuna.study import Study
from optuna.trial import FrozenTrial

from nas_optuna.samplers.gaussian_process import expected_improvement
from nas_optuna.spaces import SearchSpace

LAYERS, CHOICES = 4, 4
START, NOISE = 3, 1e-2
Array = NDArray[np.float64]


def walk(axes: int) -> Array:
    """Covariance of a centred random walk over the widths of one layer or of two: what `smooth` draws there."""
    steps = np.minimum.outer(np.arange(1.0, CHOICES + 1), np.arange(1.0, CHOICES + 1))
    covariance = 0.7**2 * (steps if axes == 1 else np.kron(steps, steps))
    centring = np.eye(len(covariance)) - 1 / len(covariance)
    return centring @ covariance @ centring


ONE, TWO = walk(1), walk(2)


def covariance(a: NDArray[np.int64], b: NDArray[np.int64]) -> Array:
    """Covariance of the scores of architectures, ``[a, b]``; the variances are those of `tables.synthetic`."""
    result = np.zeros(np.broadcast_shapes(a.shape[:-1], b.shape[:-1]))
    for layer in range(LAYERS):
        operation, width = 2 * layer, 2 * layer + 1
        same = a[..., operation] == b[..., operation]
        result += 0.7**2 * same + ONE[a[..., width], b[..., width]]
        result += 0.7**2 * (same & (a[..., width] == b[..., width]))
        if layer:
            result += 1.2**2 * (same & (a[..., operation - 2] == b[..., operation - 2]))
            pairs = (CHOICES * x[..., width - 2] + x[..., width] for x in (a, b))
            result += TWO[tuple(pairs)]
    return result


class KnownCovarianceSampler(BaseSampler):
    """Bayesian optimisation with the true covariance, over all architectures.

    Args:
        space: The synthetic table.
        seed: Of the first architectures.
        linked: Whether it sees scores instead of accuracies.
    """

    def __init__(self, space: SearchSpace, seed: int, linked: bool) -> None:
        self._choices = {name: p.choices for name, p in space.parameters.items()}
        self._tokens = np.array(list(itertools.product(range(CHOICES), repeat=2 * LAYERS)))
        self._start = np.random.default_rng(seed).choice(len(self._tokens), START, replace=False).tolist()
        self._variances = covariance(self._tokens, self._tokens)
        self._random = RandomSampler(seed)
        self._linked = linked
        self._asked: list[int] = []

    def infer_relative_search_space(self, study: Study, trial: FrozenTrial) -> dict[str, Any]:
        """The table's."""
        return {name: CategoricalDistribution(choices) for name, choices in self._choices.items()}

    def sample_relative(self, study: Study, trial: FrozenTrial, search_space: dict[str, Any]) -> dict[str, Any]:
        """The next architecture; the trials of one process, one after another."""
        values = np.array([t.value for t in study.get_trials(deepcopy=False) if t.value is not None])
        self._asked.append(self._start.pop() if self._start else self._best(values))
        row = self._tokens[self._asked[-1]]
        return {name: choices[i] for (name, choices), i in zip(self._choices.items(), row, strict=True)}

    def _best(self, values: Array) -> int:
        if self._linked:
            values = -np.log(1 / np.clip((values - 0.5) / 0.48, 0.005, 0.995) - 1)
        scale, points = self._variances.mean(), self._tokens[self._asked]
        known = (values - values.mean()) / values.std()
        own = covariance(points[:, None], points) / scale + NOISE * np.eye(len(points))
        whiten = np.linalg.inv(np.linalg.cholesky(own))
        cross = whiten @ (covariance(points[:, None], self._tokens) / scale)
        whitened = whiten @ known
        variance = float(whitened @ whitened) / len(points)
        deviation = np.sqrt(variance * np.maximum(self._variances / scale - (cross**2).sum(0), 1e-12))
        improvement = expected_improvement(whitened @ cross, deviation, known.max())
        improvement[self._asked] = -1
        return int(improvement.argmax())

    def sample_independent(self, study: Study, trial: FrozenTrial, name: str, distribution: Any) -> Any:
        """Nothing is left to it in such a table."""
        return self._random.sample_independent(study, trial, name, distribution)


def known(space: SearchSpace, seed: int) -> BaseSampler:
    """It sees accuracies."""
    return KnownCovarianceSampler(space, seed, linked=False)


def linked(space: SearchSpace, seed: int) -> BaseSampler:
    """It sees scores."""
    return KnownCovarianceSampler(space, seed, linked=True)
