"""Progress displays on stderr: live on a terminal and in a notebook, plain lines elsewhere."""

from __future__ import annotations

import importlib.util
import math
import sys
import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from statistics import fmean
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, Task, TextColumn, TimeRemainingColumn
from rich.table import Column, Table

from nas_optuna.cli import printing
from nas_optuna.cli.printing import say
from nas_optuna.errors import checked, printable
from nas_optuna.execution.events import Callback, Run, Subject
from nas_optuna.lazily import lazily
from nas_optuna.quantities import Quantity, duration, plural

with lazily():
    from optuna.study import Study
    from optuna.trial import FrozenTrial

    from nas_optuna.execution.evaluator import Measurement
    from nas_optuna.execution.loop import StopRequest
    from nas_optuna.fitting.clock import TimeBudget
    from nas_optuna.report import facts
    from nas_optuna.study import schema
    from nas_optuna.study.results import TrialRecord, best_trial, changes, front_trials, reference_of

PATIENCE = 60.0
"""Seconds after which a person is told that the first training has not ended an epoch."""
EVERY = 60.0
"""Seconds between the lines of a fit without a live display."""
_FIGURE = Quantity("", format=".4f")
"""How any figure of a training is written."""


class Bars(Progress):
    """The lines of a live display, in the order of their keys; nothing is shown if it is disabled."""

    def show(self, description: str, done: float, total: float | None, note: str = "", key: float = 0) -> None:
        """Add a line, or change the one with the same key."""
        line: dict[str, Any] = {"description": description, "completed": done, "total": total, "note": printable(note)}
        known = [task.id for task in self.tasks if task.fields["key"] == key]
        self.update(known[0], **line) if known else self.add_task(**line, key=key)

    def make_tasks_table(self, tasks: Iterable[Task]) -> Table:
        """Draw the lines in their order."""
        return super().make_tasks_table(sorted(tasks, key=lambda task: task.fields["key"]))


@contextmanager
def bars(*, time_left: bool = False) -> Iterator[Bars]:
    """Bars on standard error, which disappear at the end."""
    console = Console(stderr=True, markup=False, highlight=False, emoji=False)
    # A user's text is never markup. The note gets the space that the others leave, and is cut if it does not fit.
    note = Column(no_wrap=True, overflow="ellipsis", ratio=1)
    columns: list[ProgressColumn] = [
        TextColumn("{task.description}", markup=False),
        BarColumn(bar_width=min(24, max(6, console.width - 56))),
        MofNCompleteColumn(),
        *([TimeRemainingColumn()] if time_left else []),
        TextColumn("{task.fields[note]}", markup=False, table_column=note),
    ]
    # A dumb terminal, such as that of Emacs, only gets lines; a notebook needs widgets.
    terminal = sys.stderr.isatty() and console.is_terminal and not console.is_dumb_terminal
    live = terminal or (console.is_jupyter and importlib.util.find_spec("ipywidgets") is not None)
    with Bars(*columns, console=console, transient=True, expand=True, disable=printing.quiet or not live) as shown:
        yield shown


def _figure(subject: Subject, measurement: Measurement) -> str:
    """The name of the training, and its first figure."""
    name, figure = next(iter(measurement.metrics.items()))
    return f"{subject.name} · {name.replace('_', ' ')} {_FIGURE.brief(figure)}"


