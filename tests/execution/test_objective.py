import math
from collections.abc import Iterator

import optuna
import pytest
import torch
from optuna.trial import FixedTrial, FrozenTrial, TrialState

from nas_optuna import ConvSpace, NasOptunaError, Objective, Recipe, SearchData, TrialRecord
from nas_optuna.costs.complexity import figures
from nas_optuna.errors import TrainingError
from nas_optuna.execution import loop
from nas_optuna.execution.evaluator import Measurement, TrainingEvaluator
from nas_optuna.execution.events import Callback, Subject
from nas_optuna.execution.objective import EvaluatorObjective
from nas_optuna.report.facts import figures_of
from nas_optuna.spaces.architecture import Architecture
from nas_optuna.training import EpochResult
from tests.helpers import RECIPE

WIDE = "f8k7s1-f8k7s1"
NARROW = "f4k3s1-f4k3s1"


def evaluate(objective: Objective, *texts: str, pruner: optuna.pruners.BasePruner | None = None) -> list[FrozenTrial]:
    study = optuna.create_study(direction="maximize", pruner=pruner or optuna.pruners.NopPruner())
    for text in texts:
        study.enqueue_trial(dict(objective.space.parse(text).params))
    study.optimize(objective, n_trials=len(texts))
    return study.trials


def test_it_is_a_plain_optuna_objective(objective: Objective) -> None:
    study = optuna.create_study(direction="maximize", sampler=optuna.samplers.RandomSampler(seed=0))
    study.optimize(objective, n_trials=3)
    for trial in study.trials:
        assert trial.state == TrialState.COMPLETE
        assert list(trial.intermediate_values) == [1, 2]
        assert trial.value == trial.intermediate_values[2]
        architecture = objective.space.architecture(trial.params)
        counted = figures(objective.space, architecture)
        record = TrialRecord.of(trial)
        assert record.architecture == str(architecture)
        assert (record.costs["macs"], record.costs["params"], record.epochs) == (counted.macs, counted.params, 2)
        assert record.origin == "RandomSampler"
        assert record.seconds > 0
        assert trial.user_attrs["nas_optuna:device"]
        assert trial.user_attrs["nas_optuna:seed"] == 0
        assert record.cause is None


def test_it_works_on_a_fixed_trial(objective: Objective) -> None:
    trial = FixedTrial(dict(objective.space.parse(WIDE).params))
    value = objective(trial)
    assert 0.1 < value <= 1
    assert trial.user_attrs["nas_optuna:origin"] == "fixed"
    enqueued = evaluate(objective, WIDE)[0]
    assert (enqueued.value, enqueued.user_attrs["nas_optuna:origin"]) == (value, "enqueued")


def test_a_fixed_trial_that_lacks_a_parameter_or_names_no_choice_is_told_so(objective: Objective) -> None:
    known = dict(objective.space.parse(WIDE).params)
    with pytest.raises(optuna.TrialPruned, match=r"^conv1\.kernel: '4' is outside its choices; choose one of \("):
        objective(FixedTrial(known | {"conv1.kernel": 4}))
    del known["conv1.kernel"]
    with pytest.raises(
        optuna.TrialPruned, match=r"^parameter 'conv1\.kernel' has no value; choose one of \([\d, ]+\)$"
    ):
        objective(FixedTrial(known))


def test_a_study_that_knows_a_parameter_with_other_choices_is_refused_with_the_remedy(
    objective: Objective, data: SearchData
) -> None:
    study = optuna.create_study(direction="maximize")
    study.optimize(objective, n_trials=1)
    wider = ConvSpace(depth=2, input_size=objective.space.input_size, filters=(4, 8, 12))
    with pytest.raises(NasOptunaError, match=r"knows 'conv1\.filters' with other choices .*; create another study"):
        study.optimize(Objective(wider, data, RECIPE), n_trials=1)


@pytest.mark.parametrize(
    ("limits", "says"),
    [
        ({"parms": 3000}, "unknown cost 'parms'; did you mean 'params'"),
        ({"params": math.nan}, "'nan' is not a positive amount"),
        ({"params": None}, "'None' is not a positive amount"),
        ({"params": "1"}, "no architecture has params of at most 1"),
    ],
)
def test_a_limit_that_could_not_be_kept_is_refused(
    space: ConvSpace, data: SearchData, limits: dict[str, float], says: str
) -> None:
    with pytest.raises(NasOptunaError, match=says):
        Objective(space, data, RECIPE, limits=limits)


