"""Compare samplers and pruners on tables of trainings, by one replay (`replay.py`).

    python benchmarks/compare.py regret --table digits --budgets 10,25,50,100 --workers 8
    python benchmarks/compare.py regret --table digits --clock epochs --budgets 10,20,40
    python benchmarks/compare.py time --table digits --samplers tpe,tpe+guarded,arch,arch+guarded
    python benchmarks/compare.py stalled --table synthetic --samplers arch,tpe
    python benchmarks/compare.py front --table digits --samplers random,random+asha,nsga2,curves

A method is a sampler of the package, or ``sampler+pruner``. Tables are named in `tables.py`, or are
files.

``regret`` is the accuracy of the table's best network minus that of the best network trained to the end, in points,
after so many trials, or after the epochs of so many whole trainings. ``time`` counts seconds and trainings until the
best is within so many points; to the seconds of the table come those of the processor for proposals and pruning.
``stalled`` says when ``run --until stalled`` ends a search, beside two oracles: one knows the table and ends within
0.3 points of its best, the other knows the search and ends at its last improvement of more than 0.1 points.
``front`` is the hypervolume of accuracy and multiply-accumulates, of a box that ends at the largest network.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from replay import Replay, Task, front, make_study, one_epoch, quiet, regret, search
from tables import Table, open_table

from nas_optuna.errors import DataError, NasOptunaError, SpecError, named, shown
from nas_optuna.execution.stopping import parse_until, reason_to_stop

CLOSE, MATTERS = 0.3, 0.1
"""Points that the oracles of ``stalled`` look at."""


def regrets_of(task: Task, method: str, seed: int, *, budgets: Sequence[int], clock: str) -> list[dict[str, float]]:
    """What one search has found and spent at each budget."""
    table = open_table(task.table, seed)
    if method == "one-epoch":
        return [{"regret": one_epoch(table, seed, budget)} for budget in budgets]
    points = search(task, method, seed)
    result = []
    for budget in budgets:
        inside = [p for p in points if (p.trials if clock == "trials" else p.epochs / table.epochs) <= budget]
        row = {"regret": regret(table, inside)}
        if inside and clock == "trials":
            row["epochs"] = inside[-1].epochs / (table.epochs * len(inside))
            row["ms"] = statistics.median(point.ms for point in inside[-10:])
        result.append(row)
    return result


def fronts_of(task: Task, method: str, seed: int, *, budgets: Sequence[int]) -> list[dict[str, float]]:
    """The hypervolume of one search at each budget of whole trainings."""
    table = open_table(task.table, seed)
    assert isinstance(table, Table)
    points = search(task, method, seed)
    epochs = [budget * table.epochs for budget in budgets]
    return [{"hypervolume": front(table, (p for p in points if p.epochs <= most))} for most in epochs]


def times_of(task: Task, method: str, seed: int, *, targets: Sequence[float]) -> list[dict[str, float]]:
    """Seconds and trainings of one search until each target; infinite where it did not come so far."""
    table, points = open_table(task.table, seed), search(task, method, seed)
    result = []
    for target in targets:
        goal = table.best - target / 100 - 1e-9
        end = next((point for point in points if point.value is not None and point.value >= goal), None)
        result.append({unit: getattr(end, unit) if end else math.inf for unit in ("seconds", "trainings")})
    return result


def ending_of(task: Task, method: str, seed: int, *, until: str) -> list[dict[str, float]]:
    """Where one search would have ended, and where the oracles would have ended it."""
    quiet()
    table = open_table(task.table, seed)
    study = make_study(table, method, seed)
    replay, condition, ends = Replay(table, study), parse_until(until, ["accuracy"]), task.trials
    regrets = []
    while len(replay.points) < task.trials:
        replay.run_trial()
        regrets.append(regret(table, replay.points))
        if ends == task.trials and reason_to_stop(study, [condition]):
            ends = len(replay.points)
    close = next((n for n, points in enumerate(regrets, start=1) if points <= CLOSE + 1e-6), task.trials)
    final = next(n for n, points in enumerate(regrets, start=1) if points <= regrets[-1] + MATTERS)
    there = regrets[int(ends) - 1]
    return [{"ends": ends, "regret": there, "lost": there - regrets[-1], "close": close, "final": final}]


def mean_and_error(values: Sequence[float]) -> dict[str, float]:
    """Mean and standard error over seeds."""
    error = statistics.stdev(values) / len(values) ** 0.5 if len(values) > 1 else 0.0
    return {"mean": statistics.fmean(values), "se": error}


def quartiles(values: Sequence[float]) -> dict[str, Any]:
    """Quartiles over seeds, None where one is infinite, and the share of the searches that came so far."""
    found = np.quantile(values, (0.25, 0.5, 0.75), method="inverted_cdf" if math.inf in values else "linear").tolist()
    low, middle, high = (q if math.isfinite(q) else None for q in found)
    reached = sum(map(math.isfinite, values)) / len(values)
    return {"median": middle, "low": low, "high": high, "reached": reached}


def summarise(runs: dict[str, list[list[dict[str, float]]]], columns: Sequence[str], how: str) -> dict[str, Any]:
    """Method → column → figures; each of them once over the seeds."""
    result: dict[str, Any] = {}
    for method, found in runs.items():
        result[method] = {}
        for column, rows in zip(columns, zip(*found, strict=True), strict=True):
            main, *others = rows[0]
            if how == "quartiles":
                result[method][column] = {name: quartiles([row[name] for row in rows]) for name in rows[0]}
                continue
            figures = mean_and_error([row[main] for row in rows])
            figures |= {name: statistics.median(row[name] for row in rows) for name in others}
            base = result.get("random", {}).get(column, {}).get("mean") if main == "regret" else None
            result[method][column] = figures | ({"ratio": figures["mean"] / base} if base else {})
    return result


def cell(figures: dict[str, Any]) -> str:
    """``0.44 ± 0.06 (0.43)``, or ``12 (8 to 20), 95 %``."""
    if "se" in figures:
        ratio = f" ({figures['ratio']:.2f})" if "ratio" in figures else ""
        return f"{figures['mean']:.3g} ± {figures['se']:.2g}{ratio}"
    low, middle, high = (
        "-" if figures[k] is None else f"{figures[k]:.{0 if figures[k] >= 5 else 2}f}"
        for k in ("low", "median", "high")
    )
    share = "" if figures["reached"] == 1 else f", {100 * figures['reached']:.0f} %"
    return f"{middle} ({low} to {high}){share}"


def print_table(title: str, result: dict[str, Any]) -> None:
    """Print a result as a Markdown table."""
    first = next(iter(result.values()))
    nested = not any("se" in figures for figures in first.values())
    columns = [f"{name} {c}" for c in first for name in first[c]] if nested else [*first]
    extra = [] if nested else [name for name in ("epochs", "ms") if name in [*first.values()][-1]]
    print(f"| {title} | {' | '.join([*columns, *extra])} |\n|{'---|' * (len(columns) + len(extra) + 1)}")
    for method, row in result.items():
        figures = [f for column in row.values() for f in column.values()] if nested else [*row.values()]
        last = [f"{[*row.values()][-1].get(name, math.nan):.2f}" for name in extra]
        print(f"| {method} | {' | '.join([*map(cell, figures), *last])} |", flush=True)


def check(method: str, options: argparse.Namespace) -> None:
    """Raise what is wrong with a method or a table before anything is searched."""
    table = open_table(options.table)
    two_objectives = options.command == "front"
    if two_objectives and not (isinstance(table, Table) and "log_macs" in table.size_names):
        raise DataError(f"front needs a table whose size_names has log_macs; {named(options.table)} has none")
    if method != "one-epoch":
        make_study(table, method, 0, 1 + two_objectives)
    elif options.command != "regret" or not isinstance(table, Table):
        raise DataError(
            "one-epoch answers regret alone, of a table whose networks are listed; leave it out of --samplers"
        )


def number(option: str, kind: Callable[[str], float], least: float = 1) -> Callable[[str], float]:
    """How an option is read that is a number."""

    def value(text: str) -> float:
        try:
            found = kind(text)
        except ValueError:
            found = math.nan
        if not least <= found < math.inf:
            raise SpecError(f"{option} takes numbers from {least:g}, got {shown(text)}")
        return found

    return value


def numbers(option: str, kind: Callable[[str], float], least: float = 1) -> Callable[[str], list[float]]:
    """How an option is read that lists numbers with commas."""
    one = number(option, kind, least)
    return lambda text: [one(part) for part in text.split(",")]


def parser() -> argparse.ArgumentParser:
    """The options of all commands; each command uses those of its question."""
    result = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    result.add_argument("command", choices=("regret", "time", "stalled", "front"))
    result.add_argument("--table", required=True, help="name of a table, or an .npz file, see tables.py")
    result.add_argument("--samplers", default="random,tpe,arch,curves", help="or sampler+pruner, e.g. arch+guarded")
    result.add_argument("--seeds", type=number("--seeds", int), default=12)
    result.add_argument("--clock", choices=("trials", "epochs"), default="trials", help="regret: what is equal")
    budgets = numbers("--budgets", int)
    result.add_argument(
        "--budgets", type=budgets, default="5,10,20,40", help="regret, front: trials, or whole trainings' epochs"
    )
    result.add_argument(
        "--points",
        type=numbers("--points", float, 0),
        default="1,0.5,0.3",
        help="time: until within so many points of the best",
    )
    result.add_argument("--trials", type=int, help="time (200), stalled (100): where a search ends at the latest")
    result.add_argument("--until", default="stalled", help="stalled: the condition, as of nas-optuna run")
    result.add_argument("--workers", type=number("--workers", int), default=1)
    result.add_argument("--learn-from", choices=("none", "related", "contrary"), default="none", help="earlier study")
    result.add_argument("--json", type=Path, help="write the figures to this file")
    result.add_argument("--processes", type=number("--processes", int), default=2)
    return result


def main(arguments: Sequence[str] | None = None) -> None:
    """Search with every method and seed, and print what came of it; a user's mistake is one line and exit code 2."""
    try:
        measure(parser().parse_args(arguments))
    except NasOptunaError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(error.exit_code)


