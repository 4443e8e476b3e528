import math

import numpy as np
import pytest
from optuna.trial import create_trial

from nas_optuna.study.significance import Measured, error_of, sampling_error, standard_error


@pytest.mark.parametrize(("accuracy", "images"), [(0.9, 1000), (0.97, 288), (0.5, 96)])
def test_the_error_is_the_deviation_of_many_samples(accuracy: float, images: int) -> None:
    samples = np.random.default_rng(0).binomial(images, accuracy, 100_000) / images
    assert sampling_error(accuracy, images) == pytest.approx(samples.std(), rel=0.15)


def test_a_perfect_accuracy_has_an_error() -> None:
    assert 0.004 < sampling_error(1.0, 288) < 0.01


@pytest.mark.parametrize(("accuracy", "images"), [(0.9, 0), (1.1, 10), (math.nan, 10)])
def test_what_is_no_accuracy_is_refused(accuracy: float, images: int) -> None:
    with pytest.raises(ValueError, match="no standard error"):
        sampling_error(accuracy, images)


def test_trainings_that_differ_more_than_samples_have_a_larger_error() -> None:
    def error(spread: float | None, images: int | None) -> float | None:
        attributes = {} if spread is None else {"nas_optuna:spread": spread}
        trial = create_trial(value=0.9, user_attrs=attributes)
        assert error_of(trial, images) == standard_error(0.9, images, spread)
        return error_of(trial, images)

    assert error(0.2, 288) == pytest.approx(0.2 / math.sqrt(2))
    assert error(0.0, 288) == error(None, 288) == sampling_error(0.9, 288)
    assert error(0.2, None) == error(0.2, 10**6)
    assert error(None, None) is error(math.nan, None) is error(math.inf, None) is None


@pytest.mark.parametrize(("spread", "seeds", "expected"), [(None, 1, None), (0.001, 4, None), (0.2, 4, 0.1)])
def test_a_test_accuracy_errs_by_its_images_or_by_its_seeds(
    spread: float | None, seeds: int, expected: float | None
) -> None:
    report = {"mean": 0.9, "test_images": 359, "spread": spread, "seeds": list(range(seeds))}
    assert Measured.on_test(report).error == pytest.approx(expected or sampling_error(0.9, 359))
