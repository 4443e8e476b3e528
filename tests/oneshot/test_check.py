"""The figures of a check, on values known beforehand."""

import random
import warnings
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import optuna
import pytest
from scipy import stats

from nas_optuna.errors import StudyError
from nas_optuna.experiment import Experiment
from nas_optuna.oneshot.check import (
    ALL_SIZES,
    SCORE,
    Verdict,
    candidates,
    judge,
    proposals,
    queue_untrained,
    rank_correlation,
)
from nas_optuna.oneshot.score import FEATURES, Score, SharedFigures, features
from nas_optuna.oneshot.trained import trained_trials
from nas_optuna.spaces.macro import MacroSpace
from nas_optuna.spec import StudySpec
from nas_optuna.study.schema import TrialKey
from nas_optuna.study.supernet_result import Predictor, SupernetResult
from tests.study import leases

SPEC = StudySpec.from_dict({"space": {"name": "conv", "depth": 1}})


@pytest.mark.parametrize("last", [5.0, 3.0])
def test_the_rank_correlation_and_its_bootstrap_are_scipys_also_with_ties(last: float) -> None:
    x, y = np.array([0.1, 0.4, 0.3, 0.9, 0.5, 0.4]), np.array([1.0, 2.0, 2.5, 6.0, 3.0, last])
    found = rank_correlation(x, y)
    assert found.value == pytest.approx(stats.kendalltau(x, y).statistic)
    drawn = np.random.default_rng(0).integers(6, size=(1000, 6))
    with warnings.catch_warnings(action="ignore"):  # of resamples without any order
        values = np.nan_to_num([stats.kendalltau(x[i], y[i]).statistic for i in drawn])
    assert (found.lower, found.upper) == pytest.approx(tuple(np.percentile(values, [2.5, 97.5])))


def test_a_constant_score_has_no_correlation() -> None:
    assert rank_correlation([0.5] * 5, [1, 2, 3, 4, 5]).value == 0


def test_scipy_is_given_all_resamples_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    calls, real = [], stats.kendalltau
    monkeypatch.setattr(stats, "kendalltau", lambda *a, **k: (calls.append(a), real(*a, **k))[1])
    rank_correlation(OWN, OWN)
    assert len(calls) == 2, "the figure and its interval"


OWN = [0.6, 0.9, 0.7, 0.99, 0.8, 0.65]


def check(
    chosen_accuracy: float,
    seconds: float,
    shared: list[float],
    score: Score | None = None,
    ended: Sequence[float] = (0.95, 0.5, *OWN),
) -> Verdict:
    """A check of six architectures whose own accuracies are `OWN` and whose shared accuracies are given."""
    search = Experiment.from_spec(SPEC).search
    chosen, *drawn = search.space.sample_distinct(7, random.Random(0))
    study = optuna.create_study(direction="maximize", study_name="s")
    for architecture, value in zip([chosen, *drawn], [chosen_accuracy, *OWN], strict=True):
        if value not in ended:
            continue
        attributes = {
            TrialKey.ARCHITECTURE: str(architecture),
            TrialKey.RECIPE: search.spec.recipe.fingerprint,
            TrialKey.SECONDS: 2.0,
        }
        study.add_trial(optuna.create_trial(value=value, user_attrs=attributes, intermediate_values={1: value}))
    rows = features(search.space, drawn, [SharedFigures(accuracy, 1.0) for accuracy in shared])
    return judge(study, search, drawn, {SCORE: chosen}, score or Score.prior(rows), rows, seconds)


@pytest.mark.parametrize(
    ("chosen", "seconds", "trained", "word"),
    [(0.95, 5.0, 3, "better"), (0.5, 5.0, 3, "worse"), (0.5, 0.0, 1, "")],
)
def test_verdict_counts_what_random_search_could_afford(chosen: float, seconds: float, trained: int, word: str) -> None:
    verdict = check(chosen, seconds, OWN)
    assert verdict.budget_seconds == seconds + 2
    assert verdict.random_trained == trained
    assert verdict.random_accuracy == max(OWN[:trained])
    assert verdict.chosen[0].rank == 1 + sum(value > chosen for value in OWN)
    assert word in verdict.sentence
    assert verdict.budget_covered


def test_a_check_trains_with_the_recipes_own_settings_where_these_are_searched() -> None:
    """With others a training would not count, and none could be judged."""
    small = ["recipe.epochs=1", "recipe.input_size=8", 'data={name="digits",train_limit=100}']
    experiment = Experiment.from_spec(SPEC.override([*small, 'search={learning_rate="1e-3..1e-1:log"}']))
    study = experiment.create(optuna.storages.InMemoryStorage(), "s")
    drawn = experiment.space.sample_distinct(2, random.Random(0))
    assert queue_untrained(study, experiment.search, drawn) == 2
    experiment.run(study, trials=2)
    assert trained_trials(study, experiment.search).keys() == set(map(str, drawn))


def test_a_killed_check_queues_nothing_twice(tmp_path: Path) -> None:
    experiment = Experiment.from_spec(SPEC.override(["recipe.epochs=1", 'data={name="digits",train_limit=100}']))
    study = experiment.create(f"sqlite:///{tmp_path}/s.db", "s")
    drawn = experiment.space.sample_distinct(2, random.Random(0))
    assert queue_untrained(study, experiment.search, drawn) == 2
    leases.give(study, study.ask()._trial_id, "killed", lasts=-1.0)
    assert queue_untrained(study, experiment.search, drawn) == len(study.trials) == 2


