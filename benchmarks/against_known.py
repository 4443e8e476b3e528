r"""Does a search beat the network that its user would have taken anyway, in the same time?

Each row has the same seconds, from the moment the pictures are read: three known networks, trained for all of the time
by the recipe of `fit`; where weights are installed, a pretrained network whose last layer alone learns; a random
search, which trains eight random networks of the space for half of the time and the best of them for the rest; `fit`;
and `fit` whose network may have half the weights of the best known one. The test part is scored once per row and seed,
at the end. Rows take turns within a seed, so that a machine whose speed drifts treats all alike.

    python benchmarks/against_known.py --data photos/ --minutes 5 --seeds 3 --threads 1 --json found.json
"""

from __future__ import annotations

import argparse
import copy
import json
import math
import random
import statistics
import tempfile
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import nn
from torchvision.models import resnet18

import nas_optuna as nas
from nas_optuna.data import Augmentation, BatchLoader, ImageSet, load_images, load_test_images
from nas_optuna.data.images import split
from nas_optuna.fitting.clock import Clock, TimeBudget
from nas_optuna.fitting.inputs import name_of
from nas_optuna.fitting.spec import spec_for
from nas_optuna.randomness import seeded
from nas_optuna.spaces import create_space
from nas_optuna.spaces.backbone import at_hand
from nas_optuna.spaces.layers import kaiming
from nas_optuna.spec import Recipe, StudySpec
from nas_optuna.study.significance import sampling_error
from nas_optuna.training import evaluate, fit, make_network
from nas_optuna.training.network import resolve_precision

CPU = torch.device("cpu")
EPOCH = 4.0
"""Seconds between two looks at the clock."""
RESERVE = 0.03
"""Share of the time that is kept for the test."""
SLOW_TEST = 0.1
"""Share of the time that is kept for the test of a pretrained network, which is slow: it sees larger pictures."""
TRIALS = 8
"""Networks of the random search."""


@dataclass(frozen=True)
class Row:
    """One training of a known network, or one search.

    Attributes:
        name: Which.
        seed: Of weights, order and proposals.
        accuracy: On the test part.
        seconds: That it took.
        params: Weights of the network.
        images: That the network saw in its last training; 0 where it is not known.
    """

    name: str
    seed: int
    accuracy: float
    seconds: float
    params: int
    images: int = 0


def conv(inputs: int, outputs: int, *, pool: bool = False) -> list[nn.Module]:
    made: list[nn.Module] = [nn.Conv2d(inputs, outputs, 3, padding=1, bias=False)]
    return [*made, *([nn.MaxPool2d(2, ceil_mode=True)] if pool else []), nn.BatchNorm2d(outputs), nn.ReLU()]


class Residual(nn.Module):
    """Two convolutions beside which the input passes."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.body = nn.Sequential(*conv(width, width), *conv(width, width))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """``[batch, width, height, width]`` → the same shape."""
        return x + self.body(x)


def vgg(channels: int, classes: int) -> nn.Module:
    """Six convolutions with batch norm, about 0.3 million weights."""
    layers, inputs = [], channels
    for width in (32, 64, 128):
        layers += [*conv(inputs, width), *conv(width, width, pool=True)]
        inputs = width
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(inputs, classes))


def resnet9(channels: int, classes: int) -> nn.Module:
    """Four convolutions and two residual blocks, about 0.9 million weights."""
    layers = [*conv(channels, 24), *conv(24, 48, pool=True), Residual(48), *conv(48, 96, pool=True)]
    layers += [*conv(96, 192, pool=True), Residual(192)]
    return nn.Sequential(*layers, nn.AdaptiveMaxPool2d(1), nn.Flatten(), nn.Linear(192, classes))


def torchvision_resnet18(channels: int, classes: int) -> nn.Module:
    """torchvision's, with a stem for small pictures."""
    network = resnet18(num_classes=classes)
    network.conv1, network.maxpool = nn.Conv2d(channels, 64, 3, padding=1, bias=False), nn.Identity()
    return network


KNOWN: dict[str, Callable[[int, int], nn.Module]] = {
    "VGG-like": vgg,
    "ResNet-9-like": resnet9,
    "ResNet-18": torchvision_resnet18,
}


