"""One step of a day with a GPU, and the page of all of them; `gpu_day.sh` calls it.

Each step writes ``FOLDER/STEP.json`` as it finds something, and the page anew, so that what is stopped leaves what it
has found. A step without a CUDA device writes ``{"status": "no device"}``. On the CPU a step is rehearsed, with small
tensors, for the sake of its commands and of what it reads from them:

    python benchmarks/gpu_day.py step roofline --out gpu-day
    python benchmarks/gpu_day.py step workers --out rehearsal --device cpu
    python benchmarks/gpu_day.py page --out gpu-day
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
import xml.etree.ElementTree as ET
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

ROUNDS = 5
LARGEST = "f48k7s1-f48k7s1-f48k7s1-f48k7s1-f48k7s1"
MEDIAN = "f32k5s2-f24k3s1-f32k5s1-f24k3s1-f16k3s1"
WORKERS = (1, 2, 4)
TRIALS = 8


@dataclass(frozen=True)
class Place:
    """Where a step runs, and how large its tensors are."""

    device: str = "cuda"
    batch: int = 200
    side: int = 224
    matrix: int = 8192
    copied: int = 2**28
    seconds: float = 0.5

    @property
    def is_there(self) -> bool:
        """Whether this machine has the device."""
        return self.device == "cpu" or torch.cuda.is_available()

    @property
    def name(self) -> str:
        """What the device's maker calls it."""
        if not self.is_there:
            return "no CUDA device"
        return torch.cuda.get_device_name() if self.device == "cuda" else "the CPU (a rehearsal)"

    def wait(self) -> None:
        """Wait until the device has done all."""
        if self.device == "cuda":
            torch.cuda.synchronize()


PLACES = {"cuda": Place(), "cpu": Place("cpu", batch=4, side=28, matrix=256, copied=2**16, seconds=0.05)}
Found = Iterator[dict[str, Any]]


def tests(place: Place, folder: Path) -> Found:
    """The tests that need CUDA, counted from pytest's own report."""
    report = folder / "gpu-tests.xml"
    file = Path("tests", "training", "test_gpu.py")
    command = [sys.executable, "-m", "pytest", str(file), "-m", "gpu", "-n", "0", "-q"]
    subprocess.run([*command, f"--junitxml={report.resolve()}"], cwd=Path(__file__).parents[1], check=False)
    yield counts(report.read_text())


def counts(report: str) -> dict[str, Any]:
    """What a JUnit report says: numbers of tests, and the names of those that failed."""
    suites = list(ET.fromstring(report).iter("testsuite"))
    total = {key: sum(int(s.get(key, 0)) for s in suites) for key in ("tests", "failures", "errors", "skipped")}
    cases = [c for s in suites for c in s.iter("testcase")]
    failed = [c.get("name") for c in cases if c.find("failure") is not None or c.find("error") is not None]
    return {**total, "failed": failed}


def rate(place: Place, work: Callable[[], object], share: float = 1.0) -> float:
    """Calls per second of something that runs on the device."""
    for _ in range(6):  # kernels are chosen, and a graph is captured
        work()
    place.wait()
    calls, began = 0, time.perf_counter()
    while time.perf_counter() - began < place.seconds * share:
        for _ in range(5):
            work()
        place.wait()
        calls += 5
    return calls / (time.perf_counter() - began)


def training_step(place: Place, architecture: str, precision: str, graphs: bool) -> Callable[[], object]:
    """A step of the reference search's training, as a trial takes it."""
    from nas_optuna import ConvSpace
    from nas_optuna.spec import Recipe
    from nas_optuna.training import TrainStep, make_network

    device = torch.device(place.device)
    space = ConvSpace(input_size=place.side)
    recipe = Recipe(batch_size=place.batch, precision=precision, cuda_graphs=graphs, optimizer="sgd")
    network = make_network(space, space.parse(architecture), recipe, device, seed=0)
    step = TrainStep(network, recipe, device, total_steps=10**6)
    images = torch.randn(place.batch, 1, place.side, place.side, device=device)
    labels = torch.randint(10, (place.batch,), device=device)
    return lambda: step(images, labels)


