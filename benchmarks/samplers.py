"""How close each sampler comes to the best architecture, and what a proposal costs.

Simple regret is the accuracy of a table's best architecture minus that of the best found, in percentage points. With
several workers, asynchrony is simulated: a worker that becomes free asks at once, while the others' trials run for as
long as the table says. An architecture that was trained before costs nothing, as it does in a study. p is of a
one-sided Wilcoxon signed-rank test over seeds, paired by seed.

Runs are kept in the results file and not done again; several processes may fill one file. With --timed, what a
proposal costs is kept, too: milliseconds of the processor, the median over the 10 proposals up to the 100th and up to
the 1,000th.

    python benchmarks/samplers.py --tables digits --samplers random evolution --seeds 5
    python benchmarks/samplers.py --tables synthetic --workers 1 --seeds 3 --trials 1000 --timed
    python benchmarks/samplers.py --stored --plot samplers.html
"""

from __future__ import annotations

import argparse
import bisect
import heapq
import itertools
import json
import statistics
import time
import tomllib
import warnings
from pathlib import Path

import numpy as np
import optuna
from optuna.trial import TrialState
from rich.console import Console
from rich.progress import track
from rich.table import Table as RichTable
from scipy.stats import wilcoxon
from tabular import TABLES, Table

from nas_optuna.samplers import create_sampler

HERE = Path(__file__).parent
SAMPLERS = ("random", "tpe", "gp", "nsga2", "evolution", "controller", "arch")
BUDGETS = (10, 25, 50, 100, 200)
TIMED = (100, 1000)
"""The proposals that --timed measures."""
KEYS = ("table", "workers", "seed", "sampler", "fail_below")


def simulate(
    table: Table, sampler: str, seed: int, workers: int, trials: int, fail_below: float = 0.0
) -> tuple[list[float], list[float]]:
    """One search.

    Args:
        table: What is searched.
        sampler: A sampler's name, with options if need be: ``controller,failures=worst``.
        seed: Of the sampler.
        workers: How many trials run at a time.
        trials: How many in all.
        fail_below: Trainings of a lower final accuracy fail.

    Returns:
        The regret after each finished trial in percentage points, and the milliseconds of each proposal.
    """
    name, *assignments = sampler.split(",")
    options = tomllib.loads("\n".join(assignments))
    study = optuna.create_study(direction="maximize", sampler=create_sampler(name, table, seed, options))
    final, cost = table.final, table.seconds.sum(axis=(-1, -2))
    running: list[tuple[float, int, optuna.Trial, float]] = []
    seen, regrets, times = set(), [], []
    now, best = 0.0, 0.0
    while len(regrets) < trials:
        while len(running) < workers and len(times) < trials:
            started = time.process_time()
            trial = study.ask()
            place = table.suggest(trial)
            times.append(1000 * (time.process_time() - started))
            end = now + (0.0 if place in seen else float(cost[place]))
            seen.add(place)
            heapq.heappush(running, (end, trial.number, trial, float(final[place])))
        now, _, trial, value = heapq.heappop(running)
        failed = value < fail_below
        study.tell(trial, None if failed else value, state=TrialState.FAIL if failed else TrialState.COMPLETE)
        best = best if failed else max(best, value)
        regrets.append(100 * (float(final.max()) - best))
    return regrets, times


def run_missing(options: argparse.Namespace) -> list[dict]:
    """Do what the results file lacks, and give what was asked for."""
    done = read(options.results)
    wanted = list(
        itertools.product(options.tables, options.workers, range(options.seeds), options.samplers, [options.fail_below])
    )
    have = {tuple(line[k] for k in KEYS): line for line in done}
    todo = [w for w in wanted if w not in have or not enough(have[w], options)] if not options.stored else []
    tables = {name: TABLES[name]() for name in {w[0] for w in todo}}
    for name, workers, seed, sampler, fail_below in track(
        todo, "searching", console=Console(stderr=True), disable=not todo
    ):
        regrets, times = simulate(tables[name], sampler, seed, workers, options.trials, fail_below)
        line = dict(zip(KEYS, (name, workers, seed, sampler, fail_below), strict=True)) | {"trials": options.trials}
        line |= {"ms": at_timed(times) if options.timed else None, "steps": steps(regrets)}
        with options.results.open("a") as file:
            file.write(json.dumps(line) + "\n")
    return [line for line in read(options.results) if tuple(line[k] for k in KEYS) in set(wanted)]


