"""Errors in a user's own parts: one line with the place, and nothing lost."""

from pathlib import Path

import optuna
import pytest

from nas_optuna.report.dashboard import note_in
from nas_optuna.study.optuna_internals import study_system_attributes
from tests.helpers import Command, tiny

OWN = """
import builtins

import optuna
from nas_optuna.execution.executors.local import LocalExecutor


class Silent(LocalExecutor):
    def prepare(self, objective): super().prepare(objective)
    def reached(self, handle): ...

    def run(self, *work, **options):
        super().run(*work, **options)


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


def nothing(outputs, targets):
    return None


def changing(outputs, targets):
    targets.zero_()
    return float(outputs.zero_().sum())


class Odd:
    identity, space = "odd", None

    def __init__(self, context, *, steps=1):
        self.steps, self.space = steps, context.space(in_channels=1, outputs=10, input_size=8)

    def evaluate(self, architecture, *, resume, stop):
        yield None


class Mine(Odd):
    def evaluate(self, architecture, *, resume, stop):
        from nas_optuna import Measurement
        yield Measurement(1, {"accuracy": 0.5}, 0.0)


class Pruner(optuna.pruners.BasePruner):
    def prune(self, study, trial):
        return {}["missing"]


def pruner(epochs):
    return Pruner()
"""


def stored() -> optuna.Study:
    return optuna.load_study(study_name="nas", storage="sqlite:///nas-optuna.db")


def states() -> list[str]:
    return [trial.state.name for trial in stored().trials]


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
    assert result.err.splitlines()[-1] == f"error: your code failed: {error}: {told} (own.py:24)"
    assert states() == kept


def test_the_error_of_an_own_pruner_loses_no_training(command: Command) -> None:
    Path("own.py").write_text(OWN)
    own = ("--sampler", "random", "--pruner", "own.py:pruner")
    result = command("run", "--trials", 2, *own, *tiny(recipe__epochs=2))
    assert result.code == 2
    assert result.err.splitlines()[-1] == "error: your pruner failed: KeyError: 'missing' (own.py:68)"
    assert states() == ["WAITING"]
    assert command("run", "--trials", 1, "--pruner", "none").code == 0
    assert states() == ["COMPLETE"]


def test_what_an_own_metric_returns_is_named_and_what_it_changes_is_its_own(command: Command) -> None:
    Path("own.py").write_text(OWN)
    both = ("--objective", "accuracy", "--objective", "own.py:changing")
    assert command("run", "--trials", 1, "--seed", 1, *both, *tiny()).code == 0
    assert command("run", "--study", "plain", "--trials", 1, "--seed", 1, *tiny()).code == 0
    studies = [optuna.load_study(study_name=name, storage="sqlite:///nas-optuna.db") for name in ("nas", "plain")]
    changed, plain = ({t.user_attrs["nas_optuna:architecture"]: t.values[0] for t in s.trials} for s in studies)
    same = changed.keys() & plain.keys()
    assert [changed[name] for name in same] == [plain[name] for name in same]
    assert min(changed.values()) > 0
    result = command("run", "--study", "none", "--trials", 3, "--objective", "own.py:nothing", *tiny())
    assert "the first 3 trials all failed: metric 'own.py:nothing' gave a NoneType, not a number" in result.err


@pytest.mark.parametrize("steps", ["0", "two", "1.5"])
def test_an_own_evaluator_says_its_steps(command: Command, steps: str) -> None:
    Path("own.py").write_text(OWN)
    result = command("run", "--set", "evaluator.name=own.py:Odd", "--set", f"evaluator.steps={steps}")
    assert result.code == 2
    assert "evaluator 'own.py:Odd' has " in result.err.splitlines()[-1]


def test_who_has_no_home_is_asked_each_time(command: Command, place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (place / "home").write_text("")  # no folder, as where a container's user has none
    monkeypatch.setattr("nas_optuna.study.trust._path", lambda: place / "home/state/trusted.json")
    Path("own.py").write_text(OWN)
    own = ("--set", "evaluator.name=own.py:Mine", "--set", "space.depth=1", "--sampler", "random")
    assert command("run", "--trials", 1, *own).code == 0
    assert "--trust" in command("run", "--trials", 1).err
    assert command("run", "--trials", 1, "--trust").code == 0
    assert states() == ["COMPLETE"] * 2


def test_nobody_is_told_to_retrain_what_an_own_evaluator_trains(command: Command, place: Path) -> None:
    Path("own.py").write_text(OWN)
    own = ("--set", "evaluator.name=own.py:Mine", "--set", "space.depth=1", "--sampler", "random")
    assert command("run", "--trials", 1, *own).code == 0
    best = command("best")
    assert (best.code, "next:" in best.err) == (0, False)
    assert command("report").code == 0
    told = [(place / "report.html").read_text(encoding="utf-8"), str(note_in(study_system_attributes(stored())))]
    assert "validation images" not in told[0]
    for text in told:
        assert "retrain" not in text
        assert "accuracy by own.py:Mine, space conv" in text.replace("\\_", "_"), "it uses no images and no recipe"
    for words in (("retrain",), ("supernet", "train")):
        assert "while retrain and a supernet need images and a recipe" in command(*words).err


def test_an_own_executor_that_returns_nothing_keeps_its_trials(command: Command) -> None:
    Path("own.py").write_text(OWN)
    result = command("run", "--trials", 1, "--executor", "own.py:Silent", *tiny())
    assert result.code == 2
    assert result.err.splitlines()[-1].endswith("executor Silent gave a NoneType, not an Outcome")
    assert states() == ["COMPLETE"]
