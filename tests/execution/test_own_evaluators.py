"""An evaluator of somebody's own, of networks that give no logits."""

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import pytest
import torch
from torch import nn

import nas_optuna as nas
from nas_optuna.errors import ArchitectureError, SpecError, TrainingError
from nas_optuna.execution.evaluator import Measurement
from nas_optuna.execution.loop import run
from nas_optuna.study.results import TrialRecord
from nas_optuna.study.schema import TrialKey
from nas_optuna.study.storage import open_storage

SHAPE: dict[str, Any] = {"in_channels": 1, "classes": 10, "input_size": 8}


class Figures:
    """An evaluator of somebody's own: its networks give no logits, and it measures tensors and NumPy's numbers."""

    identity = "figures"
    attributes = recipe = ("names", "that our own training has, too")
    steps = 1

    def __init__(self, space: Any, figure: Any) -> None:
        self.space, self.figure = space, figure

    def evaluate(self, architecture: Any, *, resume: Path | None, stop: Any) -> Iterator[Measurement]:
        output = self.space.build(architecture)(torch.zeros(2, *self.space.input_shape))
        yield Measurement(1, {"accuracy": self.figure(0.5), "f1": self.figure(output.ndim)}, 0.0)


def pixels(c: Any, task: Any) -> nn.Module:
    return nn.Conv2d(1, c.choice("width", [2, 4]), 3, padding=1)


@pytest.mark.parametrize("figure", [torch.tensor, np.float32, np.float64, lambda x: np.array([x]), np.int64, float])
def test_an_own_evaluator_may_give_any_output_and_any_kind_of_number(figure: Any) -> None:
    space = nas.space(pixels)(**SHAPE)
    objective = nas.EvaluatorObjective(Figures(space, figure), device="cpu")
    study = optuna.create_study(direction="maximize")
    study.optimize(objective, n_trials=1)
    assert study.best_value == float(np.asarray(figure(0.5)).reshape(-1)[0])
    assert type(study.best_value) is float


class Bare:
    """What somebody has forgotten a part of."""

    identity, steps, evaluate = "bare", 1, Figures.evaluate


@pytest.mark.parametrize(
    ("given", "parts", "says"),
    [
        (Bare, {}, "is a type without space; it needs identity, space, steps, evaluate"),
        (lambda architecture: 0.5, {}, "is a function without identity, space, steps, evaluate; it needs"),
        (Bare(), {}, "is a Bare without space; it needs"),
        (Bare(), {"space": nas.space(pixels)}, "has space .*SpaceFunction.*, not a SearchSpace"),
        (Bare(), {"space": nas.ConvSpace(), "steps": "3"}, "has steps '3', not an int"),
        (Bare(), {"space": nas.ConvSpace(), "steps": 0}, "has 0 steps; it needs one at least"),
        (type("Whole", (Bare,), {"space": nas.ConvSpace()}), {}, "is the class Whole; give an object of it"),
    ],
)
def test_what_is_no_evaluator_is_refused_before_a_trial(given: Any, parts: dict[str, Any], says: str) -> None:
    for name, value in parts.items():
        setattr(given, name, value)
    with pytest.raises(SpecError, match=f"^the evaluator {says}"):
        nas.EvaluatorObjective(given, device="cpu")


@pytest.mark.parametrize("setting", [{"keep_weights": True}, {"search": {"learning_rate": "1e-4..1e-1:log"}}])
def test_what_only_our_own_training_can_do_is_refused(setting: dict[str, Any]) -> None:
    with pytest.raises(SpecError, match=f"^{next(iter(setting))} belongs to our own training"):
        nas.EvaluatorObjective(Figures(nas.ConvSpace(), float), device="cpu", **setting)


def test_weights_are_kept_only_where_there_is_a_folder_for_them(space: nas.ConvSpace, data: nas.SearchData) -> None:
    with pytest.raises(SpecError, match=r"^keep_weights needs a folder for the weights; give checkpoints, too"):
        nas.Objective(space, data, nas.Recipe(input_size=8), device="cpu", keep_weights=True)


