"""Trainings as tables, so that samplers and pruners can be compared in seconds.

A table is an ``.npz`` file of these arrays: ``parameters`` (JSON: name → choices, ordered), ``choices``
``[n, parameters]`` (index of each network's choice), ``sizes`` ``[n, s]`` with ``size_names``, ``curves``
``[n, epochs]`` (accuracy 0 … 1), ``seconds`` ``[n]`` (of an epoch) and ``about``. `make_table.py` writes them, and
`table_file.py` reads them.

``digits`` holds real trainings, and so does ``nas-bench-macro``; the others are made up, those of `made_up.py` among
them.
"""

from __future__ import annotations

import json
import math
import os
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property, lru_cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import optuna
from made_up import NATURES, made_up
from numpy.typing import NDArray
from optuna.distributions import CategoricalDistribution
from table_file import arrays_of

from nas_optuna.spaces import Parameter
from nas_optuna.spaces.architecture import Architecture

HERE = Path(__file__).parent
Array = NDArray[np.float64]


class Searched:
    """What has parameters, as Optuna sees them."""

    parameters: Mapping[str, Parameter]

    def distributions(self) -> dict[str, CategoricalDistribution]:
        """One distribution for each parameter."""
        return {name: CategoricalDistribution(p.choices) for name, p in self.parameters.items()}

    def canonical(self, params: Mapping[str, Any]) -> Mapping[str, Any]:
        """No choice of a table switches others off."""
        return params


@dataclass(frozen=True)
class Table(Searched):
    """Networks of a space and their trainings. It has what `create_sampler` asks of a space.

    Attributes:
        name: For figures.
        parameters: Parameter name → its choices.
        choices: ``[networks, parameters]``: index of each choice.
        sizes: ``[networks, sizes]``: what is known of each before it is trained.
        size_names: What they are; ``log_macs`` is the cost of a study with two objectives.
        curves: ``[networks, epochs]``: accuracy, 0 … 1.
        seconds: ``[networks]``: of an epoch.
    """

    name: str
    parameters: Mapping[str, Parameter]
    choices: NDArray[np.int64]
    sizes: Array
    size_names: tuple[str, ...]
    curves: Array
    seconds: Array
    conditional = False

    @classmethod
    def read(cls, path: Path) -> Table:
        """Read a file of the format above; raises `DataError` where it is damaged."""
        return cls.of(path.stem, arrays_of(path))

    @classmethod
    def of(cls, name: str, arrays: Mapping[str, NDArray[Any]]) -> Table:
        """The table that arrays of the format above hold; of networks with the same choices the first one counts."""
        parameters = json.loads(str(arrays["parameters"]))
        _, first = np.unique(arrays["choices"], axis=0, return_index=True)
        first.sort()
        return cls(
            name,
            {n: Parameter(tuple(p["choices"]), bool(p["ordered"])) for n, p in parameters.items()},
            arrays["choices"][first].astype(np.int64),
            arrays["sizes"][first].astype(float),
            tuple(map(str, arrays["size_names"])),
            arrays["curves"][first].astype(float),
            arrays["seconds"][first].astype(float),
        )

    @property
    def size(self) -> int:
        """How many architectures the space has, trained or not."""
        return math.prod(len(p.choices) for p in self.parameters.values())

    @property
    def epochs(self) -> int:
        """Of a whole training."""
        return self.curves.shape[1]

    @property
    def final(self) -> Array:
        """``[networks]``: accuracy after the last epoch."""
        return self.curves[:, -1]

    @cached_property
    def best(self) -> float:
        """The accuracy of the best network."""
        return float(self.final.max())

    @cached_property
    def typical(self) -> float:
        """The accuracy of the median network, which is what one has before any training has ended."""
        return float(np.median(self.final))

    @cached_property
    def listed(self) -> list[dict[str, Any]] | None:
        """The params of each network; None where the table holds the whole space."""
        return None if len(self.choices) == self.size else [self.params(place) for place in range(len(self.choices))]

    def params(self, place: int) -> dict[str, Any]:
        """The params of a network."""
        row = self.choices[place]
        return {name: p.choices[i] for (name, p), i in zip(self.parameters.items(), row, strict=True)}

    def enumerate(self) -> Iterator[Architecture]:
        """Every network; samplers ask for those of a small space."""
        for place in range(len(self.choices)):
            yield Architecture(tuple(self.params(place).items()), str(place))

    @cached_property
    def _places(self) -> dict[tuple[int, ...], int]:
        return {tuple(row): i for i, row in enumerate(self.choices.tolist())}

    def place(self, params: Mapping[str, Any]) -> int:
        """Which network params stand for."""
        return self._places[tuple(p.choices.index(params[name]) for name, p in self.parameters.items())]

    def suggest(self, trial: optuna.trial.BaseTrial) -> int:
        """Let a trial choose every parameter; gives the network."""
        return self.place({name: trial.suggest_categorical(name, p.choices) for name, p in self.parameters.items()})

    def curve(self, place: int) -> list[float]:
        """Accuracy after each epoch."""
        values: list[float] = self.curves[place].tolist()
        return values

    def epoch_seconds(self, place: int) -> float:
        """How long an epoch of a network takes."""
        return float(self.seconds[place])

    def known_numbers(self, params: Mapping[str, Any]) -> Array:
        """The sizes of a network; samplers ask for them."""
        row: Array = self.sizes[self.place(params)]
        return row

    @cached_property
    def macs(self) -> Array:
        """``[networks]``: multiply-accumulates."""
        found: Array = np.exp(self.sizes[:, self.size_names.index("log_macs")])
        return found


