import warnings
from collections.abc import Sequence

import optuna
import pytest
from optuna.trial import TrialState, create_trial

from nas_optuna.errors import StudyError
from nas_optuna.metrics import ACCURACIES
from nas_optuna.report.facts import StudyFacts, Winners, accuracy_error, objectives_of
from nas_optuna.study.results import TrialRecord
from nas_optuna.study.schema import StudyKey, TrialKey
from nas_optuna.study.significance import Measured, sampling_error


def study(*trials: optuna.trial.FrozenTrial, names: Sequence[str] = ("accuracy",)) -> optuna.Study:
    directions = ["maximize" if name == "accuracy" else "minimize" for name in names]
    made = optuna.create_study(directions=directions)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        made.set_metric_names(list(names))
    made.set_user_attr(StudyKey.DATA, {"validation": 288})
    made.add_trials(trials)
    return made


def trial(
    accuracy: float,
    macs: float | None,
    duplicate_of: int | None = None,
    architecture: str | None = None,
    **options: object,
) -> optuna.trial.FrozenTrial:
    given = {"accuracy": accuracy, "macs": macs, "duplicate_of": duplicate_of, "architecture": architecture}
    attributes = {f"nas_optuna:{name}": value for name, value in given.items() if value is not None}
    values = {} if "values" in options else {"value": accuracy}
    return create_trial(user_attrs=attributes, **values, **options)  # type: ignore[arg-type]


def numbers(found: Winners) -> set[int]:
    return {trial.number for trial in found.tied}


def test_an_accuracy_in_eight_bits_has_its_own_error() -> None:
    trial = create_trial(value=0.5, user_attrs={"nas_optuna:accuracy": 0.97})
    shown = objectives_of(TrialRecord.of(trial), ["accuracy_int8"], 288)
    assert shown == [("accuracy_int8", Measured.on(288, 0.5).exact)]


@pytest.mark.parametrize(
    ("objectives", "selects"),
    [
        (["accuracy_int8*(macs/1M)^-0.07"], "accuracy_int8"),
        (["accuracy*(macs/1M)^-0.07", "accuracy_int8"], "accuracy"),
        (["macs", "macro_f1"], "accuracy"),
    ],
)
def test_the_spread_is_that_of_the_accuracy_which_a_soft_target_needs(objectives: list[str], selects: str) -> None:
    record = TrialRecord.of(create_trial(values=[1.0] * len(objectives), user_attrs={TrialKey.SPREAD: 0.2}))
    errors = {name: accuracy_error(record, name, 0.9, objectives, 288) for name in ACCURACIES}
    alone = sampling_error(0.9, 288)
    assert errors == dict.fromkeys(ACCURACIES, alone) | {selects: pytest.approx(0.2 / 2**0.5)}


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
    everything = [StudyFacts(searched) for _ in range(3)]
    for facts, images in zip(everything, (288, 10**6, None), strict=True):
        facts.images = images
    found, exact, unknown = (facts.winners for facts in everything)
    assert found is not None
    assert exact is not None
    assert unknown is not None
    assert (found.best.number, found.cheapest.number) == (0, 3)
    assert [t.number for t in found.tied] == [0, 6, 1, 3, 2]
    assert numbers(exact) == {0} == numbers(unknown)
    assert unknown.error is None


def test_some_of_the_trials_are_compared_with_what_was_trained_as_long() -> None:
    """By a clock, what a latency table lets in may have ended before the last rung."""
    figures = ((0.6, 9.0, "reference"), (0.7, 9.0, "tpe"), (0.9, 30.0, "reference"))
    made = [
        create_trial(value=accuracy, user_attrs={TrialKey.RUNG: 1, TrialKey.SHARE: seconds, TrialKey.ORIGIN: origin})
        for accuracy, seconds, origin in figures
    ]
    facts = StudyFacts(study(*made))
    found = [facts.winners_among(allowed) for allowed in (None, [0, 1], [1])]
    assert [None if each is None else each.best.number for each in found] == [2, 1, 1]
    gains = [facts.gain_of(None if each is None else each.best) for each in found]
    beside = [None if gain is None or gain.reference is None else gain.reference.accuracy for gain in gains]
    assert beside == [0.9, 0.6, 0.6]


def test_a_study_without_a_complete_trial_has_no_winner() -> None:
    assert StudyFacts(study(create_trial(state=TrialState.PRUNED, intermediate_values={1: 0.9}))).winners is None


@pytest.mark.parametrize("names", [("macs", "accuracy"), ("accuracy", "macs")])
def test_only_a_study_that_begins_with_accuracy_has_ties(names: Sequence[str]) -> None:
    figures = ((0.80, 1e6), (0.81, 2e6), (0.50, 3e6))
    made = study(*(trial(a, m, values=[m, a] if names[0] == "macs" else [a, m]) for a, m in figures), names=names)
    found = StudyFacts(made).winners
    assert found is not None
    if names[0] == "accuracy":
        assert (found.best.number, numbers(found), found.cheapest.number) == (1, {0, 1}, 0)
        return
    assert (found.best.number, found.error, numbers(found), found.cheapest.number) == (0, None, {0}, 0)
    assert StudyFacts(made).choose("best").number == 0
    with pytest.raises(StudyError, match="no standard error is known of macs"):
        StudyFacts(made).choose("cheapest")


@pytest.mark.parametrize("which", ["worst", "-1", "1", "9" * 5000])
def test_what_is_no_trial_is_refused(which: str) -> None:
    with pytest.raises(StudyError, match="is no trial of this study; choose best, cheapest or a number below 1"):
        StudyFacts(study(trial(0.9, 1e6, architecture="f16"))).choose(which)


def test_a_trial_is_found_by_its_number_behind_a_removed_row() -> None:
    facts = StudyFacts(study(*(trial(0.9, 1e6, architecture=f"f{width}") for width in (16, 24, 32))))
    del facts.trials[1]
    assert facts.choose("2").number == 2
    with pytest.raises(StudyError, match="choose best, cheapest or a number below 3"):
        facts.choose("1")


def test_the_first_look_at_the_test_images_says_whether_the_best_has_learned() -> None:
    searched = study(trial(0.3, 1e6, architecture="f16"), trial(0.2, 1e6, architecture="f16"))
    searched.set_user_attr(StudyKey.DATA, {"validation": 36, "majority": 0.33})
    common = {"spread": None, "seeds": [0], "test_images": 100, "architecture": "f16"}
    without_trial = common | {"mean": 0.1}  # as 0.2 stored them

    def learned(*looks: dict[str, object]) -> bool:
        searched.set_user_attr(StudyKey.RETRAINED, list(looks))
        gain = StudyFacts(searched).gain
        assert gain is not None
        return gain.has_learned

    of_another, first, second = (common | {"trial": t, "mean": m} for t, m in ((1, 0.9), (0, 0.9), (0, 0.1)))
    assert [learned(), learned(without_trial), learned(of_another)] == [False] * 3
    assert learned(of_another, first, second)
    assert not learned(first | {"majority": 0.9})
