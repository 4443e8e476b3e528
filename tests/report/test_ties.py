import math

import numpy as np
import pytest
from optuna.trial import FrozenTrial, TrialState, create_trial

from nas_optuna.errors import StudyError
from nas_optuna.report.ties import standard_error, ties


def trial(accuracy: float, macs: float, **options: object) -> FrozenTrial:
    return create_trial(value=accuracy, user_attrs={"macs": macs}, **options)  # type: ignore[arg-type]


def macs(trial: FrozenTrial) -> float:
    return float(trial.user_attrs["macs"])


@pytest.mark.parametrize(("accuracy", "images"), [(0.9, 1000), (0.97, 288), (0.5, 96)])
def test_the_error_is_the_deviation_of_many_samples(accuracy: float, images: int) -> None:
    samples = np.random.default_rng(0).binomial(images, accuracy, 100_000) / images
    assert standard_error(accuracy, images) == pytest.approx(samples.std(), rel=0.15)


def test_a_perfect_accuracy_has_an_error() -> None:
    assert 0.004 < standard_error(1.0, 288) < 0.01


@pytest.mark.parametrize(("accuracy", "images"), [(0.9, 0), (1.1, 10), (math.nan, 10)])
def test_what_is_no_accuracy_is_refused(accuracy: float, images: int) -> None:
    with pytest.raises(ValueError, match="no standard error"):
        standard_error(accuracy, images)


def test_the_cheapest_within_one_standard_error() -> None:
    trials = [
        trial(0.970, 9e6),
        trial(0.965, 2e6),
        trial(0.961, 1e6),
        trial(0.962, 1e6),
        trial(0.950, 1e5),  # 0.97 on 288 images has an error of 0.011
        trial(0.999, 1e5, constraints={"macs": 1.0}),
        trial(0.969, math.nan),
        create_trial(state=TrialState.PRUNED, user_attrs={"macs": 1.0}, intermediate_values={1: 0.97}),
    ]
    for number, one in enumerate(trials):
        one.number = number
    found = ties(trials, 288, macs)
    assert (found.best.number, found.cheapest.number) == (0, 3)
    assert found.numbers == {0, 1, 2, 3, 6}
    assert [t.number for t in found.trials] == [0, 6, 1, 3, 2]
    assert ties(trials, 10**6, macs).numbers == {0}


def test_a_study_without_accuracies_says_what_to_do() -> None:
    with pytest.raises(StudyError, match="nas-optuna run"):
        ties([create_trial(state=TrialState.PRUNED, user_attrs={"macs": 1.0})], 288, macs)