def test_a_figure_that_is_no_number_is_named() -> None:
    objective = nas.EvaluatorObjective(Figures(nas.space(pixels)(**SHAPE), str), device="cpu")
    study = optuna.create_study(direction="maximize")
    with pytest.raises(TrainingError, match="measured 'accuracy' as a str, not a number"):
        study.optimize(objective, n_trials=1)


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"seconds": 0.0, "step": 1.0}, "yielded step 1.0 where step 1, an int, was due"),
        ({"seconds": None}, "'seconds' as a NoneType, not a number"),
        ({"seconds": float("nan")}, "measured nan seconds"),
        ({"seconds": 0.0, "epochs": None}, "'epochs' as a NoneType"),
        ({"seconds": 0.0, "metrics": {"accuracy": 0.5, "f1": "high"}}, "'f1' as a str, not a number"),
        ({"seconds": 0.0, "details": {"SPRAED": 1.0}}, "details are called as in TrialKey"),
        ({"seconds": 0.0, "details": {"SPREAD": object()}}, "object is not JSON serializable"),
        ({"seconds": 0.0, "details": {"SPREAD": 1e31}}, "cannot be kept, spread: it cannot be 1e\\+31"),
        ({"seconds": 0.0, "details": {"SEED": "first"}}, "cannot be kept, seed: Input should be a valid integer"),
        ({"seconds": -1.0}, "cannot be kept, seconds: Input should be greater than or equal to 0"),
        ({"seconds": 0.0, "epochs": 0.5}, "cannot be kept, epochs: Input should be a valid integer"),
    ],
)
def test_what_a_measurement_may_not_hold_fails_its_trial(given: dict[str, Any], says: str) -> None:
    class Odd(Figures):
        def evaluate(self, architecture: Any, *, resume: Path | None, stop: Any) -> Iterator[Measurement]:
            yield Measurement(**{"step": 1, "metrics": {"accuracy": 0.5}, **given})

    objective = nas.EvaluatorObjective(Odd(nas.space(pixels)(**SHAPE), float), device="cpu")
    with pytest.raises(TrainingError, match=says):
        optuna.create_study(direction="maximize").optimize(objective, n_trials=1)


def test_a_training_that_explodes_leaves_a_trial_that_can_be_read(tmp_path: Path) -> None:
    class Exploding(Figures):
        def evaluate(self, architecture: Any, *, resume: Path | None, stop: Any) -> Iterator[Measurement]:
            huge = 1e33 if architecture.params["width"] == 2 else 0.5
            yield Measurement(1, {"loss": huge, "norm": 1e35}, seconds=0.0)

    evaluator = Exploding(nas.space(pixels)(**SHAPE), float)
    objective = nas.EvaluatorObjective(evaluator, objectives=["loss:minimize"], device="cpu")
    study = optuna.create_study(storage=open_storage(f"sqlite:///{tmp_path}/x.db", create=True))
    for width in (2, 4):
        study.enqueue_trial({"width": width})
    assert run(study, objective, trials=2).trials == 2
    exploded, sound = (TrialRecord.of(trial) for trial in study.trials)
    assert (exploded.state, exploded.cause) == ("pruned", "non-finite loss")
    assert (sound.state, sound.values) == ("complete", (0.5,))


def test_a_figure_may_be_called_as_one_of_ours_and_step_and_epochs_be_of_numpy(tmp_path: Path) -> None:
    class Timed(Figures):
        def evaluate(self, architecture: Any, *, resume: Path | None, stop: Any) -> Iterator[Measurement]:
            figures = {"accuracy": 0.5, "seconds": math.nan, "epochs": 3}
            step: Any = np.int64(1)
            epochs: Any = np.int64(2)
            yield Measurement(step, figures, seconds=1.0, epochs=epochs)

    evaluator = Timed(nas.space(pixels)(**SHAPE), float)
    kept = optuna.create_study(storage=open_storage(f"sqlite:///{tmp_path}/x.db", create=True), direction="maximize")
    kept.optimize(nas.EvaluatorObjective(evaluator, device="cpu"), n_trials=1)
    assert kept.trials[0].intermediate_values == {1: 0.5}, "a database keeps NumPy's numbers as bytes"
    objective = nas.EvaluatorObjective(evaluator, objectives=["seconds:minimize"], device="cpu")
    study = optuna.create_study(direction="minimize")
    study.optimize(objective, n_trials=1)
    assert study.trials[0].user_attrs[TrialKey.CAUSE] == "non-finite seconds"


@pytest.mark.parametrize("width", [7, "wide", None, [2], {"a": 1}, 1e300, True])
def test_an_impossible_value_in_the_queue_ends_its_trial_alone(width: Any, caplog: pytest.LogCaptureFixture) -> None:
    space = nas.space(pixels)(**SHAPE)
    objective = nas.EvaluatorObjective(Figures(space, float), device="cpu")
    study = optuna.create_study(direction="maximize")
    study.enqueue_trial({"width": width})
    study.optimize(objective, n_trials=2)
    assert [trial.state.name for trial in study.trials] == ["PRUNED", "COMPLETE"]
    assert "choose one of (2, 4)" in str(study.trials[0].user_attrs)
    (line,) = [record.getMessage() for record in caplog.records]
    assert "trial 0 cannot be run: width: " in line
    assert "\n" not in line
    with pytest.raises(ArchitectureError, match=r"width: .*choose one of \(2, 4\)"):
        space.suggest(optuna.trial.FixedTrial({"width": width}))
