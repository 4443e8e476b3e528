from functools import partial
from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.distributions import BaseDistribution, CategoricalDistribution, IntDistribution
from optuna.samplers import BaseSampler
from optuna.storages import InMemoryStorage
from optuna.trial import TrialState, create_trial

from nas_optuna import Experiment, StudySpec
from nas_optuna.errors import SpecError
from nas_optuna.pruners import create_pruner
from nas_optuna.samplers import SAMPLERS, create_sampler, grid
from nas_optuna.samplers.curves import CurveSampler, read_curves
from nas_optuna.samplers.wrapping import AmongSampler, WithinLimitsSampler
from nas_optuna.spaces.architecture import Architecture
from nas_optuna.spaces.conv import ConvSpace
from tests.helpers import Command, tiny

SPACE = ConvSpace(depth=2, input_size=8)
LISTED = [
    SPACE.parse(f"f{f}k{k}s1-f{g}k3s{s}").params for f in (16, 48) for k in (3, 5) for g in (16, 32) for s in (1, 2)
]


@pytest.mark.parametrize("name", [name for name in SAMPLERS.names() if name not in ("supernet", "grid")])
def test_every_sampler_keeps_to_the_list_and_tries_all_of_it(name: str) -> None:
    sampler = AmongSampler(create_sampler(name, SPACE, 0, {}), SPACE, LISTED, seed=0)
    study = optuna.create_study(direction="maximize", sampler=sampler)
    tried = []
    for _ in LISTED:
        trial = study.ask()
        tried.append(str(SPACE.suggest(trial)))
        study.tell(trial, trial.params["conv1.filters"] + trial.params["conv2.filters"])
    listed = {str(SPACE.architecture(params)) for params in LISTED}
    assert set(tried) <= listed
    assert len(set(tried)) == len(listed)


@pytest.mark.parametrize("name", ["random", "tpe", "gp", "evolution", "controller", "arch", "curves"])
def test_what_optuna_fixes_is_chosen_from_the_list(name: str) -> None:
    listed = AmongSampler(create_sampler(name, SPACE, 0, {}), SPACE, LISTED, seed=0)
    sampler = optuna.samplers.PartialFixedSampler({"conv1.filters": 16}, listed)
    study = optuna.create_study(direction="maximize", sampler=sampler)
    tried = []
    for _ in range(8):
        trial = study.ask()
        tried.append(str(SPACE.suggest(trial)))
        study.tell(trial, trial.params["conv2.filters"])
    assert sorted(tried) == sorted(str(SPACE.architecture(p)) for p in LISTED if p["conv1.filters"] == 16)


@pytest.mark.parametrize("name", ["random", "tpe", "evolution", "controller", "arch", "curves"])
def test_a_list_says_nothing_of_what_else_a_trial_chooses(name: str) -> None:
    """Settings of the recipe are searched beside the listed architectures."""
    sampler = AmongSampler(create_sampler(name, SPACE, 0, {}), SPACE, LISTED, seed=0)
    study = optuna.create_study(direction="maximize", sampler=sampler)
    listed = {str(SPACE.architecture(params)) for params in LISTED}
    for _ in range(12):
        trial = study.ask()
        assert str(SPACE.suggest(trial)) in listed
        rate = trial.suggest_float("recipe.learning_rate", 1e-4, 1e-1, log=True)
        study.tell(trial, rate * trial.suggest_categorical("recipe.batch_size", [32, 64]))
    assert len({trial.params["recipe.learning_rate"] for trial in study.trials}) > 6
    assert {trial.params["recipe.batch_size"] for trial in study.trials} == {32, 64}


