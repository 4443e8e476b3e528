"""What a day with a GPU writes, on made-up results."""

import importlib.util
import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

FOLDER = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture(scope="module")
def gpu_day() -> ModuleType:
    spec = importlib.util.spec_from_file_location("gpu_day", FOLDER / "gpu_day.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["gpu_day"] = module  # where its data class looks for its types
    spec.loader.exec_module(module)
    return module


def test_the_script_runs_every_step_within_eight_minutes(gpu_day: ModuleType) -> None:
    steps = dict(re.findall(r"^step (\w+) (\d+)$", (FOLDER / "gpu_day.sh").read_text(), re.M))
    assert list(steps) == list(gpu_day.STEPS)
    assert sum(map(int, steps.values())) <= 8 * 60


def test_the_page_has_each_result_and_says_what_is_missing(gpu_day: ModuleType, tmp_path: Path) -> None:
    gpu_day.write(tmp_path, "workers", {"status": "done", "trials_per_minute": {"1": 10.0, "2": 18.25, "4": 25.5}})
    (tmp_path / "supernet.json").write_text('{"status": "do')  # a step that was killed while it wrote
    text = gpu_day.page(tmp_path)
    assert "- trials_per_minute 2: 18.25" in text
    assert "## supernet: no result" in text
    assert "## fit: no result" in text
    assert (tmp_path / "gpu_day.md").read_text() == text
    kept = json.loads((tmp_path / "gpu_day.json").read_text())
    assert kept["workers"]["trials_per_minute"]["4"] == 25.5


@pytest.mark.process
@pytest.mark.parametrize(("code", "said"), [(124, "longer than 45 s"), (1, "failed with exit code 1, see fit.log")])
def test_a_step_that_fails_costs_the_others_nothing(tmp_path: Path, code: int, said: str) -> None:
    command = [sys.executable, str(FOLDER / "gpu_day.py"), "failed", "fit", "--out", str(tmp_path)]
    subprocess.run([*command, "--code", str(code), "--limit", "45"], check=True)
    assert json.loads((tmp_path / "fit.json").read_text()) == {"status": said}
    assert f"## fit: {said}" in (tmp_path / "gpu_day.md").read_text()


def test_what_a_step_found_before_its_end_is_kept(
    gpu_day: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def ends_early(place: Any, folder: Path) -> Iterator[dict[str, Any]]:
        yield {"trials_per_minute": {"1": 10.0}}
        raise RuntimeError("CUDA error: an illegal memory access was encountered")

    monkeypatch.setitem(gpu_day.STEPS, "workers", ends_early)
    with pytest.raises(RuntimeError):
        gpu_day.run("workers", tmp_path, gpu_day.PLACES["cpu"])
    gpu_day.failed("workers", tmp_path, 1, 90)
    text = (tmp_path / "gpu_day.md").read_text()
    assert "## workers: failed with exit code 1, see workers.log" in text
    assert "- trials_per_minute 1: 10" in text


@pytest.mark.process
def test_steps_are_rehearsed_on_the_cpu(gpu_day: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Their commands are taken, and what they print is read."""
    monkeypatch.setattr(gpu_day, "WORKERS", (1, 2))
    monkeypatch.setattr(gpu_day, "TRIALS", 2)
    monkeypatch.delenv("NAS_OPTUNA_DATA", raising=False)
    for name in ("roofline", "graphs", "workers"):
        gpu_day.run(name, tmp_path, gpu_day.PLACES["cpu"])
    found = json.loads((tmp_path / "gpu_day.json").read_text())
    assert {found[name]["status"] for name in ("roofline", "graphs", "workers")} == {"done"}
    assert all(trial["of_roofline"] > 0 for trial in found["roofline"]["trials"].values())
    assert found["graphs"][gpu_day.MEDIAN]["graphs bf16"] > 0
    assert all(found["workers"]["trials_per_minute"][count] > 0 for count in ("1", "2"))


@pytest.mark.skipif(torch.cuda.is_available(), reason="has a CUDA device")
def test_without_a_device_a_step_says_so(gpu_day: ModuleType, tmp_path: Path) -> None:
    gpu_day.run("roofline", tmp_path, gpu_day.PLACES["cuda"])
    assert json.loads((tmp_path / "roofline.json").read_text())["status"] == "no device"


def test_a_junit_report_is_counted(gpu_day: ModuleType) -> None:
    report = """<testsuites><testsuite tests="3" failures="1" errors="0" skipped="1">
    <testcase name="test_a"/><testcase name="test_b"><failure>x</failure></testcase>
    <testcase name="test_c"><skipped/></testcase></testsuite>
    <testsuite tests="1" failures="0" errors="1" skipped="0"><testcase name="test_d"><error>x</error></testcase>
    </testsuite></testsuites>"""
    failed = {"failures": 1, "errors": 1, "skipped": 1, "failed": ["test_b", "test_d"]}
    assert gpu_day.counts(report) == {"tests": 4, **failed}
