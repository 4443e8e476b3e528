"""One step of a day with a GPU, and the page of all of them; `gpu_day.sh` calls it.

Each step writes ``FOLDER/STEP.json``. A step without a CUDA device writes ``{"status": "no device"}``.

    python benchmarks/gpu_day.py step roofline --out gpu-day
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
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

ROUNDS = 5
BATCH, SIDE = 200, 224
LARGEST = "f48k7s1-f48k7s1-f48k7s1-f48k7s1-f48k7s1"
MEDIAN = "f32k5s2-f24k3s1-f32k5s1-f24k3s1-f16k3s1"
WORKERS = (1, 2, 4)


def tests(folder: Path) -> dict[str, Any]:
    """The tests that need CUDA, counted from pytest's own report."""
    report = folder / "gpu-tests.xml"
    command = [sys.executable, "-m", "pytest", "-m", "gpu", "-n", "0", "-q", f"--junitxml={report}"]
    subprocess.run(command, cwd=Path(__file__).parents[1], check=False)
    return counts(report.read_text())


def counts(report: str) -> dict[str, Any]:
    """What a JUnit report says: numbers of tests, and the names of those that failed."""
    suites = list(ET.fromstring(report).iter("testsuite"))
    total = {key: sum(int(s.get(key, 0)) for s in suites) for key in ("tests", "failures", "errors", "skipped")}
    failed = [c.get("name") for s in suites for c in s.iter("testcase") if c.find("failure") is not None]
    return {**total, "failed": failed}


def rate(work: Callable[[], object], seconds: float = 0.5) -> float:
    """Calls per second of something that runs on the device."""
    work()
    torch.cuda.synchronize()
    calls, began = 0, time.perf_counter()
    while time.perf_counter() - began < seconds:
        for _ in range(5):
            work()
        torch.cuda.synchronize()
        calls += 5
    return calls / (time.perf_counter() - began)


def training_step(architecture: str, precision: str, graphs: bool) -> Callable[[], object]:
    """A step of the reference search's training, as a trial takes it."""
    from nas_optuna import ConvSpace
    from nas_optuna.spec import Recipe
    from nas_optuna.training.step import TrainStep

    device = torch.device("cuda")
    space = ConvSpace(input_size=SIDE)
    recipe = Recipe(batch_size=BATCH, precision=precision, cuda_graphs=graphs, optimizer="sgd")
    network = space.build(space.parse(architecture)).to(device, memory_format=torch.channels_last)
    step = TrainStep(network, recipe, device, total_steps=10**6)
    images = torch.randn(BATCH, 1, SIDE, SIDE, device=device)
    labels = torch.randint(10, (BATCH,), device=device)
    return lambda: step(images, labels)


def roofline(folder: Path) -> dict[str, Any]:
    """Share of the device's own peak that training reaches: arithmetic of a matrix product, bytes of a copy."""
    from nas_optuna import ConvSpace
    from nas_optuna.costs.complexity import figures

    device = torch.device("cuda")
    peak = {}
    for name, dtype in (("fp32", torch.float32), ("bf16", torch.bfloat16)):
        a = torch.randn(8192, 8192, device=device, dtype=dtype)
        peak[name] = rate(lambda a=a: a @ a) * 2 * 8192**3
    space, found = ConvSpace(input_size=SIDE), {}
    block = torch.empty(2**28, device=device)
    bandwidth = rate(lambda: block.clone()) * 2 * block.numel() * 4
    for architecture in (MEDIAN, LARGEST):
        counted = figures(space, space.parse(architecture), BATCH)
        for precision in peak:
            steps = rate(training_step(architecture, precision, True))
            compute = 3 * 2 * counted.macs * BATCH / peak[precision]
            memory = 6 * counted.activation_bytes / bandwidth  # written and read, forward, backward and gradients
            found[f"{architecture} {precision}"] = {
                "images_per_second": steps * BATCH,
                "of_roofline": max(compute, memory) * steps,
                "seconds_per_trial": 10 * 48_000 / (steps * BATCH),
            }
    return {"peak_flops": peak, "bytes_per_second": bandwidth, "trials": found}


def graphs(folder: Path) -> dict[str, Any]:
    """CUDA graphs and bfloat16 against eager fp32: medians of ratios taken in turn."""
    ways = {"eager fp32": ("fp32", False), "graphs fp32": ("fp32", True), "graphs bf16": ("bf16", True)}
    found = {}
    for architecture in (MEDIAN, LARGEST):
        steps = {name: training_step(architecture, *way) for name, way in ways.items()}
        rounds = [{name: rate(step, 0.3) for name, step in steps.items()} for _ in range(ROUNDS)]
        found[architecture] = {
            name: statistics.median(r[name] / r["eager fp32"] for r in rounds) for name in ways if name != "eager fp32"
        }
    return found


def nas_optuna(*arguments: str, cwd: Path) -> str:
    """Run the command, and return what it prints."""
    command = [sys.executable, "-m", "nas_optuna", *arguments]
    return subprocess.run(command, cwd=cwd, check=True, stdout=subprocess.PIPE, text=True).stdout


