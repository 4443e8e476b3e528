"""What to do with architectures above a limit, and whom to prune for a front: replayed from a table of real trainings.

Limits. A proposal above the limit of MACs is told to the study as pruned, as complete with an accuracy of 0, as failed
(samplers do not look at it), or never becomes a trial (`WithinLimitsSampler`): the sampler is asked again, or is told
the limit and chooses within it. Compared after as many trainings: the best accuracy, how many proposals that took, and
their feasible share early and late.

Fronts. A study of accuracy and MACs, random sampler, pruned against all trials or against those that cost no more.
Compared after as many epochs: the share of the box that the front dominates. The same for several samplers, begun
with the cheapest architecture or not; their difference is taken seed by seed. The box ends at the largest MACs.

    python benchmarks/limits.py --seeds 10
"""

from __future__ import annotations

import argparse
import functools
import json
import statistics
import warnings
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import optuna
from optuna.samplers import PartialFixedSampler
from optuna.trial import TrialState
from rich.progress import track
from tabular import Table, digits

from nas_optuna.costs.complexity import figures
from nas_optuna.execution.pruning import report, should_prune
from nas_optuna.pruners import create_pruner
from nas_optuna.samplers import create_sampler
from nas_optuna.samplers.within_limits import WithinLimitsSampler
from nas_optuna.spaces.architecture import Architecture
from nas_optuna.spaces.conv import ConvSpace
from nas_optuna.study.pareto import hypervolume
from nas_optuna.study.schema import TrialKey

SPACE = ConvSpace(depth=2, input_size=8)  # the table's
SAMPLERS = ("random", "tpe", "nsga2")
LIMITED = (*SAMPLERS, "evolution", "arch")
"""Samplers of the comparison under a limit."""
TREATMENTS = ("pruned", "complete", "failed", "asked again", "told")
QUANTILES = (0.1, 0.3)
PRUNERS = ("none", "asha", "median", "hyperband")
TRAININGS = 30
EPOCHS = 150
MOST_PROPOSALS = 1000


@functools.cache
def macs(architecture: Architecture) -> int:
    return figures(SPACE, architecture).macs


@functools.cache
def by_macs() -> list[Architecture]:
    """Every architecture, the cheapest first."""
    points = np.ndindex(*(len(p.choices) for p in SPACE.parameters.values()))
    choices = [p.choices for p in SPACE.parameters.values()]
    named = (dict(zip(SPACE.parameters, map(lambda c, i: c[i], choices, point), strict=True)) for point in points)
    return sorted((SPACE.architecture(params) for params in named), key=macs)


def search_within(table: Table, sampler: str, treatment: str, limit: float, seed: int) -> dict[str, float]:
    """One search under a limit, until there were enough trainings."""

    def excess(architecture: Architecture) -> float:
        return max(0.0, macs(architecture) / limit - 1)

    def make(seed: int) -> optuna.samplers.BaseSampler:
        made = create_sampler(sampler, SPACE, seed, {})
        # Within another sampler, ours and TPE are not told.
        return PartialFixedSampler({}, made) if treatment == "asked again" else made

    within = treatment in ("asked again", "told")
    chosen = WithinLimitsSampler(make, SPACE, excess, seed) if within else make(seed)
    study = optuna.create_study(direction="maximize", sampler=chosen)
    best, feasible = 0.0, []
    while sum(feasible) < TRAININGS and len(feasible) < MOST_PROPOSALS:
        trial = study.ask()
        place = table.suggest(trial)
        above = macs(SPACE.architecture(trial.params)) / limit - 1
        trial.set_constraint("macs", above)
        feasible += [False] * (study.get_trials(deepcopy=False)[-1].user_attrs.get(TrialKey.PROPOSALS, 1) - 1) + [
            above <= 0
        ]
        if above <= 0:
            accuracy = float(table.final[place])
            best = max(best, accuracy)
            study.tell(trial, accuracy)
        elif treatment == "complete":
            study.tell(trial, 0.0)
        else:
            study.tell(trial, state=TrialState.FAIL if treatment == "failed" else TrialState.PRUNED)
    third = len(feasible) // 3
    return {
        "best": best,
        "trainings": sum(feasible),
        "proposals": len(feasible),
        "share_first_third": statistics.fmean(feasible[:third]),
        "share_last_third": statistics.fmean(feasible[-third:]),
    }