def roofline(place: Place, folder: Path) -> Found:
    """Share of the device's own peak that training reaches: arithmetic of a matrix product, bytes of a copy."""
    from nas_optuna import ConvSpace
    from nas_optuna.costs.complexity import figures
    from nas_optuna.devices import prepare_process

    device, side = torch.device(place.device), place.matrix
    prepare_process(device)  # as trainings do
    peak = {}
    for name, dtype in (("fp32", torch.float32), ("bf16", torch.bfloat16)):
        a = torch.randn(side, side, device=device, dtype=dtype)
        peak[name] = rate(place, lambda a=a: a @ a) * 2 * side**3
    bandwidth = rate(place, torch.empty(place.copied, device=device).clone) * 2 * place.copied * 4
    yield {"peak_flops": peak, "bytes_per_second": bandwidth}
    space, found = ConvSpace(input_size=place.side), {}
    for architecture in (MEDIAN, LARGEST):
        counted = figures(space, space.parse(architecture), place.batch)
        for precision in peak:
            steps = rate(place, training_step(place, architecture, precision, True))
            compute = 3 * 2 * counted.macs * place.batch / peak[precision]
            memory = 6 * counted.activation_bytes / bandwidth  # written and read, forward, backward and gradients
            found[f"{architecture} {precision}"] = {
                "images_per_second": steps * place.batch,
                "of_roofline": max(compute, memory) * steps,
                "seconds_per_trial": 10 * 48_000 / (steps * place.batch),
            }
            yield {"trials": found}


def graphs(place: Place, folder: Path) -> Found:
    """CUDA graphs and bfloat16 against eager fp32: medians of ratios taken in turn."""
    ways = {"eager fp32": ("fp32", False), "graphs fp32": ("fp32", True), "graphs bf16": ("bf16", True)}
    for architecture in (MEDIAN, LARGEST):
        steps = {name: training_step(place, architecture, *way) for name, way in ways.items()}
        rounds = [{name: rate(place, step, 0.5) for name, step in steps.items()} for _ in range(ROUNDS)]
        ratios = {name: statistics.median(r[name] / r["eager fp32"] for r in rounds) for name in ways}
        yield {architecture: {name: ratio for name, ratio in ratios.items() if name != "eager fp32"}}


def nas_optuna(*arguments: str, cwd: Path) -> str:
    """Run the command, and return what it prints."""
    command = [sys.executable, "-m", "nas_optuna", *arguments]
    environment = {name: value for name, value in os.environ.items() if name != "NAS_OPTUNA_STORAGE"}
    if (root := data_folder()) is not None:
        environment["NAS_OPTUNA_DATA"] = str(root)
    return subprocess.run(command, cwd=cwd, check=True, stdout=subprocess.PIPE, text=True, env=environment).stdout


def data_folder() -> Path | None:
    """The folder of data sets, whatever directory a command runs in."""
    named = os.environ.get("NAS_OPTUNA_DATA")
    return Path(named).resolve() if named else None


def workers(place: Place, folder: Path) -> Found:
    """Trials per minute with one, two and four workers on one device, from the first one's beginning on."""
    import optuna
    from optuna.trial import TrialState

    root = data_folder()
    is_there = root is not None and (root / "MNIST").exists()
    data = ["--set", "recipe.epochs=3"]
    data += ["--spec", "mnist-fast", "--set", "data.train_limit=12000"] if is_there else []
    found = {}
    for count in WORKERS:
        with tempfile.TemporaryDirectory() as there:
            many = ["--trials", str(TRIALS), "--per-device", str(count), "--device", place.device]
            nas_optuna("run", "--sampler", "random", "--pruner", "none", *many, *data, cwd=Path(there))
            study = optuna.load_study(study_name=None, storage=f"sqlite:///{there}/nas-optuna.db")
            times = [(t.datetime_start, t.datetime_complete) for t in study.get_trials(states=[TrialState.COMPLETE])]
        seconds = (max(end for _, end in times) - min(start for start, _ in times)).total_seconds()
        found[str(count)] = len(times) * 60 / seconds
        yield {"trials_per_minute": found}


def supernet(place: Place, folder: Path) -> Found:
    """Milliseconds of a supernet's training step, and its ratio to the largest single network's."""
    script = Path(__file__).with_name("supernet.py")
    command = [sys.executable, str(script), "--device", place.device, "--json", "--rounds", "5", "--seconds", "0.2"]
    said = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
    yield {kind: value for kind, value in json.loads(said).items() if isinstance(value, dict)}


def fit(place: Place, folder: Path) -> Found:
    """`nas-optuna fit` for two minutes, on CIFAR-10 where it lies in NAS_OPTUNA_DATA."""
    with tempfile.TemporaryDirectory() as there:
        data = pictures(Path(there))
        began = time.perf_counter()
        more = ["--device", place.device, "--out", "model", "--json"]
        said = nas_optuna("fit", data, "--within", "2m", *more, cwd=Path(there))
    yield {"data": Path(data).name, "seconds": time.perf_counter() - began, "result": json.loads(said)}


def pictures(folder: Path) -> str:
    """A folder of pictures of CIFAR-10, unpacked where there is an archive of it; else the name of a built-in set."""
    import zipfile

    for archive in (data_folder() or Path.cwd()).glob("cifar10*.zip"):
        with zipfile.ZipFile(archive) as packed:
            packed.extractall(folder / "cifar10")
        return str(next((folder / "cifar10").rglob("train")).parent)
    return "digits"


