"""What a supernet's search is worth on the digits: does latency in the loss act, and does a warm start pay?

``lambda``: supernets trained with growing latency weights; the latency, by a table measured on the spot, and the MACs
of what they derive; Spearman's rank correlation between weight and latency.
``warm-start``: for each seed a supernet and ten warm-started random trials, against plain random search for the same
seconds of training (the supernet's included); the best validation accuracy of both.

    python benchmarks/supernet_search.py lambda
    python benchmarks/supernet_search.py warm-start --seeds 5 --json
"""

import argparse
import contextlib
import json
import statistics
import tempfile
from dataclasses import replace
from pathlib import Path

import optuna
import torch
from scipy import stats

from nas_optuna.costs.complexity import figures
from nas_optuna.costs.latency import measure_table
from nas_optuna.costs.runtimes import Conditions
from nas_optuna.errors import TrainingError
from nas_optuna.execution.evaluator import Search
from nas_optuna.execution.training_objective import Objective
from nas_optuna.experiment import Experiment
from nas_optuna.oneshot.price import cost_table
from nas_optuna.oneshot.training import SupernetTraining
from nas_optuna.presets import find_spec
from nas_optuna.samplers.prior import AS_LEARNED, SupernetSampler, WarmStartSampler
from nas_optuna.spec import StudySpec
from nas_optuna.study.schema import StudyKey, TrialKey

CPU = torch.device("cpu")
WEIGHTS = (0.0, 0.1, 1.0, 10.0)
"""Latency weights, in units of cross entropy per millisecond."""


def train(
    study: optuna.Study, search: Search, folder: Path, table: Path | None, **settings: object
) -> dict[str, object]:
    """Train a supernet with changed settings; its summary. One that exploded has found something too."""
    spec = search.spec.model_copy(update={"supernet": search.spec.supernet.model_copy(update=settings)})
    training = SupernetTraining(study, replace(search, spec=spec), cost_table(search.space, table), CPU, folder)
    with contextlib.suppress(TrainingError):
        training.train()
    return dict(study.user_attrs[StudyKey.SUPERNET])


def sweep(search: Search, options: argparse.Namespace) -> dict[str, object]:
    rows = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        file = folder / "table.json"
        table = measure_table(search.space, Conditions.here(CPU), file, rounds=5)
        for weight in WEIGHTS:
            study = optuna.create_study(direction="maximize")
            summary = train(study, search, folder, file, latency_weight=weight)
            architecture = search.space.parse(str(summary["argmax"]))
            rows.append(
                {
                    "weight": weight,
                    "latency_ms": table.architecture_ms(search.space, architecture),
                    "expected_ms": summary["expected_cost"],
                    "macs": figures(search.space, architecture).macs,
                    "stopped": summary["stopped"],
                    "architecture": str(architecture),
                }
            )
            if not options.json:
                row = rows[-1]
                figure = f"derived {row['latency_ms']:.4f} ms, expected {row['expected_ms']:.4f} ms"
                print(
                    f"weight {weight:5g}: {figure}, {row['macs']:,} MACs, {architecture} {row['stopped'] or ''}",
                    flush=True,
                )
    spearman = stats.spearmanr([r["weight"] for r in rows], [r["latency_ms"] for r in rows]).statistic
    return {"rows": rows, "spearman": float(spearman)}


def plain_random(search: Search, seed: int, budget: float) -> tuple[list[float], float]:
    """Accuracies of random trials that end within the budget of training seconds, and what they took."""
    study = optuna.create_study(direction="maximize", sampler=optuna.samplers.RandomSampler(seed=seed))
    objective = Objective(search.space, search.data, search.spec.recipe, device="cpu")
    accuracies: list[float] = []
    spent = 0.0
    while True:
        study.optimize(objective, n_trials=1)
        trial = study.trials[-1]
        if TrialKey.DUPLICATE_OF not in trial.user_attrs:
            spent += trial.user_attrs[TrialKey.SECONDS]
        if spent > budget:
            return accuracies, spent - trial.user_attrs[TrialKey.SECONDS]
        accuracies.append(trial.value or 0.0)


def warm_started(search: Search, seed: int, trials: int, folder: Path) -> tuple[list[float], float, float]:
    """Accuracies of the trials, seconds in all, and the supernet's part of them."""
    study = optuna.create_study(direction="maximize")
    seconds = float(str(train(study, search, folder, None, seed=seed)["seconds"]))
    base = optuna.samplers.RandomSampler(seed=seed)
    study.sampler = WarmStartSampler(base, SupernetSampler(search.space, seed, AS_LEARNED))
    study.optimize(Objective(search.space, search.data, search.spec.recipe, device="cpu"), n_trials=trials)
    own = sum(t.user_attrs[TrialKey.SECONDS] for t in study.trials if TrialKey.DUPLICATE_OF not in t.user_attrs)
    return [t.value or 0.0 for t in study.trials], seconds + own, seconds


def compare(search: Search, options: argparse.Namespace) -> dict[str, object]:
    rows = []
    for seed in range(options.first_seed, options.first_seed + options.seeds):
        with tempfile.TemporaryDirectory() as folder:
            warm, total, supernet = warm_started(search, seed, options.trials, Path(folder))
        random, _ = plain_random(search, seed, total)
        rows.append(
            {
                "seed": seed,
                "warm": max(warm),
                "random": max(random),
                "argmax": warm[0],
                "mean_warm_5": statistics.fmean(warm[:5]),
                "mean_random": statistics.fmean(random),
                "random_trials": len(random),
                "seconds": round(total, 1),
                "supernet_seconds": round(supernet, 1),
            }
        )
        if not options.json:
            print(
                f"seed {seed}: warm start {max(warm):.4f} in {len(warm)} trials, random {max(random):.4f} in"
                f" {len(random)} trials, {total:.0f} s each (supernet {supernet:.0f} s); mean of the first five"
                f" {statistics.fmean(warm[:5]):.4f}, of random {statistics.fmean(random):.4f}",
                flush=True,
            )
    gaps = [row["warm"] - row["random"] for row in rows]
    return {"rows": rows, "mean_gap": statistics.fmean(gaps), "gaps": gaps}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("lambda", "warm-start"))
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--first-seed", type=int, default=0)
    parser.add_argument("--trials", type=int, default=10)
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="override the preset")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    search = Experiment.from_spec(StudySpec.from_toml(find_spec("digits-supernet"), options.set), device="cpu").search
    result = sweep(search, options) if options.what == "lambda" else compare(search, options)
    if options.json:
        print(json.dumps(result))
    elif options.what == "lambda":
        print(f"Spearman between weight and latency: {result['spearman']:.2f}")
    else:
        gaps = result["gaps"]
        spread = statistics.stdev(gaps) if len(gaps) > 1 else 0.0
        print(f"warm start minus random: mean {result['mean_gap']:+.4f}, standard deviation {spread:.4f}")


if __name__ == "__main__":
    main()
