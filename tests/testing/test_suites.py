"""Our own parts fulfil the suites that we publish, and a part that is wrong does not."""

import doctest
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from optuna.samplers import BaseSampler, RandomSampler

from nas_optuna import Architecture, ConvSpace, Evaluator, Measurement, SearchSpace, load_data
from nas_optuna.execution.evaluator import TrainingEvaluator
from nas_optuna.samplers import create_sampler
from nas_optuna.spaces.block import BlockSpace
from nas_optuna.spaces.macro import MacroSpace
from nas_optuna.spec import DataSpec, Recipe
from nas_optuna.testing import EvaluatorSuite, SamplerSuite, SpaceSuite, SupernetSuite
from tests.test_docs import ROOT, blocks

CPU = torch.device("cpu")


class TestConv(SpaceSuite, SupernetSuite):
    def make_space(self) -> SearchSpace:
        return ConvSpace(depth=2, filters=(4, 8), kernels=(3, 5), strides=(1, 2), input_size=12)


class TestBlock(SpaceSuite, SupernetSuite):
    def make_space(self) -> SearchSpace:
        return BlockSpace(input_size=12)


class TestMacro(SpaceSuite, SupernetSuite):
    def make_space(self) -> SearchSpace:
        return MacroSpace(stages=2, widths=(8, 16), depths=(1, 2), input_size=8)


class TestTraining(EvaluatorSuite):
    space = ConvSpace(depth=1, filters=(4, 8), kernels=(3,), input_size=8)

    def evaluator(self, limit: int = 100, metrics: tuple[str, ...] = ("accuracy",), **recipe: Any) -> Evaluator:
        made = Recipe(**{"epochs": 3, "shift": 1, **recipe})
        return TrainingEvaluator(self.space, load_data(DataSpec(name="digits", train_limit=limit)), made, CPU, metrics)

    def make_evaluator(self) -> Evaluator:
        return self.evaluator()

    def make_different_evaluators(self) -> list[Evaluator]:
        return [
            self.evaluator(limit=110),
            self.evaluator(metrics=("macro_f1",)),
            self.evaluator(seed=1),
            self.evaluator(learning_rate=0.01),
            self.evaluator(repeats=2),
        ]


class Named(SamplerSuite):
    name: str

    def make_sampler(self, space: SearchSpace, seed: int) -> BaseSampler:
        return create_sampler(self.name, space, seed, {})


class TestArch(Named):
    name = "arch"


class TestEvolution(Named):
    name = "evolution"


class TestController(Named):
    name = "controller"


class TestTpe(Named):
    name = "tpe"


class TestOfTheGuide(SamplerSuite):
    """The example on the page."""

    def make_sampler(self, space: SearchSpace, seed: int) -> BaseSampler:
        names: dict[str, Any] = {}
        exec(
            next(block.text for block in blocks(ROOT / "docs" / "extending.md") if block.title == "my_sampler.py"),
            names,
        )
        made: BaseSampler = names["startup_tpe"](space, seed)
        return made


class TestOfTheReference(SamplerSuite):
    """The example of the suite itself."""

    def make_sampler(self, space: SearchSpace, seed: int) -> BaseSampler:
        names: dict[str, Any] = {"SamplerSuite": SamplerSuite}
        for example in doctest.DocTestParser().get_examples(SamplerSuite.__doc__ or ""):
            exec(example.source, names)
        made: BaseSampler = names["TestMine"]().make_sampler(space, seed)
        return made


class Forgetful:
    """Begins anew rather than go on, and draws other numbers each time."""

    space, steps, identity = TestTraining.space, 2, "forgetful"

    def evaluate(
        self, architecture: Architecture, *, resume: Path | None, stop: Callable[[], bool]
    ) -> Iterator[Measurement]:
        for step in (1, 2):
            yield Measurement(step, {"score": float(torch.rand(()))}, 0.0)


def test_the_suites_find_what_is_wrong() -> None:
    class WrongEvaluator(EvaluatorSuite):
        def make_evaluator(self) -> Evaluator:
            return Forgetful()

        def make_different_evaluators(self) -> list[Evaluator]:
            return [Forgetful()]

    class WrongSampler(SamplerSuite):
        def make_sampler(self, space: SearchSpace, seed: int) -> BaseSampler:
            return RandomSampler()

    class Ambiguous(ConvSpace):
        def format(self, params: Any) -> str:
            return super().format(params).replace("f8", "f4")

    class WrongSpace(SpaceSuite):
        def make_space(self) -> SearchSpace:
            return Ambiguous(depth=2, filters=(4, 8), input_size=8)

    for test in (
        WrongEvaluator().test_a_training_that_goes_on_gives_the_same_numbers,
        WrongEvaluator().test_the_identity_changes_with_what_matters,
        WrongSampler().test_proposals_are_architectures_and_depend_on_the_seed_alone,
        WrongSpace().test_text_and_back,
    ):
        with pytest.raises(AssertionError):
            test()
