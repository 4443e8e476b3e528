"""Evaluators of other people's: what they are given, what they may yield, and what becomes of what they must not."""

import inspect
import pickle
import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.trial import TrialState

from nas_optuna import (
    Architecture,
    Callback,
    ConvSpace,
    EvaluatorObjective,
    Measurement,
    NasOptunaError,
    Objective,
    Recipe,
    SearchData,
    load_data,
)
from nas_optuna.errors import SpecError, StudyError
from nas_optuna.execution.evaluator import EvaluatorContext, digest, space_identity
from nas_optuna.execution.loop import run
from nas_optuna.execution.training_objective import Options
from nas_optuna.spaces import create_space
from nas_optuna.spec import DataSpec
from nas_optuna.study.schema import TrialKey
from tests.execution.small_studies import experiment
from tests.helpers import RECIPE, Command, tiny

SPACE = ConvSpace(depth=1, filters=(4, 8, 16), kernels=(3,), strides=(1, 2), input_size=8)


class Counting:
    """Yields what a test tells it to; the score is the number of filters."""

    def __init__(self, yields: Callable[[int], Any] | None = None, ends: int = 3, identity: str = "counting") -> None:
        self.space, self.steps, self.identity = SPACE, 3, identity
        self.ends = ends
        self.yields = yields
        self.evaluated: list[str] = []

    def evaluate(
        self, architecture: Architecture, *, resume: Path | None, stop: Callable[[], bool]
    ) -> Iterator[Measurement]:
        self.evaluated.append(str(architecture))
        for step in range(1, self.ends + 1):
            if self.yields is not None:
                yield self.yields(step)
            else:
                yield Measurement(step, {"score": float(str(architecture.params["conv1.filters"]))}, seconds=0.1)


def objective(evaluator: Counting, **options: Any) -> EvaluatorObjective:
    return EvaluatorObjective(evaluator, objectives=("score:maximize",), device="cpu", **options)


def study(**options: Any) -> optuna.Study:
    return optuna.create_study(direction="maximize", sampler=optuna.samplers.RandomSampler(seed=0), **options)


def test_any_figure_can_be_searched_for() -> None:
    made = study()
    evaluator = Counting()
    run(made, objective(evaluator), trials=12)
    assert made.best_value == 16
    assert len(evaluator.evaluated) == len(set(evaluator.evaluated)), "a repeated architecture is not trained again"
    best = made.best_trial
    assert best.user_attrs[TrialKey.METRICS] == {"score": 16.0}
    assert best.user_attrs[TrialKey.EPOCHS] == 3
    assert best.user_attrs[TrialKey.cost("macs")] > 0


def fail(step: int) -> Any:
    raise OSError("no [such] thing\nin two lines")


