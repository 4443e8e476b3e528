"""The figures of a check, on values known beforehand."""

import optuna
import pytest
from scipy import stats

from nas_optuna.execution.supernet_check import judge, random_architectures, rank_correlation
from nas_optuna.experiment import Experiment
from nas_optuna.spec import StudySpec
from nas_optuna.study.schema import TrialKey


def test_rank_correlations_are_scipys_and_their_intervals_hold_them() -> None:
    x, y = [0.1, 0.4, 0.3, 0.9, 0.5, 0.7], [1.0, 2.0, 2.5, 6.0, 3.0, 5.0]
    for kind, function in (("kendall", stats.kendalltau), ("spearman", stats.spearmanr)):
        found = rank_correlation(kind, x, y)
        assert found.value == pytest.approx(function(x, y).statistic)
        assert found.lower <= found.value <= found.upper


def test_a_constant_score_has_no_correlation() -> None:
    assert rank_correlation("kendall", [0.5] * 5, [1, 2, 3, 4, 5]).value == 0


@pytest.mark.parametrize(
    ("argmax_value", "seconds", "trained", "word"),
    [(0.95, 5.0, 3, "better"), (0.5, 5.0, 3, "worse"), (0.5, 0.0, 1, "")],
)
def test_verdict_counts_what_random_search_could_afford(
    argmax_value: float, seconds: float, trained: int, word: str
) -> None:
    search = Experiment.from_spec(StudySpec.from_dict({"space": {"name": "conv", "depth": 1}})).search
    argmax, *drawn = random_architectures(search, 7, seed=0)
    study = optuna.create_study(direction="maximize")
    values = [argmax_value, 0.6, 0.9, 0.7, 0.99, 0.8, 0.65]
    for architecture, value in zip([argmax, *drawn], values, strict=True):
        attributes = {
            TrialKey.ARCHITECTURE: str(architecture),
            TrialKey.RECIPE: search.spec.recipe.fingerprint,
            TrialKey.SECONDS: 2.0,
        }
        study.add_trial(optuna.create_trial(value=value, user_attrs=attributes, intermediate_values={1: value}))
    verdict = judge(study, search, drawn, argmax, values[1:], seconds)
    assert verdict.kendall.value == pytest.approx(1)
    assert verdict.budget_seconds == seconds + 2
    assert verdict.random_trained == trained
    assert verdict.random_accuracy == max(values[1 : trained + 1])
    assert verdict.argmax_rank == 1 + sum(v > argmax_value for v in values[1:])
    assert word in verdict.sentence
    assert verdict.budget_covered
