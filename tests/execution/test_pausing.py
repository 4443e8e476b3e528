"""Stopped trainings that a later trial goes on with."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import optuna
import pytest
from optuna.trial import TrialState

from nas_optuna import ConvSpace, EvaluatorObjective, Measurement, Objective, Recipe, load_data
from nas_optuna.errors import Interrupted
from nas_optuna.execution.loop import run
from nas_optuna.execution.trial_files import PAUSED_FOLDER, Paused, keep, make_room, take
from nas_optuna.pruners import create_pruner
from nas_optuna.samplers import create_sampler
from nas_optuna.study.schema import StudyKey, TrialKey
from nas_optuna.training import checkpoint
from nas_optuna.training.checkpoint import KEPT_FOLDER, Checkpoint

SPACE = ConvSpace(depth=1, input_size=8)
PARAMS = SPACE.parse("f16k3s1").params
EPOCHS = 6


class StopAt(optuna.pruners.BasePruner):
    """Stops each trial after its own number of epochs."""

    def __init__(self, *epochs: int) -> None:
        self.epochs = epochs

    def prune(self, study: optuna.Study, trial: optuna.trial.FrozenTrial) -> bool:
        return trial.number < len(self.epochs) and trial.last_step == self.epochs[trial.number]


def objective(folder: Path | None, **given: Any) -> Objective:
    recipe = Recipe(epochs=EPOCHS, batch_size=64)
    return Objective(SPACE, load_data("digits"), recipe, checkpoints=folder, device="cpu", **given)


def searched(objective: EvaluatorObjective, pruner: optuna.pruners.BasePruner, trials: int) -> optuna.Study:
    study = optuna.create_study(direction="maximize", pruner=pruner)
    for _ in range(trials):
        study.enqueue_trial(dict(PARAMS))
    run(study, objective, trials=trials)
    return study


def test_a_stopped_training_goes_on_where_it_was(tmp_path: Path) -> None:
    study = searched(objective(tmp_path), StopAt(2, 4), 3)
    whole = searched(objective(None), optuna.pruners.NopPruner(), 1).trials[0]
    first, second, third = study.trials
    assert [t.state for t in study.trials] == [TrialState.PRUNED, TrialState.PRUNED, TrialState.COMPLETE]
    assert [t.user_attrs[TrialKey.EPOCHS] for t in study.trials] == [2, 2, 2]
    assert (first.user_attrs[TrialKey.PAUSED], second.user_attrs[TrialKey.CONTINUES]) == (2, 0)
    assert third.user_attrs[TrialKey.CONTINUES] == 1
    assert third.intermediate_values == whole.intermediate_values
    assert third.value == whole.value
    assert not list((tmp_path / PAUSED_FOLDER).iterdir())


@pytest.mark.parametrize(("damaged", "trained"), [(1, EPOCHS - 1), (2, EPOCHS)])
def test_epochs_are_counted_that_a_damaged_checkpoint_has_trained_anew(
    tmp_path: Path, damaged: int, trained: int
) -> None:
    study = searched(objective(tmp_path), StopAt(2), 1)
    files = sorted((tmp_path / PAUSED_FOLDER).rglob("epoch-*"), reverse=True)
    for file in files[:damaged]:
        file.write_bytes(b"damaged")
    study.enqueue_trial(dict(PARAMS))
    run(study, objective(tmp_path), trials=1)
    assert len(files) == 2
    assert study.trials[1].user_attrs[TrialKey.EPOCHS] == trained


@pytest.mark.parametrize("killed", [False, True])
def test_a_training_that_memory_had_no_room_for_waits_for_the_next_trial(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, killed: bool
) -> None:
    asked: list[int] = []
    trained, read = objective(tmp_path), checkpoint._read
    key = trained._key(SPACE.architecture(PARAMS))

    def out_of_memory_once(epoch: int, file: Path) -> Checkpoint:
        asked.append(epoch)
        if len(asked) == 1:
            raise MemoryError
        return read(epoch, file)

    study = searched(trained, StopAt(2), 1)
    if killed:  # the state is the trial's own, from before
        (tmp_path / PAUSED_FOLDER / key).rename(tmp_path / f"trial-1-{key}")
        (tmp_path / f"trial-1-{key}" / "paused.json").unlink()
    monkeypatch.setattr(checkpoint, "_read", out_of_memory_once)
    for _ in range(2):
        study.enqueue_trial(dict(PARAMS))
    run(study, trained, trials=2)
    _, failed, third = study.trials
    assert (failed.state, failed.user_attrs[TrialKey.CAUSE]) == (TrialState.FAIL, "oom")
    assert third.state == TrialState.COMPLETE
    assert asked == [2, 2], "it went on"


def test_a_training_that_has_ended_stays_complete_though_no_memory_is_left_to_keep_its_weights(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(checkpoint, "_read", Mock(side_effect=MemoryError))
    study = searched(objective(tmp_path, keep_weights=True), optuna.pruners.NopPruner(), 1)
    assert study.trials[0].state == TrialState.COMPLETE
    assert "weights of trial 0 are not kept: no memory is left" in caplog.text


def test_without_kept_weights_a_samplers_repeat_takes_over_that_it_was_stopped(tmp_path: Path) -> None:
    sampler = optuna.samplers.PartialFixedSampler(dict(PARAMS), optuna.samplers.RandomSampler(seed=0))
    study = optuna.create_study(direction="maximize", sampler=sampler, pruner=StopAt(2))
    run(study, objective(tmp_path, keep_paused=0), trials=2)
    assert study.trials[1].user_attrs[TrialKey.DUPLICATE_OF] == 0
    assert study.trials[1].state == TrialState.PRUNED


def test_without_kept_weights_what_a_person_enqueues_is_trained_anew(tmp_path: Path) -> None:
    study = searched(objective(tmp_path, keep_paused=0), StopAt(2), 2)
    assert study.trials[1].state == TrialState.COMPLETE
    assert study.trials[1].user_attrs[TrialKey.EPOCHS] == EPOCHS


def test_what_a_killed_trial_has_left_is_removed_where_it_takes_over_another_ones_value(tmp_path: Path) -> None:
    """Another worker has trained its architecture to the end while it waited."""
    study, trained = optuna.create_study(direction="maximize"), objective(tmp_path)
    left = tmp_path / f"trial-1-{trained._key(SPACE.architecture(PARAMS))}"
    left.mkdir()
    for _ in range(2):
        study.enqueue_trial(dict(PARAMS))
    run(study, trained, trials=2)
    assert study.trials[1].user_attrs[TrialKey.DUPLICATE_OF] == 0
    assert not left.exists()


def test_a_trial_of_no_study_leaves_the_files_of_the_trials_alone(tmp_path: Path) -> None:
    """It has the number of one of them, or 0."""
    study, trained = optuna.create_study(direction="maximize", pruner=StopAt(EPOCHS, 2)), objective(tmp_path)
    trained.keep_weights = True
    stopped = dict(SPACE.parse("f24k3s1").params)
    for params in (dict(PARAMS), stopped):
        study.enqueue_trial(params)
    run(study, trained, trials=2)

    def files() -> dict[Path, bytes]:
        return {file: file.read_bytes() for file in tmp_path.rglob("*") if file.is_file()}

    before = files()
    assert {file.parent.name for file in before} >= {KEPT_FOLDER, f"seed-{trained.evaluator.recipe.seed}"}  # type: ignore[attr-defined]
    for trial in (optuna.trial.FixedTrial(stopped), study.trials[1]):
        trained(trial)
    assert files() == before


def test_a_training_of_other_settings_is_not_gone_on_with(tmp_path: Path) -> None:
    study = optuna.create_study(direction="maximize", pruner=StopAt(2))
    for settings in ({}, {"learning_rate": 0.01}):
        study.enqueue_trial(dict(PARAMS))
        recipe = Recipe(epochs=EPOCHS, batch_size=64, **settings)
        run(study, Objective(SPACE, load_data("digits"), recipe, checkpoints=tmp_path, device="cpu"), trials=1)
    assert TrialKey.CONTINUES not in study.trials[1].user_attrs
    assert study.trials[1].user_attrs[TrialKey.EPOCHS] == EPOCHS


class Counting:
    """An own training that keeps one number, and counts how often each step was really done."""

    identity = "counting"
    steps = EPOCHS
    space = SPACE

    def __init__(self, until: Callable[[], bool] = lambda: False) -> None:
        self.done: list[int] = []
        self.until = until

    def evaluate(self, architecture: Any, *, resume: Path | None, stop: Callable[[], bool]) -> Iterator[Measurement]:
        found = int((resume / "step").read_text()) if resume and (resume / "step").exists() else 0
        for step in range(1, EPOCHS + 1):
            if step > found:
                if self.until():
                    raise Interrupted
                self.done.append(step)
                if resume:
                    resume.mkdir(parents=True, exist_ok=True)
                    (resume / "step").write_text(str(step))
            yield Measurement(step, {"accuracy": step / EPOCHS}, seconds=1.0)


def test_an_own_evaluator_that_takes_resume_goes_on_too(tmp_path: Path) -> None:
    evaluator = Counting()
    study = searched(EvaluatorObjective(evaluator, checkpoints=tmp_path, device="cpu"), StopAt(2, 3), 3)
    assert evaluator.done == [1, 2, 3, 4, 5, 6]
    assert [t.user_attrs[TrialKey.SECONDS] for t in study.trials] == [2, 1, 3]


@pytest.mark.parametrize("moment", range(1, 6))
def test_a_kill_while_a_training_goes_on_loses_nothing(tmp_path: Path, moment: int) -> None:
    evaluator = Counting()
    scored = EvaluatorObjective(evaluator, checkpoints=tmp_path, device="cpu")
    study = optuna.create_study(direction="maximize", pruner=StopAt(2, 4))
    for _ in range(3):
        study.enqueue_trial(dict(PARAMS))
    evaluator.until = lambda: len(evaluator.done) == moment
    run(study, scored, trials=3)
    evaluator.until = lambda: False
    run(study, scored, trials=3 - len(study.get_trials(states=FINISHED)))
    assert evaluator.done == [1, 2, 3, 4, 5, 6]
    assert study.trials[2].state == TrialState.COMPLETE
    assert len(study.trials[2].intermediate_values) == EPOCHS


FINISHED = (TrialState.COMPLETE, TrialState.PRUNED)


def test_a_kill_between_the_move_and_the_end_is_judged_again(tmp_path: Path) -> None:
    """The training lies among the paused ones, and its trial has not said that it was stopped."""
    evaluator = Counting()
    scored = EvaluatorObjective(evaluator, checkpoints=tmp_path, device="cpu")
    study = searched(scored, StopAt(2), 1)
    again = optuna.create_study(direction="maximize", pruner=StopAt(2))
    again.set_user_attr(StudyKey.UID, study.user_attrs[StudyKey.UID])
    again.enqueue_trial(dict(PARAMS))
    run(again, scored, trials=1)
    assert again.trials[0].state == TrialState.PRUNED
    assert TrialKey.CONTINUES not in again.trials[0].user_attrs
    assert evaluator.done == [1, 2]
    assert study.trials[0].user_attrs[TrialKey.PAUSED] == 2


def test_a_later_study_of_the_same_name_trains_what_an_earlier_one_has_stopped(tmp_path: Path) -> None:
    """The database was removed, and the files were left."""
    evaluator = Counting()
    scored = EvaluatorObjective(evaluator, checkpoints=tmp_path, device="cpu")
    searched(scored, StopAt(2), 1)
    study = searched(scored, StopAt(3, 4), 2)
    assert evaluator.done == [1, 2, 1, 2, 3, 4]
    assert TrialKey.CONTINUES not in study.trials[0].user_attrs
    assert study.trials[1].user_attrs[TrialKey.CONTINUES] == 0


def test_of_two_trials_one_gets_the_stopped_training(tmp_path: Path) -> None:
    kept = tmp_path / PAUSED_FOLDER / "key"
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "weights").write_text("w")
    assert keep(kept, tmp_path / "mine", Paused(0, 2, 0.5))
    take(kept, tmp_path / "first", "study")
    take(kept, tmp_path / "second", "study")
    assert (tmp_path / "first" / "weights").exists()
    assert not (tmp_path / "second").exists()


def as_of_an_earlier_release(kept: Path) -> None:
    """Forget the size of a stopped training."""
    facts = json.loads((kept / "paused.json").read_text())
    del facts["size"]
    (kept / "paused.json").write_text(json.dumps(facts))


def test_room_is_made_by_the_least_promising(tmp_path: Path) -> None:
    kept = tmp_path / PAUSED_FOLDER
    for number, gain in enumerate((0.5, 0.9, 0.7)):
        folder = tmp_path / f"trial-{number}"
        folder.mkdir()
        (folder / "weights").write_bytes(b"w" * 1000)
        keep(kept / str(number), folder, Paused(number, 2, gain))
    assert make_room(kept, 2500, "study") == [0]
    assert sorted(entry.name for entry in kept.iterdir()) == ["1", "2"]


def test_room_is_made_without_opening_every_stopped_training(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kept, walk, walked = tmp_path / PAUSED_FOLDER, Path.rglob, []
    for number in range(4):
        folder = tmp_path / f"trial-{number}"
        folder.mkdir()
        (folder / "weights").write_bytes(b"w" * 1000)
        keep(kept / str(number), folder, Paused(number, 2, 0.5 + number))
    as_of_an_earlier_release(kept / "3")

    def seen(folder: Path, pattern: str) -> Iterator[Path]:
        walked.append(folder)
        return walk(folder, pattern)

    monkeypatch.setattr(Path, "rglob", seen)
    assert make_room(kept, 3200, "study") == [0]
    assert walked.count(kept / "3") == 1
    assert not {kept / str(number) for number in (1, 2)} & set(walked)


@pytest.mark.parametrize("said", [{"size": "x"}, {"size": -(10**9)}, {"gain": None}, {"trial": []}])
def test_what_a_stopped_training_says_of_itself_is_checked(tmp_path: Path, said: dict[str, Any]) -> None:
    kept = tmp_path / PAUSED_FOLDER
    for number in range(3):
        folder = tmp_path / f"trial-{number}"
        folder.mkdir()
        (folder / "weights").write_bytes(b"w" * 1000)
        keep(kept / str(number), folder, Paused(number, 2, 0.5 + number))
    facts = kept / "2" / "paused.json"
    facts.write_text(json.dumps(json.loads(facts.read_text()) | said))
    assert make_room(kept, 1500, "study") == [0], "another host's file is none of those that count"


def test_room_is_made_by_trainings_of_another_study_first(tmp_path: Path) -> None:
    kept = tmp_path / PAUSED_FOLDER
    for number, (study, gain) in enumerate([("mine", 0.5), ("other", 0.9)]):
        folder = tmp_path / f"trial-{number}"
        folder.mkdir()
        (folder / "weights").write_bytes(b"w" * 1000)
        keep(kept / str(number), folder, Paused(number, 2, gain, study))
    assert make_room(kept, 1500, "mine") == []
    assert [entry.name for entry in kept.iterdir()] == ["0"]


def test_room_is_made_while_another_worker_takes_what_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kept, walk = tmp_path / PAUSED_FOLDER, Path.rglob

    def taken(folder: Path, pattern: str) -> Iterator[Path]:
        """Each file is gone before its size is asked."""
        for file in list(walk(folder, pattern)):
            file.unlink()
            yield file

    for number in (0, 1):
        folder = tmp_path / f"trial-{number}"
        folder.mkdir()
        (folder / "weights").write_bytes(b"w")
        keep(kept / str(number), folder, Paused(number, 2, 0.5))
        as_of_an_earlier_release(kept / str(number))
        monkeypatch.setattr(Path, "rglob", taken)
        monkeypatch.setattr(Path, "is_file", lambda path: True)
        assert not make_room(kept, 10**6, "study")


class Wide(Counting):
    """The more filters the better, which every step shows."""

    identity = "the wider the better"
    space = ConvSpace(depth=3, input_size=8)

    def evaluate(self, architecture: Any, *, resume: Path | None, stop: Callable[[], bool]) -> Iterator[Measurement]:
        filters = sum(value for name, value in architecture.params.items() if name.endswith("filters"))
        for measured in super().evaluate(architecture, resume=resume, stop=stop):
            yield Measurement(measured.step, {"accuracy": filters / 200 * measured.step / EPOCHS}, seconds=1.0)


def test_a_search_goes_on_with_what_it_stopped(tmp_path: Path) -> None:
    evaluator = Wide()
    study = optuna.create_study(
        direction="maximize",
        sampler=create_sampler("curves", evaluator.space, 0, {}),
        pruner=create_pruner("curves", EPOCHS, {}),
    )
    run(study, EvaluatorObjective(evaluator, checkpoints=tmp_path, device="cpu"), trials=40)
    continued = [t for t in study.trials if TrialKey.CONTINUES in t.user_attrs]
    assert continued
    for trial in continued:
        earlier = study.trials[trial.user_attrs[TrialKey.CONTINUES]]
        assert trial.params == earlier.params
        assert earlier.intermediate_values.items() <= trial.intermediate_values.items()
        assert trial.user_attrs[TrialKey.EPOCHS] == len(trial.intermediate_values) - len(earlier.intermediate_values)
    assert len(evaluator.done) == sum(t.user_attrs[TrialKey.EPOCHS] for t in study.trials)