def search_front(
    table: Table, sampler: str, pruner: str, seed: int, cheaper_only: bool = True, first: Architecture | None = None
) -> dict[str, float]:
    """One search for a front, until `EPOCHS` were trained."""
    epochs, most = EPOCHS, macs(by_macs()[-1])
    study = optuna.create_study(
        directions=["maximize", "minimize"],
        sampler=create_sampler(sampler, SPACE, seed, {}),
        pruner=create_pruner(pruner, table.accuracy.shape[-1], {}),
    )
    if first is not None:
        study.enqueue_trial(dict(first.params))
    while epochs > 0:
        trial = study.ask()
        curve = table.accuracy[table.suggest(trial)].mean(0).tolist()
        cost = macs(SPACE.architecture(trial.params))
        trial.set_user_attr("nas_optuna:macs", cost)
        for epoch, accuracy in enumerate(curve, start=1):
            epochs -= 1
            report(trial, accuracy, epoch)
            if epoch < len(curve) and should_prune(trial, {"macs": cost} if cheaper_only else {}):
                study.tell(trial, state=TrialState.PRUNED)
                break
        else:
            study.tell(trial, (curve[-1], cost))
    points = [(1 - t.values[0], t.values[1] / most) for t in study.best_trials]
    states = [t.state for t in study.get_trials(deepcopy=False)]
    return {
        "hypervolume": hypervolume(points, (1.0, 1.0)),
        "front": len(points),
        "least_macs": min(cost for _, cost in points),
        "trials": len(states),
        "pruned": states.count(TrialState.PRUNED),
    }


def summary(runs: Iterable[dict[str, float]]) -> dict[str, float]:
    """Means over seeds, and the standard deviation of what is compared."""
    runs = list(runs)
    result = {key: statistics.fmean(run[key] for run in runs) for key in runs[0]}
    compared = "best" if "best" in runs[0] else "hypervolume"
    return result | {f"{compared}_deviation": statistics.stdev(run[compared] for run in runs), "seeds": len(runs)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--table", type=Path, help="another table than digits-conv2.npz")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
    table = digits(options.table) if options.table else digits()
    architectures = by_macs()
    seeds = range(options.seeds)
    rows = []
    for quantile in QUANTILES:
        limit = macs(architectures[int(quantile * len(architectures))])
        for sampler in LIMITED:
            for treatment in TREATMENTS if sampler != "random" else TREATMENTS[-1:]:  # all the same to it
                name = f"{sampler}, {quantile:.0%} feasible, {treatment}"
                runs = [search_within(table, sampler, treatment, limit, s) for s in track(seeds, name, transient=True)]
                rows.append({"case": name, **summary(runs)})
    for pruner in PRUNERS:
        for cheaper_only in (True, False):
            name = f"front, {pruner}, against {'those that cost no more' if cheaper_only else 'all'}"
            runs = [search_front(table, "random", pruner, s, cheaper_only) for s in track(seeds, name, transient=True)]
            rows.append({"case": name, **summary(runs)})
    for sampler in SAMPLERS:
        name = f"front, {sampler}, asha, the cheapest first"
        plain, runs = [], []
        for seed in track(seeds, name, transient=True):
            plain.append(search_front(table, sampler, "asha", seed))
            runs.append(search_front(table, sampler, "asha", seed, first=architectures[0]))
        gains = [ours["hypervolume"] - theirs["hypervolume"] for ours, theirs in zip(runs, plain, strict=True)]
        gain = {"hypervolume_gain": statistics.fmean(gains), "gain_error": statistics.stdev(gains) / len(gains) ** 0.5}
        rows.append({"case": name, **summary(runs), "front_without": summary(plain)["front"], **gain})
    if options.json:
        print(json.dumps(rows, indent=2))
        return
    for row in rows:
        print(row["case"], *(f"{key} {value:.4g}" for key, value in row.items() if key != "case"), sep="  ")


if __name__ == "__main__":
    main()
