"""What a Gaussian process could reach on the synthetic tables if it knew how they were made.

The scores of a synthetic table are drawn from a normal distribution whose covariance follows from `tabular.synthetic`.
Here a process has exactly this covariance, asks about every architecture, and proposes the one of the highest expected
improvement after three random ones. `--link` gives it the score itself rather than the accuracy, which is a bent score.
No choice of kernel, range or noise can be expected to do better, so its regret is what a sampler may be measured by.

    python benchmarks/known_covariance.py --seeds 20
"""

from __future__ import annotations

import argparse
import itertools

import numpy as np
from numpy.typing import NDArray
from tabular import synthetic

from nas_optuna.samplers.gaussian_process import expected_improvement

LAYERS, CHOICES = 4, 4
START, NOISE = 3, 1e-2
BUDGETS = (10, 25)
Array = NDArray[np.float64]


def walk(axes: int) -> Array:
    """Covariance of a centred random walk over the widths of one layer or of two: what `smooth` draws there."""
    steps = np.minimum.outer(np.arange(1.0, CHOICES + 1), np.arange(1.0, CHOICES + 1))
    covariance = 0.7**2 * (steps if axes == 1 else np.kron(steps, steps))
    centring = np.eye(len(covariance)) - 1 / len(covariance)
    return centring @ covariance @ centring


ONE, TWO = walk(1), walk(2)


def covariance(a: NDArray[np.int64], b: NDArray[np.int64]) -> Array:
    """Covariance of the scores of architectures, ``[a, b]``; the variances are those of `tabular.synthetic`."""
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


def search(values: Array, tokens: NDArray[np.int64], rng: np.random.Generator, trials: int) -> list[int]:
    """Which architectures are asked about, in order."""
    variances = covariance(tokens, tokens)
    scale = variances.mean()
    seen: list[int] = rng.choice(len(tokens), START, replace=False).tolist()
    while len(seen) < trials:
        known = (values[seen] - values[seen].mean()) / values[seen].std()
        points = tokens[seen]
        own = covariance(points[:, None], points) / scale + NOISE * np.eye(len(seen))
        whiten = np.linalg.inv(np.linalg.cholesky(own))
        cross = whiten @ (covariance(points[:, None], tokens) / scale)
        whitened = whiten @ known
        variance = float(whitened @ whitened) / len(seen)
        deviation = np.sqrt(variance * np.maximum(variances / scale - (cross**2).sum(0), 1e-12))
        improvement = expected_improvement(whitened @ cross, deviation, known.max())
        improvement[seen] = -1
        seen.append(int(improvement.argmax()))
    return seen


def main() -> None:
    """Print the regret of each table in percentage points, mean and standard error over seeds."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=20)
    parser.add_argument("--link", action="store_true", help="let the process see scores instead of accuracies")
    options = parser.parse_args()
    tokens = np.array(list(itertools.product(range(CHOICES), repeat=2 * LAYERS)))
    for name, seed in (("synthetic", 0), ("held-out", 1)):
        final = synthetic(seed).final.ravel().astype(float)
        share = np.clip((final - 0.5) / 0.48, 0.005, 0.995)
        values = -np.log(1 / share - 1) if options.link else final
        asked = [search(values, tokens, np.random.default_rng(seed), max(BUDGETS)) for seed in range(options.seeds)]
        regrets = 100 * (final.max() - np.maximum.accumulate(final[np.array(asked)], axis=1))
        figures = [
            f"{regrets[:, n - 1].mean():.2f} ± {regrets[:, n - 1].std(ddof=1) / len(regrets) ** 0.5:.2f} after {n}"
            for n in BUDGETS
        ]
        print(f"{name}: {', '.join(figures)}", flush=True)


if __name__ == "__main__":
    main()
