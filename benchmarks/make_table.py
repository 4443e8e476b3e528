"""Train networks of a study spec and keep their curves as a table, in the format of `tables.py`.

Without options it makes the table of the digits: two convolutions of 24 kinds each are 576 architectures, trained with
three seeds on half of the digits' training images and scored on the other half, at 8×8 pixels. About a quarter of an
hour on one core. It can be interrupted: run it again and it goes on.

    python benchmarks/make_table.py
    python benchmarks/make_table.py mnist-fast --set data.train_limit=6000 --networks 100 --seeds 1 --out mnist.npz
"""

from __future__ import annotations

import argparse
import datetime
import itertools
import json
import platform
import random
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import torch
from rich.progress import track

from nas_optuna.costs.complexity import size
from nas_optuna.data import BatchLoader, ImageSet
from nas_optuna.execution.evaluator import Search
from nas_optuna.experiment import Experiment
from nas_optuna.presets import find_spec
from nas_optuna.spaces import SearchSpace
from nas_optuna.spec import DataSpec, Recipe, StudySpec
from nas_optuna.training import fit, make_network

HERE = Path(__file__).parent
CPU = torch.device("cpu")
DIGITS = StudySpec.from_dict(
    {
        "data": DataSpec(name="digits", validation_fraction=0.5).model_dump(),
        "space": {"name": "conv", "depth": 2},
        "recipe": Recipe(epochs=5, batch_size=64, input_size=8).model_dump(),
    }
)
"""What the table of the digits was trained with."""


def points_of(space: SearchSpace, networks: int | None) -> list[tuple[int, ...]]:
    """Index of each choice of every architecture, or of so many random ones."""
    ranges = [range(len(p.choices)) for p in space.parameters.values()]
    if networks is None or networks >= space.size:
        return list(itertools.product(*ranges))
    rng, drawn = random.Random(0), dict[tuple[int, ...], None]()
    while len(drawn) < networks:
        drawn[tuple(rng.choice(one) for one in ranges)] = None
    return list(drawn)


def params_of(space: SearchSpace, tokens: tuple[int, ...]) -> dict[str, Any]:
    """The params that indices of choices stand for."""
    return {name: p.choices[t] for (name, p), t in zip(space.parameters.items(), tokens, strict=True)}


def alone(
    search: Search, params: Mapping[str, Any], seed: int, scored: ImageSet | None = None
) -> Iterator[tuple[float, float]]:
    """Accuracy and seconds of each epoch of a training; on the validation images unless others are given."""
    recipe, space = search.spec.recipe, search.space
    train = BatchLoader(search.data.train, recipe.batch_size, space.input_size, CPU)
    validation = BatchLoader(scored or search.data.validation, 512, space.input_size, CPU)
    network = make_network(space, space.architecture(dict(params)), recipe, CPU, seed)
    for result in fit(network, train, validation, recipe, CPU, seed=seed):
        yield result.accuracy, result.seconds


def train_missing(search: Search, points: list[tuple[int, ...]], seeds: int, progress: Path) -> None:
    """Append one JSON line for each training that `progress` does not hold."""
    done = {(line["tokens"], line["seed"]) for line in read(progress)}
    todo = [(tokens, seed) for tokens in points for seed in range(seeds) if (tokens, seed) not in done]
    with progress.open("a") as file:
        for tokens, seed in track(todo, description="training"):
            epochs = list(alone(search, params_of(search.space, tokens), seed))
            file.write(json.dumps({"tokens": tokens, "seed": seed, "epochs": epochs}) + "\n")
            file.flush()


def read(progress: Path) -> list[dict[str, Any]]:
    """The trainings that were done."""
    lines = progress.read_text().splitlines() if progress.exists() else []
    return [line | {"tokens": tuple(line["tokens"])} for line in map(json.loads, lines)]


def write_table(search: Search, points: list[tuple[int, ...]], seeds: int, progress: Path, out: Path) -> None:
    """Bring all trainings into the arrays of the format, and those of each seed into ``by_seed``."""
    found = {(line["tokens"], line["seed"]): line["epochs"] for line in read(progress)}
    epochs = np.array([[found[tokens, seed] for seed in range(seeds)] for tokens in points])
    parameters = {n: {"choices": p.choices, "ordered": p.ordered} for n, p in search.space.parameters.items()}
    about = {
        "spec": search.spec.to_dict(),
        "seeds": seeds,
        "made": datetime.date.today().isoformat(),
        "with": {"torch": torch.__version__, "optuna": optuna.__version__, "machine": platform.machine()},
    }
    np.savez_compressed(
        out,
        parameters=np.array(json.dumps(parameters)),
        choices=np.array(points, np.int16),
        sizes=np.array([sizes_of(search.space, tokens) for tokens in points], np.float32),
        size_names=np.array(["log_params", "log_macs", "log_side", "log_last_side"]),
        curves=epochs[..., 0].mean(1).astype(np.float32),
        by_seed=epochs[..., 0].astype(np.float32),
        seconds=epochs[..., 1].mean((1, 2)).astype(np.float32),
        about=np.array(json.dumps(about)),
    )


def sizes_of(space: SearchSpace, tokens: tuple[int, ...]) -> list[float]:
    """Logarithms of parameters and multiply-accumulates, and of the mean and the last side of the images."""
    architecture = space.architecture(params_of(space, tokens))
    macs, params = size(space, architecture)
    sides = [operation.output_shape[-1] for operation in space.operations(architecture)[:-1]]
    return [np.log(params), np.log(macs), np.mean(np.log(sides)), np.log(sides[-1])]


def main() -> None:
    """Train, and write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("spec", nargs="?", help="a preset or a study spec; the table of the digits without")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE")
    parser.add_argument("--networks", type=int, help="random ones; all without")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--out", type=Path, default=HERE / "digits-conv2.npz", help="the table")
    options = parser.parse_args()
    torch.set_num_threads(1)
    spec = StudySpec.from_toml(find_spec(options.spec), options.set) if options.spec else DIGITS
    search = Experiment.from_spec(spec, device="cpu").search
    points, progress = points_of(search.space, options.networks), options.out.with_suffix(".jsonl")
    train_missing(search, points, options.seeds, progress)
    write_table(search, points, options.seeds, progress, options.out)
    print(f"{options.out}: {options.out.stat().st_size:,} bytes")


if __name__ == "__main__":
    main()
