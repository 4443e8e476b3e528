from statistics import median
from typing import Any
from unittest.mock import Mock

import optuna
import pytest
import torch

from nas_optuna.costs.candidates import Candidates
from nas_optuna.costs.latency import LatencyCost
from nas_optuna.costs.latency_table import LatencyTable
from nas_optuna.costs.study_costs import Limits
from nas_optuna.pruners import create_pruner
from nas_optuna.samplers import create_sampler
from nas_optuna.samplers.wrapping import FixedSampler, WithinLimitsSampler
from nas_optuna.spaces.architecture import Architecture
from nas_optuna.spaces.conv import ConvSpace
from nas_optuna.spec import StudySpec
from nas_optuna.spec_parts import make_sampler
from nas_optuna.study.schema import TrialKey

SPACE = ConvSpace(depth=3)


def filters(architecture: Architecture) -> float:
    return sum(int(value or 0) for name, value in architecture.items if name.endswith("filters"))


def create(name: str, limit: float, seed: int = 0) -> optuna.Study:
    sampler = WithinLimitsSampler(
        lambda s: create_sampler(name, SPACE, s, {}), SPACE, lambda a: max(0.0, filters(a) / limit - 1), seed
    )
    return optuna.create_study(direction="maximize", sampler=sampler)


def objective(trial: optuna.Trial) -> float:
    return filters(SPACE.suggest(trial)) + trial.params["conv1.kernel"]


@pytest.mark.parametrize(
    "name",
    ["random", "tpe", "nsga2", "qmc", "evolution", "controller", "arch", pytest.param("gp", marks=pytest.mark.slow)],
)
def test_proposals_are_inside(name: str) -> None:
    study = create(name, limit=64)  # one architecture in six
    study.optimize(objective, n_trials=25)
    assert all(filters(SPACE.architecture(t.params)) <= 64 for t in study.trials)
    assert len({tuple(t.params.items()) for t in study.trials}) > 3


@pytest.mark.parametrize("name", ["tpe", "evolution", "controller", "arch"])
def test_a_sampler_that_is_told_the_limits_proposes_inside_at_once(name: str) -> None:
    """But in the start, which is drawn at random: one draw in six is inside."""
    study = create(name, limit=64)
    study.optimize(objective, n_trials=30)
    proposals = [t.user_attrs[TrialKey.PROPOSALS] for t in study.trials[12:]]
    assert sum(p == 1 for p in proposals) >= 0.8 * len(proposals), proposals


@pytest.mark.parametrize("name", ["random", "tpe", "nsga2", "arch"])
@pytest.mark.parametrize("value", [24, 32])
def test_what_optuna_fixes_counts_beside_a_limit(name: str, value: int) -> None:
    study = create(name, limit=64)
    study.sampler = optuna.samplers.PartialFixedSampler({"conv1.filters": value}, study.sampler)
    study.optimize(objective, n_trials=4)
    assert {trial.params["conv1.filters"] for trial in study.trials} == {value}
    assert all(filters(SPACE.architecture(trial.params)) <= 64 for trial in study.trials)


def test_what_else_a_trial_chooses_is_searched_beside_a_limit() -> None:
    rates = []
    for sign in (1.0, -1.0):
        study = create("arch", limit=64)
        for _ in range(16):
            trial = study.ask()
            rate = trial.suggest_float("recipe.learning_rate", 1e-4, 1e-1, log=True)
            SPACE.suggest(trial)
            study.tell(trial, sign * rate)
        rates.append(median(trial.params["recipe.learning_rate"] for trial in study.trials[11:]))
    high, low = rates
    assert high > 10 * low, "the sampler has learned which rates are good"


def test_a_stopped_training_goes_on_beside_a_limit_with_its_own_rate() -> None:
    """With another learning rate it would be another training, which begins anew."""
    study = create("curves", limit=64)
    study.pruner = create_pruner("curves", 10, {})

    def train(trial: optuna.Trial) -> float:
        trial.suggest_float("recipe.learning_rate", 1e-4, 1e-1, log=True)
        value = objective(trial)
        for epoch in range(1, 11):
            trial.report(value * epoch / 10, epoch)
            if epoch < 10 and trial.should_prune():
                raise optuna.TrialPruned
        return value

    study.optimize(train, n_trials=12)
    chosen = [tuple(sorted(trial.params.items())) for trial in study.trials]
    assert len(set(chosen)) < len(chosen)


