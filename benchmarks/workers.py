"""Trials per minute of one process with all threads, of one with one thread, and of one-thread workers, in turn.

The default preset without pruning; each round runs every way once, in another order, as a user would: by the command.
Twice the time is taken: of the whole command, and from the first trial's beginning to the last one's end.

    python benchmarks/workers.py --workers 2 --trials 8 --rounds 3
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import optuna


def run(folder: Path, name: str, trials: int, options: list[str]) -> tuple[float, float, dict[int, float]]:
    """Return seconds of the command and of its trials, and the value of each trial."""
    storage = f"sqlite:///{folder / name}.db"
    code = "import sys; from nas_optuna.cli import main; sys.exit(main(sys.argv[1:]))"
    words = ["-q", "run", "--storage", storage, "--sampler", "random", "--pruner", "none", "--device", "cpu"]
    environment = {k: v for k, v in os.environ.items() if k != "OMP_NUM_THREADS"}
    began = time.perf_counter()
    subprocess.run(
        [sys.executable, "-c", code, *words, "--trials", str(trials), *options],
        check=True,
        env=environment,
        stdout=subprocess.DEVNULL,
    )
    taken = time.perf_counter() - began
    found = optuna.load_study(study_name="nas", storage=storage).get_trials(deepcopy=False)
    first = min(trial.datetime_start for trial in found)
    last = max(trial.datetime_complete for trial in found)
    return taken, (last - first).total_seconds(), {trial.number: trial.value for trial in found}


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--trials", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=3)
    given = parser.parse_args()
    ways = {
        f"one process, {given.workers} threads": ["--threads", str(given.workers)],
        "one process, 1 thread": ["--threads", "1"],
        f"{given.workers} workers, 1 thread each": ["--workers", str(given.workers), "--threads", "1"],
    }
    results: dict[str, list[tuple[float, float]]] = {way: [] for way in ways}
    values: dict[str, dict[int, float]] = {}
    with tempfile.TemporaryDirectory() as folder:
        for turn in range(given.rounds):
            order = list(ways)[turn % 3 :] + list(ways)[: turn % 3]
            for way in order:
                whole, trials, values[way] = run(Path(folder), f"{turn}-{len(way)}", given.trials, ways[way])
                results[way].append((whole, trials))
                print(f"round {turn + 1}  {way:26s}  command {whole:6.1f} s  trials {trials:6.1f} s", flush=True)
    first = next(iter(ways))
    for way, times in results.items():
        for place, what in enumerate(("command", "trials")):
            ratio = statistics.median(a[place] / b[place] for a, b in zip(results[first], times, strict=True))
            rate = 60 * given.trials / statistics.median(pair[place] for pair in times)
            print(f"{way:26s}  {what:8s}  {rate:6.1f} trials/min  {ratio:5.2f} times {first!r}")
    ours = values[list(ways)[2]]
    for way in list(ways)[:2]:
        print(f"values of {way}, trial by trial: {'those' if values[way] == ours else 'not all those'} of the workers")


if __name__ == "__main__":
    main()
