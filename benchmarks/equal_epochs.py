"""How good a search is after equal numbers of epochs, on tables of learning curves.

Regret is the final accuracy of the table's best network minus that of the best network that was trained to the end, in
percentage points, after so many full-training equivalents (FTE): the epochs of so many whole trainings, spent in any
way. Samplers and pruners are those that the package ships, and ask and tell a study of Optuna in memory. The ratio is
that of the mean regret to the mean regret of random search over whole trainings.

``hyperband`` is random search with Optuna's pruner of that name. ``one-epoch`` trains random networks for one epoch for
half of the budget, and the three best of them to the end; each budget is a search of its own.

    python benchmarks/equal_epochs.py --table FILE.npz --seeds 12 --budgets 5,10,20,40 --json OUT
"""

from __future__ import annotations

import argparse
import json
import statistics
import warnings
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path

import numpy as np
import optuna
from tables import CurveTable, Replay, misleading

from nas_optuna.pruners import create_pruner
from nas_optuna.samplers import create_sampler
from nas_optuna.samplers.among import AmongSampler

METHODS = {
    "random": ("random", "none"),
    "tpe": ("tpe", "none"),
    "hyperband": ("random", "hyperband"),
    "arch": ("arch", "none"),
    "curves": ("curves", "curves"),
}
"""Sampler and pruner of each row; any other sampler is one of the package without a pruner."""


def search(table: CurveTable, method: str, seed: int, budgets: list[int]) -> list[float]:
    """The regret after each budget."""
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    warnings.simplefilter("ignore")
    if method == "one-epoch":
        return [one_epoch(table, seed, budget) for budget in budgets]
    sampler, pruner = METHODS.get(method, (method, "none"))
    study = optuna.create_study(
        direction="maximize",
        sampler=AmongSampler(create_sampler(sampler, table, seed, {}), table, table.listed, seed),
        pruner=create_pruner(pruner, table.epochs, {}),
    )
    replay = Replay(table, study)
    trials = 0
    # A repeat spends nothing, so a search that has tried every network must end by the number of trials.
    while replay.spent < max(budgets) * table.epochs and trials < 20 * len(table.curves):
        replay.run_trial()
        trials += 1
    return [replay.regret(budget) for budget in budgets]


def one_epoch(table: CurveTable, seed: int, budget: int) -> float:
    """Train random networks for an epoch, and the best of them to the end."""
    rng = np.random.default_rng(seed)
    ends = max(1, min(3, budget // 2))
    looks = min(len(table.curves), max(1, (budget - ends) * table.epochs))
    drawn = rng.permutation(len(table.curves))[:looks]
    best = drawn[np.argsort(-table.curves[drawn, 0], kind="stable")[:ends]]
    return 100 * float(table.curves[:, -1].max() - table.curves[best, -1].max())


def measure(
    table: CurveTable, methods: list[str], seeds: int, budgets: list[int], processes: int
) -> dict[str, list[list[float]]]:
    """The regrets of each method: of each seed, after each budget."""
    with ProcessPoolExecutor(processes) as pool:
        found = {m: pool.map(partial(search, table, m, budgets=budgets), range(seeds)) for m in methods}
        return {method: list(runs) for method, runs in found.items()}


def summarise(runs: dict[str, list[list[float]]], budgets: list[int]) -> dict[str, dict[str, dict[str, float]]]:
    """Mean, standard error and ratio to random search of each method at each budget."""
    result: dict[str, dict[str, dict[str, float]]] = {}
    for method, regrets in runs.items():
        result[method] = {}
        for i, budget in enumerate(budgets):
            values = [run[i] for run in regrets]
            error = statistics.stdev(values) / len(values) ** 0.5 if len(values) > 1 else 0.0
            figures = {"mean": statistics.fmean(values), "se": error}
            if "random" in runs:
                base = statistics.fmean(run[i] for run in runs["random"])
                figures["ratio"] = figures["mean"] / base if base else 1.0
            result[method][str(budget)] = figures
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--table", required=True, help="file of learning curves, see tables.py; or: misleading")
    parser.add_argument("--seeds", type=int, default=12)
    parser.add_argument("--samplers", default="random,tpe,hyperband,one-epoch,arch,curves")
    parser.add_argument("--budgets", default="5,10,20,40", help="full-training equivalents")
    parser.add_argument("--json", type=Path, help="write the figures to this file")
    parser.add_argument("--processes", type=int, default=2)
    options = parser.parse_args()
    table = misleading() if options.table == "misleading" else CurveTable.read(Path(options.table))
    budgets = [int(budget) for budget in options.budgets.split(",")]
    runs = measure(table, options.samplers.split(","), options.seeds, budgets, options.processes)
    result = summarise(runs, budgets)
    if options.json:
        options.json.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    print(f"{table.name}: {len(table.curves)} networks of {table.epochs} epochs, {options.seeds} seeds")
    print(f"{'regret in points (ratio)':26}" + "".join(f"{f'{budget} FTE':>22}" for budget in budgets))
    for method, row in result.items():
        cells = [f"{f['mean']:.2f} ± {f['se']:.2f} ({f.get('ratio', float('nan')):.2f})" for f in row.values()]
        print(f"{method:26}" + "".join(f"{cell:>22}" for cell in cells))


if __name__ == "__main__":
    main()