@pytest.mark.parametrize(
    ("yields", "ends", "cause"),
    [
        (None, 0, "no measurement"),
        (lambda step: Measurement(2, {"score": 1.0}, 0.0), 3, "step 2 where step 1 was due"),
        (lambda step: Measurement(step // 2 + 1, {"score": 1.0}, 0.0), 3, "step 2 where step 3 was due"),
        (lambda step: Measurement(step, {"score": float("nan")}, 0.0), 3, "non-finite score"),
        (lambda step: Measurement(step, {"loss": 1.0}, 0.0), 3, "no 'score' (it measured: loss)"),
        (lambda step: 0.5, 3, "yielded a float, not a Measurement"),
        (fail, 3, "OSError: no [such] thing in two lines"),
    ],
)
def test_what_an_evaluator_must_not_do_ends_its_trial_alone(yields: Any, ends: int, cause: str) -> None:
    made = study()
    run(made, objective(Counting(yields, ends)), trials=2)
    for trial in made.trials:
        assert trial.state in (TrialState.FAIL, TrialState.PRUNED)
        assert cause in trial.user_attrs[TrialKey.CAUSE]
        assert "\n" not in trial.user_attrs[TrialKey.CAUSE]
    run(made, objective(Counting(identity="whole")), trials=1)
    assert made.trials[-1].state == TrialState.COMPLETE


def test_reuse_is_keyed_by_all_that_decides_a_value(data: SearchData) -> None:
    other_data = load_data(DataSpec(name="digits", train_limit=190))
    base: dict[str, Any] = {"space": SPACE, "data": data, "recipe": RECIPE, "objectives": ("accuracy",)}
    changes: list[dict[str, Any]] = [
        {"data": other_data},
        {"recipe": RECIPE.model_copy(update={"seed": 1})},
        {"objectives": ("macro_f1",)},
        {"space": ConvSpace(depth=1, filters=(4, 8, 16), kernels=(3,), strides=(1, 2), input_size=12)},
    ]

    def made(**changed: Any) -> Objective:
        values = base | changed
        recipe = values["recipe"].model_copy(update={"input_size": None})
        return Objective(values["space"], values["data"], recipe, objectives=values["objectives"], device="cpu")

    assert made().identity == made().identity
    identities = [made(**change).identity for change in ({}, *changes)]
    assert len(set(identities)) == len(identities)
    search = study()
    for change in ({}, *changes, {}):
        search.enqueue_trial({"conv1.filters": 4, "conv1.kernel": 3, "conv1.stride": 1})
        search.optimize(made(**change), n_trials=1)
    duplicates = [trial.user_attrs.get(TrialKey.DUPLICATE_OF) for trial in search.trials]
    assert duplicates == [None] * 5 + [0]


def test_objectives_can_be_pickled(data: SearchData) -> None:
    objective = Objective(SPACE, data, Recipe(epochs=1), limits={"macs": 1e9}, device="cpu", callbacks=[Callback()])
    made = study()
    made.optimize(objective, n_trials=1)
    copy = pickle.loads(pickle.dumps(objective))
    again = study()
    again.optimize(copy, n_trials=1)
    assert again.trials[0].values == made.trials[0].values
    assert copy.identity == objective.identity


@pytest.mark.parametrize(
    ("made", "says"),
    [
        (lambda data: Objective(ConvSpace(classes=7, input_size=8), data), "make it with classes=10"),
        (lambda data: Objective(ConvSpace(in_channels=3, input_size=8), data), "make it with in_channels=1"),
        (lambda data: Objective(ConvSpace(input_size=8), data, Recipe(input_size=16)), "input_size is 16"),
        (lambda data: Objective(ConvSpace(input_size=8), data, objectives=("macs",)), "add accuracy"),
        (lambda data: Objective(ConvSpace(input_size=8), data, limit={"macs": 1e6}), "did you mean 'limits'"),
        (lambda data: Objective(ConvSpace(input_size=8), data, objectives=("acuracy",)), "did you mean 'accuracy'"),
    ],
)
def test_what_does_not_fit_together_is_refused_before_the_first_trial(
    data: SearchData, made: Callable[[SearchData], Objective], says: str
) -> None:
    with pytest.raises(SpecError, match=says):
        made(data)


def test_an_objective_names_all_that_it_passes_on() -> None:
    passed_on = inspect.signature(EvaluatorObjective).parameters.keys() - {"evaluator", "objectives", "device"}
    assert passed_on == Options.__annotations__.keys()


def test_a_study_with_the_wrong_direction_is_refused(objective: Objective) -> None:
    wrong = optuna.create_study(direction="minimize")
    with pytest.raises(StudyError, match=r"\(accuracy: maximize\); create it with .*\(directions=\['maximize'\]\)"):
        wrong.optimize(objective, n_trials=1)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (("--objective", "macro_f2"), "did you mean 'macro_f1'"),
        (("--objective", "energy_kj"), "did you mean 'energy_mj'"),
        (("--set", "limits.mac=2M"), "unknown cost 'mac'; did you mean 'macs'"),
        (("--set", "evaluator.name=trainin"), "unknown evaluator 'trainin'"),
        (("--set", "evaluator.epochs=3"), "has no options"),
        (("--set", "evaluator.name=math:cos"), "evaluator 'math:cos' cannot be made"),
        (("--set", "evaluator.name=absent.py:Evaluator"), "there is no file"),
    ],
)
def test_an_unknown_part_is_one_line(command: Command, options: tuple[str, ...], says: str) -> None:
    result = command("run", "--trials", 1, *tiny(), *options)
    assert result.code == 2
    assert len(result.err.splitlines()) == 1
    assert says in result.err


@pytest.mark.parametrize("name", ["balanced_accuracy", "macro_f1", "top5_accuracy", "negative_log_likelihood"])
def test_every_metric_can_be_the_objective(name: str) -> None:
    made = experiment(objectives=[name])
    search = made.create(optuna.storages.InMemoryStorage(), "s")
    made.run(search, trials=1)
    (trial,) = search.trials
    assert trial.value == trial.user_attrs[TrialKey.METRICS][name]
    assert search.direction.name.lower() == made.objective.criteria[0].direction


def test_energy_is_a_cost_like_any_other() -> None:
    made = experiment(objectives=["accuracy", "energy_mj"])
    search = made.create(optuna.storages.InMemoryStorage(), "s")
    made.run(search, trials=1)
    assert search.trials[0].values[1] == search.trials[0].user_attrs[TrialKey.cost("energy_mj")] > 0


CODE = """
import optuna
from nas_optuna import ConvSpace, Measurement

class Mine:
    def __init__(self, context, *, steps=2):
        self.space = context.space(in_channels=1, outputs=1, input_size=8)
        self.steps, self.identity = steps, "mine"
    def evaluate(self, architecture, *, resume, stop):
        for step in range(1, self.steps + 1):
            yield Measurement(step, {"depth": 1.0}, 0.0)
"""


