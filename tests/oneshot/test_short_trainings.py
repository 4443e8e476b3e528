"""Trainings that stop early are the beginning of a trial's, and are done once, whatever happens in between."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from optuna.trial import FrozenTrial

from nas_optuna.errors import Interrupted, StudyError, TrainingError
from nas_optuna.execution.events import Callback, Subject
from nas_optuna.experiment import Experiment
from nas_optuna.oneshot.short_trainings import FOLDER, ShortPlan, ShortTrainer
from nas_optuna.spec import StudySpec

SPEC = StudySpec.from_dict(
    {
        "data": {"name": "digits", "train_limit": 300},
        "space": {"name": "conv", "depth": 2, "filters": [4, 8, 16], "kernels": [3, 5], "strides": [1]},
        "recipe": {"input_size": 8, "epochs": 6, "learning_rate": 0.01, "repeats": 2},
    }
)
SEARCH = Experiment.from_spec(SPEC, device="cpu").search
PLAN = ShortPlan(calibrating=3, calibration_epochs=1, finalists=2, final_epochs=2)
ARCHITECTURES = [SEARCH.space.parse(text) for text in ("f4k3s1-f8k3s1", "f16k5s1-f16k5s1", "f8k3s1-f16k3s1")]


class Listener(Callback):
    def __init__(self) -> None:
        self.names: list[str] = []
        self.ended: list[str] = []

    def trial_started(self, subject: Subject) -> None:
        self.names.append(f"{subject.name}: {subject.architecture}")

    def trial_finished(self, subject: Subject, ended: FrozenTrial | None) -> None:
        self.ended.append(subject.name)


def make(folder: Path | None, stop: Callable[[], bool] = lambda: False, told: Callback | None = None) -> ShortTrainer:
    return ShortTrainer(SEARCH, PLAN, torch.device("cpu"), folder, told or Callback(), stop)


def after(steps: int) -> Callable[[], bool]:
    """Says stop when it is asked once more than `steps` times."""
    left = iter(range(steps))
    return lambda: next(left, None) is None


def test_it_is_the_beginning_of_a_trial() -> None:
    experiment = Experiment.from_spec(SPEC.override(["recipe.repeats=1"]), device="cpu")
    evaluator = experiment.objective.evaluator
    whole = [m.metrics["accuracy"] for m in evaluator.evaluate(ARCHITECTURES[1], resume=None, stop=lambda: False)]
    short = make(None)
    assert short(ARCHITECTURES[1:2], 2) == [whole[1]]
    assert short(ARCHITECTURES[1:2], 1) == [whole[0]]
    assert len({e.accuracy for e in short.results}) == 2, "the two lengths cannot be told apart"


def test_what_has_ended_is_not_trained_again(tmp_path: Path) -> None:
    wanted = make(None)(ARCHITECTURES, 2)
    steps_per_epoch = make(None).steps // PLAN.epochs
    told = Listener()
    with pytest.raises(Interrupted):
        make(tmp_path, after(3 * steps_per_epoch + 1), told)(ARCHITECTURES, 2)
    assert told.names == ["short training 1: f4k3s1-f8k3s1", "short training 2: f16k5s1-f16k5s1"]
    assert told.ended == ["short training 1"], "one that was interrupted is said to have ended"
    again, counted = Listener(), []
    short = make(tmp_path, lambda: bool(counted.append(1)), again)
    assert short(ARCHITECTURES, 2) == wanted
    assert again.names == ["short training 2: f16k5s1-f16k5s1", "short training 3: f8k3s1-f16k3s1"]
    assert len(counted) == 3 * steps_per_epoch, "the second went on from its first epoch"
    assert short.seconds_before > 0
    assert [path.name for path in tmp_path.iterdir()] == [FOLDER]
    untouched = Listener()
    assert make(tmp_path, told=untouched)(ARCHITECTURES, 2) == wanted
    assert untouched.names == []


def test_a_result_that_cannot_be_kept_needs_no_second_training(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise StudyError("no space is left")

    short = make(tmp_path)
    assert short._kept is not None
    monkeypatch.setattr(short._kept, "save", full)
    with pytest.raises(StudyError):
        short(ARCHITECTURES[:1], 1)
    assert make(tmp_path, after(0))(ARCHITECTURES[:1], 1) == make(None)(ARCHITECTURES[:1], 1)
    assert [path.name for path in tmp_path.iterdir()] == [FOLDER]


@pytest.mark.parametrize("content", [b"", b"\xff\xfe\x00", b"null", b"[]"])
def test_a_damaged_file_is_as_none(content: bytes, tmp_path: Path) -> None:
    wanted = make(tmp_path)(ARCHITECTURES[:1], 2)
    (file,) = (tmp_path / FOLDER).iterdir()
    file.write_bytes(content)
    told = Listener()
    assert make(tmp_path, told=told)(ARCHITECTURES[:1], 2) == wanted
    assert len(told.names) == 1


def test_another_recipe_trains_anew(tmp_path: Path) -> None:
    make(tmp_path)(ARCHITECTURES[:1], 1)
    told, other = Listener(), replace(SEARCH, spec=SPEC.override(["recipe.learning_rate=0.02"]))
    ShortTrainer(other, PLAN, torch.device("cpu"), tmp_path, told)(ARCHITECTURES[:1], 1)
    assert len(told.names) == 1


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (TrainingError("loss is nan", "non-finite loss"), "loss is nan"),
        (torch.OutOfMemoryError("CUDA out of memory"), "f4k3s1-f8k3s1: it does not fit into the memory of the device"),
        (RuntimeError("a layer of the user's failed"), "f4k3s1-f8k3s1: RuntimeError: a layer of the user's failed"),
    ],
    ids=["training", "memory", "any"],
)
def test_a_training_that_fails_is_said_and_tried_again_later(
    error: Exception, said: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    short, told = make(tmp_path), []

    def failing(*args: object, **options: object) -> object:
        told.append(1)
        raise error

    monkeypatch.setattr(short._evaluator, "evaluate", failing)
    assert short(ARCHITECTURES[:1] * 2, 1) == [None, None]
    assert len(told) == 1
    assert said in caplog.text
    (accuracy,) = make(tmp_path)(ARCHITECTURES[:1], 1)
    assert accuracy is not None


def test_steps_are_those_that_are_left(tmp_path: Path) -> None:
    short, per_epoch = make(tmp_path), -(-len(SEARCH.data.train) // SPEC.recipe.batch_size)
    assert short.steps == PLAN.epochs * per_epoch
    short(ARCHITECTURES, 1)
    assert short.steps == make(tmp_path).steps == (PLAN.epochs - 3) * per_epoch
    assert ShortTrainer(SEARCH, ShortPlan(0, 1, 0, 1), torch.device("cpu")).steps == 0
    shorter = replace(SEARCH, spec=SPEC.override([f"recipe.epoch_size={SPEC.recipe.batch_size}"]))
    assert ShortTrainer(shorter, PLAN, torch.device("cpu")).steps == PLAN.epochs


def test_a_folder_that_cannot_be_written_to_is_said_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StudyError, match=r"cannot keep a checkpoint in .*file"):
        make(tmp_path / "file")(ARCHITECTURES[:1], 1)
