"""Searches that a clock ends."""

import json

import optuna
import pytest

from nas_optuna.fitting.clock import Load
from nas_optuna.study.schema import StudyKey, TrialKey
from tests.helpers import Command

SMALL = ("--data", "digits", "--space", "residual", "--set", "space.width=8", "--set", "space.stages=1")


def test_a_search_within_a_time_uses_it_and_ends(command: Command) -> None:
    load = Load()
    result = command("run", "--within", "10s", "--sampler", "neighbours", *SMALL, "--set", "data.train_limit=300")
    assert result.code == 0, result.err
    assert "all within 10 s" in result.err, "it says what it will do with the time"
    assert "nas-optuna run --study nas --within 10s" in result.err, "what goes on can be compared"
    study = optuna.load_study(study_name="nas", storage="sqlite:///nas-optuna.db")
    state = study.user_attrs[StudyKey.WITHIN]
    assert state["done"]
    assert len(study.trials) > 1
    assert 10 / 2 < state["spent"] < 10 * 3 * load(), "on a busy machine, too"
    assert study.trials[0].user_attrs[TrialKey.ORIGIN] == "reference"
    best = json.loads(command("best", "--json").out)
    assert best["gain"]["reference_accuracy"] is not None


def test_a_study_that_gets_trainings_of_both_kinds_says_which_rank_higher(command: Command, study: str) -> None:
    def said() -> bool:
        result = command("run", "--trials", 1)
        assert result.code == 0, result.err
        return "trainings by the recipe rank above those by a clock" in " ".join(result.err.split())

    assert not said()
    stored = optuna.load_study(study_name=study, storage="sqlite:///nas-optuna.db")
    attributes = stored.best_trial.user_attrs | {TrialKey.RUNG: 1, TrialKey.SHARE: 2.0}
    known = {"params": stored.best_trial.params, "distributions": stored.best_trial.distributions}
    stored.add_trial(optuna.create_trial(value=0.5, **known, user_attrs=attributes))
    assert said()


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (("--trials", 3), "leave out --trials"),
        (("--timeout", 3), "leave out --timeout"),
        (("--until", "accuracy:0.9"), "leave out --until"),
        (("--epochs", 3), "leave out --epochs"),
        (("--workers", 2), "one process"),
        (("--executor", "ray"), "one process"),
    ],
)
def test_what_also_says_when_to_end_is_refused(command: Command, options: tuple[object, ...], says: str) -> None:
    result = command("run", "--within", "20s", *options)
    assert result.code == 2
    assert says in result.err


def test_a_time_that_is_none_is_one_line(command: Command) -> None:
    result = command("run", "--within", "soon")
    assert (result.code, result.err.count("\n")) == (2, 1)
    assert "90s, 10m or 2h" in result.err
