import tomllib
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

from nas_optuna.errors import SpecError
from nas_optuna.hyperparameters import parse_range
from nas_optuna.oneshot.strategies.base import RankedOptions
from nas_optuna.presets import DEFAULT, find_spec, is_shipped, preset_names
from nas_optuna.spec import DataSpec, PrunerSpec, Recipe, SamplerSpec, SpaceSpec, StudySpec, SupernetSpec
from nas_optuna.spec_text import with_overrides

printable = st.characters(exclude_categories=["Cc", "Cs"])
option_values = st.one_of(st.booleans(), st.integers(-9, 9), st.floats(-9, 9), st.text(printable, max_size=5))
options = st.dictionaries(
    st.sampled_from(["depth", "filters", "n_startup_trials", "anything"]), option_values, max_size=3
)

recipes = st.builds(
    Recipe,
    epochs=st.integers(1, 99),
    batch_size=st.integers(1, 999),
    optimizer=st.sampled_from(["sgd", "adamw"]),
    learning_rate=st.floats(1e-9, 10),
    momentum=st.floats(0, 0.999),
    weight_decay=st.floats(0, 1),
    schedule=st.sampled_from(["constant", "cosine"]),
    init=st.sampled_from(["default", "kaiming"]),
    input_size=st.none() | st.integers(1, 999),
    precision=st.sampled_from(["auto", "fp32", "bf16", "fp16"]),
    seed=st.integers(0, 2**31),
    repeats=st.integers(1, 5),
    shift=st.integers(0, 9),
    flip=st.booleans(),
    cutout=st.integers(0, 9),
    cuda_graphs=st.booleans(),
    compile=st.booleans(),
)
data_specs = st.builds(
    DataSpec,
    name=st.text(printable, min_size=1, max_size=20),
    train_limit=st.none() | st.integers(2, 10**6),
    validation_fraction=st.floats(0.01, 0.99),
    split_seed=st.integers(0, 99),
    select_on=st.sampled_from(["validation", "test"]),
)
specs = st.builds(
    lambda space, sampler, pruner, **rest: StudySpec(
        space=SpaceSpec(name="conv", **space),
        sampler=SamplerSpec(name="random", **sampler),
        pruner=PrunerSpec(name="none", **pruner),
        **rest,
    ),
    space=options,
    sampler=options,
    pruner=options,
    data=data_specs,
    recipe=recipes,
    reuse_duplicates=st.booleans(),
)


@given(specs)
def test_a_spec_round_trips(spec: StudySpec) -> None:
    import json

    again = StudySpec.from_dict(json.loads(json.dumps(spec.to_dict())))
    assert again == spec
    assert again.space.options == spec.space.options
    assert again.recipe.fingerprint == spec.recipe.fingerprint


@given(recipes, recipes)
def test_a_fingerprint_tells_recipes_apart(one: Recipe, other: Recipe) -> None:
    assert (one.fingerprint == other.fingerprint) == (one == other)


def test_settings_that_came_later_leave_the_fingerprints_of_0_2_alone() -> None:
    assert (Recipe().fingerprint, Recipe(epochs=3, flip=True).fingerprint) == ("d8cca3fa6062", "f33f3f5959f3")


def leaves(values: dict[str, Any], path: tuple[str, ...] = ()) -> list[tuple[str, ...]]:
    found = []
    for key, value in values.items():
        found += leaves(value, (*path, key)) if isinstance(value, dict) else [(*path, key)]
    return found


@pytest.mark.parametrize(
    "path",
    [p for p in leaves(StudySpec().to_dict()) if p[0] not in ("sampler", "pruner", "space", "evaluator", "supernet")],
)
def test_every_misspelt_key_is_refused_with_the_right_one(path: tuple[str, ...]) -> None:
    *sections, key = path
    wrong: dict[str, Any] = {f"{key}x": 1}
    for section in reversed(sections):
        wrong = {section: wrong}
    with pytest.raises(SpecError) as caught:
        StudySpec.from_dict(wrong, "s.toml")
    assert str(caught.value).startswith(f"s.toml: unknown key '{key}x'; did you mean {key!r}? (")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("overrides", "path", "value"),
    [
        (["recipe.epochs=3"], ("recipe", "epochs"), 3),
        ([" recipe . epochs = 3 "], ("recipe", "epochs"), 3),
        (["recipe.learning_rate=1e-3"], ("recipe", "learning_rate"), 1e-3),
        (["recipe.optimizer=sgd"], ("recipe", "optimizer"), "sgd"),
        (['recipe.optimizer="sgd"'], ("recipe", "optimizer"), "sgd"),
        (["recipe.flip=true"], ("recipe", "flip"), True),
        (["space.filters=[8, 16]"], ("space", "filters"), [8, 16]),
        (["sampler=random"], ("sampler", "name"), "random"),
        (["data.name=npz:/a=b.npz"], ("data", "name"), "npz:/a=b.npz"),
        (["recipe.epochs=3", "recipe.epochs=4"], ("recipe", "epochs"), 4),
        (["recipe.epochs=3\nrecipe.seed=1"], None, None),
    ],
)
def test_set_overrides_a_key(overrides: list[str], path: tuple[str, ...] | None, value: object) -> None:
    if path is None:
        with pytest.raises(SpecError):
            StudySpec().override(overrides)
        return
    found: Any = StudySpec().override(overrides).to_dict()
    for key in path:
        found = found[key]
    assert found == value


