"""How an architecture is scored: the `Evaluator` contract, for a training of your own, and the built-in training.

An evaluator knows nothing of Optuna. It yields one `Measurement` per step; pruning, resuming, costs, samplers, workers
and the dashboard need nothing else.
"""

from __future__ import annotations

import copy
import json
import math
import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import optuna
import torch
from torch import Tensor

from nas_optuna.costs.candidates import Candidates
from nas_optuna.costs.quantise import require_tools
from nas_optuna.data import Augmentation, BatchLoader, SearchData
from nas_optuna.data.loaders import require_visible
from nas_optuna.devices import memory_format, network_failures
from nas_optuna.digests import hex_digest
from nas_optuna.errors import SpecError, TrainingError, shown, with_article
from nas_optuna.metrics import find_metric, selecting_accuracy
from nas_optuna.quantities import LARGEST
from nas_optuna.registry import Registry
from nas_optuna.spaces import InputSize, SearchSpace
from nas_optuna.spaces.architecture import Architecture
from nas_optuna.spec import Recipe, StudySpec
from nas_optuna.study.schema import TrialKey
from nas_optuna.training import CheckpointFolder, EpochResult, fit, make_network
from nas_optuna.training.network import resolve_precision

EVALUATORS = Registry("evaluator", "nas_optuna.evaluators", {}, ("context",))
"""Third-party evaluators. Each factory takes ``(context, **options)``, see `EvaluatorContext`."""


@dataclass(frozen=True)
class Measurement:
    """The results of one training step.

    Attributes:
        step: Steps finished, from 1; in the built-in training a step is an epoch.
        metrics: Every figure, by name; a tensor or an array of one number becomes that number.
        seconds: How long the step took.
        details: Further attributes of the trial, JSON-ready, by the name of a `TrialKey`; those of the last step win.
        epochs: Epochs trained in this step, over all repeats.
        restored: Whether ``resume`` held the step. None does not say, and a step of an earlier trial is taken for held.

    Examples:
        >>> Measurement(step=3, metrics={"accuracy": 0.91, "nll": 0.3}, seconds=1.5).metrics["accuracy"]
        0.91
    """

    step: int
    metrics: Mapping[str, float]
    seconds: float
    details: Mapping[str, Any] = field(default_factory=dict)
    epochs: int = 1
    restored: bool | None = None

    def __post_init__(self) -> None:
        plain = {name: _plain(value) for name, value in self.metrics.items()}
        object.__setattr__(self, "metrics", plain)
        for name in ("step", "seconds", "epochs"):
            object.__setattr__(self, name, _plain(getattr(self, name)))


def _plain(value: Any) -> Any:
    """The number in a tensor, array or NumPy scalar of one element; anything else unchanged."""
    single = hasattr(value, "item") and math.prod(getattr(value, "shape", (0,))) == 1
    return value.item() if single else value


@runtime_checkable
class Evaluator(Protocol):
    """Scores architectures.

    Attributes:
        identity: Differs whenever a value would: names data, training settings, number format and all else that decides
            a value. A finished trial is reused, and a checkpoint found, by it. The space is added by us.
        space: The space whose architectures it trains.
        steps: The largest step that a training reaches.

    Examples:
        >>> class Wide:
        ...     identity = "the wider, the better"
        ...     steps = 1
        ...
        ...     def __init__(self, space):
        ...         self.space = space
        ...
        ...     def evaluate(self, architecture, *, resume, stop):
        ...         yield Measurement(1, {"accuracy": architecture.params["conv1.filters"] / 100}, seconds=0.0)
        >>> import optuna
        >>> from nas_optuna import ConvSpace, EvaluatorObjective
        >>> study = optuna.create_study(direction="maximize", sampler=optuna.samplers.RandomSampler(seed=0))
        >>> study.optimize(EvaluatorObjective(Wide(ConvSpace(depth=1)), device="cpu"), n_trials=20)
        >>> study.best_value
        0.48
    """

    @property
    def identity(self) -> str:
        """Differs whenever a value would."""

    @property
    def space(self) -> SearchSpace:
        """The space whose architectures it trains."""

    @property
    def steps(self) -> int:
        """The largest step that a training reaches."""

    def evaluate(
        self, architecture: Architecture, *, resume: Path | None, stop: Callable[[], bool]
    ) -> Iterator[Measurement]:
        """Train one architecture, a step at a time; whoever iterates may stop asking.

        Args:
            architecture: A point of `space`; ``space.build(architecture)`` is its network.
            resume: This training's own folder, for what is needed to continue after a kill; it may not exist yet, and
                is removed once the training has ended. None if nothing is to be kept. Steps that are found there are
                yielded again, first; if nothing there is of use, ``Measurement(…, restored=False)`` counts them anew.
            stop: Called between optimiser steps; raise `nas_optuna.errors.Interrupted` when it returns True.

        Yields:
            One measurement per step, with steps 1, 2, 3, …

        Raises:
            Exception: Any exception ends this trial alone, with its message as the cause.
        """


