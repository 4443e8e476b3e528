"""Images per second of the reference training loop and of ours, in one alternating run.

The reference side is `reference.py`. Ours is `nas_optuna.data` and `nas_optuna.training` as a trial uses them, data
included.

Each side runs in a process of its own, started once and asked in turn (ABABAB), because the allocator's huge pages,
which ours switches on, are a setting of the whole process. Both have the same number of threads. Ratios are of
medians; the spread is the range over the rounds.

    python benchmarks/training.py --input-size 224 --images 400 --rounds 3
    python benchmarks/training.py --input-size 28 --images 4000 --instruction-set AVX2 --instruction-set SSE41
    python benchmarks/training.py --input-size 28 --images 4000 --json
    python benchmarks/training.py --input-size 28 --images 60000 --batch-size 30 --accuracy-seeds 3

With an instruction set, both sides do as if the CPU had no newer one: each set is a run of its own, of new processes.

The last compares what both learn in that epoch instead of their speed: accuracy on held-out training images, seed by
seed (each side draws its own initial weights and order). Without MNIST in NAS_OPTUNA_DATA the digits are enlarged.
"""

from __future__ import annotations

import argparse
import json
import math
import multiprocessing
import os
import resource
import statistics
import sys
import time
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

# From the smallest to the largest, both strides and every kernel and width at every place.
ARCHITECTURES = (
    "f16k3s2-f16k3s2-f16k3s2-f16k3s2-f16k3s2",
    "f16k3s1-f16k3s1-f16k3s1-f16k3s1-f16k3s1",
    "f32k5s2-f24k3s1-f32k5s1-f24k3s1-f16k3s1",
    "f24k7s2-f48k5s1-f16k3s2-f32k7s1-f24k5s2",
    "f16k5s1-f32k3s2-f48k7s1-f24k5s2-f32k3s1",
    "f48k3s2-f16k7s2-f24k5s1-f48k3s1-f48k7s2",
    "f32k3s1-f48k7s1-f32k3s1-f16k5s1-f24k7s1",
    "f48k7s1-f48k7s1-f48k7s1-f48k7s1-f48k7s1",
)
INSTRUCTION_SETS = {
    "AVX512": {},
    "AVX2": {"ONEDNN_MAX_CPU_ISA": "AVX2", "ATEN_CPU_CAPABILITY": "avx2", "MKL_ENABLE_INSTRUCTIONS": "AVX2"},
    "SSE41": {"ONEDNN_MAX_CPU_ISA": "SSE41", "ATEN_CPU_CAPABILITY": "default", "MKL_ENABLE_INSTRUCTIONS": "SSE4_2"},
}
"""Name → variables by which oneDNN, torch and MKL use no newer one."""
HELD_OUT = 2000
"""Training images at the end of the set that accuracy is measured on."""
LOADED = 20000
"""Images that the loaders deliver when they are measured alone."""


def layers_of(text: str) -> list[tuple[int, int, int]]:
    """``"f16k3s1-…"`` as (filters, kernel, stride) of each layer."""
    layers = []
    for part in text.split("-"):
        filters, rest = part[1:].split("k")
        kernel, stride = rest.split("s")
        layers.append((int(filters), int(kernel), int(stride)))
    return layers


def has_mnist() -> bool:
    """Whether there is MNIST in NAS_OPTUNA_DATA."""
    root = os.environ.get("NAS_OPTUNA_DATA")
    return root is not None and (Path(root) / "MNIST").is_dir()


def reference_side(images: int, input_size: int, batch_size: int) -> Any:
    """What the reference does.

    Returns:
        ``train(architecture, seed)`` → seconds, mean loss and network; ``accuracy(architecture, seed)`` after the same
        epoch; ``load_only()`` → images per second; and how many images are trained on.
    """
    import reference
    import torch

    whole = reference.mnist(input_size) if has_mnist() else reference.EnlargedDigits(reference.pipeline(input_size))
    loader = reference.loader(whole, range(min(images, len(whole) - HELD_OUT)), batch_size)
    held_out = reference.loader(whole, range(len(whole) - HELD_OUT, len(whole)), batch_size, shuffle=False)

    def train(text: str, seed: int = 0) -> tuple[float, float, Any]:
        torch.manual_seed(seed)
        network = reference.Network(layers_of(text), input_size)
        optimizer = reference.optimizer_of(network)
        began = time.perf_counter()
        loss = reference.train_epoch(network, optimizer, loader)
        return time.perf_counter() - began, loss, network

    def accuracy(text: str, seed: int) -> float:
        return reference.accuracy(train(text, seed)[2], held_out)

    alone = reference.loader(whole, range(min(LOADED, len(whole))), batch_size)

    def load_only() -> float:
        began = time.perf_counter()
        for _ in alone:
            pass
        return len(alone.dataset) / (time.perf_counter() - began)

    return train, accuracy, load_only, len(loader.dataset)


