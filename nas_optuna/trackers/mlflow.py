"""MLflow: a parent run per study and process, and a child run per trial."""

from __future__ import annotations

import http.client
import os
import posixpath
import re
import ssl
from collections.abc import Mapping
from typing import Any
from urllib.error import HTTPError
from urllib.parse import urlsplit
from urllib.request import urlopen

from mlflow.entities import Metric, Param
from mlflow.tracking import MlflowClient
from optuna.study import Study
from optuna.trial import FrozenTrial

from nas_optuna.errors import NasOptunaError
from nas_optuna.execution.evaluator import Measurement
from nas_optuna.execution.events import Callback, Run, Subject
from nas_optuna.execution.retrain import TestReport
from nas_optuna.report.confusion import Confusion
from nas_optuna.trackers import drawing, facts, figures

_LONGEST = 500
"""The most characters of a parameter that every MLflow store keeps."""
_AT_ONCE = 100
"""The most parameters that a server accepts in one request."""
_PATIENCE = 3.0
"""Seconds within which a server must answer."""
_SETTINGS = {
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "5",
    "MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR": "1",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
}
"""MLflow's defaults wait six minutes for a silent server, and print two lines per run to stdout, where our JSON goes. A
user's settings in the environment take precedence."""


class MlflowTracker(Callback):
    """Logs through a separate client, so that a user's active run is not affected."""

    def __init__(self, uri: str | None = None) -> None:
        for name, value in _SETTINGS.items():
            os.environ.setdefault(name, value)
        self._client = MlflowClient(uri)
        self._experiment = self._parent = ""
        self._study: Study | None = None
        self._children: dict[str, str] = {}

    def run_started(self, run: Run) -> None:
        """Begin the parent run, in an experiment with the study's name."""
        _require_answer(self._client.tracking_uri)
        self._study, name = run.study, run.study.study_name
        found = self._client.get_experiment_by_name(name)
        if found is not None and found.lifecycle_stage == "deleted":
            self._client.restore_experiment(found.experiment_id)
        self._experiment = found.experiment_id if found else self._client.create_experiment(name)
        parent = self._client.create_run(self._experiment, run_name=f"{name} {run.kind}")
        self._parent = parent.info.run_id
        for key, value in run.facts.items():
            self._client.set_tag(self._parent, f"nas_optuna.{key}", str(value))

    def trial_started(self, subject: Subject) -> None:
        """Begin the child run; if the trial began before, in a worker that died, that run ends."""
        self._kill(subject.name)
        child = self._client.create_run(
            self._experiment, run_name=subject.name, tags={"mlflow.parentRunId": self._parent}
        )
        self._children[subject.name] = child.info.run_id

    def step_finished(self, subject: Subject, measurement: Measurement) -> None:
        """Log every metric of the step."""
        for name, value in measurement.metrics.items():
            self._client.log_metric(self._children[subject.name], _accepted(name), value, step=measurement.step)

    def trial_finished(self, subject: Subject, ended: FrozenTrial | None) -> None:
        """Log the choices, the figures and the drawing, and end the child run."""
        child = self._children[subject.name]
        if ended is not None and self._study is not None:
            self._log(child, facts(ended), figures(self._study, ended), ended)
            self._client.log_dict(child, dict(ended.params), "params.json")  # what run --fixed takes
            if picture := drawing(self._study, ended):
                self._client.log_text(child, picture, "drawing.svg")
        self._client.set_terminated(child, "FAILED" if ended is not None and ended.state.name == "FAIL" else "FINISHED")
        del self._children[subject.name]

    def tested(self, run: Run, report: TestReport) -> None:
        """Log the test accuracy and the confusion matrix with the parent run."""
        self._client.log_metric(self._parent, "test_accuracy", report.mean)
        self._client.log_text(self._parent, Confusion.of(report).svg(), "confusion-matrix.svg")

    def run_finished(self, run: Run) -> None:
        """End the parent run, and those that an interrupted trial left open."""
        self._end("FINISHED")

    def close(self) -> None:
        """End every run, so that none is shown as running forever."""
        if self._parent:
            _require_answer(self._client.tracking_uri)
            self._end("FAILED")

    def _end(self, status: str) -> None:
        for name in list(self._children):
            self._kill(name)
        if self._parent:
            self._client.set_terminated(self._parent, status)
            self._parent = ""

    def _kill(self, name: str) -> None:
        if name in self._children:
            self._client.set_terminated(self._children[name], "KILLED")
            del self._children[name]

    def _log(self, child: str, said: Mapping[str, Any], numbers: Mapping[str, float], ended: FrozenTrial) -> None:
        now = int(ended.datetime_complete.timestamp() * 1000) if ended.datetime_complete else 0
        metrics = [Metric(_accepted(f"final.{name}"), value, now, 0) for name, value in numbers.items()]
        params = [Param(_accepted(name), str(value)[:_LONGEST]) for name, value in said.items()]
        self._client.log_batch(child, metrics=metrics)
        for i in range(0, len(params), _AT_ONCE):
            self._client.log_batch(child, params=params[i : i + _AT_ONCE])


def _accepted(name: str) -> str:
    """A name with ``_`` for what MLflow refuses, also as a path: one that is absolute, or leads upwards."""
    path = posixpath.normpath(re.sub(r"[^\w.\-: /]+", "_", name)[:250])
    return re.sub(r"^(\.*/|\.\.|\.$)+", "_", path)


def _require_answer(uri: str) -> None:
    """Refuse a server that does not answer soon, because a run must not wait for it."""
    place = urlsplit(uri)
    if place.scheme not in ("http", "https"):
        return
    health = f"{place.scheme}://{place.netloc.rpartition('@')[2]}{place.path.rstrip('/')}/health"
    try:  # MLflow itself checks the certificate
        urlopen(health, timeout=_PATIENCE, context=ssl._create_unverified_context()).close()
    except HTTPError:
        return  # an answer, too
    except (OSError, http.client.HTTPException) as error:
        raise NasOptunaError(f"no MLflow server answers at {uri}: {getattr(error, 'reason', error)}") from error