def _grid(shape: tuple[int, ...]) -> NDArray[np.int64]:
    """Every combination of choices, ``[networks, parameters]``."""
    return np.indices(shape).reshape(len(shape), -1).T


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
    score = ((score - score.mean()) / score.std()).ravel()
    final = 0.5 + 0.48 / (1 + np.exp(-score))
    choices = _grid(shape)
    load = np.array(widths)[choices[:, 1::2]].mean(1) / 48
    progress = 1 - np.exp(-np.arange(1, epochs + 1) * (1.6 - 0.6 * load[:, None]))
    # Three trainings of each network, whose mean counts.
    noise = rng.normal(0, 0.003, (len(score), 3, epochs)).mean(1)
    parameters = {}
    for layer in range(1, layers + 1):
        parameters[f"layer{layer}.operation"] = Parameter(operations)
        parameters[f"layer{layer}.width"] = Parameter(widths, ordered=True)
    curves = 0.1 + (final[:, None] - 0.1) * progress + noise
    return Table("synthetic", parameters, choices, load[:, None], ("width",), curves, 0.05 + 0.3 * load)


def misleading(seed: int = 0, epochs: int = 20) -> Table:
    """A made-up table in which early epochs mislead, and says so: no claim rests on it but that nothing is lost.

    After a warm-up at the share of chance, what learns fast ends low: the order at a third of the epochs is nearly the
    reverse of the last one, and curves cross in the second half. Sizes tell a little of the end.
    """
    rng = np.random.default_rng(seed)
    shape = (4, 3, 4, 3, 4, 3)
    choices = _grid(shape)
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
    return Table("misleading", parameters, choices, sizes, ("made up",), curves, np.ones(len(score)))


MACRO_FILE = "nas-bench-macro/nas-bench-macro_cifar10.json"
MACRO_ADDRESS = "https://raw.githubusercontent.com/xiusu/NAS-Bench-Macro/master/data/nas-bench-macro_cifar10.json"


def nas_bench_macro() -> Table:
    """Eight layers of three kinds each on CIFAR-10: 6,561 architectures, the mean test accuracy of three seeds.

    NAS-Bench-Macro (Su et al. 2021, Apache-2.0) is read from the folder that `NAS_OPTUNA_DATA` names, or downloaded
    into it. It has no epochs and no times: 10 million multiply-accumulates count as a second.
    """
    path = Path(os.environ.get("NAS_OPTUNA_DATA", "data")) / MACRO_FILE
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        part = path.with_suffix(".part")
        urllib.request.urlretrieve(MACRO_ADDRESS, part)
        part.replace(path)
    entries = json.loads(path.read_text(encoding="utf-8"))
    choices = _grid((3,) * 8)
    rows = [entries["".join(map(str, row))] for row in choices.tolist()]
    curves = np.array([[np.mean(row["test_acc"]) / 100] for row in rows])
    macs = np.array([float(row["flops"]) for row in rows])
    parameters = {f"layer{i}": Parameter(("identity", "mbconv3_k3", "mbconv6_k5")) for i in range(1, 9)}
    sizes = np.log(macs)[:, None]
    return Table("nas-bench-macro", parameters, choices, sizes, ("log_macs",), curves, macs / 1e7)


