"""Train a chosen architecture by the full recipe and look at the test set once, with the pictures it gets wrong."""

from __future__ import annotations

import base64
import io
import json
import logging
import re
import shutil
import statistics
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, fields
from itertools import islice, zip_longest
from pathlib import Path
from typing import Any

import torch
from optuna.study import Study
from PIL import Image
from torch import Tensor, nn

from nas_optuna.data import Augmentation, BatchLoader, ImageSet, begun_with, load_images, load_test_images
from nas_optuna.devices import device_name, resolve_device
from nas_optuna.digests import hex_digest
from nas_optuna.errors import TrainingError
from nas_optuna.execution.evaluator import Measurement, Search
from nas_optuna.execution.events import Callback, Callbacks, OptunaCallback, Run, Subject
from nas_optuna.spaces import SearchSpace
from nas_optuna.spaces.architecture import Architecture
from nas_optuna.spec import Recipe
from nas_optuna.study.schema import LONGEST, StudyKey, in_parts, read_parts
from nas_optuna.study.significance import Measured
from nas_optuna.study.studies import study_uid
from nas_optuna.study.transactions import change_study
from nas_optuna.training import CheckpointFolder, evaluate, fit, make_network
from nas_optuna.training.fit import Pace, never
from nas_optuna.training.network import resolve_precision

logger = logging.getLogger(__name__)


Pairs = Mapping[tuple[int, int], int]
"""A confusion matrix: numbers of images by true and predicted class. Without zeros, it serves thousands of classes."""
MOST_IN_A_TABLE = 1000
"""The most classes whose matrix is a table in JSON."""
_MOST_STORED_WITH_ZEROS = 100
"""The most classes whose matrix is stored as release 0.2 reads it."""


def count_pairs(labels: Tensor, predicted: Tensor) -> Pairs:
    """The confusion matrix of predictions on the host."""
    pairs, counts = torch.stack((labels, predicted)).unique(dim=1, return_counts=True)
    return {(label, taken): n for label, taken, n in zip(*pairs.tolist(), counts.tolist(), strict=True)}


def _table(found: Pairs, classes: int) -> list[list[int]]:
    return [[found.get((i, j), 0) for j in range(classes)] for i in range(classes)]