def test_the_front_door_alone_is_enough(space: ConvSpace, data: SearchData) -> None:
    heard: list[Measurement] = []

    class Listener(Callback):
        def step_finished(self, subject: Subject, measurement: Measurement) -> None:
            heard.append(measurement)

    objective = Objective(space, data, RECIPE, callbacks=[Listener()])
    optuna.create_study(direction="maximize").optimize(objective, n_trials=1)
    assert [measurement.step for measurement in heard] == [1, 2]


@pytest.mark.parametrize(
    "error", [TrainingError("layer 'x' cannot be written as ONNX"), RuntimeError("no such kernel")]
)
def test_a_trial_whose_costs_cannot_be_known_says_why(
    error: Exception, objective: Objective, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(architecture: Architecture) -> float:
        raise error

    monkeypatch.setattr(objective.costs["macs"], "refuse", refuse, raising=False)
    monkeypatch.setattr(type(objective.costs["macs"]), "__call__", lambda self, architecture: self.refuse(architecture))
    trial = FixedTrial(dict(objective.space.parse(WIDE).params))
    with pytest.raises(TrainingError, match=str(error)):
        objective(trial)
    assert str(error) in trial.user_attrs["nas_optuna:cause"]


def test_an_architecture_is_trained_once(objective: Objective) -> None:
    first, other, again, third = evaluate(objective, WIDE, NARROW, WIDE, WIDE)
    assert "nas_optuna:duplicate_of" not in first.user_attrs
    assert "nas_optuna:duplicate_of" not in other.user_attrs
    for trial in (again, third):
        assert trial.user_attrs["nas_optuna:duplicate_of"] == 0
        assert trial.value == first.value
        assert trial.state == TrialState.COMPLETE
        assert "nas_optuna:epochs" not in trial.user_attrs


def test_what_a_function_around_it_makes_of_a_value_is_made_once(objective: Objective) -> None:
    study = optuna.create_study(direction="maximize")
    for _ in range(3):
        study.enqueue_trial(dict(objective.space.parse(WIDE).params))
    study.optimize(lambda trial: objective(trial) - 1, n_trials=3)
    assert study.trials[2].user_attrs["nas_optuna:duplicate_of"] == 0
    assert len({trial.value for trial in study.trials}) == 1


def test_it_is_trained_again_where_that_is_wanted(space: ConvSpace, data: SearchData) -> None:
    objective = Objective(space, data, RECIPE, reuse_duplicates=False)
    first, again = evaluate(objective, WIDE, WIDE)
    assert "nas_optuna:duplicate_of" not in again.user_attrs
    assert again.user_attrs["nas_optuna:epochs"] == 2
    assert again.value == first.value


def test_another_recipe_is_trained_again(space: ConvSpace, data: SearchData) -> None:
    study = optuna.create_study(direction="maximize")
    params = dict(space.parse(WIDE).params)
    for recipe in (RECIPE, RECIPE.model_copy(update={"seed": 1})):
        study.enqueue_trial(params)
        study.optimize(Objective(space, data, recipe), n_trials=1)
    assert "nas_optuna:duplicate_of" not in study.trials[1].user_attrs
    assert study.trials[0].value != study.trials[1].value


class PruneAfterFirst(optuna.pruners.BasePruner):
    def prune(self, study: optuna.Study, trial: FrozenTrial) -> bool:
        return trial.number > 0


def test_pruning_ends_a_trial_and_what_proposes_it_again(objective: Objective) -> None:
    study = optuna.create_study(direction="maximize", pruner=PruneAfterFirst())
    for text in (NARROW, WIDE, WIDE):
        params = dict(objective.space.parse(text).params)
        study.sampler = optuna.samplers.PartialFixedSampler(params, optuna.samplers.RandomSampler(seed=0))
        study.optimize(objective, n_trials=1)
    first, pruned, again = study.trials
    assert first.state == TrialState.COMPLETE
    assert pruned.state == again.state == TrialState.PRUNED
    assert pruned.user_attrs["nas_optuna:epochs"] == 1
    assert "nas_optuna:cause" not in pruned.user_attrs
    assert again.user_attrs["nas_optuna:duplicate_of"] == 1
    assert again.intermediate_values == pruned.intermediate_values
    assert again.value == pruned.value


def test_the_last_epoch_is_never_pruned(space: ConvSpace, data: SearchData) -> None:
    objective = Objective(space, data, Recipe(epochs=1, input_size=8))
    assert [t.state for t in evaluate(objective, WIDE, NARROW, pruner=PruneAfterFirst())] == [TrialState.COMPLETE] * 2


def test_a_loss_that_is_not_finite_prunes_with_its_cause(space: ConvSpace, data: SearchData) -> None:
    recipe = RECIPE.model_copy(update={"learning_rate": 1e18, "optimizer": "sgd"})
    diverged, again = evaluate(Objective(space, data, recipe), WIDE, WIDE)
    for trial in (diverged, again):
        assert trial.state == TrialState.PRUNED
        assert trial.user_attrs["nas_optuna:cause"] == "non-finite loss"
        assert trial.value is None or math.isfinite(trial.value)
    assert again.user_attrs["nas_optuna:duplicate_of"] == 0


def test_repeats_are_scored_by_their_mean(space: ConvSpace, data: SearchData) -> None:
    def of(**changes: int) -> FrozenTrial:
        return evaluate(Objective(space, data, RECIPE.model_copy(update=changes)), WIDE)[0]

    both = of(repeats=2)
    one, other = of(seed=0), of(seed=1)
    assert one.value is not None
    assert other.value is not None
    assert both.value == pytest.approx((one.value + other.value) / 2)
    assert both.user_attrs["nas_optuna:spread"] == pytest.approx(abs(one.value - other.value) / math.sqrt(2))
    assert both.user_attrs["nas_optuna:epochs"] == 4


def test_the_spread_is_that_of_the_accuracy_that_selects(
    space: ConvSpace, data: SearchData, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A network that repeats another has its spread, and accuracies without one have the error of the images."""
    eight_bits = (0.5, 0.7)

    def trained(self: TrainingEvaluator, architecture: object, seed: int, *_: object) -> Iterator[EpochResult]:
        yield EpochResult(1, 0.0, 0.0, 0.1, 0.9, 0.0, 1, {"accuracy_int8": eight_bits[seed]})

    monkeypatch.setattr(TrainingEvaluator, "_training", trained)
    recipe = RECIPE.model_copy(update={"repeats": 2})
    trials = evaluate(Objective(space, data, recipe, objectives=["accuracy_int8"]), WIDE, WIDE)
    assert "nas_optuna:duplicate_of" in trials[1].user_attrs
    for trial in trials:
        assert trial.value == pytest.approx(0.6)
        assert trial.user_attrs["nas_optuna:spread"] == pytest.approx(0.2 / math.sqrt(2))
        shown = dict(figures_of(TrialRecord.of(trial), ["accuracy_int8"], 10_000))
        assert shown["accuracy_int8"] == "0.6000 ± 0.1000"
        assert shown["accuracy"] == "0.9000 ± 0.0030"


def test_what_the_device_cannot_do_is_refused_before_any_trial(space: ConvSpace, data: SearchData) -> None:
    with pytest.raises(NasOptunaError, match="fp16"):
        Objective(space, data, RECIPE.model_copy(update={"precision": "fp16"}), device="cpu")
    with pytest.raises(NasOptunaError, match="not on this machine"):
        Objective(space, data, RECIPE, device="cuda:99")


class Refusing(optuna.samplers.RandomSampler):
    """A sampler that is asked for what it cannot give."""

    def sample_independent(self, study: object, trial: object, name: str, distribution: object) -> object:
        raise ValueError("it wants other parameters")


class Foreign(optuna.samplers.RandomSampler):
    """A sampler that proposes what is no choice."""

    def sample_independent(self, study: object, trial: object, name: str, distribution: object) -> object:
        return "no choice"


@pytest.mark.parametrize(
    ("sampler", "says"), [(Refusing(), "it wants other parameters"), (Foreign(), "'no choice' is outside its choices")]
)
@pytest.mark.parametrize("search", [{}, {"batch_size": "8,16"}])
def test_a_sampler_that_refuses_ends_the_run_and_not_each_trial(
    space: ConvSpace, data: SearchData, sampler: optuna.samplers.BaseSampler, says: str, search: dict[str, object]
) -> None:
    objective = EvaluatorObjective(TrainingEvaluator(space, data, RECIPE, torch.device("cpu")), search=search)
    study = optuna.create_study(direction="maximize", sampler=sampler)
    study.enqueue_trial({"recipe.batch_size": "none", "conv1.kernel": 99})  # nobody else's fault: it ends alone
    with pytest.raises(NasOptunaError, match=says):
        loop.run(study, objective, trials=3)
    assert [trial.state for trial in study.trials] == [TrialState.PRUNED, TrialState.WAITING]