def train_for(
    network: nn.Module, images: ImageSet, recipe: Recipe, side: int, budget: TimeBudget, reserve: float
) -> int:
    """Train until so many seconds are left; return how many images were seen."""
    train = BatchLoader(images, recipe.batch_size, side, CPU, Augmentation.of(recipe, images))
    began, timed = (
        budget.left,
        recipe.model_copy(update={"epochs": 1, "epoch_size": 4 * recipe.batch_size, "progressive": 0}),
    )
    list(fit(copy.deepcopy(network), train, None, timed, CPU, seed=0))
    per_image = (began - budget.left) / (4 * recipe.batch_size)
    seconds = max(budget.left - reserve, per_image * recipe.batch_size)
    epochs = max(1, round(seconds / EPOCH))
    size = max(1, int(seconds / per_image / epochs / recipe.batch_size)) * recipe.batch_size
    paced = recipe.model_copy(update={"epochs": epochs, "epoch_size": size})
    clock = Clock(budget, reserve, epochs)
    return size * len(list(fit(network, train, None, paced, CPU, seed=recipe.seed, pace=clock)))


def score(network: nn.Module, images: ImageSet, recipe: Recipe, side: int) -> float:
    loader = BatchLoader(images, recipe.batch_size, side, CPU)
    return evaluate(network, loader, CPU, resolve_precision(recipe.precision, CPU)).accuracy


def count(network: nn.Module) -> int:
    return sum(p.numel() for p in network.parameters())


class Comparison:
    """All rows on one data set."""

    def __init__(self, data: str, seconds: float, limit: int | None, overrides: list[str]) -> None:
        self.name = name_of(data, Path(tempfile.gettempdir()))
        self.seconds = seconds
        self.overrides = overrides + ([f"data.train_limit={limit}"] if limit else [])

    def spec(self, seed: int) -> StudySpec:
        """What `fit` would use."""
        return spec_for(self.name, seed=seed, overrides=[*self.overrides, f"recipe.seed={seed}"])

    def images(self, spec: StudySpec) -> tuple[ImageSet, ImageSet, int]:
        """All that may be learnt from, the test part, and the side that networks see."""
        train = load_images(spec.data, True, input_size=spec.recipe.input_size)
        side = spec.recipe.input_size or train.side
        assert isinstance(side, int)
        return train, load_test_images(spec.data, train, input_size=spec.recipe.input_size), side

    def known(self, name: str, seed: int) -> Row:
        """A network of `KNOWN`, trained for all of the time."""
        budget, spec = TimeBudget(self.seconds), self.spec(seed)
        train, test, side = self.images(spec)
        with seeded(seed):
            network = KNOWN[name](train.channels, len(train.classes)).apply(kaiming)
        network = network.to(memory_format=torch.channels_last)
        seen = train_for(network, train, spec.recipe, side, budget, RESERVE * self.seconds)
        return Row(name, seed, score(network, test, spec.recipe, side), budget.elapsed, count(network), seen)

    def pretrained(self, seed: int) -> Row:
        """A pretrained network whose last layer alone learns, for all of the time."""
        budget = TimeBudget(self.seconds)
        spec = spec_for(self.name, space="backbone", seed=seed, overrides=[*self.overrides, f"recipe.seed={seed}"])
        train, test, side = self.images(spec)
        space = create_space(
            spec.space.name, spec.space.options, in_channels=train.channels, classes=len(train.classes), input_size=side
        )
        assert space.reference is not None
        known = {name: value for name, value in space.reference.params.items() if name != "rate"}
        frozen = space.architecture(known | {"trainable": 0})
        network = make_network(space, frozen, spec.recipe, CPU, seed)
        seen = train_for(network, train, spec.recipe, side, budget, SLOW_TEST * self.seconds)
        return Row("pretrained", seed, score(network, test, spec.recipe, side), budget.elapsed, count(network), seen)

    def random(self, seed: int) -> Row:
        """Random networks of the space for half of the time, the best of them for the rest."""
        budget, spec = TimeBudget(self.seconds), self.spec(seed)
        train, test, side = self.images(spec)
        learn, select = split(train, spec.data.validation_fraction, seed)
        space = create_space(
            spec.space.name, spec.space.options, in_channels=train.channels, classes=len(train.classes), input_size=side
        )
        found, rng = [], random.Random(seed)
        for number in range(1, TRIALS + 1):
            architecture = space.sample(rng)
            network = make_network(space, architecture, spec.recipe, CPU, seed)
            train_for(network, learn, spec.recipe, side, budget, self.seconds * (1 - number / 2 / TRIALS))
            found.append((score(network, select, spec.recipe, side), architecture))
        _, best = max(found, key=lambda pair: pair[0])
        network = make_network(space, best, spec.recipe, CPU, seed)
        seen = train_for(network, train, spec.recipe, side, budget, RESERVE * self.seconds)
        return Row("random search", seed, score(network, test, spec.recipe, side), budget.elapsed, count(network), seen)

    def fit(self, seed: int, max_params: int | None = None) -> Row:
        """Our own search."""
        name = "fit" if max_params is None else f"fit, at most {max_params:,} weights"
        with tempfile.TemporaryDirectory() as out:
            overrides = [*self.overrides, f"recipe.seed={seed}"]
            fitted = nas.fit(
                self.name, self.seconds, out, seed=seed, max_params=max_params, device="cpu", overrides=overrides
            )
        return Row(name, seed, fitted.report.mean, fitted.seconds, count(fitted.network))

    def run(self, seeds: int, wanted: list[str], tell: Callable[[Row], None]) -> list[Row]:
        """Every row for every seed; the limited fit comes last, when it is known which network was the best."""
        rows: list[Row] = []

        def add(row: Row) -> None:
            rows.append(row)
            tell(row)

        for seed in range(seeds):
            for name in KNOWN:
                if name in wanted:
                    add(self.known(name, seed))
            if "pretrained" in wanted:
                add(self.pretrained(seed))
            if "random" in wanted:
                add(self.random(seed))
            if "fit" in wanted:
                add(self.fit(seed))
        known = [row for row in rows if row.name in KNOWN]
        if "half" in wanted and known:
            best = max(KNOWN, key=lambda name: statistics.fmean([r.accuracy for r in known if r.name == name] or [0]))
            most = next(row.params for row in known if row.name == best) // 2
            for seed in range(seeds):
                add(self.fit(seed, most))
        return rows