def latency(place: Place, folder: Path) -> Found:
    """A latency table on the device, how far its sums are off, and watts while it trains where the driver says."""
    yield {"watts": watts(place)}
    with tempfile.TemporaryDirectory() as there:
        common = ["--set", "depth=2", "--input-size", "28", "--device", place.device, "--json"]
        nas_optuna("latency", "measure", "--out", "t.json", "--rounds", "2", *common, cwd=Path(there))
        said = nas_optuna("latency", "check", "t.json", "--networks", "12", *common, cwd=Path(there))
    checked = json.loads(said)
    kept = ("spearman", "median_relative_error", "median_relative_error_with_overhead")
    yield {key: checked[key] for key in kept}


def watts(place: Place) -> float | None:
    """What the device draws while it trains."""
    step = training_step(place, LARGEST, "bf16", True)
    rate(place, step, 2.0)
    try:
        return torch.cuda.power_draw() / 1000
    except Exception:  # needs a package of the driver's maker
        return None


STEPS: dict[str, Callable[[Place, Path], Found]] = {
    step.__name__: step for step in (tests, roofline, graphs, workers, supernet, fit, latency)
}


def run(name: str, folder: Path, place: Place) -> None:
    """Run a step and write what it finds."""
    about: dict[str, Any] = {"device": place.name, "torch": torch.__version__}
    if not place.is_there:
        write(folder, name, {"status": "no device", **about})
        return
    began = time.perf_counter()
    found: dict[str, Any] = {}
    for more in STEPS[name](place, folder):
        found |= more
        seconds = round(time.perf_counter() - began, 1)
        write(folder, name, {"status": "unfinished", **about, "seconds": seconds, **found})
    write(folder, name, {"status": "done", **about, "seconds": round(time.perf_counter() - began, 1), **found})


def failed(name: str, folder: Path, code: int, limit: int) -> None:
    """Say of a step how it ended, beside what it had found."""
    late = code in (124, 137)
    why = f"longer than {limit} s" if late else f"failed with exit code {code}, see {name}.log"
    write(folder, name, {**read(folder, name), "status": why})


def write(folder: Path, name: str, found: dict[str, Any]) -> None:
    """Keep a step's result, and the page with it."""
    (folder / f"{name}.json").write_text(json.dumps(found, indent=1))
    page(folder)


def read(folder: Path, name: str) -> dict[str, Any]:
    """A step's result."""
    try:
        found: dict[str, Any] = json.loads((folder / f"{name}.json").read_text())
    except (OSError, ValueError):  # it has not begun, or was killed while it wrote
        return {"status": "no result"}
    return found


def page(folder: Path) -> str:
    """Write ``gpu_day.json`` and ``gpu_day.md``, and return the page."""
    found = {name: read(folder, name) for name in STEPS}
    (folder / "gpu_day.json").write_text(json.dumps(found, indent=1))
    devices = {f"{result['device']}, torch {result['torch']}" for result in found.values() if "device" in result}
    lines = [f"# {'; '.join(sorted(devices)) or 'no result'}", ""]
    for name, result in found.items():
        lines += [f"## {name}: {result.get('status')}", (STEPS[name].__doc__ or "").split("\n")[0], ""]
        lines += [f"- {key}: {value}" for key, value in flat(result) if key not in ("status", "device", "torch")]
        lines.append("")
    text = "\n".join(lines)
    (folder / "gpu_day.md").write_text(text)
    return text


def flat(value: Any, prefix: str = "") -> list[tuple[str, str]]:
    """Every figure of nested results with its path, numbers in four digits."""
    if isinstance(value, dict):
        return [pair for key, inner in value.items() for pair in flat(inner, f"{prefix} {key}".strip())]
    return [(prefix, f"{value:.4g}" if isinstance(value, float) else str(value))]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    for name in ("step", "failed"):
        command = commands.add_parser(name)
        command.add_argument("name", choices=STEPS)
        command.add_argument("--out", type=Path, default=Path("gpu-day"))
        if name == "step":
            command.add_argument("--device", choices=PLACES, default="cuda")
        else:
            command.add_argument("--code", type=int, default=1)
            command.add_argument("--limit", type=int, default=0)
    commands.add_parser("page").add_argument("--out", type=Path, default=Path("gpu-day"))
    given = parser.parse_args()
    given.out.mkdir(parents=True, exist_ok=True)
    if given.command == "step":
        run(given.name, given.out, PLACES[given.device])
    elif given.command == "failed":
        failed(given.name, given.out, given.code, given.limit)
    else:
        print(page(given.out))


if __name__ == "__main__":
    main()