def require_evaluator(found: Any, called: str = "the evaluator") -> None:
    """Refuse what lacks a part of an `Evaluator`, or has another in its place, before the first trial."""
    if isinstance(found, TrainingEvaluator):
        return
    parts: dict[str, Any] = {"identity": str, "space": SearchSpace, "steps": int, "evaluate": Callable}
    if missing := [part for part in parts if not hasattr(found, part)]:
        needed = f"it needs {', '.join(parts)}"
        raise SpecError(f"{called} is {with_article(type(found).__name__)} without {', '.join(missing)}; {needed}")
    if isinstance(found, type):
        raise SpecError(f"{called} is the class {found.__name__}; give an object of it")
    for name, kind in parts.items():
        if not isinstance(value := getattr(found, name), kind):
            raise SpecError(f"{called} has {name} {shown(value)}, not {with_article(kind.__name__)}")
    if found.steps < 1:
        raise SpecError(f"{called} has {found.steps} steps; it needs one at least")


@dataclass(frozen=True)
class EvaluatorContext:
    """What an evaluator's factory gets.

    Attributes:
        make_space: Makes the study's space for inputs ``[in_channels, *input_size]`` and a number of outputs.
        device: Where to train.
        data_directory: Where data sets are kept; None is the default.

    Examples:
        A factory that ``[evaluator] name = "my_package:make_evaluator"`` names::

            def make_evaluator(context: EvaluatorContext, rows: int = 500) -> Evaluator:
                space = context.space(in_channels=3, outputs=1, input_size=32)
                return MyEvaluator(space, context.device, rows)
    """

    make_space: Callable[..., SearchSpace]
    device: torch.device
    data_directory: Path | None = None

    def space(self, *, in_channels: int, outputs: int, input_size: InputSize) -> SearchSpace:
        """The study's space for your data.

        Args:
            in_channels: Channels of an input.
            outputs: Number of outputs per input: classes, or 1 for a regression.
            input_size: Side in pixels, or ``(height, width)``.

        Raises:
            SpecError: The space refuses it.
        """
        return self.make_space(in_channels=in_channels, classes=outputs, input_size=input_size)


def checked_measurements(
    evaluator: Evaluator,
    architecture: Architecture,
    needed: set[str],
    *,
    resume: Path | None,
    stop: Callable[[], bool],
) -> Iterator[Measurement]:
    """An evaluator's measurements, checked, with its errors as `TrainingError`."""
    last = 0
    with network_failures(str(architecture), optuna.TrialPruned):
        for measured in evaluator.evaluate(architecture, resume=resume, stop=stop):
            _require_sound(measured, last + 1, needed)
            last = measured.step
            yield measured
    if last == 0:
        raise TrainingError(f"{architecture}: the evaluator yielded no measurement", "no measurement")


