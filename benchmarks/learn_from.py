"""What an earlier study is worth: regret with a related one, with a contrary one, and without any.

The related study searched the same space by the accuracy after the first epoch, as a shorter recipe would give it. The
contrary one searched for the worst network, which is as misleading as a study can be. Each had 60 trials of TPE. The
new study begins with the earlier one's best, as ``nas-optuna run --learn-from`` does.

    python benchmarks/learn_from.py --seeds 20 --json
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable

import numpy as np
import optuna
from numpy.typing import NDArray
from tabular import TABLES, Table

from nas_optuna.cli.run import BEGIN_WITH
from nas_optuna.samplers import create_sampler
from nas_optuna.samplers.earlier import best_of, remember

BUDGETS = (5, 10, 25, 40)
EARLIER_TRIALS = 60
WORTH: dict[str, Callable[[Table], NDArray]] = {
    "related": lambda table: table.accuracy[..., 0].mean(-1),
    "contrary": lambda table: -table.final,
}


def searched(table: Table, worth: NDArray, sampler: str, seed: int, trials: int, other: optuna.Study | None) -> list:
    """The worth of each trial of one search, and the study."""
    study = optuna.create_study(direction="maximize", sampler=create_sampler(sampler, table, seed, {}))
    if other is not None:
        remember(study, other, table.parameters)
        for params in best_of(study, {name: p.choices for name, p in table.parameters.items()}, BEGIN_WITH):
            study.enqueue_trial(params)
    study.optimize(lambda trial: float(worth[table.suggest(trial)]), n_trials=trials)
    return [study, [trial.value for trial in study.trials]]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tables", nargs="+", choices=list(TABLES), default=["digits", "synthetic"])
    parser.add_argument("--samplers", nargs="+", default=["arch", "evolution"])
    parser.add_argument("--seeds", type=int, default=20)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    rows = []
    for name in options.tables:
        table = TABLES[name]()
        final = table.final
        earlier = {
            kind: searched(table, worth(table), "tpe", 1000, EARLIER_TRIALS, None)[0] for kind, worth in WORTH.items()
        }
        for sampler in options.samplers:
            for kind in ("none", *WORTH):
                curves = [
                    final.max()
                    - np.maximum.accumulate(searched(table, final, sampler, seed, max(BUDGETS), earlier.get(kind))[1])
                    for seed in range(options.seeds)
                ]
                regrets = {n: [100 * float(curve[n - 1]) for curve in curves] for n in BUDGETS}
                rows.append({"table": name, "sampler": sampler, "earlier": kind, "regret": regrets})
    if options.json:
        print(json.dumps(rows))
        return
    print(f"mean regret in percentage points ± standard error, {options.seeds} seeds, after", *BUDGETS, "trials")
    for row in rows:
        cells = [f"{np.mean(r):5.2f} ± {np.std(r, ddof=1) / len(r) ** 0.5:.2f}" for r in row["regret"].values()]
        print(f"{row['table']:10s} {row['sampler']:10s} {row['earlier']:9s}", "   ".join(cells))


if __name__ == "__main__":
    main()
