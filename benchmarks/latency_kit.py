"""How well a kit's table tells the latency of whole networks in ONNX Runtime, and how well PyTorch's latency does.

The kit is written here and measured by its own file. Its whole networks are the truth. Each table's sums are compared
with them: rank correlation, and median relative error with the overhead of the other networks. Where a space has too
many operations, each tenth of the networks is told from the others. The rows "torch" are the same space measured in
PyTorch on this machine, compared with the same truth.

    python benchmarks/latency_kit.py --space conv
    python benchmarks/latency_kit.py --space macro
    python benchmarks/latency_kit.py --space residual
    python benchmarks/latency_kit.py --space examples/my_space.py:network --json
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import torch
from scipy.stats import spearmanr

from nas_optuna.costs.latency import measure_table
from nas_optuna.costs.latency_kit import write_kit
from nas_optuna.costs.latency_table import LatencyTable
from nas_optuna.costs.runtimes import Conditions
from nas_optuna.costs.timing import fastest
from nas_optuna.spaces import SearchSpace, create_space
from nas_optuna.spec_text import with_overrides


def measured(kit: Path, precision: str) -> tuple[LatencyTable, float]:
    """The table that a kit's own file measures, and the seconds that it takes."""
    began = time.perf_counter()
    command = [sys.executable, str(kit / "measure.py"), "--precision", precision]
    said = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
    seconds = time.perf_counter() - began
    (kit / f"{precision}.json").write_text(said)
    return LatencyTable.load(kit / f"{precision}.json"), seconds


def tables(space: SearchSpace, folder: Path) -> dict[str, dict[str, float]]:
    """Rank correlation and error of each table."""
    write_kit(space, folder / "kit")
    in_torch = measure_table(space, Conditions.here(torch.device("cpu")), folder / "torch.json", rounds=4)
    rows = {}
    for precision in ("fp32", "int8"):
        table, seconds = measured(folder / "kit", precision)
        rows[f"onnxruntime {precision}"] = {**row(*table.own_networks(space)), "seconds": seconds}
        truth = {space.parse(text): fastest(visits) for text, visits in table.networks.items()}
        told = [in_torch.architecture_ms(space, architecture) for architecture in truth]
        rows[f"torch fp32, for onnxruntime {precision}"] = row(told, list(truth.values()))
    return rows


def row(told: Sequence[float], measured: Sequence[float]) -> dict[str, float]:
    """The two figures of a table."""
    gaps = [m - t for t, m in zip(told, measured, strict=True)]
    overheads = [statistics.median(gaps[:i] + gaps[i + 1 :]) for i in range(len(gaps))]
    error = statistics.median(abs(t + o - m) / m for t, o, m in zip(told, overheads, measured, strict=True))
    return {"spearman": float(spearmanr(measured, told).statistic), "median_error": error}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--space", default="conv")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE")
    parser.add_argument("--input-size", type=int, default=28)
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args()
    options = with_overrides({}, given.set)
    space = create_space(given.space, options, in_channels=1, classes=10, input_size=given.input_size)
    with tempfile.TemporaryDirectory() as folder:
        rows = tables(space, Path(folder))
    if given.json:
        print(json.dumps(rows))
        return
    for name, figures in rows.items():
        print(f"{name:34} Spearman {figures['spearman']:.3f}   median error {figures['median_error']:.1%}")


if __name__ == "__main__":
    main()
