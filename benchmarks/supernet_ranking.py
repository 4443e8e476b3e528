"""How well a supernet ranks architectures, with size alone and random choice beside it, and what it costs.

The networks are those of a table of `make_table.py`, which knows every rank: the 576 of the digits, or others.

Short trainings have seeds of their own, and an architecture that taught the score is not ranked by it.
Regret is the best own accuracy minus that of the choice, in points. Cost is in stand-alone trainings: CPU seconds of
the supernet over those of trainings that take turns with its epochs in the same process, which has one thread.

    python benchmarks/supernet_ranking.py --seeds 5
    python benchmarks/supernet_ranking.py --seeds 20 --set supernet.budget=0
    python benchmarks/make_table.py digits-quick --networks 60 --seeds 1 --out five-layers.npz
    python benchmarks/supernet_ranking.py five-layers.npz
"""

from __future__ import annotations

import argparse
import itertools
import json
import random
import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from make_table import CPU, HERE, alone, params_of
from numpy.typing import NDArray
from scipy.stats import kendalltau

from nas_optuna.cli import set_defaults
from nas_optuna.execution.evaluator import Search
from nas_optuna.experiment import Experiment
from nas_optuna.oneshot.check import ranking_row
from nas_optuna.oneshot.price import CostTable
from nas_optuna.oneshot.ranking import ArchitectureRanker
from nas_optuna.oneshot.score import FEATURES, Score
from nas_optuna.oneshot.short_trainings import ShortPlan, ShortTrainer
from nas_optuna.oneshot.strategies import strategy_options
from nas_optuna.oneshot.trained import make_evaluator
from nas_optuna.oneshot.training import make_strategy
from nas_optuna.spaces.architecture import Architecture
from nas_optuna.spec import StudySpec, SupernetSpec
from nas_optuna.study.supernet_result import SupernetResult

SIZES = "sizes, short"
"""A score of sizes alone fitted to the same short trainings: the score is better by what shared weights add."""
SHORT_SEED = 1000
"""Short trainings have this seed and following ones, which no training of the truth has."""
TURNS = 6
"""Stand-alone trainings that a supernet's cost is measured against."""


@dataclass(frozen=True)
class Truth:
    """Architectures and their own accuracies, ``[architectures, seeds]``."""

    search: Search
    architectures: list[Architecture]
    accuracy: NDArray[np.float64]

    @property
    def mean(self) -> NDArray[np.float64]:
        """Over seeds, ``[architectures]``."""
        return self.accuracy.mean(1)

    @property
    def ceiling(self) -> float | None:
        """Mean τ of one seed against the mean of the others."""
        seeds = range(self.accuracy.shape[1])
        if len(seeds) < 2:
            return None
        others = [self.accuracy[:, [i for i in seeds if i != seed]].mean(1) for seed in seeds]
        return statistics.fmean(kendalltau(self.accuracy[:, s], others[s]).statistic for s in seeds)


def of_table(file: Path = HERE / "digits-conv2.npz", overrides: Sequence[str] = ()) -> Truth:
    """What `make_table.py` wrote."""
    with np.load(file, allow_pickle=False) as table:
        spec = StudySpec.from_dict(json.loads(str(table["about"]))["spec"]).override(list(overrides))
        accuracy, tokens = table["by_seed"][..., -1].astype(float), table["choices"].tolist()
    search = Experiment.from_spec(spec, device="cpu").search
    return Truth(search, [search.space.architecture(params_of(search.space, one)) for one in tokens], accuracy)


@dataclass(frozen=True)
class Trained:
    """A trained supernet: what ranks with it, and CPU seconds of its parts and of a stand-alone training."""

    ranker: ArchitectureRanker
    found: SupernetResult
    training_seconds: float
    choosing_seconds: float
    alone_seconds: float


