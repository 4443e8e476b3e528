"""The comparison at equal epochs, small, on tables that it has never seen."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


def write_table(path: Path, epochs: int) -> None:
    """Slots that are absent, unordered choices, and a schedule that dips every third epoch."""
    rng = np.random.default_rng(0)
    parameters = {
        "layer1.width": {"choices": [8, 16, 32], "ordered": True},
        "layer1.kind": {"choices": ["conv"], "ordered": False},
        "layer2.width": {"choices": ["none", 8, 16, 32], "ordered": True},
        "layer2.kind": {"choices": ["none", "conv", "pool", "gap"], "ordered": False},
        "flip": {"choices": [False, True], "ordered": False},
    }
    choices = np.unique(
        np.stack([rng.integers(0, len(p["choices"]), 80) for p in parameters.values()], 1), axis=0
    ).astype(np.int16)
    final = 0.5 + 0.04 * choices[:, [0, 2]].sum(1) + 0.02 * rng.random(len(choices))
    share = np.arange(1, epochs + 1) / epochs
    curves = final[:, None] * np.sqrt(share) - 0.05 * (np.arange(epochs) % 3 == 2) * (share < 0.9)
    np.savez(
        path,
        parameters=np.array(json.dumps(parameters)),
        choices=choices,
        sizes=choices[:, [0, 2]].astype(np.float32),
        size_names=np.array(["first", "second"]),
        curves=curves.astype(np.float32),
        seconds=np.ones(len(choices), np.float32),
        about=np.array(json.dumps({"source": "made up"})),
    )


@pytest.mark.parametrize("epochs", [5, 90])
def test_every_row_is_measured_on_any_table(tmp_path: Path, epochs: int) -> None:
    write_table(tmp_path / "table.npz", epochs)
    rows = "random,tpe,hyperband,one-epoch,arch,curves"
    command = [sys.executable, str(BENCHMARKS / "equal_epochs.py"), "--table", str(tmp_path / "table.npz")]
    command += ["--seeds", "2", "--samplers", rows, "--budgets", "3,6", "--json", str(tmp_path / "out.json")]
    done = subprocess.run([*command, "--processes", "1"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    found = json.loads((tmp_path / "out.json").read_text())
    assert list(found) == rows.split(",")
    assert all(set(figures) == {"3", "6"} for figures in found.values())
    assert all(f["mean"] >= 0 and f["se"] >= 0 for row in found.values() for f in row.values())
    assert found["curves"]["6"]["mean"] <= found["random"]["6"]["mean"]