def test_code_of_a_stored_study_is_imported_after_a_yes(
    command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    Path("mine.py").write_text(CODE)
    run = ("run", "--trials", 1, "--study", "m")
    settings = ("--objective", "depth:maximize", "--set", "evaluator.name=mine.py:Mine", "--sampler", "random")
    assert command(*run, *settings).code == 0, "who names it on the command line means it"
    assert command(*run).code == 0, "and is not asked on this machine"
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "another machine"))
    for arguments in (run, ("retrain", "--study", "m"), ("supernet", "export", "--study", "m")):
        refused = command(*arguments)
        assert refused.code == 2
        assert "evaluator mine.py:Mine" in refused.err
        assert "--trust" in refused.err
    assert command(*run, "--trust").code == 0
    assert command(*run).code == 0, "asked once"


def test_looking_at_somebody_elses_study_imports_nothing(command: Command, place: Path) -> None:
    """A study that names code wherever a spec can: no command that shows it, and none without a yes, imports any."""
    assert command("run", "--trials", 2, *tiny(), "--pruner", "none").code == 0
    storage = optuna.storages.RDBStorage("sqlite:///nas-optuna.db")
    study = optuna.load_study(study_name="nas", storage=storage)
    spec = study.user_attrs["nas_optuna:spec"]
    Path("hostile.py").write_text("open('executed', 'w').close()\n")
    for section in ("data", "space", "sampler", "pruner", "evaluator"):
        spec[section] = {"name": "hostile:part"}
    spec["objectives"] = ["hostile:metric", "hostile:other*(macs/2M)^-0.1"]
    study.set_user_attr("nas_optuna:spec", spec)
    study._storage.set_study_user_attr(study._study_id, "nas_optuna:data", {})
    study.set_metric_names(["hostile:metric"])
    looking = [
        ("study", "list"),
        ("study", "show", "nas"),
        ("study", "export", "nas"),
        ("best",),
        ("pareto",),
        ("compare", "nas", "nas"),
        ("samplers",),
    ]
    acting = [
        ("run", "--trials", 1),
        ("retrain",),
        ("draw",),
        ("report",),
        ("export", "--out", "made"),
        ("supernet", "train"),
        ("supernet", "export"),
    ]
    for arguments in looking:
        command(*arguments)
        assert not Path("executed").exists(), arguments
    for arguments in acting:
        result = command(*arguments)
        assert (result.code, "--trust" in result.err) == (2, True), (arguments, result.err)
        assert not Path("executed").exists(), arguments
    assert command("run", "--trials", 1, "--trust").code == 2, "hostile has none of these parts"
    assert Path("executed").exists(), "a yes is a yes, and the test would have seen it"


def test_a_supernet_needs_our_own_training(command: Command) -> None:
    Path("mine.py").write_text(CODE)
    options = ("--set", "evaluator.name=mine.py:Mine", "--set", 'objectives=["depth:maximize"]')
    result = command("supernet", "train", "--study", "m", *options)
    assert (result.code, "trains in its own way" in result.err) == (2, True)


def test_a_context_makes_the_studys_space() -> None:
    made = experiment(evaluator={"name": f"{__name__}:factory"}, objectives=["score:maximize"])
    assert made.data is None
    assert made.space.classes == 3
    with pytest.raises(NasOptunaError, match="a supernet need images"):
        _ = made.search


def factory(context: EvaluatorContext) -> Counting:
    made = Counting()
    made.space = context.space(in_channels=1, outputs=3, input_size=8)  # type: ignore[assignment]
    return made


@pytest.mark.parametrize("name", ["conv", "block", "macro", "residual"])
def test_what_a_space_has_computed_does_not_change_its_identity(name: str) -> None:
    space = create_space(name, {}, in_channels=3, classes=10, input_size=32)
    before = space_identity(space)
    (architecture,) = space.sample_distinct(1, random.Random(0))
    space.build(architecture)
    assert space.size > 1
    space.operations(architecture)  # type: ignore[attr-defined]
    space.remembered = 3  # type: ignore[attr-defined]
    assert space_identity(space) == before == space_identity(pickle.loads(pickle.dumps(space)))


@pytest.mark.parametrize(
    ("name", "known"),
    [("conv", "83caecc6a5e4c7d1"), ("block", "04a9312be011d8f2"), ("macro", "22243d63b303a963")],
)
def test_a_space_has_the_identity_that_release_0_2_stored(name: str, known: str) -> None:
    assert digest(space_identity(create_space(name, {}, in_channels=3, classes=10, input_size=32))) == known
