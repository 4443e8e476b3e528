"""An experiment in Python: its events, what it takes, and the types of all arguments."""

import math
import shutil
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path, PurePath
from typing import Any

import numpy as np
import optuna
import pytest
from optuna.trial import FrozenTrial

from nas_optuna import (
    Callback,
    ConvSpace,
    EvaluatorObjective,
    Experiment,
    Measurement,
    Objective,
    StudySpec,
    fit,
    load_data,
    load_network,
    load_study,
)
from nas_optuna.errors import SpecError, StudyError
from nas_optuna.execution.events import Run, Subject
from nas_optuna.metrics import metric
from nas_optuna.report.notebook import Report
from nas_optuna.samplers import create_sampler
from nas_optuna.spaces import create_space
from nas_optuna.study.schema import TrialKey
from tests.execution.small_studies import experiment
from tests.execution.test_evaluator import Counting, study


class Recorder(Callback):
    def __init__(self) -> None:
        self.heard: list[str] = []

    def run_started(self, run: Run) -> None:
        self.heard.append(f"run {run.kind} {run.subjects} {run.steps}")

    def trial_started(self, subject: Subject) -> None:
        self.heard.append(f"{subject.name} started")

    def step_finished(self, subject: Subject, measurement: Measurement) -> None:
        self.heard.append(f"{subject.name} step {measurement.step}")

    def trial_finished(self, subject: Subject, ended: optuna.trial.FrozenTrial | None) -> None:
        assert ended is not None
        self.heard.append(f"{subject.name} {ended.state.name}")

    def run_finished(self, run: Run) -> None:
        self.heard.append("end")


class Failing(Callback):
    def __init__(self) -> None:
        self.told = 0

    def step_finished(self, subject: Subject, measurement: Measurement) -> None:
        self.told += 1
        raise ValueError("broken")


def test_one_stream_of_events_tells_everything(caplog: pytest.LogCaptureFixture) -> None:
    made = experiment()
    search = made.create(optuna.storages.InMemoryStorage(), "s")
    recorder, failing = Recorder(), Failing()
    plain: list[int] = []
    outcome = made.run(search, trials=1, callbacks=[failing, recorder, lambda study, trial: plain.append(trial.number)])
    assert outcome.trials == 1
    steps = ["trial 0 step 1", "trial 0 step 2"]
    assert recorder.heard == ["run search 1 2", "trial 0 started", *steps, "trial 0 COMPLETE", "end"]
    assert plain == [0]
    assert failing.told == 1, "a callback that fails is told nothing more, and the search goes on"
    assert "Failing is told nothing more: ValueError: broken (test_experiment.py:" in caplog.text


def test_an_optuna_callback_that_raises_ends_an_experiments_run_as_in_optuna() -> None:
    made, recorder = experiment(), Recorder()
    search = made.create(optuna.storages.InMemoryStorage(), "s")

    def broken(study: optuna.Study, trial: FrozenTrial) -> None:
        raise ValueError("mine")

    with pytest.raises(ValueError, match="mine"):
        made.run(search, trials=3, callbacks=[recorder, broken])
    assert [trial.state.name for trial in search.trials] == ["COMPLETE"]
    assert recorder.heard[-2:] == ["trial 0 COMPLETE", "end"], "the others are told to the end"


