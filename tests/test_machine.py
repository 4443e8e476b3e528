"""What is chosen by the processor is measured once, remembered, and never in the way."""

import json
import os
import random
import resource
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from nas_optuna import ConvSpace, SearchData, devices
from nas_optuna.devices import laid_out, memory_format, remembered
from nas_optuna.execution.evaluator import TrainingEvaluator
from nas_optuna.training import make_network
from tests.helpers import RECIPE

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The cache folder of a machine that remembers nothing."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    memory_format.cache_clear()
    yield tmp_path / "cache"
    memory_format.cache_clear()


def test_the_memory_format_is_measured_once_and_remembered(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    state = torch.get_rng_state()
    chosen = memory_format(CPU)
    assert torch.equal(torch.get_rng_state(), state), "measuring draws nothing"
    (key,) = json.loads((cache / "nas-optuna" / "machine.json").read_text())
    assert torch.__version__ in key
    memory_format.cache_clear()  # another process
    monkeypatch.setattr(devices, "_contiguous_is_faster", lambda _: pytest.fail("it is known"))
    assert memory_format(CPU) is chosen


@pytest.mark.process
def test_another_process_finds_it(cache: Path) -> None:
    memory_format(CPU)
    before = (cache / "nas-optuna" / "machine.json").read_bytes()
    program = (
        "import torch; from nas_optuna import devices; devices._contiguous_is_faster = None;"
        "print(devices.memory_format(torch.device('cpu')))"
    )
    there = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert there.stdout.strip() == str(memory_format(CPU))
    assert (cache / "nas-optuna" / "machine.json").read_bytes() == before


@pytest.mark.parametrize("damage", ["{", "[1]", "\0", None])
def test_a_cache_that_cannot_be_used_is_in_nobodys_way(cache: Path, damage: str | None) -> None:
    (cache / "nas-optuna").mkdir(parents=True)
    if damage is None:
        cache = cache / "nas-optuna" / "machine.json"
        cache.mkdir()  # it can neither be read nor written, by whoever runs the tests
    else:
        (cache / "nas-optuna" / "machine.json").write_text(damage)
    assert remembered("a number", CPU, lambda: 3) == 3
    assert memory_format(CPU) in (torch.channels_last, torch.contiguous_format)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_that_is_read_only(cache: Path) -> None:
    cache.mkdir()
    cache.chmod(0o500)
    assert remembered("a number", CPU, lambda: 3) == 3


def test_what_is_faster_decides_the_layout_and_the_identity_of_values(
    space: ConvSpace, data: SearchData, monkeypatch: pytest.MonkeyPatch, cache: Path
) -> None:
    identities = []
    for contiguous in (False, True):
        monkeypatch.setenv("XDG_CACHE_HOME", str(cache / str(contiguous)))
        memory_format.cache_clear()
        monkeypatch.setattr(devices, "_contiguous_is_faster", lambda _, answer=contiguous: answer)
        evaluator = TrainingEvaluator(space, data, RECIPE, CPU)
        (images, _), *_ = evaluator.validation_loader.epoch()
        wide = make_network(space, space.sample(random.Random(0)), RECIPE, CPU, seed=0)[1].conv.weight  # type: ignore[index]
        wanted = torch.contiguous_format if contiguous else torch.channels_last
        assert wide.is_contiguous(memory_format=wanted)
        assert images.is_contiguous(memory_format=wanted)
        identities.append(evaluator.identity)
    assert identities[0] != identities[1], "last digits differ, so that values of one are not those of the other"


def test_where_nothing_can_be_timed_the_usual_one_is_taken_and_nothing_remembered(cache: Path) -> None:
    assert memory_format(torch.device("meta")) is torch.channels_last
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
@pytest.mark.parametrize("format_", [torch.channels_last, torch.contiguous_format])
def test_a_network_is_laid_out_as_torch_does_it(
    channels: int, format_: torch.memory_format, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(devices, "memory_format", lambda device: format_)
    found, expected = laid_out(torch.nn.Conv2d(channels, 4, 3), CPU), torch.nn.Conv2d(channels, 4, 3)
    assert found.weight.stride() == expected.to(memory_format=format_).weight.stride()
    laid_out(torch.nn.Conv3d(1, 4, 3), CPU)
