"""Latency learned from whole networks, where a space has too many operations to measure each."""

import json
import random
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from scipy.stats import spearmanr
from torch import nn

from nas_optuna import space as space_of_function
from nas_optuna.costs.latency import check_table, measure_table
from nas_optuna.costs.latency_kit import write_kit
from nas_optuna.costs.latency_model import LatencyModel, operators
from nas_optuna.costs.latency_table import LatencyTable, measurable_operations
from nas_optuna.costs.runtimes import Conditions
from nas_optuna.costs.timing import fastest
from nas_optuna.errors import TableError
from nas_optuna.spaces import create_space
from tests.helpers import Command

FUNCTION = f"{Path(__file__).parents[2]}/examples/my_space.py:network"


@space_of_function
def one(c: object, task: object) -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(1, 16, 3, padding=1),
        nn.BatchNorm2d(16),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(16, 16, 3, padding=1, groups=16),
        nn.Conv2d(16, 24, 1),
        nn.Flatten(),
        nn.Linear(24 * 16, 10),
    )


def test_operators_are_counted_by_kind() -> None:
    space = one(in_channels=1, classes=10, input_size=8)
    found = operators(space, space.architecture({}))
    assert found["first 3x3 macs"] == 16 * 9 * 64
    assert found["depthwise 3x3 macs"] == 16 * 9 * 16
    assert found["convolution 1x1 unaligned macs"] == 24 * 16 * 16
    assert found["addmm weights"] == 24 * 16 * 10
    assert found["relu moved"] == 2 * 16 * 64
    assert found["max_pool2d_with_indices [2, 2] calls"] == 1
    assert not [name for name in found if "batch_norm" in name], "it is folded into the convolution"


def test_the_latency_of_networks_that_were_not_measured_is_told() -> None:
    """Latencies that follow from operators, with the noise of a measurement."""
    space, rng = create_space("block", {"depth": 3}, in_channels=1, classes=10, input_size=16), random.Random(0)
    drawn = space.sample_distinct(90, rng)
    counted = [operators(space, architecture) for architecture in drawn]
    share = {name: 10 ** rng.uniform(-1, 1) for name in sorted(set().union(*counted))}
    latencies = [
        sum(share[n] * c * (1.0 if n.endswith(("calls", "network")) else 1e-4) for n, c in found.items())
        * rng.uniform(0.98, 1.02)
        for found in counted
    ]
    model = LatencyModel(counted[:60], latencies[:60])
    told = [model(found) for found in counted[60:]]
    assert spearmanr(told, latencies[60:]).statistic > 0.97
    off = sorted(abs(a - b) / b for a, b in zip(told, latencies[60:], strict=True))
    assert off[len(off) // 2] < 0.05


@pytest.mark.process
def test_a_space_of_too_many_operations_has_a_kit_all_the_same(
    command: Command, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = {"in_channels": 1, "classes": 10, "input_size": 28}
    assert measurable_operations(create_space("residual", {}, **given), "torch") == []
    function = create_space(FUNCTION, {}, **given)
    assert measurable_operations(function, "torch")
    assert measurable_operations(function, "onnxruntime") == [], "a graph without its layers has gaps"
    monkeypatch.setattr("nas_optuna.costs.latency_table.MOST_OPERATIONS", 3)
    space = create_space("conv", {"depth": 2}, in_channels=1, classes=10, input_size=8)
    write_kit(space, place / "kit", precisions=["fp32"], networks=24)
    measure = [sys.executable, str(place / "kit" / "measure.py"), "--rounds", "1"]
    made = subprocess.run(measure, capture_output=True, text=True, check=True)
    (place / "table.json").write_text(made.stdout)
    table = LatencyTable.load(place / "table.json")
    assert table.whole
    assert len(table.networks) == 24
    assert len(check_table(table, space).table_ms) == 24
    checked = command("latency", "check", "table.json", "--set", "depth=2", "--input-size", "8", "--json").json
    assert checked["networks"] == 24
    limit = sorted(map(fastest, table.networks.values()))[18] * (1 + (table.margin(space) or 0.0))
    sets = [w for v in ("space.depth=2", "recipe.input_size=8", "recipe.epochs=1") for w in ("--set", v)]
    more = ["--set", "data.train_limit=100", "--sampler", "random", "--trials", "2"]
    said = command("run", "--max-latency", limit, "--latency-table", "table.json", *sets, *more)
    assert said.code == 0, said.err
    best = command("best", "--json").json
    latency = best["costs"]["latency_ms"]
    assert latency == pytest.approx(table.architecture_ms(space, space.parse(best["architecture"])))
    assert latency <= limit
    refused = command("supernet", "train", "--latency-table", "table.json", "--set", "supernet.epochs=1")
    assert (refused.code, len(refused.err.strip().splitlines())) == (2, 1), refused.err
    assert "whole networks" in refused.err
    other = create_space("block", {}, in_channels=1, classes=10, input_size=28)
    anew, architecture = LatencyTable.load(place / "table.json"), other.sample(random.Random(0))
    with pytest.raises(TableError, match="of another space than 'block'"):
        anew.architecture_ms(other, architecture)


def test_this_machine_is_measured_by_whole_networks_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("nas_optuna.costs.latency.WHOLE_NETWORKS", 12)
    here = Conditions.here(torch.device("cpu"))
    monkeypatch.setattr("nas_optuna.costs.latency_table.MOST_OPERATIONS", 3)
    space = create_space("conv", {"depth": 2}, in_channels=1, classes=10, input_size=8)
    table = measure_table(space, here, tmp_path / "table.json", rounds=1, seconds=0)
    assert (len(table.networks), table.entries) == (12, {})
    assert measure_table(space, here, tmp_path / "table.json", rounds=1, seconds=0) == table, "nothing is left"


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["fp32", "int8"])
@pytest.mark.parametrize("name", ["macro", "residual", FUNCTION], ids=["macro", "residual", "function"])
def test_the_kit_ranks_whole_networks(name: str, precision: str, tmp_path: Path) -> None:
    space = create_space(name, {}, in_channels=1, classes=10, input_size=28)
    write_kit(space, tmp_path / "kit", precisions=[precision])
    measure = [sys.executable, str(tmp_path / "kit" / "measure.py"), "--precision", precision]
    made = subprocess.run(measure, capture_output=True, text=True, check=True)
    table = LatencyTable.model_validate(json.loads(made.stdout))
    check = check_table(table, space)
    print(f"{name} {precision}: Spearman {check.spearman:.3f}, median error {check.error[1]:.1%}")
    assert check.spearman >= 0.9
    assert check.error[1] <= 0.15
