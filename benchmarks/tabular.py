"""Objectives that look trainings up in a table, so that samplers and pruners can be compared in seconds.

`digits` holds real trainings, made by `make_table.py`. `synthetic` is a formula, harder than the real table: its layers
interact, and half of its parameters have no order.
`nas_bench_macro` holds the trainings that its authors published.

    study = optuna.create_study(direction="maximize")
    study.optimize(TabularObjective(digits()), n_trials=100)
"""

from __future__ import annotations

import json
import math
import os
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import optuna
from numpy.typing import NDArray

from nas_optuna.spaces import Parameter

HERE = Path(__file__).parent


@dataclass(frozen=True)
class Table:
    """Every training of a small space. It has what `create_sampler` asks of a space: `parameters` and `size`.

    Attributes:
        name: For figures.
        parameters: Parameter name → its choices.
        accuracy: ``[choices of each parameter …, seeds, epochs]``, 0 … 1, on validation images after each epoch.
        seconds: The same shape: what the epoch took.
    """

    name: str
    parameters: Mapping[str, Parameter]
    accuracy: NDArray[np.float32]
    seconds: NDArray[np.float32]
    conditional = False

    @property
    def size(self) -> int:
        """How many architectures there are."""
        return math.prod(len(p.choices) for p in self.parameters.values())

    @property
    def final(self) -> NDArray[np.float32]:
        """``[choices of each parameter …]``: accuracy after the last epoch, the mean over seeds."""
        return self.accuracy[..., -1].mean(-1)

    def suggest(self, trial: optuna.trial.BaseTrial) -> tuple[int, ...]:
        """Let a trial choose every parameter; gives the index of each choice."""
        return tuple(p.choices.index(trial.suggest_categorical(name, p.choices)) for name, p in self.parameters.items())


class TabularObjective:
    """Replay a training: report each epoch's accuracy, obey the pruner, return the last.

    Args:
        table: Where to look.
        seed: Which of the table's trainings of an architecture; None is the mean of all.
    """

    def __init__(self, table: Table, seed: int | None = None) -> None:
        self.table = table
        self._seeds = slice(None) if seed is None else slice(seed, seed + 1)

    def __call__(self, trial: optuna.Trial) -> float:
        """The accuracy, 0 … 1; to be maximised. The user attribute ``seconds`` says what the training took."""
        place = self.table.suggest(trial)
        curve = self.table.accuracy[place][self._seeds].mean(0)
        seconds = self.table.seconds[place][self._seeds].sum(0)
        for epoch, accuracy in enumerate(curve.tolist(), start=1):
            trial.set_user_attr("nas_optuna:seconds", float(seconds[:epoch].sum()))
            if len(trial.study.directions) == 1:
                trial.report(accuracy, epoch)
                if epoch < len(curve) and trial.should_prune():
                    raise optuna.TrialPruned
        return float(curve[-1])


def digits(path: Path = HERE / "digits-conv2.npz") -> Table:
    """Two convolutions of 24 kinds each on the digits: 576 architectures, three seeds, five epochs."""
    with np.load(path, allow_pickle=False) as file:
        about = json.loads(str(file["about"]))
        accuracy = file["correct"].astype(np.float32) / about["validation_images"]
        seconds = file["microseconds"].astype(np.float32) / 1e6
    parameters = {
        name: Parameter(tuple(choices), name in about["ordered"]) for name, choices in about["parameters"].items()
    }
    return Table("digits", parameters, accuracy, seconds)


def synthetic(seed: int = 0, layers: int = 4, epochs: int = 5) -> Table:
    """A made-up space of 16 kinds of layer: 65,536 architectures where what is good depends on the layer before.

    Each layer has an operation (no order) and a width (ordered, smooth). Scores add up over layers and over pairs:
    each operation with its width, each operation and width with those of the layer before. Wide layers learn more
    slowly, so that early epochs mislead a little.
    """
    rng = np.random.default_rng(seed)
    operations, widths = ("conv3", "conv5", "separable", "pool"), (16, 24, 32, 48)
    shape = (4,) * (2 * layers)

    def along(values: NDArray, *axes: int) -> NDArray:
        return values.reshape([4 if axis in axes else 1 for axis in range(len(shape))])

    def smooth(*size: int) -> NDArray:
        steps = rng.normal(0, 0.7, size)
        for axis in range(len(size)):
            steps = np.cumsum(steps, axis)
        return steps - steps.mean()

    score = np.zeros(shape)
    for layer in range(layers):
        operation, width = 2 * layer, 2 * layer + 1
        score = score + along(rng.normal(0, 0.7, 4), operation) + along(smooth(4), width)
        score = score + along(rng.normal(0, 0.7, (4, 4)), operation, width)
        if layer:
            score = score + along(rng.normal(0, 1.2, (4, 4)), operation - 2, operation)
            score = score + along(smooth(4, 4), width - 2, width)
    score = (score - score.mean()) / score.std()
    final = 0.5 + 0.48 / (1 + np.exp(-score))
    load = sum(along(np.array(widths) / 48, 2 * layer + 1) for layer in range(layers)) / layers
    load = np.broadcast_to(load, shape)
    epoch = np.arange(1, epochs + 1)
    progress = 1 - np.exp(-epoch * (1.6 - 0.6 * load[..., None]))
    noise = rng.normal(0, 0.003, (*shape, 3, epochs))
    accuracy = 0.1 + (final[..., None, None] - 0.1) * progress[..., None, :] + noise
    seconds = np.broadcast_to((0.05 + 0.3 * load)[..., None, None], accuracy.shape)
    parameters = {}
    for layer in range(1, layers + 1):
        parameters[f"layer{layer}.operation"] = Parameter(operations)
        parameters[f"layer{layer}.width"] = Parameter(widths, ordered=True)
    return Table("synthetic", parameters, accuracy.astype(np.float32), seconds.astype(np.float32))


MACRO_FILE = "nas-bench-macro/nas-bench-macro_cifar10.json"
MACRO_ADDRESS = "https://raw.githubusercontent.com/xiusu/NAS-Bench-Macro/master/data/nas-bench-macro_cifar10.json"


def nas_bench_macro() -> Table:
    """Eight layers of three kinds each on CIFAR-10: 6,561 architectures, three seeds, the test accuracy at the end.

    NAS-Bench-Macro (Su et al. 2021, Apache-2.0) is read from the folder that `NAS_OPTUNA_DATA` names, or downloaded
    into it. A training's seconds are its FLOPs, since the table holds no times.
    """
    path = Path(os.environ.get("NAS_OPTUNA_DATA", "data")) / MACRO_FILE
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        part = path.with_suffix(".part")
        urllib.request.urlretrieve(MACRO_ADDRESS, part)
        part.replace(path)
    entries = json.loads(path.read_text(encoding="utf-8"))
    accuracy = np.empty((3,) * 8 + (3, 1), np.float32)
    seconds = np.empty_like(accuracy)
    for digits, entry in entries.items():
        place = tuple(map(int, digits))
        accuracy[place] = np.array(entry["test_acc"], np.float32)[:, None] / 100
        seconds[place] = entry["flops"] / 1e7
    kinds = Parameter(("identity", "mbconv3_k3", "mbconv6_k5"))
    return Table("nas-bench-macro", {f"layer{i}": kinds for i in range(1, 9)}, accuracy, seconds)


TABLES = {
    "digits": digits,
    "synthetic": synthetic,
    "held-out": lambda: synthetic(seed=1),
    "nas-bench-macro": nas_bench_macro,
}
"""``held-out`` is a synthetic table that no sampler's settings were chosen on."""
