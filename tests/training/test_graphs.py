"""When steps become CUDA graphs, as far as a machine without CUDA shows; see also test_gpu.py."""

import pytest
import torch
from torch import nn
from torch.torch_version import TorchVersion

from nas_optuna.spec import Recipe
from nas_optuna.training import TrainStep

CPU, CUDA = torch.device("cpu"), torch.device("cuda")


def made(network: nn.Module) -> TrainStep:
    """A step that believes to be on CUDA from now on."""
    step = TrainStep(network, Recipe(precision="fp32"), CPU, total_steps=10)
    step.device = CUDA
    return step


@pytest.mark.parametrize(
    ("version", "refused"), [("2.9.1", True), ("2.11.0+cu130", True), ("2.12.0", False), ("3.0", False)]
)
def test_graphs_need_a_torch_that_survives_a_capture_that_fails(
    version: str, refused: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch, "__version__", TorchVersion(version))
    why = made(nn.Linear(4, 3))._why_no_graph()
    assert (why or "").endswith("torch before 2.12 damaged") == refused