def our_side(images: int, input_size: int, batch_size: int) -> Any:
    """What a trial of ours does; the same shape of answer."""
    import torch
    from reference import MOMENTUM, RATE

    import nas_optuna  # noqa: F401 - first, so that its allocator setting is in place
    from nas_optuna.data import BatchLoader, load_images
    from nas_optuna.spaces.conv import ConvSpace
    from nas_optuna.spec import Recipe
    from nas_optuna.training import TrainStep, evaluate, make_network

    device = torch.device("cpu")
    if has_mnist():
        whole = load_images("mnist", True, Path(os.environ["NAS_OPTUNA_DATA"]))
    else:
        digits = load_images("digits", True)
        whole = digits.subset([i % len(digits) for i in range(6000)])
    part = whole.subset(range(min(images, len(whole) - HELD_OUT)))
    space = ConvSpace(input_size=input_size)
    recipe = Recipe(
        batch_size=batch_size,
        optimizer="sgd",
        learning_rate=RATE,
        momentum=MOMENTUM,
        schedule="constant",
        init="default",
        precision="fp32",
    )
    loader = BatchLoader(part, batch_size, input_size, device)
    held_out = BatchLoader(whole.subset(range(len(whole) - HELD_OUT, len(whole))), batch_size, input_size, device)

    def train(text: str, seed: int = 0) -> tuple[float, float, Any]:
        network = make_network(space, space.parse(text), recipe, device, seed)
        step = TrainStep(network, recipe, device, total_steps=len(loader))
        began = time.perf_counter()
        for batch, labels in loader.epoch(seed):
            step(batch, labels)
        loss, _ = step.read_sums()
        return time.perf_counter() - began, loss / loader.size, network

    def accuracy(text: str, seed: int) -> float:
        return evaluate(train(text, seed)[2], held_out, device, torch.float32).accuracy

    alone = BatchLoader(whole.subset(range(min(LOADED, len(whole)))), batch_size, input_size, device)

    def load_only() -> float:
        began = time.perf_counter()
        for _ in alone.epoch(0):
            pass
        return alone.size / (time.perf_counter() - began)

    return train, accuracy, load_only, len(part)


def serve(side: str, pipe: Connection, images: int, input_size: int, batch_size: int, threads: int) -> None:
    """Answer one question after another until there are no more."""
    if side == "ours":
        from nas_optuna.cli import set_defaults

        set_defaults()
    make = our_side if side == "ours" else reference_side
    train, accuracy, load_only, size = make(images, input_size, batch_size)
    import torch

    torch.set_num_threads(threads)
    pipe.send(size)
    while (question := pipe.recv()) is not None:
        if question == "load":
            pipe.send(load_only())
        elif question == "memory":
            pipe.send(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024)
        elif question == "peak":
            pipe.send(peak())
        elif question == "capability":
            pipe.send(torch.backends.cpu.get_cpu_capability())
        elif isinstance(question, tuple):
            pipe.send(accuracy(*question))
        else:
            pipe.send(train(question)[:2])


def peak() -> dict[str, float]:
    """GFLOP/s of float32 here, by what was computed: each the best over its sizes.

    A matrix product alone is no peak: MKL computes it, and oneDNN the convolutions, which on a CPU with AVX-512 were
    1.9 times as fast. Each has its turn for a third of a second after a warm-up, in its fastest memory format.
    """
    import torch
    from torch.nn.functional import conv2d

    found: dict[str, float] = {}
    for n in (512, 1024, 2048):
        a, b = torch.rand(n, n), torch.rand(n, n)
        found["product"] = max(found.get("product", 0.0), rate(lambda a=a, b=b: a @ b, 2.0 * n**3))
    for channels, side, kernel in ((64, 56, 3), (128, 28, 3), (256, 14, 3), (512, 14, 1)):
        x = torch.rand(16, channels, side, side).to(memory_format=torch.channels_last)
        w = torch.rand(channels, channels, kernel, kernel).to(memory_format=torch.channels_last)
        inside = side - kernel + 1
        flops = 2.0 * 16 * channels**2 * kernel**2 * inside**2
        with torch.no_grad():
            speed = rate(lambda x=x, w=w: conv2d(x, w), flops)
        found["convolution"] = max(found.get("convolution", 0.0), speed)
    return found


