"""Learning curves as tables, and their replay: a sampler and a pruner spend epochs that were trained long ago.

A table is an ``.npz`` file of these arrays: ``parameters`` (JSON: name → choices, ordered), ``choices``
``[n, parameters]`` (index of each network's choice), ``sizes`` ``[n, s]`` with ``size_names``, ``curves``
``[n, epochs]`` (accuracy 0 … 1), ``seconds`` ``[n]`` (of an epoch) and ``about``.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import optuna
from numpy.typing import NDArray
from optuna.trial import TrialState

from nas_optuna.spaces import Parameter
from nas_optuna.study.schema import TrialKey


@dataclass(frozen=True)
class CurveTable:
    """Networks of a space, each trained once. It has what `create_sampler` asks of a space.

    Attributes:
        name: For figures.
        parameters: Parameter name → its choices.
        choices: ``[networks, parameters]``: index of each choice.
        sizes: ``[networks, sizes]``: what is known of each before it is trained.
        curves: ``[networks, epochs]``: accuracy, 0 … 1.
        seconds: ``[networks]``: of an epoch.
    """

    name: str
    parameters: Mapping[str, Parameter]
    choices: NDArray[np.int64]
    sizes: NDArray[np.float64]
    curves: NDArray[np.float64]
    seconds: NDArray[np.float64]
    conditional = False

    @classmethod
    def read(cls, path: Path) -> CurveTable:
        """Read a file of the format above."""
        with np.load(path, allow_pickle=False) as file:
            parameters = json.loads(str(file["parameters"]))
            return cls(
                path.stem,
                {n: Parameter(tuple(p["choices"]), bool(p["ordered"])) for n, p in parameters.items()},
                file["choices"].astype(np.int64),
                file["sizes"].astype(float),
                file["curves"].astype(float),
                file["seconds"].astype(float),
            )

    @property
    def size(self) -> int:
        """How many architectures the space has, trained or not."""
        return math.prod(len(p.choices) for p in self.parameters.values())

    @property
    def epochs(self) -> int:
        """Of a whole training."""
        return self.curves.shape[1]

    @cached_property
    def listed(self) -> list[dict[str, Any]]:
        """The params of each network."""
        return [self._params(row) for row in self.choices]

    def _params(self, row: NDArray[np.int64]) -> dict[str, Any]:
        return {name: p.choices[i] for (name, p), i in zip(self.parameters.items(), row, strict=True)}

    @cached_property
    def _places(self) -> dict[tuple[int, ...], int]:
        return {tuple(row): i for i, row in enumerate(self.choices.tolist())}

    def place(self, params: Mapping[str, Any]) -> int:
        """Which network params stand for."""
        return self._places[tuple(p.choices.index(params[name]) for name, p in self.parameters.items())]

    def known_numbers(self, params: Mapping[str, Any]) -> NDArray[np.float64]:
        """The sizes of a network; samplers ask for them."""
        return self.sizes[self.place(params)]


def misleading(seed: int = 0, epochs: int = 20) -> CurveTable:
    """A made-up table in which early epochs mislead, and says so: no claim rests on it but that nothing is lost.

    After a warm-up at the share of chance, what learns fast ends low: the order at a third of the epochs is nearly the
    reverse of the last one, and curves cross in the second half. Sizes tell a little of the end.
    """
    rng = np.random.default_rng(seed)
    shape = (4, 3, 4, 3, 4, 3)
    choices = np.array(np.meshgrid(*map(np.arange, shape), indexing="ij")).reshape(len(shape), -1).T
    score = np.zeros(len(choices))
    for place, size in enumerate(shape):
        score += np.cumsum(rng.normal(size=size))[choices[:, place]]
        other = (place + 1) % len(shape)
        score += rng.normal(0, 0.7, (size, shape[other]))[choices[:, place], choices[:, other]]
    score = (score - score.mean()) / score.std()
    final = 0.6 + 0.35 / (1 + np.exp(-score))
    speed = np.exp(-0.5 * score + rng.normal(0, 0.5, len(score)))
    time = np.maximum(0, np.arange(1, epochs + 1) - 0.1 * epochs) / (0.9 * epochs)
    early = 0.6 * (1 - np.exp(-6 * speed[:, None] * time))
    weight = time**3
    curves = 0.1 + (1 - weight) * early + weight * (final[:, None] - 0.1) + rng.normal(0, 0.002, (len(score), epochs))
    parameters = {}
    for layer in range(3):
        parameters[f"layer{layer + 1}.width"] = Parameter((16, 24, 32, 48), ordered=True)
        parameters[f"layer{layer + 1}.kind"] = Parameter(("conv3", "conv5", "pool"))
    sizes = (0.5 * score + rng.normal(size=len(score)))[:, None]
    seconds = np.ones(len(score))
    return CurveTable("misleading", parameters, choices, sizes, curves, seconds)


class Replay:
    """Trainings that come from a table; a stopped one goes on where it was.

    Args:
        table: Where to look.
        study: What asks for trials; each is told its end.

    Attributes:
        spent: Epochs trained.
        finished: Epochs spent, and network, of each whole training.
    """

    def __init__(self, table: CurveTable, study: optuna.Study) -> None:
        self.table = table
        self.study = study
        self.spent = 0
        self.finished: list[tuple[int, int]] = []
        self._reached = np.zeros(len(table.curves), int)

    def run_trial(self) -> None:
        """Ask for a network, train it until the pruner stops it, and tell what came of it."""
        trial = self.study.ask()
        params = {name: trial.suggest_categorical(name, p.choices) for name, p in self.table.parameters.items()}
        place = self.table.place(params)
        for epoch in self._train(trial, place):
            if epoch < self.table.epochs and trial.should_prune():
                trial.set_user_attr(TrialKey.PAUSED, epoch)
                self.study.tell(trial, state=TrialState.PRUNED)
                return
        self.study.tell(trial, float(self.table.curves[place, -1]))

    def _train(self, trial: optuna.Trial, place: int) -> Iterator[int]:
        """Report epoch by epoch; those that were trained before are reported for nothing, and decide nothing again."""
        before = int(self._reached[place])
        for epoch, value in enumerate(self.table.curves[place].tolist(), start=1):
            trial.report(value, epoch)
            if epoch > before:
                self.spent += 1
                self._reached[place] = epoch
                if epoch == self.table.epochs:
                    self.finished.append((self.spent, place))
                yield epoch

    def regret(self, trainings: float) -> float:
        """Points below the best network of the table, after so many whole trainings' epochs.

        Before any training has ended it is that of the median network: nobody knows which to take.
        """
        final = self.table.curves[:, -1]
        found = [final[place] for spent, place in self.finished if spent <= trainings * self.table.epochs]
        return 100 * float(final.max() - (max(found) if found else np.median(final)))