def test_an_experiment_takes_what_load_study_gives() -> None:
    made, storage = experiment(), optuna.storages.InMemoryStorage()
    made.create(storage, "s")
    loaded: Any = load_study("s", storage)
    assert made.run(loaded, trials=1).trials == 1
    assert type(loaded.study.sampler) is type(made.sampler)
    assert Experiment.of_study(loaded, device="cpu").run(loaded.study, trials=1).trials == 1
    for wrong in ("s", None, storage):
        with pytest.raises(StudyError, match=r"is no study; Experiment\.create and"):
            made.run(wrong, trials=1)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda: Experiment.from_spec({"recipe": {"epochs": 1}}), "spec cannot be of type dict; give a StudySpec"),  # type: ignore[arg-type]
        (
            lambda: experiment().create(Path("s.db"), "s"),
            "storage cannot be of type .*Path; give a BaseStorage or",
        ),  # type: ignore[arg-type]
        (lambda: experiment().create("sqlite:///s.db", None), "name cannot be of type NoneType"),  # type: ignore[arg-type]
        (lambda: load_data(None), "spec cannot be of type NoneType; give a DataSpec or a string"),  # type: ignore[arg-type]
        (lambda: load_data(Path("photos")), "spec cannot be of type .*Path; give a DataSpec or a string"),  # type: ignore[arg-type]
        (lambda: fit("digits", callbacks=print), "callbacks cannot be of type builtin.*; give a list"),  # type: ignore[arg-type]
        (lambda: fit("digits", overrides="recipe.flip=true"), "overrides cannot be of type str; give a list"),
        (lambda: fit("digits", out=None), "out cannot be of type NoneType; give a string or a Path"),  # type: ignore[arg-type]
        (lambda: fit("digits", say=None), "say cannot be of type NoneType; give a function"),  # type: ignore[arg-type]
        (lambda: fit("digits", max_params=[1]), "max_params cannot be of type list; give a string, a number or None"),  # type: ignore[arg-type]
        (lambda: experiment().run(None, trials="1"), "trials cannot be of type str; give a whole number or None"),  # type: ignore[arg-type]
        (lambda: experiment().run(None, executor="ray"), "executor cannot be of type str; give an Executor or None"),  # type: ignore[arg-type]
        (
            lambda: EvaluatorObjective(Counting(), device="cpu", callbacks=[print]),  # type: ignore[list-item]
            "a callback cannot be of type builtin.*; an objective tells of steps only; give Optuna's to study.optimize",
        ),
        (lambda: load_network("no", device=0), "device cannot be of type int; give a string"),  # type: ignore[arg-type]
        (
            lambda: load_data("folder:photos", input_size=-1),
            "input_size is 1 … 32768 pixels, or .height, width., not -1",
        ),
        (lambda: experiment().run(study(), trials=-1), "trials = -1 is no limit; give a number of at least 0"),
        (lambda: experiment().run(study(), timeout=math.nan), "timeout = nan is no limit"),
        (lambda: Report("").save(None), "path cannot be of type NoneType; give a string or a Path"),  # type: ignore[arg-type]
        (lambda: load_data("mnist", 3), "directory cannot be of type int; give a Path or None"),  # type: ignore[arg-type]
        (lambda: metric(direction="max"), "a metric.s direction is .maximize. or .minimize., not .max"),  # type: ignore[arg-type]
        (lambda: create_sampler("tpe", "conv"), "space cannot be of type str; give a SearchSpace"),  # type: ignore[arg-type]
        (lambda: ConvSpace().build("f16"), "architecture cannot be of type str; give what the space.s parse"),  # type: ignore[arg-type]
        (lambda: Objective(ConvSpace(), "digits"), "data cannot be of type str; give what load_data returns"),  # type: ignore[arg-type]
        (lambda: Objective(print, None), "give a SearchSpace or a function below @nas_optuna.space"),  # type: ignore[arg-type]
        (lambda: ConvSpace().architecture(None), "params cannot be of type NoneType; give a dictionary"),  # type: ignore[arg-type]
    ],
)
def test_an_argument_of_another_type_is_one_line(call: Callable[[], object], says: str) -> None:
    with pytest.raises(SpecError, match=says):
        call()


def test_the_training_of_a_reference_takes_of_the_time_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("nas_optuna.execution.reference.measure", lambda *_: time.sleep(0.1))
    made = experiment()
    stored = made.create(optuna.storages.InMemoryStorage(), "s")
    compared = replace(made, spec=made.spec.model_copy(update={"reference": "mine.py:network"}))
    assert compared.run(stored, timeout=0.05).trials == 0


def test_a_stored_study_goes_on_with_what_it_stopped_where_its_commands_keep_it(tmp_path: Path) -> None:
    class StopTheFirst(optuna.pruners.BasePruner):
        def prune(self, study: optuna.Study, trial: FrozenTrial) -> bool:
            return trial.number == 0

    url, files = f"sqlite:///{tmp_path}/s.db", tmp_path / "s-files"
    stored: Any = experiment().create(url, "s")
    for _ in range(2):
        made = Experiment.of_study(load_study("s", url), device="cpu")
        assert made.objective.checkpoints == files / "checkpoints" / "s"
        stored.enqueue_trial({"conv1.filters": 16, "conv1.kernel": 3, "conv1.stride": 1})
        stored.pruner = StopTheFirst()
        stored.optimize(made.objective, n_trials=1)
    assert [trial.user_attrs.get(TrialKey.CONTINUES) for trial in stored.trials] == [None, 0]

    assert Experiment.of_study(stored, device="cpu", checkpoints=None).objective.checkpoints is None
    in_memory = experiment().create("sqlite:///:memory:", "s")
    assert Experiment.of_study(in_memory, device="cpu").objective.checkpoints is None
    shutil.rmtree(files)
    assert Experiment.of_study(stored, device="cpu").objective.checkpoints
    assert not files.exists(), "who only reads leaves nothing"
    files.write_text("no folder")
    assert Experiment.of_study(stored, device="cpu").objective.checkpoints is None


def test_numbers_of_numpy_and_all_paths_are_arguments_like_others(tmp_path: Path) -> None:
    file = tmp_path / "s.toml"
    file.write_text("[recipe]\nepochs = 2\n", encoding="utf-8")
    assert StudySpec.from_toml(PurePath(file)).with_parts(seed=np.int64(3)).sampler.seed == 3  # type: ignore[arg-type]
    numbers: dict[str, Any] = {"in_channels": np.int64(1), "classes": 10.0, "input_size": np.array(8)}
    assert create_space("conv", {}, **numbers).build
    flags: dict[str, Any] = {"reuse_duplicates": np.True_, "keep_weights": 0, "keep_paused": 1e9}
    flags |= {"callbacks": None, "checkpoints": str(tmp_path)}
    made = EvaluatorObjective(Counting(), device="cpu", **flags)
    assert (made.keep_paused, type(made.keep_paused), made.keep_weights) == (10**9, int, 0)
    assert made.checkpoints == tmp_path
