"""MLflow: a parent run per study and process, a child run per trial."""

from __future__ import annotations

from mlflow.entities import Metric, Param
from mlflow.tracking import MlflowClient
from optuna.trial import FrozenTrial

from nas_optuna.execution.evaluator import Measurement
from nas_optuna.execution.events import Callback, Run, Subject
from nas_optuna.execution.retrain import TestReport
from nas_optuna.report.confusion import Confusion
from nas_optuna.trackers.facts import drawing, facts, figures

_LONGEST = 500
"""Characters of a parameter that every MLflow store keeps."""


class MlflowTracker(Callback):
    """Logs through a client of its own, so that an active run of the user's is left alone.

    Args:
        uri: The tracking URI, e.g. ``sqlite:///mlflow.db``; MLflow's default without it.
    """

    def __init__(self, uri: str | None = None) -> None:
        self._client = MlflowClient(uri)
        self._experiment = self._parent = ""
        self._children: dict[str, str] = {}

    def run_started(self, run: Run) -> None:
        """Begin the parent run, in an experiment with the study's name."""
        self._study, name = run.study, run.study.study_name
        found = self._client.get_experiment_by_name(name)
        self._experiment = found.experiment_id if found else self._client.create_experiment(name)
        parent = self._client.create_run(self._experiment, run_name=f"{name} {run.kind}")
        self._parent = parent.info.run_id
        for key, value in run.facts.items():
            self._client.set_tag(self._parent, f"nas_optuna.{key}", str(value))

    def trial_started(self, subject: Subject) -> None:
        """Begin the child run."""
        child = self._client.create_run(
            self._experiment, run_name=subject.name, tags={"mlflow.parentRunId": self._parent}
        )
        self._children[subject.name] = child.info.run_id

    def step_finished(self, subject: Subject, measurement: Measurement) -> None:
        """Log every metric of the step."""
        for name, value in measurement.metrics.items():
            self._client.log_metric(self._children[subject.name], name, value, step=measurement.step)

    def trial_finished(self, subject: Subject, ended: FrozenTrial | None) -> None:
        """Log the choices, the figures and the drawing, and end the child run."""
        child = self._children.pop(subject.name)
        if ended is not None:
            now = int(ended.datetime_complete.timestamp() * 1000) if ended.datetime_complete else 0
            metrics = [Metric(f"final.{name}", value, now, 0) for name, value in figures(self._study, ended).items()]
            params = [Param(name, str(value)[:_LONGEST]) for name, value in facts(ended).items()]
            self._client.log_batch(child, metrics=metrics, params=params)
            self._client.log_dict(child, dict(ended.params), "params.json")  # what run --fixed takes
            if picture := drawing(self._study, ended):
                self._client.log_text(child, picture, "drawing.svg")
        self._client.set_terminated(child, "FAILED" if ended is not None and ended.state.name == "FAIL" else "FINISHED")

    def tested(self, run: Run, report: TestReport) -> None:
        """Log the test accuracy and the confusion matrix with the parent run."""
        self._client.log_metric(self._parent, "test_accuracy", report.mean)
        self._client.log_text(self._parent, Confusion.of(report).svg(), "confusion-matrix.svg")

    def run_finished(self, run: Run) -> None:
        """End the parent run, and what an interrupted trial left open."""
        for child in self._children.values():
            self._client.set_terminated(child, "KILLED")
        self._children.clear()
        self._client.set_terminated(self._parent)
