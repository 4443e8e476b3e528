import math

import numpy as np
import optuna
import pytest
from optuna.trial import TrialState, create_trial

from nas_optuna.report.selection import winners
from nas_optuna.report.standard_errors import sampling_error, standard_error
from nas_optuna.study.records import TrialRecord


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
        attributes = {"nas_optuna:accuracy": 0.9} | ({} if spread is None else {"nas_optuna:spread": spread})
        return standard_error(TrialRecord.of(create_trial(value=0.9, user_attrs=attributes)), images)

    assert error(0.2, 288) == pytest.approx(0.2 / math.sqrt(2))
    assert error(0.0, 288) == error(None, 288) == sampling_error(0.9, 288)
    assert error(0.2, None) == error(0.2, 10**6)
    assert error(None, None) is None


def study(*trials: optuna.trial.FrozenTrial) -> optuna.Study:
    made = optuna.create_study(direction="maximize")
    made.add_trials(trials)
    return made


def trial(
    accuracy: float, macs: float | None, duplicate_of: int | None = None, **options: object
) -> optuna.trial.FrozenTrial:
    given = {"accuracy": accuracy, "macs": macs, "duplicate_of": duplicate_of}
    attributes = {f"nas_optuna:{name}": value for name, value in given.items() if value is not None}
    return create_trial(value=accuracy, user_attrs=attributes, **options)  # type: ignore[arg-type]


def test_the_cheapest_within_one_standard_error() -> None:
    searched = study(
        trial(0.970, 9e6),
        trial(0.965, 2e6),
        trial(0.961, 1e6),
        trial(0.962, 1e6),
        trial(0.950, 1e5),  # 0.97 on 288 images has an error of 0.011
        trial(0.999, 1e5, constraints={"macs": 1.0}),
        trial(0.969, None),
        trial(0.969, None, duplicate_of=6),
        create_trial(state=TrialState.PRUNED, user_attrs={"nas_optuna:macs": 1.0}, intermediate_values={1: 0.97}),
    )
    found, exact, unknown = (winners(searched, images) for images in (288, 10**6, None))
    assert found is not None
    assert exact is not None
    assert unknown is not None
    assert (found.best.number, found.cheapest.number) == (0, 3)
    assert [t.number for t in found.tied] == [0, 6, 1, 3, 2]
    assert exact.numbers == {0} == unknown.numbers
    assert unknown.error is None


def test_a_study_without_a_complete_trial_has_no_winner() -> None:
    assert winners(study(create_trial(state=TrialState.PRUNED, intermediate_values={1: 0.9})), 288) is None


def test_a_trial_that_ends_meanwhile_does_not_matter(monkeypatch: pytest.MonkeyPatch) -> None:
    searched = study(trial(0.9, 1e6))
    read = searched.get_trials

    def growing(*arguments: object, **options: object) -> list[optuna.trial.FrozenTrial]:
        found = read(*arguments, **options)  # type: ignore[arg-type]
        searched.add_trial(trial(0.9, 1e5))
        return found

    monkeypatch.setattr(searched, "get_trials", growing)
    found = winners(searched, 288)
    assert found is not None
    assert found.numbers == {0}