def at_timed(times: list[float]) -> dict[str, float]:
    """Each of `TIMED` that a run came to → the milliseconds of a proposal there."""
    return {str(n): round(statistics.median(times[n - 10 : n]), 3) for n in TIMED if n <= len(times)}


def enough(line: dict, options: argparse.Namespace) -> bool:
    return line["trials"] >= options.trials and (line["ms"] is not None or not options.timed)


def steps(regrets: list[float]) -> list[tuple[int, float]]:
    """Where a curve falls: (number of finished trials, regret from there on)."""
    changes = (i for i, regret in enumerate(regrets) if i == 0 or regret < regrets[i - 1])
    return [(i + 1, round(regrets[i], 3)) for i in changes]


def curve(steps: list[tuple[int, float]], trials: int) -> list[float]:
    """The regret after each finished trial."""
    starts = [start for start, _ in steps]
    return [steps[bisect.bisect_right(starts, n) - 1][1] for n in range(1, trials + 1)]


def read(path: Path) -> list[dict]:
    """Each search's longest run, with its time where one of its runs was timed."""
    lines = map(json.loads, path.read_text().splitlines()) if path.exists() else ()
    longest: dict[tuple, dict] = {}
    for line in sorted(lines, key=lambda line: line["trials"]):
        line["regret"] = curve(line.pop("steps"), line["trials"])
        key = tuple(line[k] for k in KEYS)
        line["ms"] = line["ms"] or longest.get(key, line)["ms"]
        longest[key] = line
    return list(longest.values())


def summarise(lines: list[dict], options: argparse.Namespace) -> list[dict]:
    """One row a table, number of workers and sampler."""
    rows = []
    for table, workers, sampler in itertools.product(options.tables, options.workers, options.samplers):
        runs = select(lines, table, workers, sampler)
        if not runs:
            continue
        row = {"table": table, "workers": workers, "sampler": sampler, "seeds": len(runs)}
        times = {n: [ms[str(n)] for run in runs.values() if str(n) in (ms := run["ms"] or {})] for n in TIMED}
        row["ms_per_proposal"] = {n: statistics.median(values) for n, values in times.items() if values}
        row["regret"] = {}
        for budget in (b for b in BUDGETS if b <= min(run["trials"] for run in runs.values())):
            regrets = at(runs, budget)
            figures = {
                "mean": statistics.mean(regrets.values()),
                "standard_error": statistics.stdev(regrets.values()) / len(regrets) ** 0.5 if len(regrets) > 1 else 0,
                "median": statistics.median(regrets.values()),
            }
            for rival in ("random", "gp"):
                figures[f"p_below_{rival}"] = p_below(regrets, at(select(lines, table, workers, rival), budget))
            row["regret"][budget] = figures
        rows.append(row)
    return rows


def select(lines: list[dict], table: str, workers: int, sampler: str) -> dict[int, dict]:
    """Seed → run."""
    key = (table, workers, sampler)
    return {line["seed"]: line for line in lines if (line["table"], line["workers"], line["sampler"]) == key}


def at(runs: dict[int, dict], budget: int) -> dict[int, float]:
    """Seed → regret after `budget` trials, where a run went that far."""
    return {seed: run["regret"][budget - 1] for seed, run in runs.items() if len(run["regret"]) >= budget}


def p_below(ours: dict[int, float], theirs: dict[int, float]) -> float | None:
    """Of the hypothesis that our regrets are not below theirs; None without common seeds or differences."""
    differences = [ours[seed] - theirs[seed] for seed in ours.keys() & theirs.keys()]
    if not any(differences):
        return None
    return float(wilcoxon(differences, alternative="less", zero_method="zsplit").pvalue)