def table(rows: list[Row], tests: int) -> str:
    """Mean test accuracy of each row, and its standard error: that of the test images or, if larger, of the seeds."""
    lines = [f"{'':32} {'accuracy':>8} {'± s.e.':>7} {'seconds':>8} {'weights':>11}"]
    for name in dict.fromkeys(row.name for row in rows):
        own = [row for row in rows if row.name == name]
        found = [row.accuracy for row in own]
        between = statistics.stdev(found) / math.sqrt(len(found)) if len(found) > 1 else 0.0
        error = max(sampling_error(statistics.fmean(found), tests), between)
        seconds, params = (
            statistics.fmean(row.seconds for row in own),
            round(statistics.fmean(row.params for row in own)),
        )
        lines.append(f"{name:32} {statistics.fmean(found):8.4f} {error:7.4f} {seconds:8.1f} {params:11,}")
    return "\n".join(lines)


def main(arguments: list[str] | None = None) -> list[Row]:
    """Run what the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True, help="a folder, an .npz file, or a name such as mnist or digits")
    parser.add_argument("--minutes", type=float, default=5)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--limit", type=int, help="use so many training images only")
    parser.add_argument(
        "--rows", nargs="+", default=[*KNOWN, *["pretrained"] * bool(at_hand()), "random", "fit", "half"]
    )
    parser.add_argument("--set", action="append", default=[], help="a key of the study spec, such as recipe.mix=0")
    parser.add_argument("--json", type=Path, help="write every row there")
    options = parser.parse_args(arguments)
    torch.set_num_threads(options.threads)
    comparison = Comparison(options.data, 60 * options.minutes, options.limit, options.set)
    rows = comparison.run(options.seeds, options.rows, lambda row: print(json.dumps(asdict(row)), flush=True))
    print(table(rows, len(comparison.images(comparison.spec(0))[1])))
    if options.json:
        options.json.write_text(json.dumps([asdict(row) for row in rows], indent=1))
    return rows


if __name__ == "__main__":
    main()
