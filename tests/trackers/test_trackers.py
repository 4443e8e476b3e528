import logging
from pathlib import Path

import optuna
import pytest

from nas_optuna import Experiment, StudySpec
from nas_optuna.errors import SpecError
from nas_optuna.execution.events import Callback
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


def test_mlflow_has_a_parent_and_a_child_run_per_trial(tmp_path: Path) -> None:
    from mlflow.tracking import MlflowClient

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