@dataclass(frozen=True)
class TestReport:
    """The results of a retraining.

    Attributes:
        architecture: The canonical string.
        recipe: Fingerprint of the recipe.
        device: Name of the device.
        images: Training images, validation included.
        test_images: Test images.
        seeds: The seeds trained with.
        accuracies: Test accuracy of each, 0 … 1.
        classes: Names of the classes.
        confusions: One matrix per seed: numbers of images by ``(true class, predicted class)``, without zeros.
        seconds: Training time of all seeds.
        mistakes: Test images that the network of the first seed gets wrong.
    """

    architecture: str
    recipe: str
    device: str
    images: int
    test_images: int
    seeds: tuple[int, ...]
    accuracies: tuple[float, ...]
    classes: tuple[str, ...]
    confusions: tuple[Pairs, ...] = field(repr=False)
    seconds: float
    mistakes: tuple[Mistake, ...] = field(default=(), repr=False)  # pictures would fill pages

    @property
    def mean(self) -> float:
        """Mean test accuracy."""
        return statistics.fmean(self.accuracies)

    @property
    def spread(self) -> float | None:
        """Standard deviation over the seeds; None for one."""
        return statistics.stdev(self.accuracies) if len(self.accuracies) > 1 else None

    @property
    def class_accuracies(self) -> tuple[float, ...]:
        """Share of each true class that was recognised, over all seeds; NaN for a class that the test set lacks."""
        found, sizes = self.predictions, self._class_sizes
        each = range(len(self.classes))
        return tuple(found.get((i, i), 0) / sizes[i] if sizes[i] else float("nan") for i in each)

    @property
    def majority(self) -> float | None:
        """Share of the largest class among the test images; None if their classes are not known."""
        sizes = self._class_sizes.values()
        return max(sizes) / sum(sizes) if any(sizes) else None

    @property
    def predictions(self) -> Pairs:
        """The sum of the matrices of all seeds: each image counts once per seed."""
        total = Counter[tuple[int, int]]()
        for found in self.confusions:
            total.update(found)
        return total

    @property
    def _class_sizes(self) -> Counter[int]:
        sizes = Counter[int]()
        for (label, _), count in self.predictions.items():
            sizes[label] += count
        return sizes

    def figures(self) -> dict[str, Any]:
        """JSON-ready, with derived figures, and without those of classes."""
        left_out = ("classes", "confusions", "mistakes")
        facts = {each.name: getattr(self, each.name) for each in fields(self) if each.name not in left_out}
        facts |= {"mean": self.mean, "spread": self.spread, "majority": self.majority}
        return facts | {"standard_error": Measured.on_test(facts).error}

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready, with the figures of classes; matrices are tables or, of more than 1,000 classes, triples."""
        n = len(self.classes)
        matrices: dict[str, Any] = {}
        if n > MOST_IN_A_TABLE:
            matrices["confusion_triples"] = [[[*pair, n] for pair, n in found.items()] for found in self.confusions]
        else:
            matrices["confusions"] = [_table(found, n) for found in self.confusions]
        return self.figures() | {"classes": self.classes} | matrices | {"class_accuracies": list(self.class_accuracies)}


@dataclass(frozen=True)
class Stage:
    """One training; the next one learns from its network."""

    recipe: Recipe
    pace: Pace | None = None
    space: SearchSpace | None = None  # if the reference of another space is trained, to be the teacher


def retrain(
    study: Study,
    search: Search,
    architecture: Architecture,
    *,
    seeds: int = 1,
    device: str = "auto",
    data_directory: Path | None = None,
    checkpoints: Path | None = None,
    interrupted: Callable[[], bool] = never,
    callbacks: Sequence[Callback | OptunaCallback] = (),
    parts: tuple[ImageSet, ImageSet] | None = None,
    weights: Mapping[str, Tensor] | None = None,
    stages: Sequence[Stage] = (),
) -> tuple[TestReport, nn.Module, ImageSet]:
    """Train on training and validation images together, with several seeds, and score on the test set.

    `weights` are those of a shorter training from which the first stage continues; otherwise they are drawn. Without
    stages there is one training by the search's recipe.
    """
    where = resolve_device(device)
    spec, space = search.spec, search.space
    stages = stages or (Stage(spec.recipe),)
    recipe = stages[-1].recipe
    size = recipe.input_size
    if parts is None:
        with begun_with(spec.data.name, study.study_name):  # it fails now, not after hours of training
            images = load_images(spec.data, True, data_directory, input_size=size)
            load_test_images(spec.data, images, data_directory, input_size=size)
    else:
        images = parts[0]
    train = BatchLoader(images, recipe.batch_size, space.input_size, where, Augmentation.of(recipe, images))
    folder = checkpoints and checkpoints / _identity(study, architecture, recipe)
    numbers = tuple(range(recipe.seed, recipe.seed + seeds))
    told, run = Callbacks(callbacks), Run("retrain", study, seeds, recipe.epochs, None, {"what": str(architecture)})
    with told.during(run):
        trained = [
            _trained(space, architecture, s, stages, train, where, folder, interrupted, told, weights) for s in numbers
        ]
        networks, seconds = [network for network, _ in trained], sum(taken for _, taken in trained)
        # Only now, when there is nothing left to choose.
        tests = parts[1] if parts else load_test_images(spec.data, images, data_directory, input_size=size)
        test = BatchLoader(tests, recipe.batch_size, space.input_size, where)
        results = [evaluate(network, test, where, resolve_precision(recipe.precision, where)) for network in networks]
        report = TestReport(
            architecture=str(architecture),
            recipe=recipe.fingerprint,
            device=device_name(where),
            images=len(images),
            test_images=len(tests),
            seeds=numbers,
            accuracies=tuple(result.accuracy for result in results),
            classes=images.classes,
            confusions=tuple(count_pairs(tests.labels, result.predicted) for result in results),
            seconds=seconds,
            mistakes=find_mistakes(tests, results[0].predicted.tolist()),
        )
        told.tested(run, report)
    return report, networks[0], images


def remove_checkpoints(study: Study, architecture: Architecture, recipe: Recipe, checkpoints: Path) -> None:
    """Remove what a training would go on from, once its network and its figures are kept."""
    shutil.rmtree(checkpoints / _identity(study, architecture, recipe), ignore_errors=True)


def _trained(
    space: SearchSpace,
    architecture: Architecture,
    seed: int,
    stages: Sequence[Stage],
    images: BatchLoader,
    device: torch.device,
    folder: Path | None,
    interrupted: Callable[[], bool],
    told: Callback,
    weights: Mapping[str, Tensor] | None,
) -> tuple[nn.Module, float]:
    """The network of one seed, and its training time in seconds."""
    teacher, seconds = None, 0.0
    for number, stage in enumerate(stages):
        # A teacher that began with other weights sees other things in the images.
        made, known = stage.space or space, stage.space.reference if stage.space else architecture
        assert known is not None
        network = make_network(made, known, stage.recipe, device, seed + number)
        if weights is not None and stage.space is None:
            network.load_state_dict(weights)
            weights = None  # a second network of its kind begins anew
        name = f"seed {seed}" if number == len(stages) - 1 else f"teacher {seed}"
        subject = Subject(name, None, str(known))
        state = CheckpointFolder(folder / name.replace(" ", "-")) if folder else None
        told.trial_started(subject)
        training = fit(
            network,
            images,
            None,
            stage.recipe,
            device,
            seed=seed + number,
            checkpoints=state,
            interrupted=interrupted,
            pace=stage.pace,
            teacher=teacher,
        )
        try:
            for result in training:
                seconds += result.seconds
                figures = {"train_loss": result.train_loss, "train_accuracy": result.train_accuracy}
                told.step_finished(subject, Measurement(result.epoch, figures, result.seconds))
        except TrainingError as error:
            if teacher is None or stages[0].space is not None:  # a larger teacher is outside the limits
                raise
            logger.warning("%s; the network that it was to learn from is taken instead", error)
            network = teacher
        told.trial_finished(subject, None)
        teacher = network.eval()
    return network, seconds


def record(study: Study, report: TestReport, trial: int | None = None) -> int:
    """Store a report with its study, unless a call that was ended has done so; return how many there were before."""
    entry = report.figures() | {"trial": trial}
    n, found = len(report.classes), report.predictions
    kept: dict[str, Sequence[Any]] = {"classes": report.classes, "mistakes": list(map(str, report.mistakes))}
    if n > _MOST_STORED_WITH_ZEROS:
        kept["triples"] = [number for pair, count in sorted(found.items()) for number in (*pair, count)]
    else:
        kept["cells"] = [count for row in _table(found, n) for count in row]
    matrix = {name: list(in_parts(values)) for name, values in kept.items()}
    entry |= {f"{name}_parts": len(parts) for name, parts in matrix.items()}
    entry = json.loads(json.dumps(entry))  # as it is read

    def added(attributes: Mapping[str, Any]) -> dict[str, Any]:
        earlier: list[dict[str, Any]] = attributes.get(StudyKey.RETRAINED, [])
        if entry in earlier:  # of the same training, which was restored with its seconds
            return {StudyKey.RETRAINED: earlier}
        parts_by_key = {
            f"{StudyKey.CONFUSION}{len(earlier)}:{name}:{i}": part
            for name, parts in matrix.items()
            for i, part in enumerate(parts)
        }
        return parts_by_key | {StudyKey.RETRAINED: [*earlier, entry]}

    looks: list[dict[str, Any]] = change_study(study, added)[StudyKey.RETRAINED]
    return looks.index(entry)


def stored_report(attributes: Mapping[str, Any], look: int = 0) -> TestReport | None:
    """The report of a retraining that a study remembers; its matrix is the sum over the seeds."""
    reports = dict(enumerate(attributes.get(StudyKey.RETRAINED, [])))
    if look not in reports:
        return None
    entry: dict[str, Any] = reports[look]

    def listed(name: str) -> list[Any]:
        with suppress(KeyError):  # a part may have been removed
            return read_parts(attributes, f"{StudyKey.CONFUSION}{look}:{name}:", entry.get(f"{name}_parts", 0))
        return []

    classes = listed("classes")
    matrix = _stored_pairs(len(classes), listed("cells"), listed("triples"))
    n = len(classes) if matrix else 0
    kinds = {"architecture": str, "recipe": str, "device": str, "images": int, "test_images": int, "seconds": float}
    return TestReport(
        **{name: entry.get(name, kind()) for name, kind in kinds.items()},
        seeds=tuple(entry.get("seeds", ())),
        accuracies=tuple(entry.get("accuracies", ())),
        classes=tuple(classes[:n]),
        confusions=(matrix,),
        mistakes=tuple(found for text in listed("mistakes") if (found := Mistake.parse(text, n))),
    )


def _stored_pairs(classes: int, cells: Sequence[Any], triples: Sequence[Any]) -> Pairs:
    """A stored matrix, with its zeros or as triples; an empty one if its rows were altered."""
    if not all(isinstance(number, int) and number >= 0 for number in (*cells, *triples)):
        return {}
    if len(cells) == classes**2:
        return {divmod(place, classes): count for place, count in enumerate(cells) if count}
    rows = zip(triples[::3], triples[1::3], triples[2::3], strict=False)
    found = {(i, j): count for i, j, count in rows if count}
    return found if all(max(pair) < classes for pair in found) else {}


def _identity(study: Study, architecture: Architecture, recipe: Recipe) -> str:
    return "retrain-" + hex_digest(f"{study_uid(study)}/{architecture}/{recipe.fingerprint}", 12, "sha256")


# --- pictures that it gets wrong --------------------------------------------------------------------------------------


MAX_PICTURES = 24
"""The most pictures that are kept for one network."""
MAX_SIDE = 48
"""The longer side of a kept picture in pixels."""
_MISTAKE = re.compile(r"([0-9]{1,9}) ([0-9]{1,9}) ([0-9A-Za-z+/]+={0,2})")


@dataclass(frozen=True)
class Mistake:
    """A picture that was classified wrongly."""

    label: int
    predicted: int
    picture: str  # reduced, as WebP in base 64

    def __str__(self) -> str:
        return f"{self.label} {self.predicted} {self.picture}"

    @classmethod
    def parse(cls, text: str, classes: int) -> Mistake | None:
        """Read what `str` wrote; None if it was altered."""
        found = _MISTAKE.fullmatch(text)
        if found is None or max(int(found[1]), int(found[2])) >= classes:
            return None
        return cls(int(found[1]), int(found[2]), found[3])


def find_mistakes(images: ImageSet, predicted: Sequence[int]) -> tuple[Mistake, ...]:
    """Pictures that were classified wrongly: the first one of every class, then the second, and so on."""
    wrong: dict[int, list[int]] = {}
    for i in torch.nonzero(images.labels != torch.as_tensor(predicted)).flatten().tolist():
        wrong.setdefault(int(images.labels[i]), []).append(i)
    in_turn = [i for turn in zip_longest(*(wrong[label] for label in sorted(wrong))) for i in turn if i is not None]
    made = (Mistake(int(images.labels[i]), int(predicted[i]), _small(images, i)) for i in in_turn)
    found = list(islice((one for one in made if len(str(one)) < LONGEST - 8), MAX_PICTURES))
    return tuple(sorted(found, key=lambda one: one.label))


def _small(images: ImageSet, index: int) -> str:
    pixels = images.images[index].permute(1, 2, 0).contiguous().numpy()
    picture = Image.fromarray(pixels[:, :, 0] if pixels.shape[2] != 3 else pixels)
    picture.thumbnail((MAX_SIDE, MAX_SIDE))
    file = io.BytesIO()
    picture.convert("RGB").save(file, "WEBP", quality=70)
    return base64.b64encode(file.getvalue()).decode("ascii")
