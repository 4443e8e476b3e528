"""When steps become CUDA graphs, as far as a machine without CUDA shows; see also test_gpu.py."""

import random
from collections.abc import Callable
from contextlib import nullcontext
from threading import Event, Thread
from unittest.mock import MagicMock

import numpy as np
import pytest
import torch
from torch import nn
from torch.torch_version import TorchVersion

from nas_optuna.randomness import HostGenerators, RandomState
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


DRAWS: dict[str, Callable[[], object]] = {
    "torch": lambda: torch.rand(()),
    "python": random.random,
    "gauss": lambda: random.gauss(0, 1),
    "numpy": np.random.rand,
}


@pytest.mark.parametrize("name", DRAWS)
def test_what_is_drawn_on_the_host_is_noticed_and_drawn_again(name: str) -> None:
    draw = DRAWS[name]
    with HostGenerators() as generators:
        torch.rand((), generator=torch.Generator())
        assert not generators.have_moved()
        first = draw()
        assert generators.have_moved()
    assert not generators.have_moved()
    assert draw() == first


class OnTheHost(nn.Module):
    """Leaves a layer out, as a host's random number decides."""

    def __init__(self, draws: bool) -> None:
        super().__init__()
        self.body, self.head, self.draws = nn.Linear(4, 4), nn.Linear(4, 3), draws

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        kept = self.draws and torch.rand(()) < 2
        result: torch.Tensor = self.head(self.body(x) if kept else x)
        return result


def imitate_captures(monkeypatch: pytest.MonkeyPatch, during: Callable[[], object] = lambda: None) -> None:
    """A capture is not one here, so it is asked for what it has made, and not for what it has computed."""
    for name in ("stream", "current_stream", "Stream", "CUDAGraph"):
        monkeypatch.setattr(torch.cuda, name, MagicMock())
    monkeypatch.setattr(torch.cuda, "graph", lambda *_, **__: (during(), nullcontext())[1])


@pytest.mark.parametrize("draws", [True, False])
def test_a_network_that_draws_on_the_host_is_not_replayed(draws: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    imitate_captures(monkeypatch)
    step, images, before = made(OnTheHost(draws)), torch.ones(2, 4), torch.get_rng_state()
    step._capture(images, torch.tensor([0, 2]))
    assert (step._graph is None) == draws
    if draws:
        assert str(step._graph_reason).startswith("the network draws random numbers on the host")
        assert not step.optimizer.state
        assert all(p.grad is None for p in step.network.parameters())
        assert step._inputs is None
        assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("network", [nn.Linear(4, 3), OnTheHost(False)], ids=["plain", "of a user"])
def test_what_another_thread_draws_is_not_taken_for_the_networks(
    network: nn.Module, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two trials train at once, and the second draws while the first one's step is captured."""
    drawn, captured, before = Event(), Event(), torch.get_rng_state()

    def draw() -> None:
        with RandomState(1, CPU).current():
            torch.rand(())
            drawn.set()
            captured.wait(5)

    other = Thread(target=draw)
    imitate_captures(monkeypatch, during=lambda: (other.start(), drawn.wait(0.2)))
    step = made(network)
    step._capture(torch.ones(2, 4), torch.tensor([0, 2]))
    captured.set()
    other.join()
    assert step._graph is not None
    assert torch.equal(torch.get_rng_state(), before)
