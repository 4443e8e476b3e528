"""What a supernet's training step costs, relative to a single network's, measured alternately in one run.

Conv space: the supernet with 2, 6, 12 and 24 choices per layer against the largest single network, the same for all of
them. Strides are held at 1, where a step costs the most: drawn strides of 2 would flatter the supernet.
Block space: a sampled step and a mixture step against the single path that was drawn.

    python benchmarks/supernet.py
    python benchmarks/supernet.py --input-size 224 --batch-size 30 --json
"""

import argparse
import json
import platform
import statistics
import time
from collections.abc import Callable

import torch
import torch.nn.functional as F

from nas_optuna.data import BatchLoader, ImageSet
from nas_optuna.oneshot.strategies import find_strategy, strategy_options
from nas_optuna.oneshot.strategies.base import Job
from nas_optuna.oneshot.strategies.darts import DartsStrategy
from nas_optuna.spaces.block import BlockSpace
from nas_optuna.spaces.conv import ConvSpace
from nas_optuna.spaces.supernet import Supernet, supernet_for
from nas_optuna.spec import SupernetSpec

CHOICES = {
    2: {"filters": (24, 48), "kernels": (7,), "strides": (1,)},
    6: {"filters": (24, 48), "kernels": (3, 5, 7), "strides": (1,)},
    12: {"filters": (16, 24, 32, 48), "kernels": (3, 5, 7), "strides": (1,)},
    24: {"filters": (16, 24, 32, 48), "kernels": (3, 5, 7), "strides": (1, 2)},
}
DECIDED = 50.0
"""A logit that leaves nothing to chance."""

Step = Callable[[], object]


def single_step(network: torch.nn.Module, batch: tuple[torch.Tensor, torch.Tensor]) -> Step:
    """A training step as in the search: forward, backward, clipping, SGD."""
    images, labels = batch
    weights = list(network.to(memory_format=torch.channels_last).parameters())
    optimizer = torch.optim.SGD(weights, 1e-3, momentum=0.9)

    def step() -> None:
        optimizer.zero_grad()
        F.cross_entropy(network(images), labels).backward()
        torch.nn.utils.clip_grad_norm_(weights, 5.0)
        optimizer.step()

    return step


def decide(supernet: Supernet, params: dict[str, object]) -> None:
    """Set the alphas of some parameters so that these choices are drawn."""
    for name, value in params.items():
        alpha = supernet.alphas[name].data
        alpha.zero_()[supernet.space.parameters[name].choices.index(value)] = DECIDED


def timed(steps: dict[str, Step], rounds: int, seconds: float, device: torch.device) -> dict[str, list[float]]:
    """Milliseconds a step, one figure a round, every step once in every round."""
    wait = torch.cuda.synchronize if device.type == "cuda" else lambda: None
    counts = {}
    for name, step in steps.items():
        step()
        wait()
        start = time.perf_counter()
        step()
        wait()
        counts[name] = max(1, round(seconds / (time.perf_counter() - start)))
    times: dict[str, list[float]] = {name: [] for name in steps}
    for _ in range(rounds):
        for name, step in steps.items():
            start = time.perf_counter()
            for _ in range(counts[name]):
                step()
            wait()
            times[name].append((time.perf_counter() - start) / counts[name] * 1e3)
    return times


def ratio(times: dict[str, list[float]], name: str, base: str) -> tuple[float, float, float]:
    """Median of the rounds' ratios, and their quartiles."""
    ratios = [a / b for a, b in zip(times[name], times[base], strict=True)]
    lower, median, upper = statistics.quantiles(ratios, n=4)
    return median, lower, upper


def strategy(supernet: Supernet, images: ImageSet, mode: str) -> DartsStrategy:
    """What trains weights and alphas by mixtures, or by drawn candidates."""
    spec = SupernetSpec(strategy="darts" if mode == "mixture" else "gumbel")
    made = find_strategy(spec.strategy)(Job(supernet, images, spec), strategy_options(spec))
    assert isinstance(made, DartsStrategy)
    return made


