"""What each pruner finds and what it spends, over several seeds.

Every seed draws its own random architectures. Each is trained once to the end, and its curve kept; then every pruner is
replayed over the same curves through Optuna's own ask, report and tell. A pruner's decisions do not change what an
epoch would have brought, so the replay is exact, and all pruners see the same networks in the same order.

"Best" is the best validation accuracy among trials trained to the end; "epochs" are counted against no pruning.

    NAS_OPTUNA_DATA=data python benchmarks/pruning.py --spec mnist-fast --set data.train_limit=3000
    python benchmarks/pruning.py --spec digits-quick --json
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from typing import Any

import optuna

from nas_optuna.experiment import Experiment
from nas_optuna.presets import find_spec
from nas_optuna.pruners import create_pruner
from nas_optuna.spec import StudySpec

PRUNERS = ("none", "guarded", "median", "percentile", "asha", "hyperband", "patient")


def curves_of(spec: StudySpec, seed: int, trials: int) -> list[list[float]]:
    """Validation accuracy after each epoch, for `trials` random architectures."""
    objective = Experiment.from_spec(spec).objective
    study = optuna.create_study(
        direction="maximize", sampler=optuna.samplers.RandomSampler(seed=seed), pruner=optuna.pruners.NopPruner()
    )
    study.optimize(objective, n_trials=trials)
    return [list(trial.intermediate_values.values()) for trial in study.get_trials()]


def replay(curves: list[list[float]], pruner: str) -> dict[str, float]:
    """Run a pruner over the curves."""
    epochs = len(curves[0])
    study = optuna.create_study(direction="maximize", pruner=create_pruner(pruner, epochs, {}))
    spent, best, pruned = 0, 0.0, 0
    for curve in curves:
        trial = study.ask()
        for epoch, accuracy in enumerate(curve, start=1):
            spent += 1
            trial.report(accuracy, epoch)
            if epoch < epochs and trial.should_prune():
                study.tell(trial, state=optuna.trial.TrialState.PRUNED)
                pruned += 1
                break
        else:
            study.tell(trial, curve[-1])
            best = max(best, curve[-1])
    return {"best": best, "epochs": spent, "pruned": pruned, "share": spent / (epochs * len(curves))}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--spec", default="digits-quick")
    parser.add_argument("--set", action="append", default=[], dest="overrides", metavar="KEY=VALUE")
    parser.add_argument("--trials", type=int, default=20)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    spec = StudySpec.from_toml(find_spec(arguments.spec), arguments.overrides)

    results: dict[str, list[dict[str, float]]] = {name: [] for name in PRUNERS}
    recorded = []
    for seed in range(arguments.seeds):
        curves = curves_of(spec, seed, arguments.trials)
        recorded.append(curves)
        print(f"seed {seed}: {len(curves)} networks trained", file=sys.stderr, flush=True)
        for name in PRUNERS:
            results[name].append(replay(curves, name))
    summary: dict[str, Any] = {}
    for name, runs in results.items():
        losses = [none["best"] - run["best"] for run, none in zip(runs, results["none"], strict=True)]
        summary[name] = {
            "best": statistics.fmean(run["best"] for run in runs),
            "best_spread": statistics.stdev(run["best"] for run in runs),
            "points_lost": 100 * statistics.fmean(losses),
            "points_lost_most": 100 * max(losses),
            "share_of_epochs": statistics.fmean(run["share"] for run in runs),
            "share_range": [min(run["share"] for run in runs), max(run["share"] for run in runs)],
            "runs": runs,
        }
    if arguments.json:
        json.dump(
            {"spec": spec.to_dict(), "trials": arguments.trials, "pruners": summary, "curves": recorded}, sys.stdout
        )
        print()
        return
    print(f"{arguments.spec} {' '.join(arguments.overrides)}: {arguments.trials} trials, {arguments.seeds} seeds")
    print("pruner       best            points lost (most)   epochs spent (range)")
    for name, row in summary.items():
        low, high = row["share_range"]
        best = f"{row['best']:.4f} ± {row['best_spread']:.4f}"
        lost = f"{row['points_lost']:5.2f} ({row['points_lost_most']:.2f})"
        print(f"{name:11s}  {best}  {lost}          {row['share_of_epochs']:4.0%} ({low:.0%} … {high:.0%})")


if __name__ == "__main__":
    main()