def _require_sound(measured: object, step: int, needed: set[str]) -> None:
    """Check one measurement."""
    if not isinstance(measured, Measurement):
        raise TrainingError(f"the evaluator yielded a {type(measured).__name__}, not a Measurement")
    if type(measured.step) is not int or measured.step != step:
        kind = "" if type(measured.step) is int else ", an int,"
        raise TrainingError(f"the evaluator yielded step {shown(measured.step)} where step {step}{kind} was due")
    # A metric may have the name of one of ours.
    for name, value in (*measured.metrics.items(), ("seconds", measured.seconds), ("epochs", measured.epochs)):
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise TrainingError(f"the evaluator measured {name!r} as a {type(value).__name__}, not a number")
        if name in needed and not abs(value) < LARGEST:
            raise TrainingError(f"{name} is {value} in step {step}", f"non-finite {name}")
    if not math.isfinite(measured.seconds):
        raise TrainingError(f"the evaluator measured {measured.seconds} seconds")
    for name in sorted(needed - measured.metrics.keys()):
        known = ", ".join(sorted(map(str, measured.metrics)))[:80]
        raise TrainingError(f"the evaluator measured no {name!r} (it measured: {known or 'nothing'})")
    for name, value in measured.details.items():
        if not hasattr(TrialKey, name):
            raise TrainingError(f"the evaluator gives a detail {name!r}, and details are called as in TrialKey")
        json.dumps(value)  # which names a type that cannot be stored


def digest(*parts: Any) -> str:
    """Sixteen hex digits of JSON-ready values.

    Examples:
        >>> digest({"a": 1}) == digest({"a": 1})
        True
    """
    text = json.dumps(parts, sort_keys=True, default=str)
    return hex_digest(text)


def space_identity(space: SearchSpace) -> dict[str, Any]:
    """Everything that decides the network of an architecture: the space's identity and its settings."""
    names = space.settings if space.settings is not None else _plain_attributes(space)
    return {**space.identity(), "settings": {name: repr(getattr(space, name)) for name in names}}


def _plain_attributes(space: SearchSpace) -> list[str]:
    """The public attributes of a space that declares no settings, without computed ones."""
    plain = (str, int, float, bool, tuple, list, dict, frozenset, type(None))
    derived = {k for k in vars(space) if isinstance(getattr(type(space), k, None), cached_property)}
    public = {k: v for k, v in vars(space).items() if not k.startswith("_") and k not in derived}
    return [name for name, value in public.items() if isinstance(value, plain) and name != "parameters"]


@dataclass(frozen=True)
class Search:
    """Spec, data and space of a search with the built-in training, and what it may propose."""

    spec: StudySpec
    data: SearchData
    space: SearchSpace  # for a supernet, the part that it holds
    candidates: Candidates  # of the whole space