def test_a_parameter_of_one_choice_is_proposed_beside_a_limit() -> None:
    """Optuna asks for it by itself, before the sampler has seen the other parameters."""
    space = ConvSpace(depth=2, strides=(1,))
    sampler = WithinLimitsSampler(
        lambda s: create_sampler("tpe", space, s, {}), space, lambda a: max(0.0, filters(a) / 48 - 1), 0
    )
    study = optuna.create_study(direction="maximize", sampler=sampler)
    study.optimize(lambda trial: filters(space.suggest(trial)), n_trials=16)
    assert all(filters(space.architecture(trial.params)) <= 48 for trial in study.trials)


def test_a_study_pinned_and_limited_keeps_both() -> None:
    def make(seed: int) -> optuna.samplers.BaseSampler:
        return FixedSampler(create_sampler("arch", SPACE, seed, {}), {"conv1.filters": 24})

    sampler = WithinLimitsSampler(make, SPACE, lambda a: filters(a) / 80 - 1, 0, {"conv1.filters": 24})
    study = optuna.create_study(direction="maximize", sampler=sampler)
    study.optimize(objective, n_trials=15)
    assert {t.params["conv1.filters"] for t in study.trials} == {24}
    assert all(filters(SPACE.architecture(t.params)) <= 80 for t in study.trials)


def test_a_limit_that_is_never_met_gives_the_nearest() -> None:
    study = create("random", limit=1)
    study.optimize(objective, n_trials=2)
    assert [filters(SPACE.architecture(t.params)) for t in study.trials] == [48, 48]
    assert len({t.user_attrs[TrialKey.PROPOSALS] for t in study.trials}) == 1


SMALL = ConvSpace(depth=3, filters=(16, 32, 48))
FEW = {SMALL.parse(f"f48k7s1-f48k{a}s1-f16k{b}s1") for a in (3, 7) for b in (5, 7)}


def few(name: str, asked: set[Architecture]) -> optuna.Study:
    """A study in which four networks of thousands are inside the limits."""

    def excess(architecture: Architecture) -> float:
        asked.add(architecture)
        return float(architecture not in FEW)

    sampler = WithinLimitsSampler(lambda s: create_sampler(name, SMALL, s, {}), SMALL, excess, 0)
    return optuna.create_study(direction="maximize", sampler=sampler)


@pytest.mark.parametrize("name", ["random", "tpe"])
def test_few_networks_inside_are_all_tried_before_any_is_repeated(name: str) -> None:
    study = few(name, set())
    study.optimize(lambda trial: filters(SMALL.suggest(trial)), n_trials=4)
    assert {SMALL.architecture(trial.params) for trial in study.trials} == FEW


class Built(ConvSpace):
    """Its networks are built to be counted."""

    sequential = False


@pytest.mark.parametrize(
    ("space", "cost", "most"),
    [
        (SMALL, "params", 10_000),
        (Built(), "params", 1_000),
        (SMALL, "arena", 1_000),
        (SMALL, "latency_ms", 0),
    ],
)
def test_fewer_networks_are_looked_through_where_each_is_built_and_none_where_it_is_measured(
    space: ConvSpace, cost: str, most: int
) -> None:
    limits = Limits.of(StudySpec.from_dict({"limits": {cost: 1.0}}), space, torch.device("cpu"))
    assert limits.most_asked == most