@pytest.mark.parametrize(
    ("searched", "ends"),
    [
        ({}, [True, True, True]),
        ({"recipe.batch_size": CategoricalDistribution([32, 64])}, [False, False, True]),
        ({"recipe.batch_size": IntDistribution(32, 64)}, [False, False, False]),
    ],
)
def test_a_list_ends_when_its_networks_had_all_settings(
    searched: dict[str, BaseDistribution], ends: list[bool]
) -> None:
    sampler = AmongSampler(create_sampler("curves", SPACE, 0, {}), SPACE, LISTED[:1], seed=0)
    study = optuna.create_study(sampler=sampler)
    exhausted = []
    for size in (32, 32, 64):
        params = {**LISTED[0], **dict.fromkeys(searched, size)}
        study.add_trial(create_trial(value=1.0, params=params, distributions={**SPACE.distributions(), **searched}))
        exhausted.append(sampler.is_exhausted(study))
    assert exhausted == ends


@pytest.mark.parametrize("listed", [False, True])
@pytest.mark.parametrize("fixed", [{}, {"conv1.kernel": 5}, {"recipe.batch_size": 64}])
def test_a_grid_goes_through_the_choices_of_settings(listed: bool, fixed: dict[str, int]) -> None:
    space = ConvSpace(depth=1, filters=(8, 16), kernels=(3, 5), input_size=8)
    wanted = [each.params for each in space.enumerate()][: 5 if listed else None]
    sampler: BaseSampler = create_sampler("grid", space, 0, {})
    sampler = AmongSampler(sampler, space, wanted, seed=0) if listed else sampler
    study = optuna.create_study(sampler=optuna.samplers.PartialFixedSampler(fixed, sampler) if fixed else sampler)

    def score(trial: optuna.Trial) -> float:
        space.suggest(trial)
        return trial.suggest_categorical("recipe.batch_size", [32, 64]) * trial.suggest_float("recipe.mix", 0, 1)

    study.optimize(score, n_trials=50)
    every = [{**params, "recipe.batch_size": size} for params in wanted for size in (32, 64)]
    tried = [{**trial.params, "recipe.mix": None} for trial in study.trials]
    assert len(tried) == len([each for each in every if each.items() >= fixed.items()])
    assert all({**each, "recipe.mix": None} in tried for each in every if each.items() >= fixed.items())


def test_a_new_grid_of_too_many_networks_with_settings_is_refused_and_listed_for_no_question() -> None:
    space = {"name": "conv", "depth": 3, "filters": [4, 8], "strides": [1]}  # 216 networks
    search = {"batch_size": list(range(1, 31)), "learning_rate": [i / 100 for i in range(1, 21)]}
    spec = {"sampler": "grid", "space": space, "recipe": {"epochs": 1, "input_size": 8}, "search": search}
    says = r"^sampler 'grid' lists every .* choice of the settings, together 129,600 \(more than 100,000\); use random"
    with pytest.raises(SpecError, match=says):
        Experiment.from_spec(StudySpec.from_dict(spec), device="cpu").create(InMemoryStorage(), "s")
    half = Experiment.from_spec(StudySpec.from_dict({**spec, "fixed": {"conv1.filters": 4}}), device="cpu")
    half.create(InMemoryStorage(), "s")