@pytest.mark.parametrize(("ended", "missing"), [(OWN, "proposed"), ([0.95, 0.6], "random"), ([], "random")])
def test_a_check_whose_trainings_failed_says_so_in_one_line(ended: list[float], missing: str) -> None:
    with pytest.raises(StudyError, match=rf"too few {missing} .* \(\d\); why: .*study show --study s"):
        check(0.95, 5.0, OWN, ended=ended)
    assert check(0.95, 5.0, OWN, ended=(0.95, 0.6, 0.9)).architectures == 2


def test_each_figure_has_a_row_with_its_own_ranking() -> None:
    right = check(0.95, 5.0, OWN)
    wrong = check(0.95, 5.0, [1 - value for value in OWN])
    assert [row.name for row in right.rows] == [*FEATURES, ALL_SIZES, SCORE]
    assert right.row(ALL_SIZES) == wrong.row(ALL_SIZES), "all sizes do not depend on shared weights"
    assert right.row("shared accuracy").kendall.value == pytest.approx(1)
    assert right.row("shared accuracy").regret_1 == 0
    assert wrong.row("shared accuracy").kendall.value == pytest.approx(-1)
    assert wrong.row("shared accuracy").regret_1 == pytest.approx(0.99 - 0.6)
    assert wrong.row("shared accuracy").regret_5 == pytest.approx(0.99 - 0.9)
    assert right.row("log MACs") == wrong.row("log MACs"), "size does not depend on shared weights"


def test_a_verdict_says_how_many_short_trainings_taught_the_score() -> None:
    search = Experiment.from_spec(SPEC).search
    drawn = search.space.sample_distinct(6, random.Random(0))
    rows = features(search.space, drawn, [SharedFigures(accuracy, 1.0) for accuracy in OWN])
    assert check(0.95, 5.0, OWN).short == 0
    assert check(0.95, 5.0, OWN, score=Score.prior(rows).fit(rows, OWN, short=True)).short == 6


def test_candidates_of_alphas_are_different_networks_with_all_their_probability() -> None:
    """A skip ignores its kernel; it was listed once for each kernel, each time with a part of its probability."""
    space = MacroSpace(stages=1, widths=[8], depths=[1, 2], layers=["skip", "maxpool", "conv"], branches=[1])
    rng = random.Random(0)
    alphas = {n: [2.0 * (c == "skip") + rng.gauss(0, 0.1) for c in p.choices] for n, p in space.parameters.items()}
    result = SupernetResult(alphas=alphas)
    everything = candidates(result, space, space.size)
    assert {candidate.architecture for candidate in everything} == set(space.enumerate())
    assert sum(candidate.probability for candidate in everything) == pytest.approx(1)
    listed = candidates(result, space, 4)
    assert {str(candidate.architecture) for candidate in listed[:2]} == {"w8_d1.skip", "w8_d2.skip.skip"}
    assert [c.probability for c in listed] == pytest.approx([c.probability for c in everything[:4]])
    derived = {name: p.choices[result.derived[name]] for name, p in space.parameters.items()}
    for count in (1, 4):
        assert candidates(result, space, count)[0].architecture == space.architecture(derived), "the argmax"


@pytest.mark.parametrize("scored", [False, True])
def test_only_what_the_study_may_propose_is_proposed(scored: bool) -> None:
    """A stored result may be of the time before a pin, a list, or a supernet that obeyed them."""
    experiment, study = Experiment.from_spec(SPEC), optuna.create_study(study_name="s")
    space, whole = experiment.space, experiment.candidates
    alphas = {name: [-float(i) for i in range(len(p.choices))] for name, p in space.parameters.items()}
    result = SupernetResult(alphas)
    if scored:
        choices = {name: p.choices for name, p in space.parameters.items()}
        result = replace(result, starts=[(0, 0, 0), (1, 2, 1), (2, 2, 0)], predictor=Predictor(choices, np.zeros(1), 0))
    pinned = replace(whole, fixed={"conv1.kernel": space.parameters["conv1.kernel"].choices[2]})
    found = proposals(study, result, pinned, 2)
    assert [space.tokens(candidate.architecture)[1] for candidate in found] == [2, 2]
    assert [c.by for c in found] == ["score" if scored else "alphas"] * 2
    assert proposals(study, result, whole, 3) == candidates(result, space, 3)
    remedy = "loosen limits, pins or list, or train it anew under them: nas-optuna supernet train --study s --restart"
    with pytest.raises(StudyError, match=f"nothing is inside .*; {remedy}"):
        proposals(study, result, replace(whole, listed=()), 1)


def test_the_argmax_is_the_first_candidate_even_if_another_network_is_more_probable() -> None:
    space = MacroSpace(stages=1, widths=[8], depths=[1], layers=["skip", "conv"], branches=[1])
    probable = {"conv": 0.1, "skip": 0.0}
    alphas = {name: [probable.get(str(c), 0.0) for c in p.choices] for name, p in space.parameters.items()}
    first, second = candidates(SupernetResult(alphas=alphas), space, 2)
    assert str(first.architecture).startswith("w8_d1.conv")
    assert str(second.architecture) == "w8_d1.skip"
    assert second.probability > 10 * first.probability
