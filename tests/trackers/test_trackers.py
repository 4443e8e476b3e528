import json
import logging
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import optuna
import pytest

from nas_optuna import Experiment, StudySpec
from nas_optuna.errors import SpecError
from nas_optuna.execution.evaluator import Measurement
from nas_optuna.execution.events import Callback, Run, Subject
from nas_optuna.execution.retrain import retrain
from nas_optuna.trackers import create_tracker
from tests.helpers import Installed, tiny

SPEC = {
    "space": {"name": "conv", "depth": 2},
    "recipe": {"epochs": 2, "input_size": 8},
    "data": {"name": "digits", "train_limit": 200},
    "sampler": {"name": "random"},
    "pruner": {"name": "none"},
}


@pytest.fixture(scope="session")
def mlflow_db(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A database with MLflow's tables, which take seconds to make."""
    from mlflow.tracking import MlflowClient

    path = tmp_path_factory.mktemp("mlflow") / "mlflow.db"
    MlflowClient(f"sqlite:///{path}").search_experiments()
    return path


def searched(tracker: Callback, **more: object) -> optuna.Study:
    experiment = Experiment.from_spec(StudySpec.from_dict(SPEC | more), device="cpu")
    study = experiment.create(optuna.storages.InMemoryStorage(), "s")
    assert experiment.run(study, trials=2, callbacks=[tracker]).trials == 2
    return study


def test_tensorboard_has_curves_choices_and_figures_of_each_trial(tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    study = searched(create_tracker(f"tensorboard:{tmp_path}"))
    for trial in study.trials:
        events = EventAccumulator(str(tmp_path / "s" / f"trial-{trial.number}"))
        events.Reload()
        curve = [event.value for event in events.Scalars("accuracy")]
        assert curve == pytest.approx([trial.intermediate_values[step] for step in (1, 2)], abs=1e-6)
        assert events.Scalars("final/macs")[0].value > 0


def test_a_folder_below_the_home_is_found_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("USERPROFILE", str(tmp_path / "home"))
    tracker = create_tracker("tensorboard:~/logs")  # of which a shell expands nothing
    tracker.run_started(Run("search", optuna.create_study(study_name="s"), 1, 2))
    tracker.trial_started(Subject("trial 0"))
    tracker.close()
    assert list((tmp_path / "home/logs/s/trial-0").iterdir())
    assert [path.name for path in tmp_path.iterdir()] == ["home"]


def test_mlflow_has_a_parent_and_a_child_run_per_trial(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mlflow_db: Path
) -> None:
    from mlflow.tracking import MlflowClient

    monkeypatch.chdir(tmp_path)  # MLflow keeps artifacts in the current folder
    uri = f"sqlite:///{shutil.copy(mlflow_db, tmp_path)}"
    study = searched(create_tracker(f"mlflow:{uri}"))
    client = MlflowClient(uri)
    experiment = client.get_experiment_by_name("s")
    assert experiment is not None
    runs = client.search_runs([experiment.experiment_id])
    (parent,) = [run for run in runs if "mlflow.parentRunId" not in run.data.tags]
    children = [run for run in runs if run.data.tags.get("mlflow.parentRunId") == parent.info.run_id]
    assert {run.info.run_name for run in children} == {"trial 0", "trial 1"}
    assert {run.info.status for run in runs} == {"FINISHED"}
    for child in children:
        trial = study.trials[int(child.info.run_name.split()[1])]
        curve = [metric.value for metric in client.get_metric_history(child.info.run_id, "accuracy")]
        assert curve == pytest.approx([trial.intermediate_values[step] for step in (1, 2)])
        assert child.data.params["conv1.filters"] == str(trial.params["conv1.filters"])
        kept = {file.path: file for file in client.list_artifacts(child.info.run_id)}
        assert set(kept) == {"params.json", "drawing.svg"}
        read = {name: Path(client.download_artifacts(child.info.run_id, name)).read_text() for name in kept}
        assert json.loads(read["params.json"]) == trial.params
        assert read["drawing.svg"].startswith("<svg")


def test_a_retraining_brings_its_test_accuracy_and_confusion_matrix(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mlflow_db: Path
) -> None:
    from mlflow.tracking import MlflowClient
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    monkeypatch.chdir(tmp_path)
    uri = f"sqlite:///{shutil.copy(mlflow_db, tmp_path)}"
    trackers = [create_tracker(f"mlflow:{uri}"), create_tracker(f"tensorboard:{tmp_path}/logs")]
    search = Experiment.from_spec(StudySpec.from_dict(SPEC), device="cpu").search
    study = optuna.create_study(study_name="s")
    report, _, _ = retrain(study, search, search.space.parse("f16k3s2-f16k3s2"), device="cpu", callbacks=trackers)
    client = MlflowClient(uri)
    found = client.get_experiment_by_name("s")
    assert found is not None
    (run,) = [run for run in client.search_runs([found.experiment_id]) if run.info.run_name == "s retrain"]
    assert run.data.metrics["test_accuracy"] == pytest.approx(report.mean)
    assert [file.path for file in client.list_artifacts(run.info.run_id)] == ["confusion-matrix.svg"]
    events = EventAccumulator(str(tmp_path / "logs/s-retrain"))
    events.Reload()
    assert events.Scalars("test_accuracy")[0].value == pytest.approx(report.mean)
    assert b"mistaken for" in events.Tensors("test accuracy of each class/text_summary")[0].tensor_proto.string_val[0]


def test_a_tracker_that_fails_warns_once_and_ends_no_trial(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("")
    with caplog.at_level(logging.WARNING):
        study = searched(create_tracker(f"tensorboard:{blocked}"))
    assert [trial.state.name for trial in study.trials] == ["COMPLETE", "COMPLETE"]
    assert sum("TensorBoardTracker" in record.getMessage() for record in caplog.records) == 1


PARTS = """
import torch
from torch import nn
from nas_optuna import space
from nas_optuna.costs.cost import Cost
from nas_optuna.execution.evaluator import Measurement
from nas_optuna.execution.events import Callback, Run, Subject


class Width(Cost):
    name = "width"

    def __call__(self, architecture):
        return float(architecture.params["width (px)"])


class Lines(Callback):
    def __init__(self, path):
        self.path = path

    def _write(self, text):
        with open(self.path, "a") as file:
            print(text, file=file)

    def run_started(self, run):
        self._write(run.facts["objectives"])

    def trial_finished(self, subject, ended):
        from nas_optuna.trackers import figures
        self._write(sorted(figures(subject.study, ended)))


@space
def network(c, task):
    width = c.choice("width (px)", [4, 8])
    other = c.choice("height [px]", [2, 3])
    c.choice("state", ["x", "y"])
    return nn.Sequential(nn.Flatten(), nn.Linear(64, width), nn.ReLU(), nn.Linear(width, other), nn.Linear(other, 10))
"""
GROUPS = {"nas_optuna.costs": {"width": "parts:Width"}, "nas_optuna.trackers": {"lines": "parts:Lines"}}
FORMULA = "macro_f1*(energy_mj/1k)^-0.1"


def test_what_a_study_optimises_and_limits_arrives_whatever_its_names(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mlflow_db: Path, installed: Installed
) -> None:
    from mlflow.tracking import MlflowClient

    installed(PARTS, GROUPS)
    monkeypatch.chdir(tmp_path)
    uri = f"sqlite:///{shutil.copy(mlflow_db, tmp_path)}"
    objectives = ["accuracy", FORMULA, "width"]
    study = searched(
        create_tracker(f"mlflow:{uri}"), space={"name": "parts:network"}, objectives=objectives, limits={"width": 8}
    )
    client = MlflowClient(uri)
    found = client.get_experiment_by_name("s")
    assert found is not None
    runs = client.search_runs([found.experiment_id])
    assert {run.info.status for run in runs} == {"FINISHED"}
    (parent,) = [run for run in runs if "mlflow.parentRunId" not in run.data.tags]
    assert parent.data.tags["nas_optuna.limits"] == "{'width': 8.0}"
    for child in (run for run in runs if run is not parent):
        trial = study.trials[int(child.info.run_name.split()[1])]
        final = child.data.metrics
        assert final["final.width"] == trial.values[2] == trial.params["width (px)"]
        assert final["final.macro_f1_energy_mj/1k_-0.1"] == trial.values[1]
        assert final["final.energy_mj"] > 0
        assert 0 <= final["final.macro_f1"] <= 1
        assert child.data.params["width _px_"] == str(trial.params["width (px)"])
        assert child.data.params["height _px_"] == str(trial.params["height [px]"])
        assert child.data.params["state"] == "complete"
        assert child.data.params["param.state"] == trial.params["state"]


def test_a_tracker_from_outside_sees_what_ours_see(tmp_path: Path, installed: Installed) -> None:
    installed(PARTS, GROUPS)
    searched(create_tracker(f"lines:{tmp_path}/lines"), objectives=["accuracy", "energy_mj"])
    lines = (tmp_path / "lines").read_text().splitlines()
    assert lines[0] == "['accuracy', 'energy_mj']"
    assert len(lines) == 3
    assert all("'energy_mj'" in line for line in lines[1:])


def test_a_trial_that_begins_again_after_a_kill_leaves_no_run_open(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mlflow_db: Path
) -> None:
    from mlflow.tracking import MlflowClient

    monkeypatch.chdir(tmp_path)
    uri = f"sqlite:///{shutil.copy(mlflow_db, tmp_path)}"
    study = optuna.create_study(study_name="s")
    about, run = Subject("trial 0", None, study=study), Run("search", study, 1, 2)
    for tracker in (create_tracker(f"mlflow:{uri}"), create_tracker(f"tensorboard:{tmp_path}/logs")):
        tracker.run_started(run)
        for _ in range(2):  # the executor hears nothing from a worker that dies
            tracker.trial_started(about)
            tracker.step_finished(about, Measurement(1, {"accuracy": 0.5}, 0.1))
        tracker.trial_finished(about, None)
        tracker.run_finished(run)
    client = MlflowClient(uri)
    found = client.get_experiment_by_name("s")
    assert found is not None
    statuses = {run.info.status for run in client.search_runs([found.experiment_id]) if run.info.run_name == "trial 0"}
    assert statuses == {"KILLED", "FINISHED"}


@pytest.mark.parametrize("method", ["step_finished", "trial_finished"])
def test_who_is_dropped_is_closed(
    method: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mlflow_db: Path
) -> None:
    from mlflow.tracking import MlflowClient

    from nas_optuna.trackers.mlflow import MlflowTracker

    def fail(self: object, *arguments: object) -> None:
        raise OSError("the server had an error")

    monkeypatch.chdir(tmp_path)
    uri = f"sqlite:///{shutil.copy(mlflow_db, tmp_path)}"
    searched(type("Failing", (MlflowTracker,), {method: fail})(uri))
    client = MlflowClient(uri)
    found = client.get_experiment_by_name("s")
    assert found is not None
    statuses = [run.info.status for run in client.search_runs([found.experiment_id])]
    assert statuses
    assert set(statuses) <= {"FAILED", "KILLED"}


def test_who_cannot_be_closed_is_closed_at_the_end(caplog: pytest.LogCaptureFixture) -> None:
    class Stubborn(Callback):
        closed = 0

        def trial_started(self, subject: Subject) -> None:
            raise OSError("no")

        def close(self) -> None:
            self.closed += 1
            if self.closed == 1:
                raise OSError("not yet")

    tracker = Stubborn()
    with caplog.at_level(logging.WARNING):
        searched(tracker)
    assert tracker.closed == 2
    assert sum("Stubborn" in record.getMessage() for record in caplog.records) == 1


@pytest.mark.parametrize("silent", [False, True])
def test_a_server_that_does_not_answer_is_waited_for_a_few_seconds_and_said_once(
    silent: bool, caplog: pytest.LogCaptureFixture
) -> None:
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        if silent:
            server.listen()
        tracker = create_tracker(f"mlflow:http://me:secret@127.0.0.1:{server.getsockname()[1]}")
        started = time.monotonic()
        with caplog.at_level(logging.WARNING):
            study = searched(tracker)
        assert time.monotonic() - started < 30
    assert len(study.trials) == 2
    (said,) = [record.getMessage() for record in caplog.records]
    assert "no MLflow server answers at http://me:***@127.0.0.1" in said


@pytest.mark.process
def test_a_run_that_waits_for_a_tracker_obeys_a_signal(place: Path) -> None:
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen()
        where = f"mlflow:http://127.0.0.1:{server.getsockname()[1]}"
        run = subprocess.Popen(
            [sys.executable, "-m", "nas_optuna", "run", "--trials", "500", *tiny(), "--track", where],
            stderr=subprocess.PIPE,
            text=True,
        )
        try:
            server.settimeout(120)
            server.accept()  # it asks, and will not be answered
            run.terminate()
            _, said = run.communicate(timeout=60)
        finally:
            run.kill()
    assert run.returncode == 130, said
    assert said.count("no MLflow server answers") <= 1


@pytest.mark.parametrize("text", ["tensorbord:x", "", "comet:x", "nowhere.trackers:Tracker"])
def test_an_unknown_tracker_is_refused(text: str) -> None:
    with pytest.raises(SpecError, match="tracker"):
        create_tracker(text)


def written(file: Path) -> Iterator[bytes]:
    """The records of an offline run, which W&B writes in the format of LevelDB's log."""
    content, place, whole = file.read_bytes(), 7, b""
    while place + 7 <= len(content):
        if (left := 32768 - place % 32768) < 7:  # the end of a block, too small for a header
            place += left
            continue
        length, kind = int.from_bytes(content[place + 4 : place + 6], "little"), content[place + 6]
        whole += content[place + 7 : place + 7 + length]
        place += 7 + length
        if kind in (1, 4):  # whole, or the last part
            yield whole
            whole = b""


@pytest.mark.process
def test_wandb_has_a_run_per_trial_in_a_group_per_study(tmp_path: Path) -> None:
    from wandb.proto import wandb_internal_pb2

    # In a process of its own, because W&B starts a service beside the process that first asks for it.
    code = (
        "from tests.trackers.test_trackers import create_tracker, searched\n"
        "import json\n"
        "study = searched(create_tracker('wandb:digits'))\n"
        "print(json.dumps([trial.intermediate_values for trial in study.trials]))\n"
    )
    alone = os.environ | {"WANDB_MODE": "offline", "WANDB_DIR": str(tmp_path)}
    secrets = ["--storage=postgresql://me:hunter2@host/db", "--learn-from", "old@postgresql://me:hunter2@host/db"]
    done = subprocess.run(
        [sys.executable, "-c", code, *secrets],
        cwd=Path(__file__).parents[2],
        env=alone,
        capture_output=True,
        text=True,
        timeout=200,
    )
    assert done.returncode == 0, done.stderr
    curves = json.loads(done.stdout.splitlines()[-1])
    found: dict[str, dict[str, list[str]]] = {}
    for file in tmp_path.glob("wandb/offline-run-*/*.wandb"):
        name, curve, drawn = "", [], 0
        for data in written(file):
            record = wandb_internal_pb2.Record()
            record.ParseFromString(data)
            if record.HasField("run") and record.run.display_name:
                name = record.run.display_name
                assert (record.run.project, record.run.run_group) == ("digits", "s")
            items = record.history.item
            curve += [item.value_json for item in items if "accuracy" in (item.key, *item.nested_key)]
            drawn += any("drawing" in (item.key, *item.nested_key) for item in items)
        assert drawn == name.startswith("trial")
        found[name] = {"accuracy": curve}
        assert b"--storage=postgresql://me:***@host/db" in file.read_bytes(), "the command is kept"
    assert not [path for path in tmp_path.rglob("*") if path.is_file() and b"hunter2" in path.read_bytes()]
    assert set(found) == {"s search", "trial 0", "trial 1"}
    for number, expected in enumerate(curves):
        curve = [float(value) for value in found[f"trial {number}"]["accuracy"]]
        assert curve == pytest.approx([expected[step] for step in ("1", "2")], abs=1e-6)


def test_wandb_sees_no_password_where_two_runs_begin_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    from nas_optuna.trackers.wandb import _masked_command

    def words(seconds: float) -> list[str]:
        with _masked_command():
            time.sleep(seconds)
            return sys.argv

    monkeypatch.setattr(sys, "argv", given := ["postgresql://me:hunter2@host/db"])
    with ThreadPoolExecutor() as pool:
        assert list(pool.map(words, (0.05, 0.1))) == [["postgresql://me:***@host/db"]] * 2
    assert sys.argv is given
