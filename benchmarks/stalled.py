"""When ``run --until stalled`` ends a search, against two oracles that know what the search cannot.

Each search goes on to `TRIALS` trials, and `reason_to_stop` is asked after each of them; the trial at which it first
answers is where the search would have ended. One oracle knows the table, and ends when the best is within `CLOSE`
points of the table's best. The other knows the search, and ends at its last improvement of more than `MATTERS` points.
Medians over seeds, the quartiles in brackets; "lost" is what the search would still have found, in points; the ratios
are those of the medians, to the first oracle and to the second.

    python benchmarks/stalled.py --seeds 20
"""

from __future__ import annotations

import argparse
import json
import statistics
import warnings

import numpy as np
import optuna
from tabular import TABLES, Table

from nas_optuna.execution.stopping import parse_until, reason_to_stop
from nas_optuna.samplers import create_sampler

TRIALS = 100
CLOSE = 0.3
MATTERS = 0.1


def search(table: Table, sampler: str, seed: int, until: str) -> dict[str, float]:
    """Where one search would have ended, and where the oracles would have ended it."""
    study = optuna.create_study(direction="maximize", sampler=create_sampler(sampler, table, seed, {}))
    best, ending, regrets = float(table.final.max()), TRIALS, []
    condition = parse_until(until, ["accuracy"])
    for number in range(1, TRIALS + 1):
        trial = study.ask()
        value = float(table.final[table.suggest(trial)])
        study.tell(trial, value)
        regrets.append(min(100 * (best - value), regrets[-1] if regrets else 100.0))
        if ending == TRIALS and reason_to_stop(study, ["accuracy"], [condition]):
            ending = number
    close = next((n for n, regret in enumerate(regrets, start=1) if regret <= CLOSE + 1e-6), TRIALS)
    final = next(n for n, regret in enumerate(regrets, start=1) if regret <= regrets[-1] + MATTERS)
    lost = regrets[ending - 1] - regrets[-1]
    return {"ends": ending, "regret": regrets[ending - 1], "lost": lost, "close": close, "final": final}


def cell(values: list[float], digits: int) -> str:
    low, middle, high = np.quantile(values, (0.25, 0.5, 0.75))
    return f"{middle:.{digits}f} ({low:.{digits}f} to {high:.{digits}f})"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tables", nargs="+", choices=list(TABLES), default=["digits", "synthetic", "nas-bench-macro"])
    parser.add_argument("--samplers", nargs="+", default=["arch", "tpe"])
    parser.add_argument("--until", default="stalled")
    parser.add_argument("--seeds", type=int, default=20)
    parser.add_argument("--json", action="store_true", help="print each search as a line of JSON instead of the table")
    options = parser.parse_args()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    warnings.simplefilter("ignore")
    if not options.json:
        oracles = f"within {CLOSE} points at | last improvement"
        print(f"| table, sampler | ends at trial | regret there | lost | {oracles} | ratios |\n|{'---|' * 7}")
    for name in options.tables:
        table = TABLES[name]()
        for sampler in options.samplers:
            runs = []
            for seed in range(options.seeds):
                runs.append(search(table, sampler, seed, options.until))
                if options.json:
                    print(json.dumps({"table": name, "sampler": sampler, "seed": seed, **runs[-1]}), flush=True)
            if options.json:
                continue
            columns = {key: [run[key] for run in runs] for key in runs[0]}
            figures = (cell(values, 2 if key in ("regret", "lost") else 0) for key, values in columns.items())
            end = statistics.median(columns["ends"])
            ratios = ", ".join(f"{end / statistics.median(columns[oracle]):.2f}" for oracle in ("close", "final"))
            print(f"| {name}, {sampler} | {' | '.join(figures)} | {ratios} |", flush=True)


if __name__ == "__main__":
    main()