class TrainingEvaluator:
    """The built-in training: images, a recipe, and metrics of the validation images."""

    attributes: Mapping[str, Any] = {}  # of each of its trials, further ones

    def __init__(
        self,
        space: SearchSpace,
        data: SearchData,
        recipe: Recipe,
        device: torch.device,
        metrics: Sequence[str] = ("accuracy",),
    ) -> None:
        space.require_logits()
        _require_fit(space, data, recipe)
        self.space = space
        self.data = data
        self.recipe = recipe
        self.device = device
        self.steps = recipe.epochs
        # From an architecture to the initial weights of its training; None has them drawn.
        self.begin_with: Callable[[Architecture], Mapping[str, Tensor] | None] | None = None
        self.precision = str(resolve_precision(recipe.precision, device)).removeprefix("torch.")
        # Accuracy and the mean cross entropy come with every epoch anyway.
        self._metrics = [find_metric(m) for m in metrics if m not in ("accuracy", "negative_log_likelihood")]
        self._selecting = selecting_accuracy(metrics)
        if any(metric.eight_bits for metric in self._metrics):
            require_tools()

    @cached_property
    def identity(self) -> str:
        """See `Evaluator`."""
        names = [metric.name for metric in self._metrics]
        # Another memory format changes the last digits; the usual one is not named, as in earlier studies.
        unusual = [] if memory_format(self.device) == torch.channels_last else ["contiguous"]
        if self.recipe.flip == "auto" and self.data.train.is_chiral:
            unusual.append("not mirrored")
        return digest(self.data.fingerprint, self.recipe.settings, self.precision, names, *unusual)

    def evaluate(
        self, architecture: Architecture, *, resume: Path | None, stop: Callable[[], bool]
    ) -> Iterator[Measurement]:
        """Train all repeats epoch by epoch, in turn, so that their mean can be pruned; see `Evaluator`."""
        seeds = range(self.recipe.seed, self.recipe.seed + self.recipe.repeats)
        folders = [CheckpointFolder(resume / f"seed-{seed}") if resume else None for seed in seeds]
        trainings = [self._training(architecture, *each, stop) for each in zip(seeds, folders, strict=True)]
        for results in zip(*trainings, strict=True):
            columns: list[dict[str, float]] = [
                {"accuracy": result.accuracy, "negative_log_likelihood": result.loss, **result.metrics}
                for result in results
            ]
            details: dict[str, Any] = {}
            if len(results) > 1:
                details["SPREAD"] = statistics.stdev(column[self._selecting] for column in columns)
            if results[0].micro_batches > 1:
                details["MICRO_BATCHES"] = results[0].micro_batches
            yield Measurement(
                step=results[0].epoch,
                metrics={name: statistics.fmean(column[name] for column in columns) for name in columns[0]},
                seconds=sum(result.seconds for result in results),
                details=details,
                epochs=len(results),
                restored=all(folder is not None and results[0].epoch <= folder.loaded for folder in folders),
            )

    @cached_property
    def train_loader(self) -> BatchLoader:
        """Training batches, made once and shared by all trials of this process."""
        return BatchLoader(
            self.data.train,
            self.recipe.batch_size,
            self.space.input_size,
            self.device,
            Augmentation.of(self.recipe, self.data.train),
        )

    @cached_property
    def validation_loader(self) -> BatchLoader:
        """Batches of the validation images, made once and shared by all trials of this process."""
        return BatchLoader(self.data.validation, self.recipe.batch_size, self.space.input_size, self.device)

    def with_recipe(self, recipe: Recipe) -> TrainingEvaluator:
        """Return a copy that trains by another recipe, with the same loaders if that recipe allows it."""
        other = copy.copy(self)
        require_visible(recipe, self.data.train)
        other.recipe, other.steps = recipe, recipe.epochs
        other.precision = str(resolve_precision(recipe.precision, self.device)).removeprefix("torch.")
        varied = [Augmentation.of(used, self.data.train) for used in (recipe, self.recipe)]
        same = recipe.batch_size == self.recipe.batch_size and varied[0] == varied[1]
        for cached in ("identity",) if same else ("identity", "train_loader", "validation_loader"):
            other.__dict__.pop(cached, None)
        return other

    def _training(
        self, architecture: Architecture, seed: int, checkpoints: CheckpointFolder | None, stop: Callable[[], bool]
    ) -> Iterator[EpochResult]:
        network = make_network(self.space, architecture, self.recipe, self.device, seed)
        if self.begin_with and (weights := self.begin_with(architecture)) is not None:
            network.load_state_dict(weights)
        return fit(
            network,
            self.train_loader,
            self.validation_loader,
            self.recipe,
            self.device,
            seed=seed,
            checkpoints=checkpoints,
            interrupted=stop,
            metrics={metric.name: metric for metric in self._metrics},
        )

    def __getstate__(self) -> dict[str, Any]:
        """Without the loaders, which each process makes for its own device."""
        return {k: v for k, v in vars(self).items() if k not in ("train_loader", "validation_loader")}


def _require_fit(space: SearchSpace, data: SearchData, recipe: Recipe) -> None:
    """Refuse space, data and recipe that do not fit together, before anything is trained."""
    for name, due in {"classes": len(data.train.classes), "in_channels": data.train.channels}.items():
        if getattr(space, name) != due:
            raise SpecError(f"the space has {name}={getattr(space, name)}; for these images, make it with {name}={due}")
    size = recipe.input_size
    wanted = (size, size) if isinstance(size, int) else size
    if wanted is not None and tuple(wanted) != tuple(space.image_size):
        raise SpecError(
            f"the recipe's input_size is {size} and the space's {space.input_size}; leave the recipe's out, or make"
            f" the space with input_size={size}"
        )
    require_visible(recipe, data.train)
