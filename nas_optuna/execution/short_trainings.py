"""Trainings by the study's recipe that stop early; each is done once, also where the process dies in between."""

from __future__ import annotations

import itertools
import json
import os
import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch

from nas_optuna.errors import StudyError, TrainingError
from nas_optuna.execution.evaluator import TrainingEvaluator, digest
from nas_optuna.execution.events import Callback, Subject
from nas_optuna.execution.search import Search
from nas_optuna.oneshot.short import ShortPlan
from nas_optuna.spaces.architecture import Architecture
from nas_optuna.training.fit import never
from nas_optuna.training.soundness import require_number

FILE = "short-trainings.json"


@dataclass(frozen=True)
class Ended:
    """A short training that has ended."""

    architecture: str
    epochs: int
    accuracy: float
    seconds: float


class TrainedBriefly:
    """Trains architectures alone by the study's recipe, with one seed, and stops early; see `oneshot.short`.

    Results are kept in a file as they come, and an architecture's state after each epoch, so that after a kill nothing
    is trained again.

    Args:
        search: What the study's spec names.
        plan: How many it is meant for.
        device: Where to train.
        folder: Where results are kept; None keeps them in memory.
        told: Told of each training as of one subject, ``"short training N"``, where N counts from 1.
        interrupted: Asked between steps; `Interrupted` is raised when it says so.

    Attributes:
        plan: As given.
        ended: Those that have ended, in their order, from an earlier process too.
        seconds_before: What those of an earlier process took.
    """

    def __init__(
        self,
        search: Search,
        plan: ShortPlan,
        device: torch.device,
        folder: Path | None = None,
        told: Callback | None = None,
        interrupted: Callable[[], bool] = never,
    ) -> None:
        recipe = search.spec.recipe.model_copy(update={"repeats": 1})
        self.plan = plan
        self._evaluator = TrainingEvaluator(search.space, search.data, recipe, device)
        self._guess = 1 / search.space.classes
        self._folder = folder
        self._told = told or Callback()
        self._interrupted = interrupted
        self.ended = self._read()
        self.seconds_before = sum(ended.seconds for ended in self.ended)

    def __call__(self, architectures: Sequence[Architecture], epochs: int) -> list[float]:
        """Validation accuracy of each after so many epochs; that of guessing where a training fails."""
        for architecture in architectures:
            if self._found(architecture, epochs) is None:
                self.ended.append(self._train(architecture, epochs))
                self._write()
        return [ended.accuracy for a in architectures if (ended := self._found(a, epochs))]

    @property
    def steps(self) -> int:
        """Optimiser steps of the whole plan."""
        return self.plan.epochs * len(self._evaluator.train_loader)

    def _found(self, architecture: Architecture, epochs: int) -> Ended | None:
        return next((e for e in self.ended if (e.architecture, e.epochs) == (str(architecture), epochs)), None)

    def _train(self, architecture: Architecture, epochs: int) -> Ended:
        subject = Subject(f"short training {len(self.ended) + 1}", architecture=str(architecture))
        own = self._folder and self._folder / f"short-{digest(str(architecture), self._evaluator.identity)}"
        accuracy, start = self._guess, time.monotonic()
        self._told.trial_started(subject)
        try:
            steps = self._evaluator.evaluate(architecture, resume=own, stop=self._interrupted)
            for measured in itertools.islice(steps, epochs):
                accuracy = measured.metrics["accuracy"]
                self._told.step_finished(subject, measured)
        except TrainingError:
            accuracy = self._guess
        self._told.trial_finished(subject, None)
        if own:
            shutil.rmtree(own, ignore_errors=True)
        return Ended(str(architecture), epochs, accuracy, time.monotonic() - start)

    def _write(self) -> None:
        if self._folder is None:
            return
        partial = self._folder / f"{FILE}.{os.getpid()}"
        content = {"identity": self._evaluator.identity, "ended": [asdict(ended) for ended in self.ended]}
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            partial.write_text(json.dumps(content), encoding="utf-8")
            partial.replace(self._folder / FILE)
        except OSError as error:
            raise StudyError(
                f"cannot keep what short trainings gave in {self._folder} ({error.strerror});"
                " make it a folder with free space that can be written to"
            ) from error

    def _read(self) -> list[Ended]:
        """What the file holds; nothing where it is damaged, or of another recipe."""
        try:
            content = json.loads((self._folder / FILE).read_text(encoding="utf-8")) if self._folder else {}
            if content.get("identity") != self._evaluator.identity:
                return []
            ended = [Ended(**one) for one in content["ended"]]
            for one in ended:
                require_number("accuracy", one.accuracy, 0, 1)
                require_number("seconds", one.seconds, 0)
        except (OSError, ValueError, TypeError, KeyError, AttributeError):
            return []
        return ended
