"""What the operations of a supernet cost by a latency table of the whole space."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import nas_optuna as nas
from nas_optuna.costs.latency import measure_table
from nas_optuna.costs.runtimes import Conditions
from nas_optuna.experiment import Experiment
from nas_optuna.oneshot.price import _seconds, cost_table, measure_price
from nas_optuna.oneshot.training import make_strategy
from nas_optuna.spaces.supernet import supernet_class
from nas_optuna.spec import StudySpec
from nas_optuna.training.fit import never

SHAPE: dict[str, Any] = {"in_channels": 1, "classes": 10, "input_size": 8}


def layers(c: Any, width: int, task: Any, repeats: int = 1) -> nn.Module:
    made: list[nn.Module] = [nn.Conv2d(task.channels, width, 3, padding=1)]
    for i in range(repeats):
        convs = {f"conv{k}": lambda k=k: nn.Conv2d(width, width, k, padding=k // 2) for k in (1, 3)}
        made.append(c.layer(f"layer{i}", convs))
    return nn.Sequential(*made, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, task.classes))


@nas.space
def of_width(c: Any, task: Any) -> nn.Module:
    return layers(c, c.choice("width", [4, 8], ordered=True), task)


@nas.space
def of_depth(c: Any, task: Any) -> nn.Module:
    return layers(c, 4, task, c.integer("depth", 1, 2))


@nas.space
def of_label(c: Any, task: Any) -> nn.Module:
    network = layers(c, 4, task)
    return nn.Sequential({"relu": nn.ReLU, "gelu": nn.GELU}[c.choice("activation", ["relu", "gelu"])](), network)


@pytest.mark.parametrize("function", [of_width, of_depth, of_label])
def test_a_table_of_the_whole_space_tells_what_the_part_in_the_supernet_costs(function: Any, tmp_path: Path) -> None:
    space, path = function(**SHAPE), tmp_path / "table.json"
    held = supernet_class(space).supported_subspace(space)
    assert held.size < space.size
    table = measure_table(space, Conditions.here(torch.device("cpu")), path, rounds=1, seconds=0)
    found = cost_table(space, path)
    assert found.unit == "ms"
    assert found.costs == {operation.key: table.operation_ms(operation) for operation in held.reachable_operations()}


@pytest.mark.parametrize("kind", ["cpu", "mps", "cuda"])
def test_a_step_has_ended_when_its_time_is_taken(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    done: list[str] = []
    monkeypatch.setattr(torch.accelerator, "synchronize", lambda device: done.append(device.type))
    _seconds(lambda: done.append("step"), torch.device(kind))
    assert done == (["step"] * 3 if kind == "cpu" else ["step", kind] * 3)


def test_a_training_alone_is_priced_by_the_epochs_of_its_recipe(monkeypatch: pytest.MonkeyPatch) -> None:
    """An epoch of 64 images, of which there are 120."""
    monkeypatch.setattr("nas_optuna.oneshot.price._seconds", lambda *_: 1.0)
    recipe = {"input_size": 8, "epochs": 5, "batch_size": 32, "epoch_size": 64, "repeats": 2}
    space = {"name": "conv", "depth": 1, "filters": [4, 8], "kernels": [3], "strides": [1]}
    spec = StudySpec.from_dict({"data": {"name": "digits", "train_limit": 120}, "space": space, "recipe": recipe})
    search, cpu = Experiment.from_spec(spec, device="cpu").search, torch.device("cpu")
    strategy = make_strategy(search, cost_table(search.space, None), cpu, never)
    assert strategy is not None
    assert measure_price(search, strategy, None, 10).training_seconds == 2 * 5 * 2
