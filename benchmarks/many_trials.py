"""How long commands take on a study of 5,000 trials in a SQLite file, and on an empty one.

Prints seconds of wall and of CPU, and the peak of memory, of each command in a process of its own.

    python benchmarks/many_trials.py [TRIALS]
"""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from sqlalchemy import insert, select

from nas_optuna.study.optuna_internals import tables
from nas_optuna.study.storage import open_storage
from nas_optuna.study.transactions import transaction

SEARCH = ["--sampler", "random", "--set", "recipe.epochs=1", "--set", "data.train_limit=200"]
COMMANDS = (("study", "list"), ("best",), ("study", "show"), ("run", "--trials", "1"))


def multiply(file: Path, trials: int) -> None:
    """Copy the rows of a study's first trials until it has so many, with values and accuracies of their own."""
    storage, rng = open_storage(f"sqlite:///{file}"), np.random.default_rng(0)
    known = transaction(
        storage, lambda c: {n: [r._asdict() for r in c.execute(select(t))] for n, t in tables().items()}
    )
    first = len(known["trials"])
    added: dict[str, list[dict[str, object]]] = {}
    for number in range(first, trials):
        source, accuracy = known["trials"][number % first], round(float(rng.uniform(0.1, 0.9)), 4)
        trial_id = known["trials"][-1]["trial_id"] + 1 + number - first
        added.setdefault("trials", []).append(source | {"trial_id": trial_id, "number": number})
        for name, rows in known.items():
            key = tables()[name].primary_key.columns.keys()[0]
            for row in rows if name.startswith("trial_") else ():
                if row["trial_id"] == source["trial_id"]:
                    copied = {k: v for k, v in row.items() if k != key} | {"trial_id": trial_id}
                    if name == "trial_values":
                        copied["value"] = accuracy
                    if row.get("key") == "nas_optuna:accuracy":
                        copied["value_json"] = json.dumps(accuracy)
                    added.setdefault(name, []).append(copied)

    def write(connection: object) -> None:
        for name, rows in added.items():
            connection.execute(insert(tables()[name]), rows)  # type: ignore[attr-defined]

    transaction(storage, write)


def measured(folder: Path, *words: str) -> tuple[float, float, float]:
    """Seconds of wall, seconds of CPU, and megabytes at the peak."""
    before, began = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    command = [sys.executable, "-m", "nas_optuna", *words]
    subprocess.run(command, cwd=folder, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    after, wall = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter() - began
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return wall, cpu, after.ru_maxrss / 1024


def main(trials: int) -> None:
    """Build the studies and measure."""
    os.environ.pop("NAS_OPTUNA_STORAGE", None)
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        measured(folder, "study", "create", "nas", *SEARCH)
        for _ in range(2):
            report(folder, 0, "study", "list")
        measured(folder, "run", "--trials", "4")
        multiply(folder / "nas-optuna.db", trials)
        measured(folder, "run", "--trials", "1")  # writes the notes that the latest of the copies lack
        for command in COMMANDS:
            report(folder, trials, *command)


def report(folder: Path, trials: int, *words: str) -> None:
    """Measure a command and print it."""
    wall, cpu, memory = measured(folder, *words)
    print(f"{trials:6,} trials  {' '.join(words):16}  {wall:5.2f} s  {cpu:5.2f} s of CPU  {memory:4.0f} MB", flush=True)


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 5000)