def has(name: str) -> bool:
    """Whether NAS_OPTUNA_DATA holds it."""
    root = os.environ.get("NAS_OPTUNA_DATA")
    return root is not None and (Path(root) / name).exists()


def workers(folder: Path) -> dict[str, Any]:
    """Trials per minute with one, two and four workers on one device."""
    spec = ["--spec", "mnist-fast"] if has("MNIST") else []
    found = {}
    for count in WORKERS:
        with tempfile.TemporaryDirectory() as place:
            began = time.perf_counter()
            many = ["--workers", str(count), "--per-device", str(count)]
            nas_optuna("run", "--sampler", "random", "--trials", "8", *many, *spec, cwd=Path(place))
            found[str(count)] = 8 * 60 / (time.perf_counter() - began)
    return {"trials_per_minute": found}


def supernet(folder: Path) -> dict[str, Any]:
    """A supernet's step against the largest single network's."""
    script = Path(__file__).with_name("supernet.py")
    command = [sys.executable, str(script), "--device", "cuda", "--json", "--rounds", "5", "--seconds", "0.2"]
    said = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
    return {kind: value for kind, value in json.loads(said).items() if isinstance(value, dict)}


def fit(folder: Path) -> dict[str, Any]:
    """`nas-optuna fit` for two minutes, on CIFAR-10 where it lies in NAS_OPTUNA_DATA."""
    root = Path(os.environ.get("NAS_OPTUNA_DATA", "."))
    data = "digits"
    for archive in root.glob("cifar10*.zip"):
        import zipfile

        with zipfile.ZipFile(archive) as pictures:
            pictures.extractall(folder / "cifar")
        data = str(next((folder / "cifar").rglob("train")).parent)
    began = time.perf_counter()
    with tempfile.TemporaryDirectory() as place:
        said = nas_optuna("fit", data, "--within", "2m", "--out", "model", "--json", cwd=Path(place))
    return {"data": Path(data).name, "seconds": time.perf_counter() - began, "result": json.loads(said)}


def latency(folder: Path) -> dict[str, Any]:
    """A latency table on the device, how far its sums are off, and watts while it trains where the driver says."""
    with tempfile.TemporaryDirectory() as place:
        common = ["--device", "cuda", "--json"]
        small = ["--set", "depth=2", "--input-size", "28"]
        nas_optuna("latency", "measure", "--out", "t.json", *small, *common, cwd=Path(place))
        said = nas_optuna("latency", "check", "t.json", *small, *common, cwd=Path(place))
    checked = json.loads(said)
    step = training_step(LARGEST, "bf16", True)
    rate(step, 1.0)
    try:
        watts: float | None = torch.cuda.power_draw() / 1000
    except Exception:  # needs a package of the driver's maker
        watts = None
    kept = ("spearman", "median_relative_error", "median_relative_error_with_overhead")
    return {**{key: checked[key] for key in kept}, "watts": watts}


STEPS: dict[str, Callable[[Path], dict[str, Any]]] = {
    step.__name__: step for step in (tests, roofline, graphs, workers, supernet, fit, latency)
}


def run(name: str, folder: Path) -> None:
    """Run a step and write what it found."""
    if not torch.cuda.is_available():
        write(folder, name, {"status": "no device"})
        return
    began = time.perf_counter()
    found = STEPS[name](folder)
    write(folder, name, {"status": "done", "seconds": round(time.perf_counter() - began, 1), **found})


def write(folder: Path, name: str, found: dict[str, Any]) -> None:
    """Keep a step's result."""
    (folder / f"{name}.json").write_text(json.dumps(found, indent=1))


def page(folder: Path) -> str:
    """Write ``gpu_day.json`` and ``gpu_day.md``, and return the page."""
    found: dict[str, Any] = {}
    for name in STEPS:
        try:
            found[name] = json.loads((folder / f"{name}.json").read_text())
        except (OSError, ValueError) as error:
            found[name] = {"status": f"no result ({type(error).__name__})"}
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else "no CUDA device"
    (folder / "gpu_day.json").write_text(json.dumps({"device": device, "torch": torch.__version__, **found}, indent=1))
    lines = [f"# {device}, torch {torch.__version__}", ""]
    for name, result in found.items():
        lines += [f"## {name}: {result.get('status')}", (STEPS[name].__doc__ or "").split("\n")[0], ""]
        lines += [f"- {key}: {value}" for key, value in flat(result) if key != "status"]
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
        command.add_argument("--code", type=int, default=1)
        command.add_argument("--limit", type=int, default=0)
    commands.add_parser("page").add_argument("--out", type=Path, default=Path("gpu-day"))
    given = parser.parse_args()
    given.out.mkdir(parents=True, exist_ok=True)
    if given.command == "step":
        run(given.name, given.out)
    elif given.command == "failed":
        late = given.code in (124, 137)
        why = f"longer than {given.limit} s" if late else f"failed with exit code {given.code}, see {given.name}.log"
        write(given.out, given.name, {"status": why})
    else:
        print(page(given.out))


if __name__ == "__main__":
    main()
