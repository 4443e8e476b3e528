"""The benchmark against known networks: every row has the same seconds, and sees the test part once."""

import math
import sys
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))

from against_known import KNOWN, Comparison, Row, count, table

from nas_optuna.spaces import create_space


@pytest.mark.parametrize(
    ("name", "low", "high"), [("VGG-like", 2e5, 4e5), ("ResNet-9-like", 5e5, 1e6), ("ResNet-18", 1e7, 2e7)]
)
def test_known_networks_are_what_they_say(name: str, low: float, high: float) -> None:
    network = KNOWN[name](3, 10)
    assert low < count(network) < high
    assert network.eval()(torch.zeros(2, 3, 32, 32)).shape == (2, 10)
    assert KNOWN[name](1, 4).eval()(torch.zeros(2, 1, 8, 8)).shape == (2, 4)


def test_the_spaces_reference_is_of_the_size_of_known_networks() -> None:
    space = create_space("residual", {}, in_channels=3, classes=10, input_size=32)
    assert space.reference is not None
    assert (
        count(KNOWN["VGG-like"](3, 10)) / 2
        < count(space.build(space.reference))
        < 2 * count(KNOWN["ResNet-9-like"](3, 10))
    )


def test_a_known_network_and_a_random_search_end_in_time() -> None:
    comparison = Comparison("digits", 4.0, 300, [])
    row = comparison.known("VGG-like", 0)
    assert row.seconds < 16  # of a machine that may be busy
    assert row.accuracy > 0.2
    assert row.images > 300
    found = comparison.random(0)
    assert found.seconds < 60
    assert min(found.images, found.params) > 0


@pytest.mark.slow
def test_a_pretrained_network_is_frozen() -> None:
    row = Comparison("digits", 10.0, 60, []).pretrained(0)
    assert row.params > 3e6
    assert row.images >= 32
    assert row.accuracy > 0.15


def test_the_table_gives_mean_and_standard_error() -> None:
    text = table(
        [Row("fit", 0, 0.6, 60, 1000), Row("fit", 1, 0.7, 60, 3000), Row("VGG-like", 0, 0.5, 60, 500)], tests=96
    )
    fit, alone = text.splitlines()[1:]
    assert fit.split() == ["fit", "0.6500", f"{0.1 / math.sqrt(2) / math.sqrt(2):.4f}", "60.0", "2,000"]
    assert alone.split()[2] == f"{0.5 / math.sqrt(100):.4f}", "with one seed that of the test images is known"
