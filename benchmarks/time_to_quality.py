"""How long a search takes until it is good: seconds and trainings until its best is near the table's best.

The seconds are those of the processor for proposals and the pruner's decisions, plus what the table says that the
epochs took which were trained: on `digits` measured, on `synthetic` made up; NAS-Bench-Macro has no times, so 10
million multiply-adds count as a second. A training that was pruned counts as one. An architecture that was trained to
the end before costs nothing, as it does in a study. Only trainings to the end have a best.

A search ends when it has reached the last target, or after `--trials` trials. Runs are kept in `--results` and not done
again. Each cell is the median over seeds, the quartiles in brackets, and the share of the searches that came so far if
that is not all; a search that did not counts as infinitely long.

    python benchmarks/time_to_quality.py --seeds 20 --results time-to-quality.jsonl
"""

from __future__ import annotations

import argparse
import itertools
import json
import math
import time
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import optuna
from optuna.trial import TrialState
from tabular import TABLES, Table

from nas_optuna.pruners import create_pruner
from nas_optuna.samplers import create_sampler

SAMPLERS = ("random", "tpe", "gp", "evolution", "controller", "arch")
PRUNERS = ("none", "guarded")
TARGETS = (1.0, 0.5, 0.3)
"""Percentage points below the best architecture of the table, the easiest first."""
KEYS = ("table", "sampler", "pruner", "seed")


def search(table: Table, sampler: str, pruner: str, seed: int, trials: int) -> list[tuple[float, int] | None]:
    """Seconds and trainings until each of `TARGETS`; None where the search did not come so far."""
    study = optuna.create_study(
        direction="maximize",
        sampler=create_sampler(sampler, table, seed, {}),
        pruner=create_pruner(pruner, table.accuracy.shape[-1], {}),
    )
    goals = [float(table.final.max()) - target / 100 for target in TARGETS]
    reached: list[tuple[float, int]] = []
    trained: dict[tuple[int, ...], float] = {}
    seconds, trainings = 0.0, 0
    for _ in range(trials):
        started = time.process_time()
        trial = study.ask()
        place = table.suggest(trial)
        epochs, value = (0, trained[place]) if place in trained else train(trial, table, place)
        study.tell(trial, value, state=TrialState.PRUNED if value is None else TrialState.COMPLETE)
        seconds += time.process_time() - started + float(table.seconds[place].mean(0)[:epochs].sum())
        trainings += epochs > 0
        if value is not None:
            trained[place] = value
            reached += [(seconds, trainings) for goal in goals[len(reached) :] if value >= goal - 1e-9]
        if len(reached) == len(goals):
            break
    return [*reached, *[None] * (len(goals) - len(reached))]


def train(trial: optuna.Trial, table: Table, place: tuple[int, ...]) -> tuple[int, float | None]:
    """Replay a training: how many epochs it had, and its accuracy; None where the pruner stopped it."""
    curve = table.accuracy[place].mean(0).tolist()
    for epoch, accuracy in enumerate(curve, start=1):
        trial.report(accuracy, epoch)
        if epoch < len(curve) and trial.should_prune():
            return epoch, None
    return len(curve), float(table.final[place])


def run_missing(options: argparse.Namespace) -> list[dict[str, Any]]:
    """Do what the results file lacks, and give all that it holds."""
    done = [json.loads(line) for line in options.results.read_text().splitlines()] if options.results.exists() else []
    have = {tuple(line[key] for key in KEYS) for line in done}
    for name in options.tables:
        table = TABLES[name]()
        pruners = PRUNERS if table.accuracy.shape[-1] > 1 else PRUNERS[:1]
        for seed, sampler, pruner in itertools.product(range(options.seeds), options.samplers, pruners):
            if (name, sampler, pruner, seed) not in have:
                reached = search(table, sampler, pruner, seed, options.trials)
                line = dict(zip(KEYS, (name, sampler, pruner, seed), strict=True)) | {"reached": reached}
                done.append(line)
                with options.results.open("a") as file:
                    file.write(json.dumps(line) + "\n")
    return done


def summarise(lines: list[dict[str, Any]], options: argparse.Namespace) -> list[dict[str, Any]]:
    """One row per table, sampler, pruner and target: quartiles of seconds and trainings, None where infinite."""
    rows = []
    for name, sampler, pruner in itertools.product(options.tables, options.samplers, PRUNERS):
        runs = [line["reached"] for line in lines if tuple(line[k] for k in KEYS[:3]) == (name, sampler, pruner)]
        for place, target in enumerate(TARGETS if runs else ()):
            ends = [run[place] or (math.inf, math.inf) for run in runs]
            row: dict[str, Any] = {"table": name, "sampler": sampler, "pruner": pruner, "points": target}
            row |= {"seeds": len(runs), "reached": sum(run[place] is not None for run in runs) / len(runs)}
            for unit, values in zip(("seconds", "trainings"), zip(*ends, strict=True), strict=True):
                quartiles = np.quantile(values, (0.25, 0.5, 0.75), method="inverted_cdf").tolist()
                row[unit] = [q if math.isfinite(q) else None for q in quartiles]
            rows.append(row)
    return rows


def cell(row: dict[str, Any], unit: str) -> str:
    """``12 (8 to 20), 95 %``."""
    low, middle, high = ("-" if value is None else f"{value:.0f}" for value in row[unit])
    share = "" if row["reached"] == 1 else f", {100 * row['reached']:.0f} %"
    return f"{middle} ({low} to {high}){share}"


def print_rows(rows: list[dict[str, Any]], unit: str) -> None:
    """A Markdown table for each table that was searched, a column for each target."""
    for name, group in itertools.groupby(rows, key=lambda row: str(row["table"])):
        print(f"\n| {name}, {unit} until | {' | '.join(f'{target:g} points' for target in TARGETS)} |")
        print("|---" * (1 + len(TARGETS)) + "|")
        for (sampler, pruner), targets in itertools.groupby(group, key=lambda row: (row["sampler"], row["pruner"])):
            label = sampler if pruner == "none" else f"{sampler}, {pruner}"
            print(f"| {label} | {' | '.join(cell(row, unit) for row in targets)} |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tables", nargs="+", choices=list(TABLES), default=["digits", "synthetic", "nas-bench-macro"])
    parser.add_argument("--samplers", nargs="+", default=list(SAMPLERS))
    parser.add_argument("--seeds", type=int, default=20)
    parser.add_argument("--trials", type=int, default=200, help="where a search that reaches nothing ends")
    parser.add_argument("--results", type=Path, default=Path("time-to-quality.jsonl"), help="runs already done")
    parser.add_argument("--json", action="store_true", help="print rows as JSON")
    options = parser.parse_args()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    warnings.simplefilter("ignore")
    rows = summarise(run_missing(options), options)
    if options.json:
        print(json.dumps(rows, indent=1))
        return
    for unit in ("seconds", "trainings"):
        print_rows(rows, unit)


if __name__ == "__main__":
    main()
