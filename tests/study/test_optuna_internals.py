from pathlib import Path

import optuna
import pytest
from optuna.trial import FixedTrial
from optuna_dashboard import get_note

from nas_optuna.execution.loop import run
from nas_optuna.execution.objective import Objective
from nas_optuna.report.notes import NoteWriter, trial_note
from nas_optuna.study.optuna_internals import may_have_trial_with, set_study_system_attributes, set_trial_attributes
from nas_optuna.study.storage import open_storage

VALUES = {"text": "f16k3s1", "number": 3, "real": 0.1, "none": None, "list": [1, "é"], "dict": {"a": {"b": 1}}}


@pytest.fixture(params=["sqlite", "memory"])
def study(request: pytest.FixtureRequest, tmp_path: Path) -> optuna.Study:
    storage = None if request.param == "memory" else open_storage(f"sqlite:///{tmp_path}/x.db", create=True)
    return optuna.create_study(study_name="s", storage=storage, direction="maximize")


def test_many_at_once_are_as_one_by_one(study: optuna.Study) -> None:
    one_by_one, at_once = study.ask(), study.ask()
    for key, value in VALUES.items():
        one_by_one.set_user_attr(key, value)
    set_trial_attributes(at_once, {"text": "old", "kept": 1})
    set_trial_attributes(at_once, VALUES)
    assert at_once.user_attrs == {"kept": 1, **VALUES} == {"kept": 1, **one_by_one.user_attrs}
    study.tell(at_once, 1.0)
    first, second = study.trials
    assert second.user_attrs == {"kept": 1, **first.user_attrs}
    again = optuna.load_study(study_name="s", storage=study._storage).trials[1]
    assert again.user_attrs == second.user_attrs


def test_a_fixed_trial_takes_them_too() -> None:
    trial = FixedTrial({})
    set_trial_attributes(trial, VALUES)
    assert trial.user_attrs == VALUES


def test_a_study_takes_them(study: optuna.Study) -> None:
    set_study_system_attributes(study, {"a": 1, "b": "x"})
    set_study_system_attributes(study, {"b": "y"})
    found = study._storage.get_study_system_attrs(study._study_id)
    assert (found["a"], found["b"]) == (1, "y")


def test_trials_are_looked_for_by_an_attribute(tmp_path: Path) -> None:
    storage = open_storage(f"sqlite:///{tmp_path}/x.db", create=True)
    ours, theirs = (optuna.create_study(study_name=name, storage=storage) for name in ("ours", "theirs"))
    set_trial_attributes(ours.ask(), {"architecture": "f16k3s1"})
    assert may_have_trial_with(ours, "architecture", "f16k3s1")
    assert not may_have_trial_with(ours, "architecture", "f16k3s2")
    assert not may_have_trial_with(ours, "origin", "f16k3s1")
    assert not may_have_trial_with(theirs, "architecture", "f16k3s1")


def test_the_dashboard_finds_each_note(study: optuna.Study, objective: Objective) -> None:
    run(study, objective, trials=2, callbacks=[NoteWriter()])
    for trial in study.trials:
        found = get_note(_of(study, trial))
        assert found == trial_note(trial)
        assert trial.user_attrs["nas_optuna:architecture"] in found


def _of(study: optuna.Study, trial: optuna.trial.FrozenTrial) -> optuna.Trial:
    return optuna.Trial(study, trial._trial_id)
