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
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch

from nas_optuna.costs.latency import Check, check_table, compare, measure_table
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
        rows[f"onnxruntime {precision}"] = {**row(check_table(table, space)), "seconds": seconds}
        rows[f"torch fp32, for onnxruntime {precision}"] = row(elsewhere(in_torch, table, space))
    return rows


def elsewhere(in_torch: LatencyTable, table: LatencyTable, space: SearchSpace) -> Check:
    """How well PyTorch's latency tells that of the kit's networks."""
    if not table.whole:
        return check_table(in_torch.model_copy(update={"networks": table.networks, "kit": table.kit}), space)
    truth = {text: fastest(visits) for text, visits in table.networks.items()}
    return compare(list(truth.values()), [in_torch.architecture_ms(space, space.parse(text)) for text in truth])


def row(check: Check) -> dict[str, float]:
    """The two figures of a table."""
    return {"spearman": check.spearman, "median_error": check.error[1]}


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
