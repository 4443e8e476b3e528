"""Which trial is best, where some were trained for seconds and others to the end."""

import random
from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.trial import FrozenTrial, TrialState, create_trial

from nas_optuna.cli.progress import Bars, RunDisplay
from nas_optuna.execution.events import Run, Subject
from nas_optuna.execution.trial_files import KeepBest
from nas_optuna.study.results import TrialRecord, best_trial, best_trials, front_of, front_trials, ranked, would_mix
from nas_optuna.study.schema import StudyKey, TrialKey
from nas_optuna.study.studies import summaries
from nas_optuna.training.checkpoint import KEPT_FOLDER, KeptWeights

Trained = tuple[float, float | None]
"""Accuracy, and the seconds that a clock gave; None by the recipe."""


def of(accuracy: float, seconds: float | None, rung: int) -> FrozenTrial:
    clock = {} if seconds is None else {TrialKey.RUNG: rung, TrialKey.SHARE: seconds}
    return create_trial(value=accuracy, user_attrs=clock)


@pytest.mark.parametrize("clock", [StudyKey.FIT, StudyKey.WITHIN])
@pytest.mark.parametrize(
    ("trained", "best"),
    [
        ([(0.95, None), (0.31, 2.0)], 0),  # full trainings, and one look with a clock
        ([(0.99, 2.0), (0.95, None)], 1),
        ([(0.9, 60.0), (0.3, 2.0), (0.4, 2.0)], 0),  # a long run, then a short one of a later rung
        ([(0.9, 2.0), (0.8, 6.0), (0.7, 6.0)], 1),  # rungs of one run
        ([(0.9, 6.0), (0.8, 6.1)], 0),  # two runs of the same time
        ([(0.6, 0.0)], 0),  # loading took all of the time
        ([(0.6, 0.0), (0.5, 2.0)], 1),
    ],
)
def test_one_rule_names_the_best_everywhere(trained: list[Trained], best: int, clock: str, tmp_path: Path) -> None:
    storage = optuna.storages.RDBStorage(f"sqlite:///{tmp_path}/s.db")
    study = optuna.create_study(storage=storage, direction="maximize")
    study.set_user_attr(clock, {})
    study.add_trials([of(accuracy, seconds, rung) for rung, (accuracy, seconds) in enumerate(trained, start=1)])
    kept = tmp_path / KEPT_FOLDER
    kept.mkdir()
    for number in range(len(trained)):
        (kept / f"trial-{number}.safetensors").touch()
    found = best_trial(study)
    assert found is not None
    assert found.number == best == ranked(study.trials)[0].number
    assert summaries(storage)[0].best == trained[best][0]
    KeepBest(tmp_path).trial_finished(Subject("", None, "", study), None)
    assert KeptWeights(tmp_path).numbers() == [best]
    display = RunDisplay(Bars(disable=True))
    display.run_started(Run("search", study, None, steps=1))
    assert f"(trial {best})" in str(display)


@pytest.mark.parametrize(("seconds", "mixed"), [(None, (True, False)), (2.0, (False, True))])
def test_both_kinds_of_training_in_one_study_are_noticed(seconds: float | None, mixed: tuple[bool, bool]) -> None:
    study = optuna.create_study(direction="maximize")
    assert not any(would_mix(study, by_clock=clock) for clock in (True, False))
    study.add_trial(of(0.9, seconds, 1))
    assert (would_mix(study, by_clock=True), would_mix(study, by_clock=False)) == mixed


def test_a_study_is_read_once_however_many_trials_it_has(monkeypatch: pytest.MonkeyPatch) -> None:
    study = optuna.create_study(direction="maximize")
    study.add_trials([of(0.01 * number, None, 1) for number in range(40)])
    reads: list[int] = []
    original = optuna.storages.InMemoryStorage.get_study_user_attrs

    def counted(storage: optuna.storages.InMemoryStorage, study_id: int) -> dict[str, Any]:
        reads.append(study_id)
        return original(storage, study_id)

    monkeypatch.setattr(optuna.storages.InMemoryStorage, "get_study_user_attrs", counted)
    found = best_trial(study)
    assert found is not None
    assert found.number == 39
    assert len(reads) <= 3