def conv_steps(options: argparse.Namespace, images: ImageSet, device: torch.device) -> dict[str, Step]:
    loader = BatchLoader(images, options.batch_size, options.input_size, device)
    batch = next(loader.epoch())
    figures = {"depth": options.depth, "input_size": options.input_size}
    largest = ConvSpace(**figures, **CHOICES[24])
    steps: dict[str, Step] = {}
    network = largest.build(largest.parse("-".join(["f48k7s1"] * options.depth)))
    steps["largest single network"] = single_step(network.to(device), batch)
    for count, choices in CHOICES.items():
        for mode in ("mixture", "sampled") if count == 24 else ("mixture",):
            supernet = supernet_for(ConvSpace(**figures, **choices)).to(device, memory_format=torch.channels_last)
            decide(supernet, {name: 1 for name in supernet.alphas if name.endswith("stride")})
            if mode == "sampled":
                decide(
                    supernet,
                    {n: max(p.choices) for n, p in supernet.space.parameters.items() if "stride" not in n},
                )
            search = strategy(supernet, images, mode)
            steps[f"{mode}, {count} choices"] = lambda s=search: s.weight_step(batch, joint=False)
            if count == 24:
                steps[f"{mode}, {count} choices, alphas"] = lambda s=search: s.alpha_step(batch)
    return steps


def block_steps(options: argparse.Namespace, images: ImageSet, device: torch.device) -> dict[str, Step]:
    loader = BatchLoader(images, options.batch_size, options.input_size, device)
    batch = next(loader.epoch())
    space = BlockSpace(depth=options.depth, input_size=options.input_size)
    # A path that has each of the reference's candidates once, so that it is a mean one.
    path = {name: list(space.candidates)[i % 5] for i, name in enumerate(space.parameters)}
    steps: dict[str, Step] = {}
    steps["single path"] = single_step(space.build(space.architecture(path)).to(device), batch)
    for mode in ("sampled", "mixture"):
        supernet = supernet_for(space).to(device, memory_format=torch.channels_last)
        if mode == "sampled":
            decide(supernet, path)
        search = strategy(supernet, images, mode)
        steps[mode] = lambda s=search: s.weight_step(batch, joint=False)
        steps[f"{mode}, alphas"] = lambda s=search: s.alpha_step(batch)
    return steps


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--depth", type=int, default=5)
    parser.add_argument("--input-size", type=int, default=64)
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--seconds", type=float, default=0.4, help="length of one measurement")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    device = torch.device(options.device)
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(256, (options.batch_size, 1, 28, 28), generator=generator, dtype=torch.uint8)
    labels = torch.randint(10, (options.batch_size,), generator=generator)
    images = ImageSet(pixels, labels, tuple(map(str, range(10))))
    result: dict[str, object] = {
        "torch": torch.__version__,
        "device": str(device),
        "processor": platform.processor() or platform.machine(),
        "threads": torch.get_num_threads(),
        **vars(options),
    }
    if not options.json:
        print(
            f"torch {torch.__version__}, {device}, {torch.get_num_threads()} threads; depth {options.depth},"
            f" {options.input_size}x{options.input_size} pixels, batch {options.batch_size}"
        )
    for kind, make in (("conv", conv_steps), ("block", block_steps)):
        times = timed(make(options, images, device), options.rounds, options.seconds, device)
        base = next(iter(times))
        result[kind] = {
            name: {"ms": statistics.median(values), "ratio": ratio(times, name, base)} for name, values in times.items()
        }
        if not options.json:
            print(f"\n{kind} space{'':21}   ms/step   ratio  (quartiles)")
            for name, values in times.items():
                median, lower, upper = ratio(times, name, base)
                print(f"{name:32} {statistics.median(values):9.2f}   {median:5.2f}  ({lower:.2f} … {upper:.2f})")
    if options.json:
        print(json.dumps(result))


if __name__ == "__main__":
    main()
