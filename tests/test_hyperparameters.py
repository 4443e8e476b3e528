"""Settings of the recipe beside the architecture."""

import re
from typing import Any

import optuna
import pytest
from optuna.distributions import (
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
    check_distribution_compatibility,
)

import nas_optuna as nas
from nas_optuna.errors import SpecError
from nas_optuna.hyperparameters import applied, own_values, parse_range, suggest
from nas_optuna.study.studies import create_study
from tests.helpers import RECIPE, Command, tiny


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("learning_rate", "1e-4..1e-1:log", FloatDistribution(1e-4, 1e-1, log=True)),
        ("learning_rate", {"low": 1e-4, "high": 1e-1, "log": True}, FloatDistribution(1e-4, 1e-1, log=True)),
        ("momentum", "0..0.9", FloatDistribution(0, 0.9)),
        ("batch_size", "16..64", IntDistribution(16, 64)),
        ("batch_size", "1e1..1e2:log", IntDistribution(10, 100, log=True)),
        ("batch_size", IntDistribution(16, 64), IntDistribution(16, 64)),
        ("learning_rate", FloatDistribution(1e-4, 1e-1, log=True), FloatDistribution(1e-4, 1e-1, log=True)),
        ("optimizer", CategoricalDistribution(["sgd", "adamw"]), CategoricalDistribution(("sgd", "adamw"))),
        ("batch_size", [32, 64], CategoricalDistribution((32, 64))),
        ("batch_size", "32,64", CategoricalDistribution((32, 64))),
        ("optimizer", ["sgd", "adamw"], CategoricalDistribution(("sgd", "adamw"))),
        ("flip", "true,false", CategoricalDistribution((True, False))),
        ("learning_rate", ".1,.2", CategoricalDistribution((0.1, 0.2))),
        ("learning_rate", "1.,.5", CategoricalDistribution((1.0, 0.5))),
        ("learning_rate", ".001...1", FloatDistribution(0.001, 0.1)),
        ("learning_rate", ".001..1.", FloatDistribution(0.001, 1.0)),
        ("batch_size", "064,0128", CategoricalDistribution((64, 128))),
        ("batch_size", "064..128", IntDistribution(64, 128)),
    ],
)
def test_ranges_and_lists_are_read(name: str, value: Any, expected: Any) -> None:
    found = parse_range(name, value)
    assert found == expected
    check_distribution_compatibility(found, expected)  # which a stored study must pass to go on
    assert repr(found) == repr(expected)  # whole numbers stay whole


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("epochs", "1..5", "^recipe.epochs cannot be searched, .* compared; set one for all trials$"),
        ("learning_rat", "1..5", "did you mean 'learning_rate'"),
        ("learning_rate", "1e-1..1e-4", "recipe.learning_rate: 0.1 is above 0.0001; write the smaller one first"),
        ("momentum", "0..0.5:log", "`low > 0` must hold"),
        ("learning_rate", "0..1", "recipe.learning_rate: it must be greater than 0, got 0"),
        ("learning_rate", "1e-4..1e-1:ln", "ends in 'ln'"),
        ("learning_rate", "a..b", "it must be a number, got 'a'"),
        ("learning_rate", "[1..2", r"recipe.learning_rate: it must be a number, got '\[1'"),
        ("learning_rate", "{a=1}", "recipe.learning_rate: it must be a number, got '{a=1}'"),
        ("learning_rate", "2026-01-01", "recipe.learning_rate: it must be a number, got '2026-01-01'"),
        ("optimizer", ["sgd", "rmsprop"], "recipe.optimizer: it must be 'sgd' or 'adamw', got 'rmsprop'"),
        ("optimizer", "1..2", "need not be a number; give a list"),
        ("batch_size", "16.5..64", "it must be a whole number, got 16.5"),
        ("batch_size", IntDistribution(16, 64, step=16), "low, high and maybe log = true, or a list"),
        ("learning_rate", FloatDistribution(1, 3, step=1), "low, high and maybe log = true, or a list"),
        ("learning_rate", IntDistribution(1, 3), "low, high and maybe log = true, or a list"),
        ("batch_size", [], "a range or a list"),
        ("batch_size", [32, 32], "repeats a choice"),
        ("batch_size", {"low": 1, "hihg": 2}, "low, high and maybe log = true"),
    ],
)
def test_bad_ranges_are_refused_in_one_line(name: str, value: Any, message: str) -> None:
    with pytest.raises(SpecError, match=message):
        parse_range(name, value)


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("epoch_size", "64,1000", "recipe.epoch_size cannot be searched, because values with different ones"),
        ("batch_size", "32,32.0", "recipe.batch_size repeats a choice, got [32, 32.0]"),
        ("flip", "true,True", "recipe.flip repeats a choice, got [True, 'True']"),
    ],
)
def test_what_an_earlier_release_let_a_study_search_is_refused_for_new_ones_only(
    command: Command, name: str, value: str, message: str
) -> None:
    spec = nas.StudySpec.from_dict(
        {"space": {"name": "conv", "depth": 1}, "recipe": {"epochs": 1, "input_size": 8}, "search": {name: value}}
    )
    experiment, storage = nas.Experiment.from_spec(spec, device="cpu"), optuna.storages.InMemoryStorage()
    with pytest.raises(SpecError, match=re.escape(message)):
        experiment.create(storage, "new")
    said = command("run", "--trials", 1, *tiny(), "--search", f"recipe.{name}={value}")
    assert said.code == 2
    assert said.err.startswith(f"error: {message}")
    stored = create_study(storage, "stored", spec, experiment.space)
    nas.Experiment.of_study(stored, device="cpu").run(stored, trials=1)
    assert stored.best_trial.params[f"recipe.{name}"] is not None