def print_rows(rows: list[dict]) -> None:
    for (name, workers), group in itertools.groupby(rows, key=lambda row: (row["table"], row["workers"])):
        title = f"{name}, {workers} worker{'s' * (workers > 1)}: mean regret ± standard error, percentage points"
        caption = f"* below random, p < 0.05 (paired by seed); ms: proposals {' and '.join(map(str, TIMED))}"
        table = RichTable(title=title, caption=caption)
        for column in ("sampler", "seeds", *map(str, BUDGETS), "ms"):
            table.add_column(column, justify="left" if column == "sampler" else "right")
        for row in group:
            cells = []
            for budget in BUDGETS:
                figures = row["regret"].get(budget)
                if figures is None:
                    cells.append("-")
                    continue
                p = figures["p_below_random"]
                star = "*" if p is not None and p < 0.05 else ""
                cells.append(f"{figures['mean']:.2f} ± {figures['standard_error']:.2f}{star}")
            times = row["ms_per_proposal"]
            milliseconds = ", ".join(f"{times[n]:.1f}" if n in times else "-" for n in TIMED) if times else "-"
            table.add_row(row["sampler"], str(row["seeds"]), *cells, milliseconds)
        Console(width=118).print(table)


def plot(lines: list[dict], options: argparse.Namespace) -> None:
    """Mean regret by trials, with a band of one standard error, for each table and number of workers."""
    import plotly.colors
    import plotly.graph_objects as go
    from plotly.subplots import make_subplots

    figure = make_subplots(
        rows=len(options.tables),
        cols=len(options.workers),
        subplot_titles=[f"{t}, {w} worker{'s' * (w > 1)}" for t in options.tables for w in options.workers],
    )
    for (row, table), (column, workers) in itertools.product(
        enumerate(options.tables, start=1), enumerate(options.workers, start=1)
    ):
        for sampler, colour in zip(options.samplers, plotly.colors.qualitative.D3, strict=False):
            runs = select(lines, table, workers, sampler)
            if not runs:
                continue
            length = min(len(run["regret"]) for run in runs.values())
            curves = np.array([run["regret"][:length] for run in runs.values()])
            mean, error = curves.mean(0), curves.std(0, ddof=1) / len(curves) ** 0.5 if len(curves) > 1 else 0
            x = np.arange(1, length + 1)
            group = {"legendgroup": sampler, "name": sampler}
            band = go.Scatter(
                x=np.concatenate((x, x[::-1])),
                y=np.concatenate((mean + error, (mean - error)[::-1])),
                fill="toself",
                fillcolor=_transparent(colour),
                line={"width": 0},
                hoverinfo="skip",
                showlegend=False,
                **group,
            )
            line = go.Scatter(x=x, y=mean, line={"color": colour}, showlegend=row == column == 1, **group)
            figure.add_traces([band, line], rows=row, cols=column)
    figure.update_xaxes(title="finished trials")
    figure.update_yaxes(title="regret, percentage points", type="log")
    figure.update_layout(
        title="Simple regret: mean over seeds ± standard error",
        template="plotly_white",
        height=420 * len(options.tables),
    )
    if options.plot.suffix == ".html":
        figure.write_html(options.plot, include_plotlyjs="cdn")
    else:
        figure.write_image(options.plot)


def _transparent(colour: str) -> str:
    """``#1f77b4`` at a fifth of its strength."""
    red, green, blue = (int(colour[i : i + 2], 16) for i in (1, 3, 5))
    return f"rgba({red}, {green}, {blue}, 0.2)"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tables", nargs="+", choices=list(TABLES), default=list(TABLES))
    parser.add_argument("--samplers", nargs="+", default=list(SAMPLERS), help="e.g. tpe controller,entropy=0.1")
    parser.add_argument("--workers", nargs="+", type=int, default=[1, 8])
    parser.add_argument("--seeds", type=int, default=20)
    parser.add_argument("--trials", type=int, default=max(BUDGETS))
    parser.add_argument("--fail-below", type=float, default=0.0, metavar="ACCURACY", help="worse trainings fail")
    parser.add_argument("--stored", action="store_true", help="run nothing, show what the results file holds")
    parser.add_argument("--timed", action="store_true", help="keep the time of proposals")
    parser.add_argument("--results", type=Path, default=HERE / "samplers-results.jsonl", help="runs already done")
    parser.add_argument("--plot", type=Path, help="draw the curves into this .html file")
    parser.add_argument("--json", action="store_true", help="print rows as JSON")
    options = parser.parse_args()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    warnings.simplefilter("ignore")
    lines = run_missing(options)
    rows = summarise(lines, options)
    if options.plot:
        plot(lines, options)
    if options.json:
        print(json.dumps(rows, indent=1))
    else:
        print_rows(rows)


if __name__ == "__main__":
    main()
