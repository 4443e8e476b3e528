"""Samplers in a long space: 20 layers of 24 kinds each (24^20), made up, with interactions between neighbours.

A layer has filters (4, ordered), a kernel (3, ordered) and a stride (2). Its worth, and that of each two neighbouring
layers, is drawn at random and smooth in what is ordered. Dynamic programming finds the best chain exactly, so that
regret is exact: in standard deviations of random chains below the best, mean over seeds ± standard error.

    python benchmarks/long_chain.py --seeds 5
"""

from __future__ import annotations

import argparse
import statistics
import time
import warnings
from dataclasses import dataclass

import numpy as np
import optuna
from numpy.typing import NDArray

from nas_optuna.samplers import create_sampler
from nas_optuna.spaces.conv import ConvSpace

SAMPLERS = ("random", "tpe", "evolution", "arch")
BUDGETS = (50, 100, 200)
SHAPE = (4, 3, 2)
KINDS = 24


@dataclass(frozen=True)
class Chain:
    """A space of `ConvSpace`'s parameters with a worth for each chain.

    Attributes:
        space: The space.
        single: ``[layers, kinds]``.
        pairs: ``[layers - 1, kinds, kinds]``.
    """

    space: ConvSpace
    single: NDArray[np.float64]
    pairs: NDArray[np.float64]

    @classmethod
    def drawn(cls, seed: int, layers: int = 20) -> Chain:
        """Draw a table; half of the variance is of single layers, half of pairs."""
        rng = np.random.default_rng(seed)
        single = np.stack([_smooth(rng, 1).reshape(KINDS) for _ in range(layers)])
        pairs = np.stack([_smooth(rng, 2).reshape(KINDS, KINDS) for _ in range(layers - 1)])
        return cls(ConvSpace(depth=layers, input_size=8), single, pairs)

    def worth(self, kinds: NDArray[np.int64]) -> NDArray[np.float64]:
        """``[chains, layers]`` kinds → ``[chains]``."""
        layers = np.arange(self.single.shape[0])
        single = self.single[layers, kinds].sum(1)
        result: NDArray[np.float64] = single + self.pairs[layers[:-1], kinds[:, :-1], kinds[:, 1:]].sum(1)
        return result

    def best(self) -> float:
        """The worth of the best chain, by dynamic programming."""
        so_far = self.single[0]
        for single, pair in zip(self.single[1:], self.pairs, strict=True):
            so_far = (so_far[:, None] + pair).max(0) + single
        return float(so_far.max())

    def suggest(self, trial: optuna.Trial) -> float:
        """Let a trial choose a chain; gives its worth."""
        tokens = np.array(self.space.tokens(self.space.suggest(trial))).reshape(-1, len(SHAPE))
        kinds = np.ravel_multi_index(tuple(tokens.T), SHAPE)
        return float(self.worth(kinds[None])[0])


def _smooth(rng: np.random.Generator, layers: int) -> NDArray[np.float64]:
    """Random worths over the kinds of some layers, of mean 0 and variance 1; random walks along filters and kernels."""
    steps = rng.normal(size=SHAPE * layers)
    for axis in range(steps.ndim):
        if axis % len(SHAPE) < 2:
            steps = np.cumsum(steps, axis)
    centred = steps - steps.mean()
    result: NDArray[np.float64] = centred / centred.std()
    return result


def regrets(chain: Chain, sampler: str, seed: int, trials: int) -> tuple[list[float], float]:
    """The regret after each trial, and milliseconds of a proposal in the median."""
    study = optuna.create_study(direction="maximize", sampler=create_sampler(sampler, chain.space, seed, {}))
    kinds = np.random.default_rng(0).integers(0, KINDS, (2000, chain.single.shape[0]))
    scale, values, times = float(chain.worth(kinds).std()), [], []
    for _ in range(trials):
        started = time.perf_counter()
        trial = study.ask()
        value = chain.suggest(trial)
        times.append(time.perf_counter() - started)
        study.tell(trial, value)
        values.append(value)
    return ((chain.best() - np.maximum.accumulate(values)) / scale).tolist(), 1000 * statistics.median(times)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--samplers", nargs="+", default=list(SAMPLERS))
    options = parser.parse_args()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    warnings.simplefilter("ignore")
    print(f"{'regret after … trials':24} {' '.join(f'{b:>14}' for b in BUDGETS)}   ms a proposal")
    for sampler in options.samplers:
        runs = [regrets(Chain.drawn(seed), sampler, seed, max(BUDGETS)) for seed in range(options.seeds)]
        cells = []
        for budget in BUDGETS:
            values = [curve[budget - 1] for curve, _ in runs]
            error = statistics.stdev(values) / len(values) ** 0.5 if len(values) > 1 else 0.0
            cells.append(f"{statistics.fmean(values):6.2f} ± {error:5.2f}")
        milliseconds = statistics.median(ms for _, ms in runs)
        print(f"{sampler:24} {' '.join(cells)}   {milliseconds:6.1f}", flush=True)


if __name__ == "__main__":
    main()
