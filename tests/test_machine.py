"""What is chosen by the processor is measured once, remembered, and never in the way."""

import json
import os
import random
import resource
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from nas_optuna import ConvSpace, SearchData
from nas_optuna.devices import laid_out, remembered
from nas_optuna.execution.evaluator import TrainingEvaluator
from nas_optuna.training import make_network
from tests.helpers import RECIPE

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The cache folder of a machine that remembers nothing."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache"


def test_what_was_measured_is_remembered(cache: Path) -> None:
    assert remembered("a number", CPU, lambda: 3) == 3
    (key,) = json.loads((cache / "nas-optuna" / "machine.json").read_text())
    assert torch.__version__ in key
    assert remembered("a number", CPU, lambda: pytest.fail("it is known")) == 3


@pytest.mark.parametrize("damage", ["{", "[1]", "\0", None])
def test_a_cache_that_cannot_be_used_is_in_nobodys_way(cache: Path, damage: str | None) -> None:
    (cache / "nas-optuna").mkdir(parents=True)
    if damage is None:
        cache = cache / "nas-optuna" / "machine.json"
        cache.mkdir()  # it can neither be read nor written, by whoever runs the tests
    else:
        (cache / "nas-optuna" / "machine.json").write_text(damage)
    assert remembered("a number", CPU, lambda: 3) == 3


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_that_is_read_only(cache: Path) -> None:
    cache.mkdir()
    cache.chmod(0o500)
    assert remembered("a number", CPU, lambda: 3) == 3


def test_networks_and_images_lie_channels_last(space: ConvSpace, data: SearchData) -> None:
    (images, _), *_ = TrainingEvaluator(space, data, RECIPE, CPU).validation_loader.epoch()
    wide = make_network(space, space.sample(random.Random(0)), RECIPE, CPU, seed=0)[1].conv.weight  # type: ignore[index]
    assert wide.is_contiguous(memory_format=torch.channels_last)
    assert images.is_contiguous(memory_format=torch.channels_last)


def test_what_cannot_be_measured_is_not_remembered(cache: Path) -> None:
    assert remembered("a number", CPU, lambda: None) is None
    assert not (cache / "nas-optuna").exists()


@pytest.mark.skipif(sys.platform != "linux", reason="glibc's allocator")
@pytest.mark.process
def test_a_process_that_trains_keeps_the_memory_of_its_steps() -> None:
    """A page fault is a page that the system clears: without the setting there are usually thousands in each step."""
    program = """
import resource, torch
from nas_optuna.devices import prepare_process
prepare_process(torch.device("cpu"))
def step():
    a = [torch.ones(10_000_000) for _ in range(4)]
for _ in range(10):
    step()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(5):
    step()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("MALLOC_")}
    found = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, env=environment)
    faults, a_step = int(found.stdout), 4 * 40_000_000 // resource.getpagesize()
    assert faults < a_step / 10


@pytest.mark.parametrize("channels", [1, 3])
def test_a_network_is_laid_out_as_torch_does_it(channels: int) -> None:
    found, expected = laid_out(torch.nn.Conv2d(channels, 4, 3), CPU), torch.nn.Conv2d(channels, 4, 3)
    assert found.weight.stride() == expected.to(memory_format=torch.channels_last).weight.stride()
    laid_out(torch.nn.Conv3d(1, 4, 3), CPU)
