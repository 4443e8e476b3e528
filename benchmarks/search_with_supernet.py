"""Does a supernet pay in a search? Regret on the digits table, at equal trials and at equal total seconds.

Regret is the accuracy of the table's best architecture minus that of the best found, in percentage points, mean and
standard error over seeds. ``+ supernet`` begins with the best by the supernet's score and goes on with the sampler,
which uses the score.
``largest first`` trains architectures in the order of their MACs, the largest first: what knows size alone.

A supernet costs as much as a number of stand-alone trainings, which is measured in turns with its own epochs. The rows
"at equal seconds" give every method without a supernet that many trainings more.

    python benchmarks/search_with_supernet.py --seeds 10 --supernets 5
"""

from __future__ import annotations

import argparse
import statistics

import numpy as np
import optuna
import torch
from replay import Replay
from supernet_ranking import Trained, of_table, train
from tables import Table, open_table

from nas_optuna.cli import set_defaults
from nas_optuna.samplers import create_sampler
from nas_optuna.samplers.prior import AS_LEARNED, SupernetSampler, WarmStartSampler
from nas_optuna.spec import SupernetSpec
from nas_optuna.study.supernet_result import SupernetResult, write_result

BUDGETS = (1, 5, 10, 25)
WITHOUT, WITH = ("random", "tpe", "gp", "arch"), ("tpe", "evolution", "arch")
WARM_TRIALS = 5


def search(table: Table, name: str, seed: int, trials: int, trained: Trained | None = None) -> list[float]:
    """The regret after each trial of one search; without a supernet where there is none."""
    sampler = create_sampler(name, table, seed, {})  # type: ignore[arg-type]
    study = optuna.create_study(direction="maximize", sampler=sampler)
    if trained is not None:
        found = trained.found
        write_result(study, SupernetResult(found.alphas, starts=found.starts, predictor=found.predictor))
        warm = SupernetSampler(table, seed, AS_LEARNED)  # type: ignore[arg-type]
        study.sampler = WarmStartSampler(sampler, warm, trials=WARM_TRIALS)
    replay = Replay(table, study)
    values = [float(replay.run_trial().value or 0) for _ in range(trials)]
    return (100 * (table.best - np.maximum.accumulate(values))).tolist()


def size_first(table: Table) -> list[float]:
    """The regret of training the largest architectures first."""
    final = table.final[np.argsort(table.macs)[::-1]]
    return (100 * (float(final.max()) - np.maximum.accumulate(final))).tolist()


def row(name: str, regrets: list[list[float]], more: int = 0) -> str:
    """Mean and standard error over searches after each budget."""
    cells = []
    for budget in BUDGETS:
        values = [curve[budget + more - 1] for curve in regrets]
        error = statistics.stdev(values) / len(values) ** 0.5 if len(values) > 1 else 0.0
        cells.append(f"{statistics.fmean(values):5.2f} ± {error:.2f}")
    return f"{name:26} {' '.join(cells)}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--supernets", type=int, default=5, help="seeds of a search take turns with them")
    parser.add_argument("--without-weights", action="store_true", help="a budget of 0: sizes and short trainings")
    options = parser.parse_args()
    set_defaults("supernet")
    torch.set_num_threads(1)
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    table, truth = open_table("digits"), of_table()
    settings = {"budget": 0} if options.without_weights else {}
    trained = [train(truth.search, SupernetSpec(seed=seed, **settings)) for seed in range(options.supernets)]
    costs = [(t.training_seconds + t.choosing_seconds) / t.alone_seconds for t in trained]
    cost = round(statistics.fmean(costs))
    print(f"a supernet costs {cost} stand-alone trainings ({min(costs):.1f} … {max(costs):.1f})")
    seeds = range(options.seeds)
    longest = max(BUDGETS)
    without = {n: [search(table, n, seed, longest + cost) for seed in seeds] for n in WITHOUT}
    supported = {n: [search(table, n, seed, longest, trained[seed % len(trained)]) for seed in seeds] for n in WITH}
    print(f"{'regret after … trainings':26} {' '.join(f'{budget:12}' for budget in BUDGETS)}")
    print("at equal trials")
    print(row("largest first", [size_first(table)]))
    for name, regrets in without.items():
        print(row(name, regrets), flush=True)
    for name, regrets in supported.items():
        print(row(f"{name} + supernet", regrets))
    print(f"at equal seconds: those without a supernet have trained {cost} more")
    print(row("largest first", [size_first(table)], cost))
    for name, regrets in without.items():
        print(row(name, regrets, cost))


if __name__ == "__main__":
    main()