@pytest.mark.parametrize("listed", [False, True])
def test_a_stored_grid_of_too_many_networks_with_settings_tries_each_with_one_choice(
    listed: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(grid, "_COMBINATIONS", 10)
    space = ConvSpace(depth=1, filters=(8, 16), kernels=(3, 5), input_size=8)
    networks = list(space.enumerate())[: 6 if listed else None]
    sampler: BaseSampler = create_sampler("grid", space, 0, {})
    sampler = AmongSampler(sampler, space, [each.params for each in networks], seed=0) if listed else sampler
    study = optuna.create_study(sampler=sampler)
    tried, sizes = [], []

    def score(trial: optuna.Trial) -> float:
        tried.append(space.suggest(trial))
        sizes.append(trial.suggest_categorical("recipe.batch_size", [32, 64]))
        return 0.0

    study.optimize(score, n_trials=50)
    assert sorted(map(str, tried)) == sorted(map(str, networks))
    assert set(sizes) == {32, 64}


def test_listed_networks_are_tried_once_each_also_beside_searched_settings() -> None:
    sampler = AmongSampler(create_sampler("random", SPACE, 0, {}), SPACE, LISTED, seed=0)
    study = optuna.create_study(sampler=sampler)
    tried = set()
    for _ in LISTED:
        trial = study.ask()
        tried.add(str(SPACE.suggest(trial)))
        study.tell(trial, trial.suggest_float("recipe.learning_rate", 1e-4, 1e-1))
    assert len(tried) == len(LISTED)


def test_what_an_earlier_run_without_a_list_has_stopped_is_not_resumed() -> None:
    sampler = AmongSampler(create_sampler("curves", SPACE, 0, {}), SPACE, LISTED, seed=0)
    study = optuna.create_study(direction="maximize", sampler=sampler)
    create = partial(create_trial, distributions=dict(SPACE.distributions()))
    for place, params in enumerate(LISTED[:8]):
        curve = {epoch: 0.4 + epoch / 90 + place / 100 for epoch in range(1, 10)}
        study.add_trial(create(params=dict(params), value=curve[9], intermediate_values=curve))
    for kernel in (3, 5, 7):
        for filters in (24, 32):
            params = dict(SPACE.parse(f"f{filters}k{kernel}s1-f48k5s1").params)  # far ahead, but not listed
            study.add_trial(create(state=TrialState.PRUNED, params=params, intermediate_values={1: 0.8}))
    assert SPACE.suggest(study.ask()).params in LISTED


def widest(trial: optuna.Trial) -> float:
    """The more filters the better, which each of ten epochs shows."""
    final = sum(value for name, value in SPACE.suggest(trial).params.items() if name.endswith("filters")) / 100
    for epoch in range(1, 11):
        trial.report(final * epoch / 10, epoch)
        if epoch < 10 and trial.should_prune():
            raise optuna.TrialPruned
    return final


@pytest.mark.parametrize("count", [1, 6])
def test_of_a_short_list_each_network_is_trained_once_to_its_end(count: int) -> None:
    """It is used up before the model has had all its random networks; which stopped one goes on is for it to say."""
    sampler = AmongSampler(create_sampler("curves", SPACE, 0, {}), SPACE, LISTED[:count], seed=0)
    study = optuna.create_study(direction="maximize", sampler=sampler, pruner=create_pruner("curves", 10, {}))
    while not sampler.is_exhausted(study) and len(study.trials) < 20:
        study.optimize(widest, n_trials=1)
    complete = [str(SPACE.architecture(t.params)) for t in study.get_trials(states=[TrialState.COMPLETE])]
    assert len(complete) == len(set(complete)) == count
    assert all((trial.last_step or 0) > 1 for trial in study.trials[count:]), "it went on"


def test_a_list_is_used_up_for_a_worker_while_others_train_what_is_left_of_it() -> None:
    """Else it would train networks again, or one that runs already; of a stopped one it waits for nobody."""
    sampler = AmongSampler(create_sampler("curves", SPACE, 0, {}), SPACE, LISTED[:2], seed=0)
    study = optuna.create_study(direction="maximize", sampler=sampler)
    create = partial(create_trial, distributions=dict(SPACE.distributions()))
    study.add_trial(create(params=dict(LISTED[0]), value=0.6, intermediate_values={1: 0.5, 2: 0.6}))
    study.add_trial(create(state=TrialState.PRUNED, params=dict(LISTED[1]), intermediate_values={1: 0.5}))
    assert not sampler.is_exhausted(study)
    trial = study.ask()
    assert SPACE.suggest(trial).params == LISTED[1]
    assert sampler.is_exhausted(study)


@pytest.mark.parametrize(
    ("last", "marks", "ends"),
    [
        (1, {}, True),
        (2, {}, False),
        (1, {"user_attrs": {"nas_optuna:duplicate_of": 0}}, False),
        (1, {"system_attrs": {"fixed_params": LISTED[0]}}, False),  # a person asked for it, without kept weights
    ],
)
def test_a_list_ends_where_what_was_stopped_comes_no_further(last: int, marks: dict[str, Any], ends: bool) -> None:
    """Another pruner stops it again at once, and the sampler does not resume it."""
    sampler = AmongSampler(create_sampler("curves", SPACE, 0, {}), SPACE, LISTED[:1], seed=0)
    study = optuna.create_study(direction="maximize", sampler=sampler)
    create = partial(create_trial, state=TrialState.PRUNED, distributions=dict(SPACE.distributions()))
    study.add_trial(create(params=dict(LISTED[0]), intermediate_values={1: 0.5}))
    assert not sampler.is_exhausted(study)
    curve = dict.fromkeys(range(1, last + 1), 0.5)
    study.add_trial(create(params=dict(LISTED[0]), intermediate_values=curve, **marks))
    assert sampler.is_exhausted(study) == ends
    curves = CurveSampler(SPACE, seed=0)
    curves.infer_relative_search_space(study, study.trials[-1])
    found = read_curves(curves._read(study, curves._common(study)), study)
    assert [curve.resumable for curve in found.values()] == [not ends]


@pytest.mark.parametrize("complete", [0, 1])
def test_a_stopped_network_goes_on_before_an_ended_one_is_repeated_where_nothing_is_new(complete: int) -> None:
    sampler = AmongSampler(create_sampler("curves", SPACE, 0, {}), SPACE, LISTED[:4], seed=0)
    study = optuna.create_study(direction="maximize", sampler=sampler)
    create = partial(create_trial, distributions=dict(SPACE.distributions()))
    for place, params in enumerate(LISTED[:4]):
        if place < complete:
            made = create(params=dict(params), value=0.6, intermediate_values={1: 0.5, 2: 0.6})
        elif place == 2:
            made = create(state=TrialState.PRUNED, params=dict(params), intermediate_values={1: 0.5})
        else:
            made = create(state=TrialState.FAIL, params=dict(params))
        study.add_trial(made)
    assert SPACE.suggest(study.ask()).params == LISTED[2]


def limited(name: str, filters: int) -> WithinLimitsSampler:
    def excess(architecture: Architecture) -> float:
        return architecture.params["conv1.filters"] / filters - 1

    listed = [params for params in LISTED if params["conv1.filters"] <= filters]
    return WithinLimitsSampler(
        lambda seed: AmongSampler(create_sampler(name, SPACE, seed, {}), SPACE, listed, seed), SPACE, excess, 0
    )


@pytest.mark.parametrize("name", ["random", "evolution", "curves"])
def test_under_a_limit_it_keeps_to_the_list_until_that_is_used_up(name: str) -> None:
    sampler = limited(name, 16)
    study = optuna.create_study(direction="maximize", sampler=sampler)
    tried: list[str] = []
    while not sampler.is_exhausted(study) and len(tried) < len(LISTED):
        trial = study.ask()
        tried.append(str(SPACE.suggest(trial)))
        study.tell(trial, trial.params["conv2.filters"])
    assert sorted(tried) == sorted(str(SPACE.architecture(p)) for p in LISTED if p["conv1.filters"] == 16)


def test_a_study_of_two_objectives_begins_within_the_list_and_ends_with_it(command: Command, tmp_path: Path) -> None:
    listed = tmp_path / "listed.txt"
    listed.write_text("f16k3s1-f48k3s1\nf48k5s2-f16k3s2\nf16k3s1-f48k3s1\n")  # one of them twice
    goals = ("--objective", "accuracy", "--objective", "macs")
    assert command("run", "--trials", 9, *tiny(), *goals, "--among", listed).code == 0
    trials = optuna.load_study(study_name="nas", storage="sqlite:///nas-optuna.db").trials
    assert [trial.user_attrs["nas_optuna:architecture"] for trial in trials] == listed.read_text().split()[1::-1]
