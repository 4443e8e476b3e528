import random

import pytest
import torch
from torch import nn

from nas_optuna import create_space
from nas_optuna.costs.proxies import Sizes, naswot, zico


def images(count: int = 16, channels: int = 3) -> torch.Tensor:
    return torch.randn(count, channels, 8, 8, generator=torch.Generator().manual_seed(0))


class Functional(nn.Module):
    """Activations that no module stands for."""

    def __init__(self, width: int) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.conv = nn.Conv2d(3, width, 3, padding=1)
        self.norm = nn.BatchNorm2d(width)
        self.head = nn.Linear(width, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(torch.relu(self.norm(self.conv(x))).mean((2, 3)))


@pytest.mark.parametrize("name", ["conv", "block", "macro"])
def test_sizes_are_those_of_the_network(name: str) -> None:
    space = create_space(name, {}, in_channels=3, classes=10, input_size=32)
    architecture = space.sample(random.Random(0))
    weights = sum(weight.numel() for weight in space.build(architecture).parameters())
    params = {**architecture.params, "learning_rate": 0.1}
    assert Sizes(space)(params)[0] == pytest.approx(float(torch.tensor(weights + 1.0, dtype=torch.float64).log()))


def test_naswot_sees_functional_activations_as_modules() -> None:
    torch.manual_seed(0)
    functional = Functional(8)
    module = nn.Sequential(
        functional.conv, functional.norm, nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), functional.head
    )
    assert naswot(functional, images()) == pytest.approx(naswot(module, images()))


def test_naswot_is_lower_where_images_look_alike() -> None:
    alike = images(1).repeat(16, 1, 1, 1) + 0.01 * images()
    assert naswot(Functional(8), alike) < naswot(Functional(8), images())
    assert naswot(nn.Flatten(), images()) == float("-inf")


def test_zico_grows_with_width_and_with_agreement() -> None:
    labels = torch.arange(16) % 10
    same = [(images(), labels), (images() + 0.01 * images().flip(0), labels)]
    other = [(images(), labels), (images().flip(0), labels)]
    assert zico(Functional(8), same) > zico(Functional(8), other)
    assert zico(Functional(32), other) > zico(Functional(4), other)
    with pytest.raises(ValueError, match="at least 2"):
        zico(Functional(4), other[:1])


def test_a_network_is_left_as_it_was() -> None:
    network = Functional(8).eval()
    before = {name: value.clone() for name, value in network.state_dict().items()}
    naswot(network, images())
    zico(network, [(images(), torch.arange(16) % 10)] * 2)
    assert not network.training
    assert all(weight.grad is None for weight in network.parameters())
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
