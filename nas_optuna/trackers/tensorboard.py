"""TensorBoard: one run per trial, with its curves, choices and figures."""

from __future__ import annotations

import os
from pathlib import Path

from optuna.trial import FrozenTrial
from torch.utils.tensorboard import SummaryWriter

from nas_optuna.execution.evaluator import Measurement
from nas_optuna.execution.events import Callback, Run, Subject
from nas_optuna.execution.retrain import TestReport
from nas_optuna.markdown import table
from nas_optuna.report.columns import filled
from nas_optuna.report.confusion import CLASS_COLUMNS, Confusion
from nas_optuna.study.studies import file_name
from nas_optuna.trackers import facts, figures


class TensorBoardTracker(Callback):
    """Writes event files to ``FOLDER/STUDY/trial-N``."""

    def __init__(self, folder: str | Path = "runs") -> None:
        self._folder = Path(os.path.expanduser(folder))  # no shell expands what stands behind a colon
        self._writers: dict[str, SummaryWriter] = {}
        self._run: Path = self._folder

    def run_started(self, run: Run) -> None:
        """Choose the study's folder."""
        self._study = run.study
        kind = "" if run.kind == "search" else f"-{run.kind}"
        self._run = self._folder / (file_name(run.study.study_name) + kind)

    def trial_started(self, subject: Subject) -> None:
        """Open the trial's file; if the trial began before, in a worker that died, that one's is closed."""
        if subject.name in self._writers:
            self._writers.pop(subject.name).close()
        self._writers[subject.name] = SummaryWriter(str(self._run / subject.name.replace(" ", "-")))

    def step_finished(self, subject: Subject, measurement: Measurement) -> None:
        """Write every metric of the step."""
        for name, value in measurement.metrics.items():
            self._writers[subject.name].add_scalar(name, value, measurement.step)

    def trial_finished(self, subject: Subject, ended: FrozenTrial | None) -> None:
        """Write the choices and the figures, and close the file."""
        writer = self._writers[subject.name]
        if ended is not None:
            choices = {name: v if isinstance(v, int | float | bool) else str(v) for name, v in facts(ended).items()}
            numbers = {f"final/{name}": value for name, value in figures(self._study, ended).items()}
            writer.add_hparams(choices, numbers, run_name=".")
        writer.close()
        del self._writers[subject.name]

    def tested(self, run: Run, report: TestReport) -> None:
        """Write the test accuracy, and a table of classes, because TensorBoard shows no SVG."""
        classes = filled(CLASS_COLUMNS, Confusion.of(report).accuracies())
        with SummaryWriter(str(self._run)) as writer:
            writer.add_scalar("test_accuracy", report.mean, 0)
            writer.add_text("test accuracy of each class", table(classes["columns"], classes["rows"]), 0)

    def run_finished(self, run: Run) -> None:
        """Close files that an interrupted trial left open."""
        self.close()

    def close(self) -> None:
        """Close every file."""
        for writer in self._writers.values():
            writer.close()
        self._writers.clear()
