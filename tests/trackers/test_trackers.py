import json
import logging
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import optuna
import pytest

from nas_optuna import Experiment, StudySpec
from nas_optuna.errors import SpecError
from nas_optuna.execution.events import Callback
from nas_optuna.execution.retrain import retrain
from nas_optuna.trackers import create_tracker

SPEC = {
    "space": {"name": "conv", "depth": 2},
    "recipe": {"epochs": 2, "input_size": 8},
    "data": {"name": "digits", "train_limit": 200},
    "sampler": {"name": "random"},
    "pruner": {"name": "none"},
}


def searched(tracker: Callback) -> optuna.Study:
    experiment = Experiment.from_spec(StudySpec.from_dict(SPEC), device="cpu")
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


def test_mlflow_has_a_parent_and_a_child_run_per_trial(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from mlflow.tracking import MlflowClient

    monkeypatch.chdir(tmp_path)  # MLflow keeps artifacts in the current folder
    uri = f"sqlite:///{tmp_path}/mlflow.db"
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
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from mlflow.tracking import MlflowClient
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    monkeypatch.chdir(tmp_path)
    uri = f"sqlite:///{tmp_path}/mlflow.db"
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


@pytest.mark.parametrize("text", ["tensorbord:x", "tensorboard", "", "comet:x", "nowhere.trackers:Tracker"])
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
    done = subprocess.run(
        [sys.executable, "-c", code],
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
    assert set(found) == {"s search", "trial 0", "trial 1"}
    for number, expected in enumerate(curves):
        curve = [float(value) for value in found[f"trial {number}"]["accuracy"]]
        assert curve == pytest.approx([expected[step] for step in ("1", "2")], abs=1e-6)
