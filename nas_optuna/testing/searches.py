"""Suites for evaluators, and for samplers beside Optuna's own suites (`optuna.testing.pytest_samplers`)."""

from __future__ import annotations

import math
import random
import tempfile
from abc import ABC, abstractmethod
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import optuna
from optuna.samplers import BaseSampler

from nas_optuna.execution.evaluator import Evaluator, Measurement
from nas_optuna.spaces import SearchSpace
from nas_optuna.spaces.architecture import Architecture
from nas_optuna.spaces.conv import ConvSpace
from nas_optuna.study.optuna_internals import storage_of
from nas_optuna.study.storage import sqlite_url
from nas_optuna.training.fit import never


class EvaluatorSuite(ABC):
    """Subclass it as ``class TestMine(EvaluatorSuite)`` and implement `make_evaluator`.

    Attributes:
        tolerance: The largest difference of figures, relative or absolute, that counts as equal.

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
        """Evaluators that differ from `make_evaluator`'s in one respect each, and so give other values."""
        return []

    def architecture(self, evaluator: Evaluator) -> Architecture:
        """The architecture that is trained."""
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
        """A training that is resumed in another process differs only in its time."""
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


class SamplerSuite(ABC):
    """Subclass it as ``class TestMine(SamplerSuite)`` and implement `make_sampler`.

    Attributes:
        trials: How many trials each test runs.

    Examples:
        A sampler of Optuna's alone, with one random stream for all trials, would not go on in a new process.

        >>> import optuna
        >>> from nas_optuna.samplers.optuna_builtin import DistinctSampler
        >>> class TestMine(SamplerSuite):
        ...     def make_sampler(self, space, seed):
        ...         return DistinctSampler(optuna.samplers.TPESampler, space, seed)
    """

    trials: int = 15

    @abstractmethod
    def make_sampler(self, space: SearchSpace, seed: int) -> BaseSampler:
        """Make the sampler for a space."""

    def space(self) -> SearchSpace:
        """The space that is searched."""
        return ConvSpace(depth=2, filters=(4, 8, 16), kernels=(3, 5), input_size=8)

    def search(self, study: optuna.Study, trials: int) -> list[dict[str, object]]:
        """Run trials whose value is known at once, and return all params of the study."""
        space = self.space()
        widest = max(float(str(choice)) for choice in space.parameters["conv1.filters"].choices)

        def objective(trial: optuna.Trial) -> float:
            params = space.suggest(trial).params
            return float(str(params["conv1.filters"])) / widest - float(str(params["conv2.stride"]))

        study.optimize(objective, n_trials=trials)
        return [dict(trial.params) for trial in study.trials]

    def test_proposals_are_architectures_and_depend_on_the_seed_alone(self) -> None:
        """Two studies with one seed get the same proposals."""
        space, found = self.space(), []
        for _ in range(2):
            study = optuna.create_study(direction="maximize", sampler=self.make_sampler(space, 1))
            found.append(self.search(study, self.trials))
        assert found[0] == found[1]
        for params in found[0]:
            space.architecture(params)

    def test_a_search_goes_on_in_a_new_process(self) -> None:
        """A new sampler continues from what is stored in the study."""
        space = self.space()
        with tempfile.TemporaryDirectory() as folder:
            url = sqlite_url(Path(folder) / "s.db")
            whole = optuna.create_study(direction="maximize", sampler=self.make_sampler(space, 1))
            parts = optuna.create_study(
                direction="maximize", sampler=self.make_sampler(space, 1), storage=url, study_name="s"
            )
            self.search(parts, self.trials // 2)
            parts.sampler = self.make_sampler(space, 1)
            assert self.search(parts, self.trials - self.trials // 2) == self.search(whole, self.trials)

    def test_several_workers_share_a_study(self) -> None:
        """Samplers that propose in turn, while trials are running, do not fail."""
        space = self.space()
        study = optuna.create_study(direction="maximize", sampler=self.make_sampler(space, 1))
        other = optuna.load_study(
            study_name=study.study_name, storage=storage_of(study), sampler=self.make_sampler(space, 2)
        )
        for i in range(self.trials):
            running = [worker.ask(dict(space.distributions())) for worker in (study, other)]
            for worker, trial in zip((study, other), running, strict=True):
                space.architecture(dict(trial.params))
                worker.tell(trial, float(i))
