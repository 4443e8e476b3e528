"""Short stand-alone trainings, which show what shared weights cannot: how fast an architecture learns.

A few random architectures are trained alone for a short time, which calibrates how much shared weights and each size
are worth in this space. The best by the calibrated score are then trained a little longer, which decides which of them
comes first. Fewer epochs are a well-studied proxy of a full training (Zhou et al. 2020, "EcoNAS").

A training that has ended is not repeated, even if the process dies.
"""

from __future__ import annotations

import itertools
import logging
import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

import torch

from nas_optuna.devices import require_working
from nas_optuna.errors import TrainingError
from nas_optuna.execution.evaluator import Search, TrainingEvaluator, checked_measurements, digest
from nas_optuna.execution.events import Callback, Subject
from nas_optuna.oneshot.score import MIN_TRAININGS
from nas_optuna.spaces.architecture import Architecture
from nas_optuna.training import CheckpointFolder
from nas_optuna.training.fit import never, steps_per_epoch

logger = logging.getLogger(__name__)

FOLDER = "short-trainings"
"""The folder of the results within the supernet's folder."""
LIMIT = 2
"""The most stand-alone trainings, counted in epochs, that random architectures may cost; the same for finalists."""
CALIBRATION_SHARE, FINAL_SHARE = 12, 6
"""The recipe's epochs are divided by these for a random architecture and for a finalist; the least is one epoch."""


@dataclass(frozen=True)
class ShortPlan:
    """How many architectures get short trainings, and how long these are."""

    calibrating: int  # random architectures
    calibration_epochs: int  # of each
    finalists: int  # of the best by the score
    final_epochs: int  # of each

    @classmethod
    def of(cls, count: int, epochs: int, size: int, trained: int = 0, *, alone: bool = False) -> ShortPlan:
        """The plan for a recipe and a space."""
        limit, share = (2 * LIMIT, FINAL_SHARE) if alone else (LIMIT, CALIBRATION_SHARE)
        wanted = count * 3 // 2 if alone else count
        calibration, final = max(1, epochs // share), max(1, epochs // FINAL_SHARE)
        calibrating = min(wanted, limit * epochs // calibration, size) - trained
        finalists = min(count // 4, LIMIT * epochs // final, size)
        return cls(
            calibrating if calibrating >= MIN_TRAININGS else 0, calibration, finalists if finalists > 1 else 0, final
        )

    @property
    def epochs(self) -> int:
        """Epochs of all of them."""
        return self.calibrating * self.calibration_epochs + self.finalists * self.final_epochs


@dataclass(frozen=True)
class ShortResult:
    """A short training that has ended."""

    architecture: str
    epochs: int
    accuracy: float | None  # None if it has failed, which is not stored, so that a later process tries it again
    seconds: float


@dataclass(eq=False)
class ShortTrainer:
    """Trains architectures alone by the study's recipe, with one seed, and stops early; see `ShortPlan`.

    Each result is stored at once, and an architecture's state after each epoch.
    """

    search: Search
    plan: ShortPlan
    device: torch.device
    folder: Path | None = None
    callback: Callback = field(default_factory=Callback)
    interrupted: Callable[[], bool] = never

    def __post_init__(self) -> None:
        recipe = self.search.spec.recipe.model_copy(update={"repeats": 1})
        self._evaluator = TrainingEvaluator(self.search.space, self.search.data, recipe, self.device)
        self._kept = CheckpointFolder(self.folder / FOLDER) if self.folder else None
        self.results = self._read()  # of ended trainings, in their order
        self.seconds_before = sum(result.seconds for result in self.results)  # of earlier processes

    def __call__(self, architectures: Sequence[Architecture], epochs: int) -> list[float | None]:
        """Validation accuracy of each after so many epochs; None if a training fails."""
        return [self._accuracy(architecture, epochs) for architecture in architectures]

    @property
    def steps(self) -> int:
        """Optimiser steps that remain in the plan."""
        left = self.plan.epochs - sum(result.epochs for result in self.results)
        return max(0, left) * steps_per_epoch(self._evaluator.recipe, len(self.search.data.train))

    def _accuracy(self, architecture: Architecture, epochs: int) -> float | None:
        wanted = (str(architecture), epochs)
        found = next((r for r in self.results if (r.architecture, r.epochs) == wanted), None)
        return (found or self._train(architecture, epochs)).accuracy

    def _train(self, architecture: Architecture, epochs: int) -> ShortResult:
        """Train an architecture, and keep its result."""
        subject = Subject(f"short training {len(self.results) + 1}", architecture=str(architecture))
        state = self.folder and self.folder / f"short-{digest(str(architecture), self._evaluator.identity)}"
        accuracy: float | None = None
        start = time.monotonic()
        self.callback.trial_started(subject)
        steps = checked_measurements(self._evaluator, architecture, {"accuracy"}, resume=state, stop=self.interrupted)
        try:
            for measured in itertools.islice(steps, epochs):
                accuracy = measured.metrics["accuracy"]
                self.callback.step_finished(subject, measured)
        except TrainingError as error:
            logger.warning("a short training failed and is left out: %s", error)
            require_working(self._evaluator.device)
            accuracy = None
        self.callback.trial_finished(subject, None)
        found = ShortResult(str(architecture), epochs, accuracy, time.monotonic() - start)
        self.results.append(found)
        if self._kept and state and accuracy is not None:
            ended = [asdict(result) for result in self.results if result.accuracy is not None]
            self._kept.save(len(ended), {}, {}, {"identity": self._evaluator.identity, "results": ended})
            shutil.rmtree(state, ignore_errors=True)  # only now, when the result is kept
        return found

    def _read(self) -> list[ShortResult]:
        """The stored results; none if they are damaged or belong to another recipe."""
        found = self._kept.load() if self._kept else None
        if found is None or found.progress["identity"] != self._evaluator.identity:
            return []
        return [ShortResult(**one) for one in found.progress["results"]]
