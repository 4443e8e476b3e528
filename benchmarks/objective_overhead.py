"""What our objective and loop cost a trial beyond bare Optuna, in milliseconds.

Both sides suggest the same fifteen parameters with the same sampler, report the same epochs, ask the same pruner and
write to an SQLite file with the same settings. Training is stubbed out in both, so that all that is left is
bookkeeping: ours adds the architecture's figures, the attributes and note of each trial, the look for duplicates, and
the loop that can be interrupted. The two take turns, block by block, in one process, and their studies grow alike.

    python benchmarks/objective_overhead.py --trials 500 --json
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import optuna
import torch

from nas_optuna import ConvSpace, Objective, Recipe, StudySpec, load_data
from nas_optuna.cli.progress import Bars, RunDisplay
from nas_optuna.execution import evaluator as evaluator_module
from nas_optuna.execution.events import Run
from nas_optuna.execution.loop import run
from nas_optuna.pruners import create_pruner
from nas_optuna.report.notes import NoteWriter
from nas_optuna.samplers import create_sampler
from nas_optuna.study.storage import open_storage
from nas_optuna.study.studies import create_study
from nas_optuna.training import EpochResult

RECIPE = Recipe(epochs=9, input_size=16)
SPACE = ConvSpace(input_size=16)


def accuracy(epoch: int) -> float:
    return 1 - 0.9 / epoch


def stubbed_fit(*_: Any, **__: Any) -> Iterator[EpochResult]:
    for epoch in range(1, RECIPE.epochs + 1):
        yield EpochResult(epoch, 1.0, 0.5, 1.0, accuracy(epoch), 0.0, 1)


def bare(trial: optuna.Trial) -> float:
    for name, parameter in SPACE.parameters.items():
        trial.suggest_categorical(name, parameter.choices)
    for epoch in range(1, RECIPE.epochs + 1):
        trial.report(accuracy(epoch), epoch)
        if epoch < RECIPE.epochs and trial.should_prune():
            raise optuna.TrialPruned
    return accuracy(RECIPE.epochs)


def study(folder: Path, name: str) -> optuna.Study:
    made = create_study(
        open_storage(f"sqlite:///{folder / name}.db", create=True), name, StudySpec(recipe=RECIPE), SPACE
    )
    made.sampler, made.pruner = create_sampler("random", SPACE, 0, {}), create_pruner("asha", RECIPE.epochs, {})
    return made


def measure(trials: int, block: int) -> dict[str, list[float]]:
    """Milliseconds a trial of each block of each side, in wall time and in this process's CPU time."""
    taken: dict[str, list[float]] = {f"{side}_{clock}": [] for side in ("bare", "ours") for clock in ("wall", "cpu")}

    def timed(side: str, work: Callable[[], object]) -> None:
        wall, cpu = time.perf_counter(), time.process_time()
        work()
        taken[f"{side}_wall"].append((time.perf_counter() - wall) * 1e3 / block)
        taken[f"{side}_cpu"].append((time.process_time() - cpu) * 1e3 / block)

    with tempfile.TemporaryDirectory() as folder:
        theirs, ours = study(Path(folder), "bare"), study(Path(folder), "ours")
        objective = Objective(SPACE, load_data("digits"), RECIPE, device="cpu")
        evaluator_module.fit = stubbed_fit  # type: ignore[assignment]
        evaluator_module.make_network = lambda *_: torch.nn.Identity()  # type: ignore[assignment]
        display = RunDisplay(Bars(disable=True), trials)
        callbacks = (NoteWriter(), display)
        for callback in callbacks:
            callback.run_started(Run("search", ours, trials, RECIPE.epochs))
        for _ in range(trials // block):
            timed("bare", lambda: theirs.optimize(bare, n_trials=block))
            with contextlib.redirect_stderr(io.StringIO()):
                timed("ours", lambda: run(ours, objective, trials=block, callbacks=callbacks))
        assert len(theirs.trials) == len(ours.trials) == trials
    return taken


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=500)
    parser.add_argument("--block", type=int, default=25, help="trials of one side before it is the other's turn")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    taken = measure(arguments.trials, arguments.block)
    result = {"trials": arguments.trials, "blocks": len(taken["bare_wall"])}
    for clock in ("wall", "cpu"):
        extra = [ours - bare for bare, ours in zip(taken[f"bare_{clock}"], taken[f"ours_{clock}"], strict=True)]
        result |= {
            f"bare_{clock}_ms": statistics.median(taken[f"bare_{clock}"]),
            f"ours_{clock}_ms": statistics.median(taken[f"ours_{clock}"]),
            f"extra_{clock}_ms": statistics.median(extra),
            f"extra_{clock}_ms_last_block": extra[-1],
        }
    if arguments.json:
        print(json.dumps(result, indent=2))
        return
    print(f"{result['trials']} trials on SQLite, medians of {result['blocks']} blocks, milliseconds per trial")
    for clock in ("wall", "cpu"):
        bare_ms, ours_ms, extra_ms = (result[f"{what}_{clock}_ms"] for what in ("bare", "ours", "extra"))
        print(f"{clock:5s} bare {bare_ms:6.1f}   ours {ours_ms:6.1f}   ours beyond bare {extra_ms:+6.1f}")


if __name__ == "__main__":
    main()
