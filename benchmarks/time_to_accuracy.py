"""Seconds from the start of a command until a network has some validation accuracy, on MNIST at 28×28.

Four ways to search the space of five convolutions, with 9,600 images to train on and 2,400 to validate:

- reference: random search around the reference loop, ten epochs each, nothing pruned;
- optuna: TPE and the median pruner of Optuna around the same loop;
- ours: ``nas-optuna run`` with the preset mnist-fast;
- workers: the same with ``--workers auto``.

Each search is a process of its own, and all take turns seed by seed. The first two are judged after every epoch, ours
after every trial, and all are given up after `--limit` seconds. Needs MNIST in NAS_OPTUNA_DATA.

    python benchmarks/time_to_accuracy.py --seeds 5
    OMP_NUM_THREADS=1 python benchmarks/time_to_accuracy.py --sides reference optuna ours  # while other cores work
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

SIDES = ("reference", "optuna", "ours", "workers")
IMAGES, VALIDATION = 12_000, 2_400
EPOCHS, BATCH_SIZE, SIZE, LAYERS = 10, 200, 28, 5
"""The reference's recipe."""
FILTERS, KERNELS, STRIDES = (16, 24, 32, 48), (3, 5, 7), (1, 2)


def search(side: str, seed: int, told: Callable[[float], None]) -> None:
    """The reference's search, or Optuna's around its training, without end."""
    import optuna
    import reference
    import torch

    whole = reference.mnist(SIZE)
    train = reference.loader(whole, range(IMAGES - VALIDATION), BATCH_SIZE)
    validation = reference.loader(whole, range(IMAGES - VALIDATION, IMAGES), BATCH_SIZE, shuffle=False)
    torch.manual_seed(seed)

    def objective(trial: optuna.Trial) -> float:
        layers = [
            tuple(
                trial.suggest_categorical(f"{name}{layer}", choices)
                for name, choices in (("filters", FILTERS), ("kernel", KERNELS), ("stride", STRIDES))
            )
            for layer in range(LAYERS)
        ]
        network = reference.Network(layers, SIZE)
        optimizer = reference.optimizer_of(network)
        for epoch in range(1, EPOCHS + 1):
            reference.train_epoch(network, optimizer, train)
            accuracy = reference.accuracy(network, validation)
            told(accuracy)
            trial.report(accuracy, epoch)
            if side == "optuna" and trial.should_prune():
                raise optuna.TrialPruned
        return accuracy

    tpe = side == "optuna"
    study = optuna.create_study(
        direction="maximize",
        sampler=optuna.samplers.TPESampler(seed=seed) if tpe else optuna.samplers.RandomSampler(seed=seed),
        pruner=optuna.pruners.MedianPruner() if tpe else optuna.pruners.NopPruner(),
    )
    study.optimize(objective)


def command(side: str, seed: int, target: float, folder: str) -> list[str]:
    """The search as a process."""
    if side in ("reference", "optuna"):
        return [sys.executable, __file__, "--side", side, "--seed", str(seed)]
    ours = [
        "run",
        "--spec",
        "mnist-fast",
        "--set",
        f"data.train_limit={IMAGES}",
        "--seed",
        str(seed),
        "--trials",
        "1000",
    ]
    ours += ["--set", f"data.validation_fraction={VALIDATION / IMAGES}", "--until", f"accuracy>={target}", "--json"]
    ours += ["--storage", f"sqlite:///{folder}/study.db", *(["--workers", "auto"] if side == "workers" else [])]
    return [sys.executable, "-m", "nas_optuna", *ours]


def measured(side: str, seed: int, targets: list[float], limit: float) -> list[float | None]:
    """Seconds until each accuracy; None where the search was given up before."""
    with tempfile.TemporaryDirectory() as folder:
        began, wall = time.perf_counter(), time.time()
        process = subprocess.Popen(
            command(side, seed, max(targets), folder), stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
        )
        reached: list[tuple[float, float]] = []
        if side in ("reference", "optuna"):
            assert process.stdout is not None
            for line in process.stdout:
                reached.append((time.perf_counter() - began, float(line)))
                if reached[-1][0] > limit or reached[-1][1] >= max(targets):
                    break
        else:
            try:
                process.wait(limit)
            except subprocess.TimeoutExpired:
                process.terminate()
                process.wait()
            reached = [*trials(Path(folder) / "study.db", wall)]
        process.kill()
        process.wait()
    return [
        min((s for s, accuracy in reached if accuracy >= target and s <= limit), default=None) for target in targets
    ]


def trials(database: Path, wall: float) -> Iterator[tuple[float, float]]:
    """Seconds until each complete trial ended, and its accuracy."""
    import optuna

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    for trial in optuna.load_study(study_name="nas", storage=f"sqlite:///{database}").trials:
        if trial.state == optuna.trial.TrialState.COMPLETE and trial.datetime_complete is not None:
            yield trial.datetime_complete.timestamp() - wall, trial.values[0]


def main() -> None:
    """Print medians and quartiles, or one search's accuracies as they come."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--targets", type=float, nargs="+", default=[0.95, 0.97])
    parser.add_argument("--limit", type=float, default=300.0)
    parser.add_argument("--sides", nargs="+", choices=SIDES, default=SIDES, help="these rather than all four")
    parser.add_argument("--side", choices=SIDES[:2], help=argparse.SUPPRESS)
    parser.add_argument("--seed", type=int, default=0, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.side:
        search(options.side, options.seed, lambda accuracy: print(accuracy, flush=True))
        return
    found: dict[str, list[list[float | None]]] = {side: [] for side in options.sides}
    for seed in range(options.seeds):
        for side in options.sides:
            found[side].append(measured(side, seed, options.targets, options.limit))
            print(json.dumps({"side": side, "seed": seed, "seconds": found[side][-1]}), flush=True)
    for side, runs in found.items():
        for target, seconds in zip(options.targets, zip(*runs, strict=True), strict=True):
            known = sorted(options.limit if s is None else s for s in seconds)
            low, middle, high = statistics.quantiles(known, n=4) if len(known) > 1 else known * 3
            given_up = sum(s is None for s in seconds)
            print(f"{side}, {target}: {middle:.0f} s ({low:.0f} to {high:.0f}), {given_up} of {len(known)} given up")


if __name__ == "__main__":
    main()