def rate(work: Callable[[], object], flops: float) -> float:
    """GFLOP/s of the fastest call within a third of a second."""
    for _ in range(3):
        work()
    best, until = math.inf, time.perf_counter() + 0.3
    while time.perf_counter() < until:
        began = time.perf_counter()
        work()
        best = min(best, time.perf_counter() - began)
    return flops / best / 1e9


def training_flops(text: str, input_size: int) -> float:
    """Floating-point operations of one image's step: forward, weight gradients, and input gradients but the first."""
    from nas_optuna.costs.complexity import operation_macs
    from nas_optuna.spaces.conv import ConvSpace

    space = ConvSpace(input_size=input_size)
    macs = [operation_macs(space, operation) for operation in space.operations(space.parse(text))]
    return 2.0 * (3 * sum(macs) - macs[0])


def start(arguments: argparse.Namespace) -> tuple[dict[str, Connection], dict[str, int]]:
    """Both sides' processes: a pipe to each, and how many images each trains on."""
    context = multiprocessing.get_context("spawn")
    pipes, sizes = {}, {}
    for side in ("reference", "ours"):
        here, there = context.Pipe()
        values = (side, there, arguments.images, arguments.input_size, arguments.batch_size, arguments.threads)
        context.Process(target=serve, args=values, daemon=True).start()
        there.close()  # so that a side that dies is noticed
        pipes[side], sizes[side] = here, here.recv()
    return pipes, sizes


def measure_accuracy(arguments: argparse.Namespace) -> list[dict[str, Any]]:
    """Accuracy of both sides' networks after the epoch, for each architecture and seed."""
    pipes, _ = start(arguments)
    rows = []
    for text in arguments.architecture or ARCHITECTURES:
        found: dict[str, list[float]] = {"reference": [], "ours": []}
        for seed in range(arguments.accuracy_seeds):
            for side, pipe in pipes.items():
                pipe.send((text, seed))
                found[side].append(pipe.recv())
        means = {side: statistics.fmean(values) for side, values in found.items()}
        row = {
            "architecture": text,
            "accuracy": found,
            "difference": means["ours"] - means["reference"],
            "spread": math.sqrt(sum(statistics.variance(values) for values in found.values())),
        }
        rows.append(row)
        if not arguments.json:
            print(
                f"{text}  reference {means['reference']:.4f}  ours {means['ours']:.4f}"
                f"  difference {row['difference']:+.4f}, its standard deviation from seed to seed {row['spread']:.4f}",
                flush=True,
            )
    return rows


