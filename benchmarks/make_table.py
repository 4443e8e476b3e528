"""Train every architecture of a small conv space and keep what came out: the data behind `tabular.py`.

Two convolutions of 24 kinds each are 576 architectures, trained with three seeds on half of the digits' training
images and scored on the other half, at 8×8 pixels. About a quarter of an hour on one core. It can be interrupted:
run it again and it goes on.

    python benchmarks/make_table.py
"""

from __future__ import annotations

import argparse
import datetime
import itertools
import json
import platform
from pathlib import Path

import numpy as np
import optuna
import torch
from rich.progress import track

from nas_optuna.costs.complexity import size
from nas_optuna.data import load_data, make_loader
from nas_optuna.spaces.conv import ConvSpace
from nas_optuna.spec import DataSpec, Recipe
from nas_optuna.training import fit, make_network

HERE = Path(__file__).parent
SEEDS = (0, 1, 2)
SPACE = ConvSpace(depth=2, input_size=8)
DATA = DataSpec(name="digits", validation_fraction=0.5)
RECIPE = Recipe(epochs=5, batch_size=64, input_size=8)


def train_missing(progress: Path) -> None:
    """Append one JSON line for each training that `progress` does not hold."""
    torch.set_num_threads(1)
    device = torch.device("cpu")
    data = load_data(DATA)
    train = make_loader(data.train, RECIPE.batch_size, SPACE.input_size, device)
    validation = make_loader(data.validation, 512, SPACE.input_size, device)
    done = {(line["tokens"], line["seed"]) for line in read(progress)}
    points = itertools.product(*(range(len(p.choices)) for p in SPACE.parameters.values()))
    todo = [(tokens, seed) for tokens in points for seed in SEEDS if (tokens, seed) not in done]
    with progress.open("a") as file:
        for tokens, seed in track(todo, description="training"):
            choices = {name: p.choices[t] for (name, p), t in zip(SPACE.parameters.items(), tokens, strict=True)}
            network = make_network(SPACE, SPACE.architecture(choices), RECIPE, device, seed)
            results = list(fit(network, train, validation, RECIPE, device, seed=seed))
            line = {
                "tokens": tokens,
                "seed": seed,
                "correct": [round(r.accuracy * len(data.validation)) for r in results],
                "seconds": [r.seconds for r in results],
                "of": len(data.validation),
            }
            file.write(json.dumps(line) + "\n")
            file.flush()


def read(progress: Path) -> list[dict]:
    lines = progress.read_text().splitlines() if progress.exists() else []
    return [line | {"tokens": tuple(line["tokens"])} for line in map(json.loads, lines)]


def write_table(progress: Path, out: Path) -> None:
    """Bring all trainings into arrays over (choices of each parameter …, seed, epoch)."""
    sizes = tuple(len(p.choices) for p in SPACE.parameters.values())
    correct = np.zeros((*sizes, len(SEEDS), RECIPE.epochs), np.uint16)
    microseconds = np.zeros_like(correct, dtype=np.uint32)
    lines = read(progress)
    for line in lines:
        place = (*line["tokens"], SEEDS.index(line["seed"]))
        correct[place] = line["correct"]
        microseconds[place] = np.round(np.array(line["seconds"]) * 1e6)
    about = {
        "validation_images": lines[0]["of"],
        "space": {"name": "conv", "depth": 2, "input_size": 8},
        "parameters": {name: list(p.choices) for name, p in SPACE.parameters.items()},
        "ordered": [name for name, p in SPACE.parameters.items() if p.ordered],
        "data": DATA.model_dump(mode="json"),
        "recipe": RECIPE.model_dump(mode="json"),
        "seeds": SEEDS,
        "made": datetime.date.today().isoformat(),
        "with": {"torch": torch.__version__, "optuna": optuna.__version__, "machine": platform.machine()},
    }
    arrays = {"correct": correct, "microseconds": microseconds, "about": np.array(json.dumps(about))}
    np.savez_compressed(out, **arrays, **as_curves(correct, microseconds, lines[0]["of"]))


def as_curves(correct: np.ndarray, microseconds: np.ndarray, images: int) -> dict[str, np.ndarray]:
    """The same trainings in the format of `tables.CurveTable`, the mean over seeds."""
    choices = np.array(list(itertools.product(*map(range, correct.shape[:-2]))))
    names, values = list(SPACE.parameters), [p.choices for p in SPACE.parameters.values()]
    architectures = [
        SPACE.architecture({n: v[i] for n, v, i in zip(names, values, row, strict=True)}) for row in choices
    ]
    sizes = []
    for architecture in architectures:
        macs, params = size(SPACE, architecture)
        sides = [operation.output_shape[-1] for operation in SPACE.operations(architecture)[:-1]]
        sizes.append([np.log(params), np.log(macs), np.mean(np.log(sides)), np.log(sides[-1])])
    ordered = {n: {"choices": list(p.choices), "ordered": p.ordered} for n, p in SPACE.parameters.items()}
    return {
        "parameters": np.array(json.dumps(ordered)),
        "choices": choices.astype(np.int16),
        "sizes": np.array(sizes, np.float32),
        "size_names": np.array(["log_params", "log_macs", "log_side", "log_last_side"]),
        "curves": (correct.mean(-2) / images).reshape(len(choices), -1).astype(np.float32),
        "seconds": (microseconds.mean((-1, -2)) / 1e6).ravel().astype(np.float32),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=HERE / "digits-conv2.npz", help="the table")
    options = parser.parse_args()
    progress = options.out.with_suffix(".jsonl")
    train_missing(progress)
    write_table(progress, options.out)
    print(f"{options.out}: {options.out.stat().st_size:,} bytes")


if __name__ == "__main__":
    main()