@pytest.mark.parametrize(
    ("name", "choices", "own"),
    [("flip", "True,False", "False"), ("flip", ["yes", "no"], "no"), ("flip", "auto,true", None), ("mix", "0,.5", 0)],
)
def test_a_choice_is_known_as_the_recipe_s_own_however_it_is_written(name: str, choices: Any, own: Any) -> None:
    """A reference is trained by it; the choice itself is not rewritten, since stored studies have it."""
    assert own_values(RECIPE, {name: choices}) == ({} if own is None else {f"recipe.{name}": own})


@pytest.mark.parametrize(
    ("name", "value", "other", "idle"),
    [
        ("momentum", 0.5, "optimizer", "adamw"),
        ("decay_norms", False, "weight_decay", 0),
        ("shift_fill", "reflect", "shift", 0),
    ],
)
def test_a_setting_without_effect_is_refused_where_it_is_said_and_told_where_it_is_not(
    command: Command, name: str, value: Any, other: str, idle: Any
) -> None:
    says = f"recipe.{name} is of no use with recipe.{other}={idle}"
    recipe = {"epochs": 1, "input_size": 8, other: idle}
    told = nas.Experiment.from_spec(nas.StudySpec.from_dict({"recipe": {**recipe, name: value}}), device="cpu")
    assert says in told.notes()
    told.create(optuna.storages.InMemoryStorage(), "it may come from a preset")
    searched = nas.StudySpec.from_dict({"recipe": recipe, "search": {name: [value]}})
    with pytest.raises(SpecError, match=f"^{says}; leave it out$"):
        nas.Experiment.from_spec(searched, device="cpu").create(optuna.storages.InMemoryStorage(), "s")
    refused = command("run", *tiny(), "--set", f"recipe.{other}={idle}", "--set", f"recipe.{name}={value}")
    assert (refused.code, refused.err) == (2, f"error: {says}; leave it out\n")


