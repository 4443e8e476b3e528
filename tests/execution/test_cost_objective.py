from pathlib import Path

import optuna
import pytest
from optuna.trial import FixedTrial, TrialState

from nas_optuna.costs.complexity import figures
from nas_optuna.data import SearchData, load_data
from nas_optuna.errors import SpecError
from nas_optuna.execution.training_objective import Objective
from nas_optuna.pruners import create_pruner
from nas_optuna.spaces.conv import ConvSpace
from nas_optuna.spec import DataSpec, Recipe
from nas_optuna.study.results import TrialRecord
from nas_optuna.study.schema import TrialKey

SPACE = ConvSpace(depth=2, filters=(4, 16), kernels=(3,), strides=(1, 2), input_size=8)
RECIPE = Recipe(epochs=3, batch_size=64)
SMALL, LARGE = (dict(SPACE.parse(text).params) for text in ("f4k3s2-f4k3s2", "f16k3s1-f16k3s1"))


@pytest.fixture(scope="module")
def data() -> SearchData:
    return load_data(DataSpec(name="digits", train_limit=400))


def run(objective: Objective, n_trials: int, **options: object) -> optuna.Study:
    directions = [criterion.direction for criterion in objective.criteria]
    study = optuna.create_study(directions=directions, **options)  # type: ignore[arg-type]
    study.enqueue_trial(SMALL)
    study.enqueue_trial(LARGE)
    study.optimize(objective, n_trials=n_trials)
    return study


def test_several_objectives_give_several_values(data: SearchData) -> None:
    objective = Objective(SPACE, data, RECIPE, objectives=("params", "accuracy", "latency_ms"))
    trial = FixedTrial(LARGE)
    params, accuracy, latency = objective(trial)  # type: ignore[misc]
    assert params == figures(SPACE, SPACE.architecture(LARGE)).params
    assert accuracy == trial.user_attrs[TrialKey.ACCURACY]
    assert latency == trial.user_attrs[TrialKey.cost("latency_ms")] > 0


def test_the_fastest_of_a_trainings_measurements_is_its_latency(
    data: SearchData, monkeypatch: pytest.MonkeyPatch
) -> None:
    times = iter((5.0, 4.0, 2.0, 3.0))
    monkeypatch.setattr("nas_optuna.costs.latency.measure", lambda *_: (1.0, next(times), 9.0))
    trial = FixedTrial(LARGE)
    _, latency = Objective(SPACE, data, RECIPE, objectives=("accuracy", "latency_ms"))(trial)  # type: ignore[misc]
    assert latency == trial.user_attrs[TrialKey.cost("latency_ms")] == 2.0
    assert not list(times), "one before the training and one in each of three epochs"


def test_a_soft_target_scales_the_accuracy(data: SearchData) -> None:
    study = run(Objective(SPACE, data, RECIPE, objectives=("accuracy*(macs/1k)^-0.5",)), 2)
    for trial in study.trials:
        assert trial.value == pytest.approx(
            trial.user_attrs["nas_optuna:accuracy"] * (trial.user_attrs["nas_optuna:macs"] / 1e3) ** -0.5
        )
        assert trial.intermediate_values[RECIPE.epochs] == trial.value


def test_an_architecture_above_a_limit_is_not_trained(data: SearchData) -> None:
    limit = figures(SPACE, SPACE.architecture(LARGE)).macs - 1
    study = run(Objective(SPACE, data, RECIPE, limits={"macs": limit}), 2)
    small, large = study.trials
    assert (small.state, large.state) == (TrialState.COMPLETE, TrialState.PRUNED)
    assert small.constraints["macs"] < 0 < large.constraints["macs"]
    assert large.values is None
    assert not {TrialKey.EPOCHS, TrialKey.SECONDS} & set(large.user_attrs)
    assert large.user_attrs[TrialKey.CAUSE] == "above the limit of macs"
    assert [TrialRecord.of(trial).feasible for trial in study.trials] == [True, False]
    assert study.best_trial.number == small.number


def test_a_limit_holds_for_a_repeated_architecture_too(data: SearchData) -> None:
    objective = Objective(SPACE, data, RECIPE, limits={"macs": figures(SPACE, SPACE.architecture(LARGE)).macs - 1})
    study = run(objective, 2)
    study.enqueue_trial(SMALL)
    study.enqueue_trial(LARGE)
    study.optimize(objective, n_trials=2)
    assert [t.state.name for t in study.trials] == ["COMPLETE", "PRUNED"] * 2
    assert study.trials[2].user_attrs[TrialKey.DUPLICATE_OF] == 0
    assert [t.constraints for t in study.trials[2:]] == [t.constraints for t in study.trials[:2]]


def test_a_repeated_architecture_has_the_latency_measured_first(data: SearchData) -> None:
    study = run(Objective(SPACE, data, RECIPE, objectives=("accuracy", "latency_ms")), 2)
    study.enqueue_trial(LARGE)
    study.optimize(Objective(SPACE, data, RECIPE, objectives=("accuracy", "latency_ms")), n_trials=1)
    again, first = study.trials[2], study.trials[1]
    assert again.values == first.values
    assert (
        again.user_attrs[TrialKey.cost("latency_ms")]
        == first.user_attrs[TrialKey.cost("latency_ms")]
        == first.values[1]
    )


def test_a_limit_that_nothing_meets_is_refused_before_anything_runs(data: SearchData) -> None:
    with pytest.raises(SpecError, match="no architecture has params of at most 10; the smallest possible is"):
        Objective(SPACE, data, RECIPE, limits={"params": 10})


def test_several_objectives_are_pruned_by_accuracy(data: SearchData, tmp_path: Path) -> None:
    objective = Objective(SPACE, data, RECIPE, objectives=("accuracy", "macs"))
    study = run(
        objective,
        12,
        pruner=create_pruner("asha", RECIPE.epochs, {}),
        sampler=optuna.samplers.RandomSampler(seed=1),
        storage=f"sqlite:///{tmp_path}/s.db",
    )
    pruned = [t for t in study.trials if t.state == TrialState.PRUNED and TrialKey.DUPLICATE_OF not in t.user_attrs]
    complete = [t for t in study.trials if t.state == TrialState.COMPLETE]
    assert pruned
    assert all(t.values is None and t.user_attrs[TrialKey.EPOCHS] < RECIPE.epochs for t in pruned)
    assert all(len(t.values) == 2 for t in complete)
    assert {t.number for t in study.best_trials} <= {t.number for t in complete}