@pytest.mark.parametrize(("whole", "most"), [(False, 10_000), (True, 1_000)])
def test_a_table_of_operations_is_counted_and_one_of_whole_networks_is_not(
    whole: bool, most: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(LatencyTable, "open", lambda *_, **__: Mock(whole=whole))
    spec = StudySpec.from_dict({"limits": {"latency_ms": 1.0, "params": 1.0}, "latency": {"table": "x.json"}})
    assert Limits.of(spec, SMALL, torch.device("cpu")).most_asked == most


def test_of_fewer_networks_the_first_of_the_same_order_are_looked_through() -> None:
    asked: dict[int, list[Architecture]] = {}
    for most in (10, 10_000):
        asked[most] = []

        def excess(architecture: Architecture, found: list[Architecture] = asked[most]) -> float:
            found.append(architecture)
            return 1.0

        sampler = WithinLimitsSampler(lambda s: optuna.samplers.RandomSampler(s), SMALL, excess, 0, most_asked=most)
        optuna.create_study(sampler=sampler).optimize(lambda trial: filters(SMALL.suggest(trial)), n_trials=1)
    assert asked[10] == asked[10_000][: len(asked[10])]


@pytest.mark.parametrize("most", [0, 100])
def test_no_more_networks_are_looked_through_than_may_be_asked_about(most: int) -> None:
    asked: set[Architecture] = set()

    def excess(architecture: Architecture) -> float:
        asked.add(architecture)
        return 1.0

    sampler = WithinLimitsSampler(lambda s: optuna.samplers.RandomSampler(s), SMALL, excess, 0, most_asked=most)
    optuna.create_study(sampler=sampler).optimize(lambda trial: filters(SMALL.suggest(trial)), n_trials=1)
    assert most < len(asked) <= 8 + 248 + most


@pytest.mark.parametrize("name", ["random", "tpe", "nsga2"])
def test_a_study_in_two_processes_is_the_study_in_one(name: str) -> None:
    whole, parts = create(name, 64), create(name, 64)
    whole.optimize(objective, n_trials=24)
    parts.optimize(objective, n_trials=12)
    parts.sampler = create(name, 64).sampler
    parts.optimize(objective, n_trials=12)
    assert [t.params for t in whole.trials] == [t.params for t in parts.trials]


def test_an_enqueued_architecture_is_left_alone() -> None:
    study = create("tpe", limit=64)
    large = dict(SPACE.parse("f48k7s1-f48k7s1-f48k7s1").params)
    study.enqueue_trial(large)
    study.enqueue_trial({"conv1.filters": 48})
    study.optimize(objective, n_trials=2)
    assert study.trials[0].params == large
    assert study.trials[1].params["conv1.filters"] == 48


@pytest.mark.parametrize("fixed", [{}, {"conv1.filters": 8}])
def test_a_grid_tries_all_that_is_inside_and_nothing_else(fixed: dict[str, Any]) -> None:
    space = ConvSpace(depth=2, filters=(4, 8), kernels=(3, 5), strides=(1,), input_size=8)
    spec = StudySpec.from_dict({"sampler": "grid", "limits": {"params": 1_000}})
    candidates = Candidates(Limits.of(spec, space, torch.device("cpu")), fixed)
    sampler = make_sampler(spec, candidates)
    study = optuna.create_study(sampler=sampler)
    study.optimize(lambda trial: filters(space.suggest(trial)), n_trials=space.size)
    inside = [architecture for architecture in space.enumerate() if architecture in candidates]
    assert len(inside) == (2 if fixed else 6)
    assert {space.architecture(trial.params) for trial in study.trials} == set(inside)
    assert len(study.trials) == len(inside)


def test_a_grid_measures_nothing_by_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    """The trial of a network measures it, and ends if it is outside."""
    monkeypatch.setattr(LatencyCost, "__call__", lambda *_: pytest.fail("the sampler measures"))
    space = ConvSpace(depth=2, filters=(4, 8), kernels=(3, 5), strides=(1,), input_size=8)
    spec = StudySpec.from_dict({"sampler": "grid", "limits": {"latency_ms": 1e-9}})
    study = optuna.create_study(sampler=make_sampler(spec, Candidates(Limits.of(spec, space, torch.device("cpu")))))
    study.optimize(lambda trial: filters(space.suggest(trial)), n_trials=space.size + 1)
    assert {space.architecture(trial.params) for trial in study.trials} == set(space.enumerate())
    assert len(study.trials) == space.size


def test_a_grid_beside_a_measured_limit_keeps_to_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(LatencyCost, "__call__", lambda *_: pytest.fail("the sampler measures"))
    space = ConvSpace(depth=2, filters=(4, 8), kernels=(3, 5), strides=(1,), input_size=8)
    spec = StudySpec.from_dict({"sampler": "grid", "limits": {"latency_ms": 1e-9, "params": 1000}})
    limits = Limits.of(spec, space, torch.device("cpu"))
    study = optuna.create_study(sampler=make_sampler(spec, Candidates(limits)))
    study.optimize(lambda trial: filters(space.suggest(trial)), n_trials=space.size + 1)
    inside = {each for each in space.enumerate() if limits.costs.of("params", each) <= 1000}
    assert 0 < len(inside) < space.size
    assert {space.architecture(trial.params) for trial in study.trials} == inside


def test_it_is_called_by_the_name_of_its_sampler() -> None:
    assert str(create("tpe", 64).sampler) == "TPESampler"
