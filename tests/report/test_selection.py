import optuna
import pytest
from optuna.trial import TrialState, create_trial

from nas_optuna.report.selection import winners


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
