"""Flash and arena of networks whose figures can be told by hand."""

import random

import pytest
import torch
from torch import nn

from nas_optuna import ConvSpace
from nas_optuna.costs.microcontroller import arena_bytes, flash_bytes
from nas_optuna.spaces import create_space
from tests.helpers import Command


class Residual(nn.Module):
    """x + relu(conv(x))"""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + torch.relu(self.conv(x))


class InPlace(Residual):
    """y += x and an activation in place"""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.conv(x)
        y += x
        return y.relu_()


class Filled(Residual):
    """x and conv(x) + x, each copied into its half of one buffer, and the second half doubled there"""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        whole = x.new_empty(1, 8, 8, 8)
        whole[:, 4:] = self.conv(x)
        whole[:, 4:] += x
        whole[:, :4] = x
        return whole


class Activated(nn.Module):
    """conv(x) + sigmoid(conv(x))"""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.conv(x)
        return y + torch.sigmoid(y)


def arena(network: nn.Module, *shape: int) -> int:
    return arena_bytes(network.to("meta").eval(), torch.empty(1, *shape, device="meta"))


@pytest.mark.parametrize(
    ("network", "shape", "expected"),
    [
        (nn.Conv2d(1, 4, 3, padding=1), (1, 8, 8), 64 + 256),
        # Batch norm and the activation are part of the convolution.
        (nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), nn.BatchNorm2d(4), nn.SiLU()), (1, 8, 8), 64 + 256),
        # The input, the features, and the sum.
        (Residual(4), (4, 8, 8), 3 * 256),
        (InPlace(4), (4, 8, 8), 3 * 256),
        # The input is read until the end: it lives beside the buffer that is filled and the features.
        (Filled(4), (4, 8, 8), 256 + 512 + 256),
        # The widest pair decides: 4 and 16 channels, when the image is gone.
        (
            nn.Sequential(nn.Conv2d(1, 4, 1), nn.ReLU(), nn.Conv2d(4, 16, 1), nn.MaxPool2d(2)),
            (1, 8, 8),
            256 + 1024,
        ),
        # With a stride the zeros around the input are written first; then the input itself is gone.
        (nn.Conv2d(4, 4, 3, stride=2, padding=1), (4, 8, 8), 256 + 400),
        (nn.Sequential(nn.Conv2d(4, 4, 3, padding=2), nn.Identity()), (4, 8, 8), 576 + 400),
        # What a function around it still holds is no buffer: three in a row are two at once.
        (nn.Sequential(nn.Sequential(*(nn.Conv2d(4, 4, 3, padding=1) for _ in range(3)))), (4, 8, 8), 2 * 256),
        # An activation cannot write over what is read again.
        (Activated(4), (4, 8, 8), 3 * 256),
    ],
)
def test_the_arena_holds_what_an_operator_reads_and_writes(
    network: nn.Module, shape: tuple[int, ...], expected: int
) -> None:
    assert arena(network, *shape) == expected


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("conv", (214240, 69360)),
        ("block", (32384, 49152)),
        ("macro", (187248, 245760)),
        ("residual", (4231960, 32832)),
        ("backbone", (3080496, 1244256)),
    ],
)
def test_a_space_of_ours_has_the_figures_that_studies_remember(name: str, expected: tuple[int, int]) -> None:
    space = create_space(name, {}, in_channels=3, classes=10, input_size=32)
    architecture = space.sample(random.Random(0))
    network = space.build(architecture)
    assert (flash_bytes(network), arena(network, *space.input_shape)) == expected


def test_flash_has_a_bias_and_a_scale_per_channel() -> None:
    assert flash_bytes(nn.Linear(10, 3)) == 30 + 3 * 8
    assert flash_bytes(nn.ConvTranspose2d(8, 3, 2)) == 8 * 3 * 4 + 3 * 8
    folded = nn.Sequential(nn.Conv2d(2, 4, 3, bias=False), nn.BatchNorm2d(4))
    assert flash_bytes(folded) == 2 * 4 * 9 + 4 * 8


def test_a_search_stays_inside_a_microcontroller(command: Command) -> None:
    space = ConvSpace(depth=1, filters=(4, 32), kernels=(3,), strides=(1,), input_size=8)
    flash = {str(a): flash_bytes(space.build(a)) for a in space.enumerate()}
    small, large = sorted(flash, key=flash.__getitem__)
    sets = ["space.depth=1", "space.filters=[4,32]", "space.kernels=[3]", "space.strides=[1]", "recipe.input_size=8"]
    options = [part for value in (*sets, "recipe.epochs=1", "data.train_limit=100") for part in ("--set", value)]
    said = command("run", "--trials", 4, "--max-flash", flash[large] - 1, "--max-arena", "64k", *options)
    assert said.code == 0, said.err
    best = command("best")
    assert small in best.out