class RunDisplay(Callback):
    """Displays a search: a bar for each worker and one for all trials, or a line for each trial."""

    def __init__(self, shown: Bars, total: int | None = None, timeout: float | None = None) -> None:
        self._bars = shown
        self._total, self._timeout = total, None if timeout == math.inf else timeout
        self._done = self._pruned = 0
        self._reached = "no best yet"
        self._began = time.monotonic()
        self._study: Study | None = None
        self._reference: str | None = None
        self._steps: int | None = None
        self._slow: threading.Timer | None = None

    def __str__(self) -> str:
        elapsed = time.monotonic() - self._began
        ends = [] if self._timeout is None else [self._timeout - elapsed]
        if self._total is not None and self._done:  # from the mean time of the trials so far
            ends.append(elapsed / self._done * (self._total - self._done))
        left = [f"{duration(max(0.0, min(ends)))} left"] if ends else []
        return " · ".join([self._reached, f"{self._pruned} pruned", *left])

    def run_started(self, run: Run) -> None:
        """Start to display a study."""
        self._study = run.study
        self._reference = reference_of(run.study.get_trials(deepcopy=False))
        self._steps = run.steps
        self._refresh(run.study)

    def trial_started(self, subject: Subject) -> None:
        """Show the trial's bar in its worker's line."""
        self._show(subject, 0, "")
        if self._slow is None:
            remedy = "smaller networks or images, or --set data.train_limit=N, make epochs shorter"
            told = f"{subject.name} has trained for {PATIENCE:.0f} s, and no epoch has ended yet; {remedy}"
            self._slow = threading.Timer(PATIENCE, say, [told])
            self._slow.daemon = True
            self._slow.start()

    def step_finished(self, subject: Subject, measurement: Measurement) -> None:
        """Move the trial's bar."""
        self._calm()
        figure = next(iter(measurement.metrics.values()))
        note = f"epochs · {_FIGURE.brief(figure)} · {changes(subject.architecture, self._reference)}"
        self._show(subject, measurement.step, note)

    def trial_finished(self, subject: Subject, ended: FrozenTrial | None) -> None:
        """Count the trial, and without a live display print a line."""
        self._calm()
        if self._study is None or ended is None:
            return
        self._done += 1
        self._pruned += ended.state.name == "PRUNED"
        self._refresh(self._study)
        record = TrialRecord.of(ended)
        architecture = changes(record.architecture, self._reference)
        self._reference = self._reference or reference_of([ended])  # after its own line, which says it in full
        if self._bars.disable:
            found = facts.objectives_of(record, facts.objective_names(self._study), brief=True)
            values = " ".join(text for _, text in found) or "-"
            notes = "".join(f"  ({remark})" for remark in facts.remarks_of(record))
            say(
                f"trial {record.number:3d}  {record.state:8s}  {values:>7s}  {plural(record.epochs, 'epoch'):>9s}"
                f"  {duration(record.seconds):>8s}  {architecture}{notes}  [{self}]"
            )

    def run_finished(self, run: Run) -> None:
        """Say nothing more."""
        self._calm()

    def _calm(self) -> None:
        if self._slow is not None:
            self._slow.cancel()

    def _show(self, subject: Subject, done: int, note: str) -> None:
        worker = subject.worker or 0
        name = f"worker {worker} · {subject.name}" if worker else subject.name
        self._bars.show(name, done, self._steps, note, key=worker)

    def _refresh(self, study: Study) -> None:
        """Show the study's best trial, which may be another worker's, or the size of its front."""
        if len(study.directions) > 1:
            self._reached = f"{len(front_trials(study))} on the front"
        elif best := best_trial(study):
            self._reached = f"best {_FIGURE.brief(best.values[0])} (trial {best.number})"
        self._bars.show("trials", self._done, self._total, str(self), key=math.inf)


@checked
@contextmanager
def watch(total: int | None = None, timeout: float | None = None) -> Iterator[RunDisplay]:
    """The display of ``nas-optuna run`` for one run, as a callback.

    Args:
        total: Number of trials, if it is known.
        timeout: Seconds after which no trial begins, if there is such a limit.

    Examples:
        ::

            with nas_optuna.watch(20) as display:
                experiment.run(study, trials=20, callbacks=[display])
    """
    with bars() as shown:
        yield RunDisplay(shown, total, timeout)


class RetrainingDisplay(Callback):
    """Displays retrainings: a bar over all epochs, or a line per epoch."""

    def __init__(self, shown: Bars) -> None:
        self._bars = shown
        self._done = self._total = 0

    def run_started(self, run: Run) -> None:
        """Count the epochs of all trainings."""
        self._total = (run.subjects or 1) * run.steps
        self._bars.show("retraining", 0, self._total)

    def step_finished(self, subject: Subject, measurement: Measurement) -> None:
        """Move on."""
        self._done += 1
        note = _figure(subject, measurement)
        self._bars.show("retraining", self._done, self._total, note)
        if self._bars.disable:
            say(f"retraining {self._done}/{self._total}  {note}")


