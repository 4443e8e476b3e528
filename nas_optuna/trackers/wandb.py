"""Weights & Biases: one run per trial, in one group per study and process."""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import wandb
from optuna.trial import FrozenTrial

from nas_optuna.execution.evaluator import Measurement
from nas_optuna.execution.events import Callback, Run, Subject
from nas_optuna.execution.retrain import TestReport
from nas_optuna.masking import mask_urls
from nas_optuna.report.confusion import Confusion
from nas_optuna.trackers import drawing, facts, figures

_PATIENCE = 15.0
"""Seconds within which a server must accept a new run."""
_beginning = threading.Lock()
"""Held while a run begins, since the words of the command are the whole process's, and trials may run in threads."""


class WandbTracker(Callback):
    """Logs to a project, beside a user's active run. ``WANDB_MODE=offline`` keeps everything in files.

    Examples:
        >>> tracker = WandbTracker("digits")
    """

    def __init__(self, project: str | None = None) -> None:
        self._project = project or "nas-optuna"
        self._group = self._kind = ""
        self._runs: dict[str, Any] = {}
        self._settings = wandb.Settings(console="off", silent=True, init_timeout=_PATIENCE)

    def run_started(self, run: Run) -> None:
        """Begin a run of the study itself, which names the group."""
        self._kind, self._study, self._group = run.kind, run.study, run.study.study_name
        config = {key: str(value) for key, value in run.facts.items()}
        self._runs[""] = self._begun(f"{self._group} {run.kind}", "study", config)

    def trial_started(self, subject: Subject) -> None:
        """Begin the trial's run; if the trial began before, in a worker that died, that run ends as failed."""
        if subject.name in self._runs:
            self._runs.pop(subject.name).finish(exit_code=1)
        self._runs[subject.name] = self._begun(subject.name, self._kind, {"architecture": subject.architecture})

    def step_finished(self, subject: Subject, measurement: Measurement) -> None:
        """Log every metric of the step."""
        self._runs[subject.name].log(dict(measurement.metrics), step=measurement.step)

    def trial_finished(self, subject: Subject, ended: FrozenTrial | None) -> None:
        """Log the choices, the figures and the drawing, and end the trial's run."""
        run = self._runs[subject.name]
        if ended is not None:
            run.config.update(facts(ended), allow_val_change=True)
            run.summary.update({f"final/{name}": value for name, value in figures(self._study, ended).items()})
            if picture := drawing(self._study, ended):
                run.log({"drawing": wandb.Html(picture, inject=False)})
        run.finish(exit_code=int(ended is not None and ended.state.name == "FAIL"))
        del self._runs[subject.name]

    def tested(self, run: Run, report: TestReport) -> None:
        """Log the test accuracy and the confusion matrix with the study's run."""
        matrix = wandb.Html(Confusion.of(report).svg(), inject=False)
        self._runs[""].log({"test_accuracy": report.mean, "confusion_matrix": matrix})

    def run_finished(self, run: Run) -> None:
        """End the study's run, and those that an interrupted trial left open."""
        self._end(0)

    def close(self) -> None:
        """End every run as failed."""
        self._end(1)

    def _end(self, exit_code: int) -> None:
        for name, begun in list(self._runs.items()):
            begun.finish(exit_code=exit_code if name == "" else 1)
            del self._runs[name]

    def _begun(self, name: str, kind: str, config: dict[str, Any]) -> Any:
        with _masked_command():
            return wandb.init(
                project=self._project,
                group=self._group,
                name=name,
                job_type=kind,
                config=config,
                reinit="create_new",
                settings=self._settings,
            )


@contextmanager
def _masked_command() -> Iterator[None]:
    """Mask the passwords in the words of this process's command, which W&B copies into each run that begins."""
    with _beginning:
        words, sys.argv = sys.argv, [mask_urls(word) for word in sys.argv]
        try:
            yield
        finally:
            sys.argv = words
