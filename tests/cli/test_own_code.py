"""Errors in a user's own parts: one line with the place, and nothing lost."""

from pathlib import Path

import optuna
import pytest

from tests.helpers import Command, tiny

OWN = """
import builtins

import optuna


class Sampler(optuna.samplers.RandomSampler):
    def __init__(self, seed, where, error):
        super().__init__(seed)
        self.where, self.error, self.calls = where, error, 0

    def fail(self, where):
        self.calls += where == self.where
        if where == self.where and self.calls > 1:
            raise self.error("oh")

    def before_trial(self, *about):
        self.fail("before_trial")

    def sample_relative(self, *about):
        self.fail("sample_relative")
        return {}

    def after_trial(self, *about):
        self.fail("after_trial")


def sampler(space, seed, *, where, error):
    return Sampler(seed, where, getattr(builtins, error))


class Pruner(optuna.pruners.BasePruner):
    def prune(self, study, trial):
        return {}["missing"]


def pruner(epochs):
    return Pruner()
"""


def states() -> list[str]:
    study = optuna.load_study(study_name="nas", storage="sqlite:///nas-optuna.db")
    return [trial.state.name for trial in study.trials]


@pytest.mark.parametrize(
    ("where", "error", "kept"),
    [
        ("before_trial", "TypeError", ["COMPLETE", "FAIL"]),
        ("sample_relative", "RuntimeError", ["COMPLETE", "FAIL"]),
        ("after_trial", "KeyError", ["COMPLETE", "COMPLETE"]),
    ],
)
def test_the_error_of_an_own_sampler_is_one_line_with_its_place(
    command: Command, where: str, error: str, kept: list[str]
) -> None:
    Path("own.py").write_text(OWN)
    own = ("--sampler", "own.py:sampler", "--pruner", "none")
    result = command("run", "--trials", 4, *own, *tiny(sampler__where=where, sampler__error=error))
    assert result.code == 2
    told = "'oh'" if error == "KeyError" else "oh"
    assert result.err.splitlines()[-1] == f"error: your code failed: {error}: {told} (own.py:15)"
    assert states() == kept


def test_the_error_of_an_own_pruner_loses_no_training(command: Command) -> None:
    Path("own.py").write_text(OWN)
    own = ("--sampler", "random", "--pruner", "own.py:pruner")
    result = command("run", "--trials", 2, *own, *tiny(recipe__epochs=2))
    assert result.code == 2
    assert result.err.splitlines()[-1] == "error: your pruner failed: KeyError: 'missing' (own.py:34)"
    assert states() == ["WAITING"]
    assert command("run", "--trials", 1, "--pruner", "none").code == 0
    assert states() == ["COMPLETE"]
