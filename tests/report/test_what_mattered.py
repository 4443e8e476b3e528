import re
import warnings

import pytest
from optuna.trial import TrialState

from nas_optuna.report import charts
from nas_optuna.report.comparison import comparison_page, summary_of
from nas_optuna.report.facts import StudyFacts
from nas_optuna.report.page import report, what_mattered
from tests.report.test_page import add, made, plain, tags


@pytest.mark.parametrize(("complete", "pruned", "shown"), [(1, 0, False), (9, 0, False), (10, 20, True), (1, 8, False)])
def test_importance_is_shown_from_ten_trials_on(complete: int, pruned: int, shown: bool) -> None:
    study = made()
    for number in range(complete):
        add(study, number)
    for number in range(pruned):
        add(study, 100 + number, TrialState.PRUNED)
    page = report(study)
    tags(page)
    assert ('aria-label="importance of each parameter"' in page) == shown
    assert (
        "shown where 10 trials have ended after trainings of about the same length" in " ".join(plain(page).split())
    ) != shown
    assert ("pruned trials are not counted" in plain(page)) == shown


@pytest.mark.parametrize("objectives", [("accuracy",), ("accuracy", "macs"), ("macs", "accuracy")])
def test_where_few_trials_end_what_the_pruned_ones_had_says_what_mattered(objectives: tuple[str, ...]) -> None:
    study, alone = made(objectives=objectives), made()
    for one in (study, alone):
        for number in range(6):
            add(one, number)
        for number in range(14):
            add(one, 100 + number, TrialState.PRUNED)  # after two of three epochs
    page = report(study)
    tags(page)
    assert 'aria-label="importance of each parameter"' in page
    text = " ".join(plain(page).split())
    assert "20 trials, by what they had after epoch 2, the last that so many have reached. Only 6 trials ended" in text
    assert "among the best in accuracy: Optuna's" in text
    assert what_mattered(StudyFacts(study)) == what_mattered(StudyFacts(alone)), "it is of what is reported"


def test_trainings_of_another_length_decide_no_best_and_no_front(monkeypatch: pytest.MonkeyPatch) -> None:
    study = made()
    for number in range(12):
        add(study, number, accuracy=0.99 - number / 100, RUNG=0, SHARE=1.0)
    for number in range(12, 15):
        add(study, number, accuracy=0.5 + number / 100, RUNG=1, SHARE=4.0)
    facts = StudyFacts(study)
    assert [trial.number for trial in facts.comparable] == [12, 13, 14]
    page = report(study)
    for number in (5, 13):
        assert page.count(f"trial {number}:") >= 2, "best so far, and accuracy against a cost"
    assert plain(page).count("trained shorter") == 3
    drawn_best = re.search(r'class="line s0" d="([^"]+)"', page)
    assert drawn_best is not None
    assert drawn_best[1].count("L") + drawn_best[1].count("H") < 12, "of those that were trained longest"
    mattered = what_mattered(facts)
    assert mattered is not None
    assert (mattered["epoch"], mattered["trials"]) == (None, 12)
    assert "12 complete trials of about the same length; pruned trials are not counted" in plain(page)
    drawn: list[charts.Series] = []
    monkeypatch.setattr(charts, "plot", lambda series, *about, **more: drawn.extend(series))
    comparison_page([study], [summary_of(study)])
    assert max(value for series in drawn for _, value in series.points) == 0.5 + 14 / 100


@pytest.mark.parametrize("clocked", [0, 9])
def test_an_epoch_of_a_training_by_a_clock_says_nothing_of_what_mattered(clocked: int) -> None:
    study = made()
    for number in range(9):
        add(study, number, **{"RUNG": 0, "SHARE": 1.0} if number < clocked else {})
    for number in range(9, 11):
        add(study, number, TrialState.PRUNED)
    assert (what_mattered(StudyFacts(study)) is None) == bool(clocked)


def test_importance_explains_what_makes_trials_good() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)  # Optuna warns where it explains what makes trials bad
        test_importance_is_shown_from_ten_trials_on(10, 20, True)


def test_one_finite_value_is_not_said_to_be_that_of_all() -> None:
    study = made()
    for number in range(12):
        add(study, number, accuracy=0.9 if number < 2 else float("inf"))
    mattered = what_mattered(StudyFacts(study))
    assert mattered is not None
    assert mattered["error"] == "no two of 12 trials have finite values of accuracy that differ."


def test_where_all_trials_are_equal_nothing_mattered() -> None:
    study = made()
    for number in range(12):
        add(study, number, accuracy=0.9)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        page = report(study)
    assert "Importance cannot be estimated: all 12 trials have the same accuracy." in plain(page)
    assert 'aria-label="importance of each parameter"' not in page