def measure(options: argparse.Namespace) -> None:
    """Answer the question of the options."""
    budgets, targets, methods = options.budgets, sorted(options.points, reverse=True), options.samplers.split(",")
    quiet()
    for method in methods:
        check(method, options)
    if options.json and not options.json.parent.is_dir():
        raise SpecError(f"there is no folder {named(options.json.parent)} for --json; make it first")
    how, columns = "mean", [str(budget) for budget in budgets]
    if options.command == "regret":
        limit = {"trials" if options.clock == "trials" else "trainings": max(budgets)}
        task = Task(options.table, workers=options.workers, earlier=options.learn_from, **limit)
        one = partial(regrets_of, budgets=budgets, clock=options.clock)
    elif options.command == "front":
        task = Task(options.table, workers=options.workers, trainings=max(budgets), objectives=2)
        one = partial(fronts_of, budgets=budgets)
    elif options.command == "time":
        task = Task(options.table, trials=options.trials or 200, within=min(targets), workers=options.workers)
        how, columns, one = "quartiles", [f"{target:g}" for target in targets], partial(times_of, targets=targets)
    else:
        task = Task(options.table, trials=options.trials or 100)
        how, columns, one = "quartiles", ["until"], partial(ending_of, until=options.until)
    with ProcessPoolExecutor(options.processes) as pool:
        waiting = {m: pool.map(partial(one, task, m), range(options.seeds)) for m in methods}
        result = summarise({method: list(rows) for method, rows in waiting.items()}, columns, how)
    if options.json:
        options.json.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    print_table(f"{options.table}, {options.seeds} seeds", result)


if __name__ == "__main__":
    main()
