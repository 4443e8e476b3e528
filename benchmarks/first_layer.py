"""Formulations of the first layer (one input channel) on the CPU, in one alternating run.

With one channel a convolution does only k·k multiply-adds for each output value of four bytes, so the layer is limited
by how fast its output can be written and read again by pooling and by backward, not by arithmetic. Compared are

- nchw, nhwc: the two memory formats;
- im2col: patches as a matrix, one matrix product;
- pad8: seven channels of zeros, so that the vector kernels of wider layers apply;
- s2d: space to depth, where the stride is 2: four channels of half the side under a kernel of half the side;
- parts: nhwc in parts whose output fits in the cache, as `nas_optuna.training` computes a batch.

Each pass covers convolution, 2×2 max pooling and ReLU, forward and backward; all give the same output and weight
gradient (checked). Printed is milliseconds per image, median of the rounds.

    python benchmarks/first_layer.py
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

import nas_optuna  # noqa: F401 - first, so that its allocator setting is in place
from nas_optuna.training.network import CACHE_BYTES

LAYERS = ((3, 1, 16), (3, 1, 48), (5, 1, 32), (7, 1, 48), (3, 2, 24), (7, 2, 48))  # kernel, stride, filters
SIDE = 224

Run = Callable[[], Tensor]
"""One forward and backward pass; returns the weight's gradient."""


def formulations(kernel: int, stride: int, filters: int, batch: int) -> dict[str, Run]:
    """Each way to compute the layer, on the same images and weights."""
    torch.manual_seed(0)
    padding = (kernel + 1) // 2
    images = torch.rand(batch, 1, SIDE, SIDE)
    initial = torch.randn(filters, 1, kernel, kernel) * 0.1
    side = (SIDE + 2 * padding - kernel) // stride + 1

    def layer(x: Tensor, weight: Tensor, pad: int = padding, step: int = stride) -> Tensor:
        return F.relu(F.max_pool2d(F.conv2d(x, weight, None, step, pad), 2))

    def backward(forward: Callable[[Tensor], Tensor]) -> Run:
        def run() -> Tensor:
            weight = initial.clone().requires_grad_()
            forward(weight).sum().backward()
            assert weight.grad is not None
            return weight.grad

        return run

    def im2col(weight: Tensor) -> Tensor:
        padded = F.pad(images, [padding] * 4)
        patches = padded.unfold(2, kernel, stride).unfold(3, kernel, stride).reshape(-1, kernel * kernel)
        out = (patches @ weight.reshape(filters, -1).T).reshape(batch, side, side, filters).permute(0, 3, 1, 2)
        return F.relu(F.max_pool2d(out, 2))

    wide = F.pad(images, (0, 0, 0, 0, 0, 7)).to(memory_format=torch.channels_last)

    def pad8(weight: Tensor) -> Tensor:
        return layer(wide, F.pad(weight, (0, 0, 0, 0, 0, 7)).to(memory_format=torch.channels_last))

    last = images.to(memory_format=torch.channels_last)

    def nhwc(weight: Tensor) -> Tensor:
        return layer(last, weight.to(memory_format=torch.channels_last))

    part = max(1, CACHE_BYTES // (filters * side * side * 4))

    def parts() -> Tensor:
        weight = initial.clone().requires_grad_()
        for some in last.split(part):
            layer(some, weight.to(memory_format=torch.channels_last)).sum().backward()
        assert weight.grad is not None
        return weight.grad

    ways = {
        "nchw": backward(lambda weight: layer(images, weight)),
        "nhwc": backward(nhwc),
        "im2col": backward(im2col),
        "pad8": backward(pad8),
        "parts": parts,
    }
    if stride == 2:
        # Output i reads padded input 2i … 2i + k - 1, that is, pairs i … i + k // 2 of a kernel with one more row.
        padded = F.pad(images, (padding, padding + 1, padding, padding + 1))[..., : 2 * (side + kernel // 2), :]
        padded = padded[..., : 2 * (side + kernel // 2)]
        deep = F.pixel_unshuffle(padded, 2).to(memory_format=torch.channels_last)

        def s2d(weight: Tensor) -> Tensor:
            folded = F.pixel_unshuffle(F.pad(weight, (0, 1, 0, 1)), 2)
            return layer(deep, folded.to(memory_format=torch.channels_last), 0, 1)

        ways["s2d"] = backward(s2d)
    return ways


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    rows = []
    for kernel, stride, filters in LAYERS:
        ways = formulations(kernel, stride, filters, arguments.batch)
        expected = ways["nchw"]()
        for name, run in ways.items():
            error = ((run() - expected).norm() / expected.norm()).item()
            assert error < 1e-4, f"{name} differs by {error}"
        times: dict[str, list[float]] = {name: [] for name in ways}
        for _ in range(arguments.rounds):
            for name, run in ways.items():
                began = time.perf_counter()
                run()
                times[name].append((time.perf_counter() - began) / arguments.batch * 1e3)
        medians = {name: statistics.median(values) for name, values in times.items()}
        rows.append({"kernel": kernel, "stride": stride, "filters": filters, "milliseconds_an_image": medians})
        if not arguments.json:
            print(
                f"k{kernel} s{stride} f{filters}  " + "  ".join(f"{n} {m:6.2f}" for n, m in medians.items()), flush=True
            )
    if arguments.json:
        json.dump(rows, sys.stdout, indent=2)
        print()


if __name__ == "__main__":
    main()