def train(search: Search, spec: SupernetSpec) -> Trained:
    """Train a supernet, or with a budget of 0 none; stand-alone trainings take turns with its epochs."""
    search = replace(search, spec=search.spec.model_copy(update={"supernet": spec}))
    strategy, options = make_strategy(search, CostTable({}, "", ""), CPU), strategy_options(spec)
    rng = random.Random(spec.seed)
    epochs = strategy.length if strategy else TURNS
    every = max(1, epochs // TURNS)
    mine, others = 0.0, []
    running = strategy.epochs() if strategy else itertools.repeat(None)
    for epoch in range(epochs):
        start = time.process_time()
        next(running)
        mine += time.process_time() - start
        if epoch % every == 0:
            drawn = {name: rng.choice(p.choices) for name, p in search.space.parameters.items()}
            start = time.process_time()
            list(alone(search, drawn, 0))
            others.append(time.process_time() - start)
    start = time.process_time()
    recipe = search.spec.recipe.model_copy(update={"seed": SHORT_SEED + spec.seed})
    plan = ShortPlan.of(options.short_trainings, recipe.epochs, search.space.size, alone=strategy is None)
    short = ShortTrainer(replace(search, spec=search.spec.model_copy(update={"recipe": recipe})), plan, CPU)
    shared = make_evaluator(strategy.supernet, search, CPU) if strategy else None
    ranker = ArchitectureRanker(search.space, shared, spec, options.evaluations, short=short)
    found = ranker.rank()
    return Trained(ranker, found, mine, time.process_time() - start, statistics.fmean(others))


def rows(truth: Truth, trained: Trained) -> dict[str, object]:
    """One supernet's figures against the truth."""
    tokens = [truth.search.space.tokens(a) for a in truth.architectures]
    taught = {t for t, _ in trained.found.calibration_set}
    kept = [i for i, t in enumerate(tokens) if t not in taught]
    features = trained.ranker.rows([tokens[i] for i in kept])
    without = without_shared_weights(trained, features)
    figures = dict(zip(FEATURES, features.T[: len(FEATURES)], strict=True)) | {
        "score": trained.ranker.score(features),
        SIZES: without,
    }
    ranked = {name: ranking_row(name, values, truth.mean[kept]) for name, values in figures.items()}
    result: dict[str, object] = {
        name: {
            "tau": row.kendall.value,
            "interval": [row.kendall.lower, row.kendall.upper],
            "first": 100 * row.regret_1,
            "five": 100 * row.regret_5,
        }
        for name, row in ranked.items()
    }
    cost = trained.training_seconds + trained.choosing_seconds
    result["cost"] = cost / trained.alone_seconds
    result["training cost"] = trained.training_seconds / trained.alone_seconds
    if truth.search.space.size == len(truth.architectures):
        result |= of_choice(truth, trained.found)
    return result


def without_shared_weights(trained: Trained, features: NDArray[np.float64]) -> NDArray[np.float64]:
    """The score that the same short trainings would have taught, had there been sizes only."""
    short, score = trained.found.calibration_set, Score.prior(features).of_sizes()
    if short:
        score = score.fit(trained.ranker.rows([t for t, _ in short]), [accuracy for _, accuracy in short], short=True)
    return score(features)


def of_choice(truth: Truth, found: SupernetResult) -> dict[str, float]:
    """Where every architecture is known: the regret of the choices, and the share of the prior in the best tenth."""
    space, best = truth.search.space, float(truth.mean.max())
    place = {architecture: i for i, architecture in enumerate(truth.architectures)}
    shares = list(map(np.array, found.probabilities().values()))
    tokens = np.array([space.tokens(architecture) for architecture in truth.architectures])
    prior = np.prod([share[tokens[:, i]] for i, share in enumerate(shares)], axis=0)
    starts = [place[space.architecture(params_of(space, t))] for t in found.starts[:5]]
    return {
        "regret of best": 100 * (best - float(truth.mean[place[space.parse(found.best)]])),
        "regret of argmax": 100 * (best - float(truth.mean[prior.argmax()])),
        "best of five starts": 100 * (best - float(truth.mean[starts].max())),
        "prior in best tenth": float(prior[truth.mean >= np.quantile(truth.mean, 0.9)].sum()),
    }


def show(truth: Truth, results: list[dict[str, object]]) -> None:
    ceiling = truth.ceiling
    print(f"{len(truth.architectures)} architectures, {len(results)} supernets; mean over supernets (range)")
    print(f"ceiling of τ, one seed against the others: {'unknown' if ceiling is None else f'{ceiling:.3f}'}")
    print(f"a random one's regret: {100 * (truth.mean.max() - truth.mean.mean()):.2f} points")
    print(f"{'ranked by':18} {'τ':^22} {'interval of one':^18} regret of first / best of 5")
    for name in (*FEATURES, SIZES, "score"):
        cells = [result[name] for result in results]
        taus = [cell["tau"] for cell in cells]
        low, high = cells[0]["interval"]
        first, five = (statistics.fmean(cell[key] for cell in cells) for key in ("first", "five"))
        spread = f"{statistics.fmean(taus):.3f} ({min(taus):.3f} … {max(taus):.3f})"
        print(f"{name:18} {spread:22} {low:.3f} … {high:.3f}    {first:6.2f} / {five:.2f}")
    for name in (key for key in results[0] if not isinstance(results[0][key], dict)):
        values = [result[name] for result in results]
        print(f"{name:20} {statistics.fmean(values):.3f} ({min(values):.3f} … {max(values):.3f})")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("table", type=Path, nargs="?", default=HERE / "digits-conv2.npz", help="of make_table.py")
    parser.add_argument("--seeds", type=int, default=5, help="supernets")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="override the spec")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    set_defaults("supernet")
    torch.set_num_threads(1)
    truth = of_table(options.table, options.set)
    settings = truth.search.spec.supernet
    results = []
    for seed in range(options.seeds):
        results.append(rows(truth, train(truth.search, settings.model_copy(update={"seed": seed}))))
        if not options.json:
            line = {k: round(v["tau"] if isinstance(v, dict) else v, 3) for k, v in results[-1].items()}
            print(f"seed {seed}: {line}", flush=True)
    if options.json:
        print(json.dumps(results))
    else:
        show(truth, results)


if __name__ == "__main__":
    main()