@pytest.mark.parametrize(
    ("kind", "wrong", "says"),
    [
        (Recipe, {"epochs": "x"}, "Recipe: epochs: it must be a whole number, got 'x'"),
        (Recipe, {"lr": 1}, "Recipe: unknown key 'lr'; did you mean 'learning_rate'?"),
        (Recipe, {"learning_rate": float("inf")}, "Recipe: learning_rate: it must be a finite number, got inf"),
        (StudySpec, {"recipe": {"epochs": "x"}}, "StudySpec: recipe.epochs: it must be a whole number, got 'x'"),
        (StudySpec, {"keep_paused": float("inf")}, "StudySpec: keep_paused: it must be a finite number, got inf"),
        (SupernetSpec, {"latency_power": 1}, 'SupernetSpec: latency_power belongs to latency_loss = "fbnet"'),
        (RankedOptions, {"evaluations": 1}, "RankedOptions: evaluations: it must be at least 10, got 1"),
    ],
)
def test_settings_made_in_python_are_refused_in_one_line(kind: Any, wrong: dict[str, Any], says: str) -> None:
    with pytest.raises(SpecError) as caught:
        kind(**wrong)
    assert str(caught.value) == says


def test_settings_cannot_be_changed_afterwards() -> None:
    with pytest.raises(SpecError, match="the epochs of a Recipe cannot be changed; make another Recipe"):
        Recipe().epochs = 3  # type: ignore[misc]


def test_distributions_of_optuna_are_stored_as_a_file_writes_them() -> None:
    given = {"batch_size": IntDistribution(16, 64), "learning_rate": FloatDistribution(1, 3, step=1)}
    search = StudySpec(search={**given, "optimizer": CategoricalDistribution(["sgd", "adamw"])}).to_dict()["search"]
    assert search["batch_size"] == {"low": 16, "high": 64, "log": False}
    assert search["optimizer"] == ["sgd", "adamw"]
    with pytest.raises(SpecError, match="'step'"):
        parse_range("learning_rate", search["learning_rate"])


def test_a_section_that_is_none_is_refused_in_one_line_beside_a_list_in_the_recipe() -> None:
    with pytest.raises(SpecError, match=r"^StudySpec: search: it must be a section of settings, got 5$"):
        StudySpec(search=5, recipe={"learning_rate": [0.1, 0.2]})  # type: ignore[arg-type]


def test_overriding_a_spec_leaves_the_rest_alone() -> None:
    spec = StudySpec().override(["recipe.epochs=3"])
    assert spec == StudySpec(recipe=Recipe(epochs=3))
    values = {"recipe": {"epochs": 1}}
    assert with_overrides(values, ["recipe.epochs=2"]) == {"recipe": {"epochs": 2}}
    assert values == {"recipe": {"epochs": 1}}


def test_a_preset_is_one_also_by_its_path(tmp_path: Path) -> None:
    (tmp_path / "mine.toml").write_text(find_spec(DEFAULT).read_text())
    shown = find_spec(DEFAULT).relative_to(Path.cwd())
    assert [is_shipped(find_spec(str(file))) for file in (DEFAULT, shown, tmp_path / "mine.toml")] == [
        True,
        True,
        False,
    ]


@pytest.mark.parametrize("name", preset_names())
def test_presets_are_right_and_say_what_they_cost(name: str) -> None:
    text = find_spec(name).read_text()
    spec = StudySpec.from_toml(find_spec(name))
    assert StudySpec.from_dict(spec.to_dict()) == spec
    assert "# Cost: " in text
    tomllib.loads(text)


def test_the_baseline_is_the_reference() -> None:
    spec = StudySpec.from_toml(find_spec("mnist-random"))
    recipe = spec.recipe
    assert (recipe.input_size, recipe.batch_size, recipe.epochs) == (224, 200, 10)
    assert (recipe.optimizer, recipe.learning_rate, recipe.momentum) == ("sgd", 0.05, 0.5)
    assert (recipe.init, recipe.schedule, recipe.weight_decay) == ("default", "constant", 0)
    assert (spec.data.name, spec.sampler.name, spec.pruner.name) == ("mnist", "random", "none")
    assert spec.space.options == {
        "depth": 5,
        "filters": [16, 24, 32, 48],
        "kernels": [3, 5, 7],
        "strides": [1, 2],
    }
    assert spec.data.select_on == "validation", "test accuracy ranks only where the spec says so"


def test_specs_are_found_by_name_and_by_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert {DEFAULT, "mnist-random", "mnist-fast"} <= set(preset_names())
    monkeypatch.chdir(tmp_path)
    for place in (Path("mine.toml"), tmp_path / "sub" / "other.toml", Path("no-suffix")):
        place.parent.mkdir(exist_ok=True)
        place.write_text("reuse_duplicates = false")
        assert not StudySpec.from_toml(find_spec(str(place))).reuse_duplicates
    with pytest.raises(SpecError, match="did you mean 'mnist-fast'"):
        find_spec("mnist-fats")