def two_objectives() -> optuna.Study:
    study = optuna.create_study(directions=["maximize", "minimize"])
    inside, outside = {"macs": -1.0}, {"macs": 1.0}
    short = {TrialKey.RUNG: 1, TrialKey.SHARE: 2.0}
    study.add_trials(
        [
            create_trial(values=[0.9, 5], constraints=inside),
            create_trial(values=[0.8, 9], constraints=inside),
            create_trial(values=[0.99, 1], constraints=outside),
            create_trial(values=[0.95, 1], constraints=inside, user_attrs=short),
            create_trial(values=[0.7, 2], constraints=inside),
            create_trial(values=[0.7, 2], constraints=inside),
            create_trial(state=TrialState.FAIL, user_attrs={TrialKey.UNREADABLE: "accuracy is not a number"}),
        ]
    )
    return study


def test_a_front_holds_what_is_inside_the_limits_and_can_be_compared() -> None:
    assert [trial.number for trial in front_trials(two_objectives())] == [0, 4, 5]
    assert front_trials(optuna.create_study(directions=["maximize", "minimize"])) == []


def test_a_shorter_training_does_not_move_the_corner_from_which_a_front_is_measured() -> None:
    study = optuna.create_study(directions=["minimize", "minimize"])
    study.set_metric_names(["loss:minimize", "macs"])
    short = {TrialKey.RUNG: 1, TrialKey.SHARE: 2.0}
    study.add_trials([create_trial(values=[v, m]) for v, m in ((0.2, 9.0), (0.4, 3.0))])
    before = front_of(study).reference[0]
    study.add_trial(create_trial(values=[2.3, 5.0], user_attrs=short))
    assert front_of(study).reference[0] == before == 0.4


def test_the_box_of_a_front_holds_a_soft_target_above_1() -> None:
    study = optuna.create_study(directions=["maximize", "minimize"])
    study.set_metric_names([soft := "accuracy*(macs/1M)^-0.07", "macs"])
    networks = [(1.2, 5e4), (1.0, 2e4)]
    study.add_trials([create_trial(values=[v, m], user_attrs={TrialKey.cost("macs"): m}) for v, m in networks])
    found = front_of(study)
    assert found.reference[0] == 0  # which is a bound whatever the network costs
    assert 0 < found.hypervolume <= 1
    assert front_of(study, {soft: 1.1}).reference[0] == 1.1


@pytest.mark.parametrize("directions", [("maximize", "minimize"), ("minimize", "minimize", "maximize")])
def test_a_front_is_that_of_optuna_where_there_are_no_limits(directions: list[str]) -> None:
    study, rng = optuna.create_study(directions=directions), random.Random(0)
    study.add_trials([create_trial(values=[rng.randrange(9) for _ in directions]) for _ in range(60)])
    assert [t.number for t in front_trials(study)] == sorted(t.number for t in study.best_trials)


def test_a_display_counts_the_same_front() -> None:
    study = two_objectives()
    display = RunDisplay(Bars(disable=True))
    display.run_started(Run("search", study, None, steps=1))
    assert str(display).startswith("3 on the front")
    assert {trial.number for trial in best_trials(study)} == {0, 4, 5}


def test_what_a_fit_has_chosen_is_the_best_until_there_are_more_trials() -> None:
    study = optuna.create_study(direction="maximize")
    study.add_trials([of(0.71, None, 1), of(0.70, None, 1)])
    study.set_user_attr(StudyKey.FIT, {"final": {"trial": 1, "trials": 2}})
    assert (found := best_trial(study)) is not None
    assert found.number == 1
    assert [trial.number for trial in best_trials(study)] == [1]
    study.add_trial(of(0.6, None, 1))
    assert (found := best_trial(study)) is not None
    assert found.number == 0


def test_a_trial_that_was_tried_again_has_no_cause_of_the_first_time() -> None:
    attributes = {TrialKey.CAUSE: "RuntimeError: out of luck"}
    failed = create_trial(state=TrialState.FAIL, user_attrs=attributes)
    again = create_trial(value=0.9, user_attrs=attributes)  # enqueued with the attributes of the first
    assert [TrialRecord.of(trial).cause for trial in (failed, again)] == ["RuntimeError: out of luck", None]