def measure(arguments: argparse.Namespace, instruction_set: str | None) -> dict[str, Any]:
    """Ask both sides in turn."""
    if instruction_set:
        for variable in INSTRUCTION_SETS["AVX2"]:
            os.environ.pop(variable, None)
        os.environ.update(INSTRUCTION_SETS[instruction_set])
    pipes, sizes = start(arguments)

    def ask(side: str, question: str) -> Any:
        pipes[side].send(question)
        return pipes[side].recv()

    loads: dict[str, list[float]] = {"reference": [], "ours": []}
    for _ in range(arguments.rounds):
        for side in pipes:
            loads[side].append(ask(side, "load"))
    rows = []
    for text in arguments.architecture or ARCHITECTURES:
        rates: dict[str, list[float]] = {"reference": [], "ours": []}
        losses = {}
        for _ in range(arguments.rounds):
            for side in pipes:
                seconds, losses[side] = ask(side, text)
                rates[side].append(sizes[side] / seconds)
        ratios = [ours / theirs for ours, theirs in zip(rates["ours"], rates["reference"], strict=True)]
        row = {
            "architecture": text,
            "reference_images_per_second": statistics.median(rates["reference"]),
            "images_per_second": statistics.median(rates["ours"]),
            "ratio": statistics.median(rates["ours"]) / statistics.median(rates["reference"]),
            "ratio_range": [min(ratios), max(ratios)],
            "gflops": statistics.median(rates["ours"]) * training_flops(text, arguments.input_size) / 1e9,
            "loss": losses["ours"],
            "reference_loss": losses["reference"],
        }
        rows.append(row)
        if not arguments.json:
            print(
                f"{text}  reference {row['reference_images_per_second']:8.1f}/s  ours {row['images_per_second']:8.1f}/s"
                f"  ratio {row['ratio']:5.2f} ({min(ratios):.2f} … {max(ratios):.2f})  {row['gflops']:6.1f} GFLOP/s",
                flush=True,
            )
    peaks = ask("ours", "peak")
    highest = max(peaks.values())
    loader_ratios = [ours / theirs for ours, theirs in zip(loads["ours"], loads["reference"], strict=True)]
    result = {
        "instruction_set": instruction_set,
        "capability": ask("ours", "capability"),
        "ONEDNN_MAX_CPU_ISA": os.environ.get("ONEDNN_MAX_CPU_ISA"),
        "input_size": arguments.input_size,
        "images": sizes["ours"],
        "threads": arguments.threads,
        "geometric_mean_ratio": statistics.geometric_mean(row["ratio"] for row in rows),
        "geometric_mean_range": [statistics.geometric_mean(row["ratio_range"][end] for row in rows) for end in (0, 1)],
        "loader_ratio": statistics.median(loads["ours"]) / statistics.median(loads["reference"]),
        "loader_ratio_range": [min(loader_ratios), max(loader_ratios)],
        "loader_images_per_second": {side: statistics.median(values) for side, values in loads.items()},
        "peak_gflops": peaks,
        "share_of_peak": [row["gflops"] / highest for row in rows],
        "peak_memory_bytes": {side: ask(side, "memory") for side in pipes},
        "architectures": rows,
    }
    for pipe in pipes.values():
        pipe.send(None)
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--input-size", type=int, default=224)
    parser.add_argument("--images", type=int, default=400)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--batch-size", type=int, default=200)
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--architecture", action="append", help="this one rather than the eight; can be repeated")
    parser.add_argument(
        "--instruction-set", action="append", choices=INSTRUCTION_SETS, help="no newer one; can be repeated"
    )
    parser.add_argument("--accuracy-seeds", type=int, default=0, help="2 or more: compare accuracy, not speed")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    if arguments.accuracy_seeds:
        if arguments.accuracy_seeds < 2:
            parser.error("--accuracy-seeds must be 2 or more, to have a spread")
        if not has_mnist():
            parser.error(
                "--accuracy-seeds needs MNIST in NAS_OPTUNA_DATA; enlarged digits repeat, so none are held out"
            )
        rows = measure_accuracy(arguments)
        if arguments.json:
            json.dump(rows, sys.stdout, indent=2)
            print()
        return
    results = []
    for instruction_set in arguments.instruction_set or [None]:
        results.append(measure(arguments, instruction_set))
        if not arguments.json:
            report(results[-1])
    if arguments.json:
        json.dump(results, sys.stdout, indent=2)
        print()


def report(result: dict[str, Any]) -> None:
    limit = result["ONEDNN_MAX_CPU_ISA"]
    print(f"torch computes with {result['capability']}, oneDNN with {limit or 'all that the CPU has'}")
    low, high = result["geometric_mean_range"]
    print(f"geometric mean ratio {result['geometric_mean_ratio']:.2f} ({low:.2f} … {high:.2f})")
    rates = result["loader_images_per_second"]
    low, high = result["loader_ratio_range"]
    print(
        f"loader alone  reference {rates['reference']:.0f}/s  ours {rates['ours']:.0f}/s"
        f"  ratio {result['loader_ratio']:.1f} ({low:.1f} … {high:.1f})"
    )
    peaks = ", ".join(f"{what} {speed:.0f} GFLOP/s" for what, speed in result["peak_gflops"].items())
    print(f"share of the peak ({peaks}): {[f'{s:.0%}' for s in result['share_of_peak']]}")
    print(f"peak memory { ({k: f'{v / 2**20:.0f} MiB' for k, v in result['peak_memory_bytes'].items()}) }")


if __name__ == "__main__":
    main()
