"""What every evaluator must fulfil."""

from __future__ import annotations

import math
import random
import tempfile
from abc import ABC, abstractmethod
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

from nas_optuna.execution.evaluator import Evaluator, Measurement
from nas_optuna.spaces.architecture import Architecture
from nas_optuna.training.fit import never


class EvaluatorSuite(ABC):
    """Subclass it as ``class TestMine(EvaluatorSuite)`` and implement `make_evaluator`.

    Attributes:
        tolerance: The largest relative difference of figures that counts as none.

    Examples:
        ::

            class TestMine(EvaluatorSuite):
                def make_evaluator(self):
                    return MyEvaluator(rows=100, steps=2)
    """

    tolerance: float = 0.0

    @abstractmethod
    def make_evaluator(self) -> Evaluator:
        """Make an evaluator whose training takes a second and has at least two steps, anew on each call."""

    def make_different_evaluators(self) -> list[Evaluator]:
        """Evaluators that give other values than `make_evaluator`'s, each in one respect."""
        return []

    def architecture(self, evaluator: Evaluator) -> Architecture:
        """What is trained."""
        return evaluator.space.sample(random.Random(0))

    def run(self, evaluator: Evaluator, folder: Path | None = None) -> Iterator[Measurement]:
        """Begin a training."""
        return evaluator.evaluate(self.architecture(evaluator), resume=folder, stop=never)

    def test_steps_count_from_one_and_figures_are_finite(self) -> None:
        """There is one measurement per step, in order."""
        evaluator = self.make_evaluator()
        measured = list(self.run(evaluator))
        assert [measurement.step for measurement in measured] == list(range(1, evaluator.steps + 1))
        assert all(math.isfinite(value) for m in measured for value in m.metrics.values())
        assert all(m.seconds >= 0 for m in measured)

    def test_a_training_that_goes_on_gives_the_same_numbers(self) -> None:
        """What an earlier process left behind changes nothing but the time."""
        with tempfile.TemporaryDirectory() as folder:
            whole = list(self.run(self.make_evaluator(), Path(folder) / "whole"))
            first = list(islice(self.run(self.make_evaluator(), Path(folder) / "parts"), 1))
            assert len(first) == 1
            again = list(self.run(self.make_evaluator(), Path(folder) / "parts"))
        assert [m.step for m in again] == [m.step for m in whole]
        for one, other in zip(whole, again, strict=True):
            assert one.metrics.keys() == other.metrics.keys()
            for name, value in one.metrics.items():
                assert math.isclose(value, other.metrics[name], rel_tol=self.tolerance, abs_tol=self.tolerance)

    def test_the_identity_changes_with_what_matters(self) -> None:
        """Equal evaluators have one identity, different ones have different ones."""
        identity = self.make_evaluator().identity
        assert identity == self.make_evaluator().identity
        others = [evaluator.identity for evaluator in self.make_different_evaluators()]
        assert len({identity, *others}) == len(others) + 1