def test_whole_numbers_stay_whole() -> None:
    searched = {
        "recipe.batch_size": parse_range("batch_size", "16..64"),
        "recipe.learning_rate": parse_range("learning_rate", "1..2"),
    }
    assert isinstance(searched["recipe.batch_size"], IntDistribution)
    trial = optuna.trial.FixedTrial({"recipe.batch_size": 17, "recipe.learning_rate": 1.5})
    recipe = applied(RECIPE, suggest(trial, searched))
    assert (recipe.batch_size, recipe.learning_rate, recipe.epochs) == (17, 1.5, RECIPE.epochs)


def search(trials: int) -> optuna.Study:
    objective = nas.Objective(
        nas.ConvSpace(depth=1, input_size=8, filters=(8,), kernels=(3,)),
        nas.load_data("digits"),
        RECIPE,
        device="cpu",
        search={"learning_rate": "1e-5..1e-1:log", "batch_size": [32, 64]},
    )
    study = optuna.create_study(direction="maximize", sampler=optuna.samplers.RandomSampler(seed=3))
    study.enqueue_trial({"conv1.filters": 8, "conv1.kernel": 3, "conv1.stride": 1, "recipe.learning_rate": 1e-5})
    study.enqueue_trial({"conv1.filters": 8, "conv1.kernel": 3, "conv1.stride": 1, "recipe.learning_rate": 1e-2})
    study.optimize(objective, n_trials=trials)
    return study


def test_each_trial_trains_by_the_recipe_that_it_chose_and_equal_seeds_give_equal_values() -> None:
    study = search(3)
    slow, fast, _ = study.trials
    assert fast.value is not None
    assert slow.value is not None
    assert fast.value > slow.value + 0.1  # one architecture: not reused, since the recipes differ
    assert set(slow.params) >= {"recipe.learning_rate", "recipe.batch_size"}
    assert [t.value for t in search(3).trials] == [t.value for t in study.trials]


def test_the_header_says_what_is_searched_and_what_the_sampler_leaves_to_chance(command: Command) -> None:
    search = ("--search", "recipe.learning_rate=1e-4..1e-1:log", "--search", "recipe.batch_size=32,64")
    for sampler, said in (("controller", True), ("evolution", False), ("tpe", False)):
        left = f"sampler {sampler} draws recipe.learning_rate at random"
        run = command("run", "--study", sampler, *tiny(), "--sampler", sampler, *search, "--trials", 1)
        assert run.code == 0, run.err
        assert "each trial chooses beside its architecture: recipe.learning_rate, recipe.batch_size" in run.err
        assert (left in run.err) == said


def test_a_supernet_proposes_no_settings() -> None:
    spec = {"sampler": "supernet", "recipe": {"epochs": 1, "input_size": 8}, "search": {"batch_size": [32, 64]}}
    notes = nas.Experiment.from_spec(nas.StudySpec.from_dict(spec), device="cpu").notes()
    assert "sampler supernet draws recipe.batch_size at random" in notes


@pytest.mark.slow
def test_a_joint_search_finds_the_learning_rate_of_a_grid() -> None:
    space = nas.ConvSpace(depth=2, input_size=8, filters=(16, 32), kernels=(3,), strides=(1,))
    recipe = nas.Recipe(epochs=3, input_size=8)
    search = {"learning_rate": "1e-4..1:log"}
    objective = nas.Objective(space, nas.load_data("digits"), recipe, device="cpu", search=search)
    grid = optuna.create_study(direction="maximize")
    for rate in (10 ** (i / 2) for i in range(-8, 1)):
        for architecture in space.enumerate():
            grid.enqueue_trial({**architecture.params, "recipe.learning_rate": rate})
    grid.optimize(objective, n_trials=9 * space.size)
    study = optuna.create_study(direction="maximize", sampler=optuna.samplers.TPESampler(seed=0))
    study.optimize(objective, n_trials=40)
    best, found = (s.best_params["recipe.learning_rate"] for s in (grid, study))
    assert max(found / best, best / found) <= 3