class Chain(Searched):
    """A made-up chain of 20 layers with 24 kinds each (24^20), with interactions between neighbours; one epoch.

    A layer has filters (4, ordered), a kernel (3, ordered) and a stride (2). Half of the variance is of single layers,
    half of pairs of neighbours; both are smooth in what is ordered. Dynamic programming finds the best chain exactly.
    A point of regret is a standard deviation of random chains.

    Args:
        seed: Each draws another chain.
        layers: How many.
    """

    name, conditional, epochs, listed = "long-chain", False, 1, None
    shape = (4, 3, 2)

    def __init__(self, seed: int = 0, layers: int = 20) -> None:
        rng, self._layers = np.random.default_rng(seed), layers
        kinds = math.prod(self.shape)
        self._single = np.stack([self._smooth(rng, 1).reshape(kinds) for _ in range(layers)])
        self._pairs = np.stack([self._smooth(rng, 2).reshape(kinds, kinds) for _ in range(layers - 1)])
        random = self.worth(np.random.default_rng(0).integers(0, kinds, (2000, layers)))
        self._scale, self.size = 100 * float(random.std()), kinds**layers
        self.typical = float(np.median(random)) / self._scale
        choices = {"filters": (16, 24, 32, 48), "kernel": (3, 5, 7), "stride": (1, 2)}
        self.parameters = {
            f"conv{i}.{name}": Parameter(values, ordered=True)
            for i in range(1, layers + 1)
            for name, values in choices.items()
        }

    def _smooth(self, rng: np.random.Generator, layers: int) -> Array:
        """Random worths over the kinds of some layers: random walks along filters and kernels, of variance 1."""
        steps = rng.normal(size=self.shape * layers)
        for axis in range(steps.ndim):
            if axis % len(self.shape) < 2:
                steps = np.cumsum(steps, axis)
        centred: Array = steps - steps.mean()
        return centred / centred.std()

    def worth(self, kinds: NDArray[np.int64]) -> Array:
        """``[chains, layers]`` kinds → ``[chains]``."""
        layers = np.arange(self._layers)
        single: Array = self._single[layers, kinds].sum(1)
        return single + self._pairs[layers[:-1], kinds[:, :-1], kinds[:, 1:]].sum(1)

    @cached_property
    def best(self) -> float:
        """The accuracy of the best chain, found by dynamic programming."""
        so_far = self._single[0]
        for single, pair in zip(self._single[1:], self._pairs, strict=True):
            so_far = (so_far[:, None] + pair).max(0) + single
        return float(so_far.max()) / self._scale

    def suggest(self, trial: optuna.trial.BaseTrial) -> int:
        """Let a trial choose every layer; gives the chain's number."""
        tokens = [p.choices.index(trial.suggest_categorical(n, p.choices)) for n, p in self.parameters.items()]
        number = 0
        for place, token in enumerate(tokens):
            number = number * self.shape[place % len(self.shape)] + token
        return number

    def curve(self, place: int) -> list[float]:
        """The chain's worth, as its only epoch."""
        kinds = math.prod(self.shape)
        row = [place // kinds**i % kinds for i in range(self._layers)][::-1]
        return [float(self.worth(np.array([row]))[0]) / self._scale]

    def epoch_seconds(self, place: int) -> float:
        """Seconds of an epoch, which are the same for every chain."""
        return 1.0

    def known_numbers(self, params: Mapping[str, Any]) -> Array:
        """Nothing is known of a chain beforehand."""
        return np.zeros(0)


def _of_nature(name: str, seed: int) -> Table:
    """A table of `made_up.py`: the same whatever the search's seed."""
    return Table.of(name, made_up(NATURES[name]))


TABLES: dict[str, Callable[[int], Table | Chain]] = {
    "digits": lambda seed: Table.read(HERE / "digits-conv2.npz"),
    "synthetic": lambda seed: synthetic(),
    "held-out": lambda seed: synthetic(seed=1),  # no sampler's settings were chosen on it
    "nas-bench-macro": lambda seed: nas_bench_macro(),
    "misleading": lambda seed: misleading(),
    "long-chain": Chain,
    **{name: partial(_of_nature, name) for name in NATURES},
}


@lru_cache(maxsize=4)
def open_table(name: str, seed: int = 0) -> Table | Chain:
    """A table by its name, or of a file; the seed of a search draws a chain of its own."""
    return TABLES[name](seed) if name in TABLES else Table.read(Path(name))