class SupernetDisplay(Callback):
    """Displays a supernet's training and the short ones after it: a bar over their steps, and a line per epoch."""

    def __init__(self, shown: Bars, stop: StopRequest) -> None:
        self._bars = shown
        self._stop = stop
        self._epochs = self._done = self._total = 0
        self._reached: float | None = None

    def run_started(self, run: Run) -> None:
        """Print where the training continues."""
        done, self._epochs = run.facts["epochs_done"], run.steps
        self._done, self._total = (count * run.facts["steps_per_epoch"] for count in (done, run.steps))
        self._total += run.facts["short_steps"]
        self._bars.show("supernet", self._done, self._total)
        if done:
            say(f"going on after epoch {done}")

    def step(self) -> bool:
        """Count an optimiser step; return whether to stop."""
        self._done += 1
        self._bars.show("supernet", self._done, self._total)
        return self._stop()

    def step_finished(self, subject: Subject, measurement: Measurement) -> None:
        """Print an epoch's figures; of the entropies of the parameters' alphas their mean."""
        figures = measurement.metrics
        if subject.architecture:
            self._reached = figures["accuracy"]
            return
        shown = {name.replace("_", " "): value for name, value in figures.items() if "/" not in name}
        if entropies := [value for name, value in figures.items() if name.startswith("entropy/")]:
            shown["entropy"] = fmean(entropies)
        told = "  ".join(f"{name} {value:.4g}" for name, value in shown.items())
        say(f"epoch {measurement.step:3d}/{self._epochs}  {told}  {duration(measurement.seconds)}")

    def trial_finished(self, subject: Subject, ended: FrozenTrial | None) -> None:
        """Print the accuracy of a short training."""
        if subject.architecture and self._reached is not None:
            say(f"{subject.name}, {subject.architecture}: accuracy {self._reached:.4f}")
            self._reached = None


class FitDisplay(Callback):
    """Displays a fit: the current step, the accuracy of each network, and the time left."""

    def __init__(self, budget: TimeBudget, shown: Bars) -> None:
        self._budget = budget
        self._bars = shown
        self._step = ""
        self._printed = budget.elapsed
        self._reference: str | None = None

    def say(self, line: str) -> None:
        """Print what begins."""
        self._step = line
        self._print(line)
        self._refresh("")

    def run_started(self, run: Run) -> None:
        """Look for the reference of an earlier run."""
        self._reference = reference_of(run.study.get_trials(deepcopy=False))

    def step_finished(self, subject: Subject, measurement: Measurement) -> None:
        """Show the figure; without a live display, now and then by a line."""
        note = _figure(subject, measurement)
        self._refresh(note)
        if self._bars.disable and self._budget.elapsed - self._printed >= EVERY:
            self._print(f"{note} · {self._left}")

    def trial_finished(self, subject: Subject, ended: FrozenTrial | None) -> None:
        """Print the result of a network."""
        if ended is None:
            return
        record = TrialRecord.of(ended)
        architecture = changes(record.architecture, self._reference)
        self._reference = self._reference or reference_of([ended])  # after its own line, which says it in full
        value = _FIGURE.brief(record.values[0]) if record.values else record.cause or record.state
        steps = schema.attribute(ended, schema.TrialKey.STEPS)
        trained = f"{plural(steps, 'step')}  " if steps else ""
        self._print(f"{subject.name}  {value}  {trained}{architecture}  ({record.origin})")

    @property
    def _left(self) -> str:
        return f"{duration(max(0.0, self._budget.left))} left"

    def _print(self, line: str) -> None:
        self._printed = self._budget.elapsed
        say(f"[{duration(self._printed)}] {line}")

    def _refresh(self, note: str) -> None:
        self._bars.show("fit", self._budget.elapsed, self._budget.total, f"{self._left} · {note or self._step}")
