"""Candidates that share what a loop changes, share weights, or are looked into by their function are refused."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import nas_optuna as nas
from nas_optuna.errors import SpecError
from nas_optuna.spaces import create_space
from nas_optuna.spaces.supernet import supernet_for

SHAPE: dict[str, Any] = {"in_channels": 1, "classes": 10, "input_size": 8}


@pytest.mark.parametrize("way", ["closure", "global", "def"])
def test_lambdas_that_see_the_loops_last_value_are_refused(way: str, tmp_path: Path) -> None:
    bodies = {
        "closure": "    layers = {f'k{k}': lambda: nn.Conv2d(1, 4, k, padding=k // 2) for k in (1, 3, 5)}\n",
        "global": "    layers = LAYERS\n",
        "def": "    layers = {}\n    for k in (1, 3, 5):\n        def make():\n            return nn.Conv2d(1, 4, k)\n"
        "        layers[f'k{k}'] = make\n",
    }
    file = tmp_path / "mine.py"
    file.write_text(
        "import nas_optuna\nfrom torch import nn\nLAYERS = {}\n"
        "for size in (1, 3):\n    LAYERS[f'k{size}'] = lambda: nn.Conv2d(1, 4, size)\n"
        "@nas_optuna.space\ndef network(c, task):\n" + bodies[way] + "    layer = c.layer('layer', layers)\n"
        "    return nn.Sequential(layer, nn.Flatten(), nn.LazyLinear(task.classes))\n"
    )
    with pytest.raises(
        SpecError, match=r"layer 'layer': candidates 'k1' and 'k3' are one function.*bind it: lambda k=k"
    ):
        create_space(f"{file}:network", {}, **SHAPE)


def test_functions_that_share_a_default_which_a_loop_changes_are_refused() -> None:
    def build(c: Any, task: Any) -> nn.Module:
        options, layers = {"k": 1}, {}
        for k in (1, 3, 5):
            options["k"] = k
            layers[f"k{k}"] = lambda given=options: nn.Conv2d(1, 4, given["k"], padding=given["k"] // 2)
        return nn.Sequential(c.layer("layer", layers), nn.Flatten(), nn.LazyLinear(10))

    with pytest.raises(SpecError, match=r"candidates 'k1' and 'k3' are one function.*an object that the loop changes"):
        nas.space(build)(**SHAPE)


def test_bound_lambdas_and_the_same_class_twice_are_candidates() -> None:
    def build(c: Any, task: Any) -> nn.Module:
        layers: Mapping[str, Any] = {f"k{k}": lambda k=k: nn.Conv2d(1, 4, k, padding=k // 2) for k in (1, 3, 5)}
        same = {"a": nn.ReLU, "b": nn.ReLU, **{f"c{k}": make_conv(k) for k in (1, 3)}}
        return nn.Sequential(c.layer("layer", layers), c.layer("other", same), nn.Flatten(), nn.LazyLinear(10))

    def make_conv(k: int) -> Any:
        return lambda: nn.Conv2d(4, 4, k, padding=k // 2)

    assert nas.space(build)(**SHAPE).size == 3 * 4


@pytest.mark.parametrize("kind", ["tied", "looked into", "drawn", "scaled in place"])
def test_a_function_that_looks_into_its_layers_is_refused_before_training(kind: str) -> None:
    @nas.space
    def network(c: Any, task: Any) -> nn.Module:
        first, second = (
            c.layer(name, {"a": lambda: nn.Linear(8, 8), "b": lambda: nn.Sequential(nn.Linear(8, 8))})
            for name in ("first", "second")
        )
        layers = [nn.Flatten(), nn.Linear(task.channels * 64, 8), first, nn.ReLU(), second]
        if kind == "tied" and isinstance(first, nn.Linear) and isinstance(second, nn.Linear):
            second.weight = first.weight
        if kind == "looked into" and isinstance(first, nn.Linear):
            layers[3] = nn.Tanh()
        if kind == "drawn":
            layers.append(Noise())
        if kind == "scaled in place":
            layers.insert(0, InPlace())
        return nn.Sequential(*layers, nn.Linear(8, task.classes))

    space = network(in_channels=1, classes=4, input_size=8)
    if kind in ("drawn", "scaled in place"):
        assert supernet_for(space) is not None, "that equal networks draw other numbers makes them no others"
        return
    with pytest.raises(SpecError, match="than its network where first=a,second=a: its function must neither look"):
        supernet_for(space)


class Noise(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + torch.randn_like(x)


class InPlace(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.sub_(0.5).div_(0.25)
