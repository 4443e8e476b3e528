"""What a limit costs, and how fronts are pruned: replayed from the table of the digits.

A limit on multiply-accumulates, 30 trainings: a sampler is told the limit and chooses within it, or is asked again
until it proposes what is inside (`WithinLimitsSampler`). Points below the best network inside, and the share of the
latest ten proposals that were inside.

A front of accuracy and multiply-accumulates, after the epochs of 30 whole trainings: random search, pruned against all
trials or against those that cost no more; and what it gains to begin with the cheapest network, seed by seed.

    python benchmarks/limits.py --seeds 12
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Sequence

import numpy as np
import optuna
from compare import cell, mean_and_error
from optuna.samplers import BaseSampler, PartialFixedSampler
from replay import Replay, enqueue_cheapest, front, make_study, quiet
from tables import Table, open_table

from nas_optuna.samplers import create_sampler
from nas_optuna.samplers.wrapping import WithinLimitsSampler
from nas_optuna.spaces.architecture import Architecture
from nas_optuna.spaces.conv import ConvSpace
from nas_optuna.study.schema import TrialKey

SPACE = ConvSpace(depth=2, input_size=8)  # the table's
SAMPLERS = ("random", "tpe", "nsga2", "evolution", "arch")
QUANTILES = (0.1, 0.3)
TRAININGS, LATEST = 30, 10


def search_within(table: Table, sampler: str, told: bool, limit: float, seed: int) -> tuple[float, float]:
    """Regret inside the limit, and the share of the latest proposals that were inside."""

    def excess(architecture: Architecture) -> float:
        return max(0.0, table.macs[table.place(architecture.params)] / limit - 1)

    def make(seed: int) -> BaseSampler:
        made = create_sampler(sampler, SPACE, seed, {})
        # Within another sampler, ours and TPE are not told.
        return made if told else PartialFixedSampler({}, made)

    study = optuna.create_study(direction="maximize", sampler=WithinLimitsSampler(make, SPACE, excess, seed))
    replay = Replay(table, study)
    while len(replay.points) < TRAININGS:
        replay.run_trial()
    inside = table.macs <= limit
    found = max(table.final[point.place] for point in replay.points if inside[point.place])
    proposals = [trial.user_attrs.get(TrialKey.PROPOSALS, 1) for trial in study.get_trials()[-LATEST:]]
    return 100 * float(table.final[inside].max() - found), len(proposals) / sum(proposals)


def search_front(table: Table, method: str, seed: int, begin_cheap: bool = False, against_all: bool = False) -> float:
    """The hypervolume of one search."""
    study = make_study(table, method, seed, objectives=2)
    if begin_cheap:
        enqueue_cheapest(study, table)
    replay = Replay(table, study, against_all=against_all)
    while not replay.points or replay.points[-1].epochs < TRAININGS * table.epochs:
        replay.run_trial()
    return front(table, replay.points)


def show(name: str, *columns: Sequence[float]) -> None:
    """A row of Markdown: mean and standard error over seeds."""
    print(f"| {name} | {' | '.join(cell(mean_and_error(values)) for values in columns)} |", flush=True)


def main() -> None:
    """Print all rows."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=12)
    options = parser.parse_args()
    quiet()
    table, seeds = open_table("digits"), range(options.seeds)
    assert isinstance(table, Table)
    print("| inside the limit, sampler | points below the best inside | latest proposals inside |\n|---|---|---|")
    for quantile in QUANTILES:
        limit = float(np.sort(table.macs)[math.floor(quantile * len(table.macs))])
        for sampler in SAMPLERS:
            for told in (False, True) if sampler != "random" else (True,):  # all the same to it
                runs = [search_within(table, sampler, told, limit, seed) for seed in seeds]
                name = f"{quantile:.0%}, {sampler}, {'told' if told else 'asked again'}"
                show(name, *zip(*runs, strict=True))
    print("\n| front | hypervolume |\n|---|---|")
    for method in ("random", "random+asha", "random+median", "random+hyperband"):
        show(method, [search_front(table, method, seed) for seed in seeds])
    show("random+asha, against all", [search_front(table, "random+asha", seed, against_all=True) for seed in seeds])
    for sampler in ("random", "tpe", "nsga2"):
        method = f"{sampler}+asha"
        pairs = [(search_front(table, method, seed), search_front(table, method, seed, True)) for seed in seeds]
        show(f"{method}, gain of the cheapest first", [begun - plain for plain, begun in pairs])


if __name__ == "__main__":
    main()
