"""The optimiser of a training: torch's, with momenta from the beginning."""

import copy
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from nas_optuna.spec import Recipe
from nas_optuna.training.checkpoint import load_optimizer_state
from nas_optuna.training.step import make_optimizer

CPU = torch.device("cpu")
SGD = Recipe(optimizer="sgd", learning_rate=0.1, momentum=0.9, weight_decay=0.01, schedule="constant")


class Leaving(nn.Module):
    """Leaves its first layer out in one of its steps, as stochastic depth does at random."""

    def __init__(self, left_out: int) -> None:
        super().__init__()
        self.body, self.head = nn.Linear(4, 4), nn.Linear(4, 3)
        self.left_out, self.steps = left_out, -1

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.steps += 1
        result: torch.Tensor = self.head(x if self.steps == self.left_out else self.body(x))
        return result


def loss(network: nn.Module) -> torch.Tensor:
    return F.cross_entropy(network(torch.arange(8.0).view(2, 4)), torch.tensor([0, 2]))


@pytest.mark.parametrize("left_out", [0, 1])
def test_a_layer_that_is_left_out_of_a_step_learns_in_the_others(left_out: int) -> None:
    network = Leaving(left_out)
    plain = copy.deepcopy(network)
    ours = make_optimizer(network, SGD, CPU, capturable=False)
    theirs = torch.optim.SGD(plain.parameters(), lr=0.1, momentum=0.9, weight_decay=0.01, fused=False)
    for _ in range(4):
        for each, optimizer in ((network, ours), (plain, theirs)):
            optimizer.zero_grad()
            loss(each).backward()
            optimizer.step()
    for mine, other in zip(network.parameters(), plain.parameters(), strict=True):
        assert torch.allclose(mine, other, rtol=1e-5, atol=1e-6)


def test_momenta_from_the_beginning_change_no_value() -> None:
    network = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.Flatten(), nn.Linear(8 * 36, 10))
    network = network.to(memory_format=torch.channels_last)
    plain = copy.deepcopy(network)
    ours = make_optimizer(network, SGD, CPU, capturable=False)
    theirs = torch.optim.SGD(plain.parameters(), lr=0.1, momentum=0.9, weight_decay=0.01, fused=True)
    for _ in range(5):
        images, labels = torch.randn(4, 3, 8, 8), torch.randint(10, (4,))
        for each, optimizer in ((network, ours), (plain, theirs)):
            optimizer.zero_grad()
            F.cross_entropy(each(images), labels).backward()
            optimizer.step()
    assert all(torch.equal(a, b) for a, b in zip(network.parameters(), plain.parameters(), strict=True))


def test_a_state_that_lacks_a_layers_momentum_goes_on() -> None:
    """Earlier releases have kept such states."""
    network = Leaving(-1)
    first = torch.optim.SGD(network.parameters(), lr=0.1, momentum=0.9)
    loss(network).backward()
    first.step()
    state: dict[str, Any] = first.state_dict()
    del state["state"][0], state["state"][1]
    optimizer = make_optimizer(network, SGD, CPU, capturable=False)
    load_optimizer_state(state, optimizer)
    optimizer.step()
    moments = [optimizer.state[p]["momentum_buffer"] for p in network.parameters()]
    assert all(bool(moment.any()) for moment in moments)
