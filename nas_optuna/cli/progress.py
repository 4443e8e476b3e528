"""Watching a run: a live display on a terminal and in a notebook, plain lines elsewhere; always on stderr."""

from __future__ import annotations

import importlib.util
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from nas_optuna.cli.printing import is_quiet, say, seconds
from nas_optuna.errors import printable
from nas_optuna.execution.events import Callback, Run, Subject

if TYPE_CHECKING:
    from optuna.study import Study
    from optuna.trial import FrozenTrial
    from rich.progress import Progress, ProgressColumn, TaskID

    from nas_optuna.execution.evaluator import Measurement
    from nas_optuna.fitting.time_budget import TimeBudget

LOOK_UP_PAUSE = 50
"""The whole study, which other workers may have brought forward, is looked at again after so many times as long as
that took."""


@dataclass
class Score:
    """What a run has reached.

    Attributes:
        total: Trials it shall run, if that is known.
        timeout: Seconds after which it begins no more, if there is such a limit.
        done: Trials finished.
        pruned: How many of them were stopped early.
        best: The best value and the number of its trial, over the whole study, if it has one objective.
        front: Trials on the study's front, if it has several.
        started: When the run began, by `time.monotonic`.
        look_up_at: When the whole study may be looked at again, by `time.monotonic`.
    """

    total: int | None
    timeout: float | None
    done: int = 0
    pruned: int = 0
    best: tuple[float, int] | None = None
    front: int | None = None
    started: float = field(default_factory=time.monotonic)
    look_up_at: float = 0.0

    def add(self, study: Study, trial: FrozenTrial) -> None:
        """Count a finished trial."""
        self.done += 1
        self.pruned += trial.state.name == "PRUNED"
        began = time.monotonic()
        if began >= self.look_up_at:
            self.look_up_best(study)
            ended = time.monotonic()
            self.look_up_at = ended + LOOK_UP_PAUSE * (ended - began)
        elif len(study.directions) == 1:
            self._compare(study, [trial])

    def look_up_best(self, study: Study) -> None:
        """Find the study's best trial, other workers' included, where it has one objective; else count its front."""
        if len(study.directions) > 1:
            self.front = len(study.best_trials)
        else:
            self._compare(study, study.get_trials(deepcopy=False))

    def _compare(self, study: Study, trials: Sequence[FrozenTrial]) -> None:
        from nas_optuna.study.studies import maximizes

        found = [(trial.values[0], trial.number) for trial in trials if trial.state.name == "COMPLETE"]
        if self.best is not None:
            found.insert(0, self.best)
        if found:
            self.best = (max if maximizes(study) else min)(found, key=lambda pair: pair[0])

    def __str__(self) -> str:
        parts = [f"best {self.best[0]:.4f} (trial {self.best[1]})" if self.best else "no best yet"]
        if self.front is not None:
            parts = [f"{self.front} on the front"]
        parts.append(f"{self.pruned} pruned")
        left = self._left()
        parts += [f"{seconds(left)} left"] if left is not None else []
        return " · ".join(parts)

    def _left(self) -> float | None:
        """Seconds until the end, from the mean time of the trials so far."""
        elapsed = time.monotonic() - self.started
        estimates = [self.timeout - elapsed] if self.timeout is not None else []
        if self.total is not None and self.done:
            estimates.append(elapsed / self.done * (self.total - self.done))
        return max(0.0, min(estimates)) if estimates else None


class RunDisplay(Callback):
    """Shows a run as it goes.

    Args:
        score: What is counted.
        progress: The live display; None prints a line per trial.
    """

    def __init__(self, score: Score, progress: Progress | None) -> None:
        self._score = score
        self._progress = progress
        self._study: Study | None = None
        self._steps: int | None = None
        self._run: TaskID | None = None
        self._trainings: dict[int | None, TaskID] = {}
        if progress is not None:
            self._run = progress.add_task("trials", total=score.total, note="")

    def run_started(self, run: Run) -> None:
        """Begin to watch a study."""
        self._study = run.study
        self._steps = run.steps
        self._score.look_up_best(run.study)
        self._refresh()

    def trial_started(self, subject: Subject) -> None:
        """Show the trial's own bar, in the line of its worker."""
        if self._progress is None:
            return
        name = subject.name if subject.worker is None else f"worker {subject.worker} · {subject.name}"
        if subject.worker in self._trainings:
            self._progress.reset(self._trainings[subject.worker], total=self._steps, description=name, note="")
            return
        lines = {number: self._taken_away(self._progress, task) for number, task in self._trainings.items()}
        lines[subject.worker] = {"description": name, "total": self._steps, "note": ""}
        if self._run is not None:
            self._progress.remove_task(self._run)
        # In the order of their numbers, with the totals below.
        self._trainings = {n: self._progress.add_task(**lines[n]) for n in sorted(lines, key=lambda n: n or 0)}
        self._run = self._progress.add_task("trials", total=self._score.total, note="")
        self._refresh()

    @staticmethod
    def _taken_away(progress: Progress, task: TaskID) -> dict[str, Any]:
        """Remove a line; returns what makes it anew."""
        line = next(one for one in progress.tasks if one.id == task)
        progress.remove_task(task)
        return {"description": line.description, "total": line.total, "completed": line.completed, **line.fields}

    def step_finished(self, subject: Subject, measurement: Measurement) -> None:
        """Move the trial's own bar."""
        if self._progress is None or subject.worker not in self._trainings:
            return
        figure = next(iter(measurement.metrics.values()))
        self._progress.update(
            self._trainings[subject.worker],
            completed=measurement.step,
            note=printable(f"epochs · {figure:.4f} · {subject.architecture}"),
        )

    def trial_finished(self, subject: Subject, ended: FrozenTrial | None) -> None:
        """Count the trial, and say on a plain terminal what it was."""
        from nas_optuna.objectives import describe
        from nas_optuna.study.records import TrialRecord
        from nas_optuna.study.records import count as counted

        if self._study is None or ended is None:
            return
        self._score.add(self._study, ended)
        self._refresh()
        if self._progress is None:
            record = TrialRecord.of(ended)
            names = self._study.metric_names or ["value"] * len(record.values)
            values = " ".join(describe(n).brief(v) for n, v in zip(names, record.values, strict=False)) or "-"
            epochs = counted(record.epochs, "epoch")
            note = f"  ({record.cause})" if record.cause else ""
            note += f"  (continues trial {record.continues})" if record.continues is not None else ""
            note += f"  (as trial {record.duplicate_of})" if record.duplicate_of is not None else ""
            say(
                f"trial {record.number:3d}  {record.state:8s}  {values:>7s}  {epochs:>9s}"
                f"  {seconds(record.seconds):>8s}  {record.architecture}{note}  [{self._score}]"
            )

    def _refresh(self) -> None:
        if self._progress is not None and self._run is not None:
            self._progress.update(self._run, completed=self._score.done, note=str(self._score))


@contextmanager
def watch(total: int | None = None, timeout: float | None = None) -> Iterator[RunDisplay]:
    """A display for one run, as ``nas-optuna run`` has it; a callback.

    Args:
        total: Trials it shall run, if that is known.
        timeout: Seconds after which it begins no more, if there is such a limit.

    Examples:
        ::

            with nas_optuna.watch(20) as display:
                experiment.run(study, trials=20, callbacks=[display])
    """
    score = Score(total, timeout)
    if not shows_live():
        yield RunDisplay(score, None)
        return
    from rich.progress import BarColumn, MofNCompleteColumn

    columns = (
        text("{task.description}"),
        BarColumn(bar_width=24),
        MofNCompleteColumn(),
        text("{task.fields[note]}", rest=True),
    )
    with live(*columns) as progress:
        yield RunDisplay(score, progress)


def shows_live() -> bool:
    """Whether a display that moves can be shown, and ``--quiet`` was not given.

    Standard error must be a terminal, or a notebook's with the widgets that Rich needs there.
    """
    return (sys.stderr.isatty() or _in_notebook()) and not is_quiet()


def _in_notebook() -> bool:
    if "IPython" not in sys.modules or importlib.util.find_spec("ipywidgets") is None:
        return False
    from rich.console import Console

    return Console().is_jupyter


def live(*columns: ProgressColumn) -> Progress:
    """A display on standard error that is gone when it ends, so that what is printed can be piped."""
    from rich.console import Console
    from rich.progress import Progress

    console = Console(stderr=True, markup=False, highlight=False, emoji=False)
    return Progress(*columns, console=console, transient=True, expand=True)


def text(template: str, *, rest: bool = False) -> ProgressColumn:
    """A column of text, which may be a user's and so is never markup; what does not fit is cut.

    Args:
        template: What a task's text is.
        rest: Give it what the other columns leave of the line, rather than cut all of them alike.
    """
    from rich.progress import TextColumn
    from rich.table import Column

    return TextColumn(
        template, markup=False, table_column=Column(no_wrap=True, overflow="ellipsis", ratio=1 if rest else None)
    )


class EpochBar(Callback):
    """A bar over the epochs of one training after another: a live one on a terminal, a line per epoch elsewhere."""

    def __init__(self, show: Callable[[str], None]) -> None:
        self._show = show

    def step_finished(self, subject: Subject, measurement: Measurement) -> None:
        """Move on."""
        name, figure = next(iter(measurement.metrics.items()))
        self._show(f"{subject.name} · {name.replace('_', ' ')} {figure:.4f}")

    @classmethod
    @contextmanager
    def shown(cls, total: int, what: str) -> Iterator[EpochBar]:
        """Show one.

        Args:
            total: Epochs, of all trainings.
            what: Stands before the bar.
        """
        if not shows_live():
            done = iter(range(1, total + 1))
            yield cls(lambda note: say(f"{what} {next(done)}/{total}  {note}"))
            return
        from rich.progress import BarColumn, MofNCompleteColumn, TimeRemainingColumn

        columns = (
            text("{task.description}"),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
            text("{task.fields[note]}", rest=True),
        )
        with live(*columns) as progress:
            task = progress.add_task(what, total=total, note="")
            yield cls(lambda note: progress.update(task, advance=1, note=printable(note)))


class SupernetBar(Callback):
    """A supernet's training and the short ones after it: a live bar on a terminal, and a line per epoch everywhere."""

    def __init__(self, advance: Callable[[int, int], None], show: Callable[[str], None]) -> None:
        self._advance = advance
        self._show = show
        self._unit = ""
        self._epochs = self._done = self._total = 0
        self._reached: float | None = None

    @classmethod
    @contextmanager
    def shown(cls) -> Iterator[SupernetBar]:
        """Show one."""
        import optuna

        optuna.logging.set_verbosity(optuna.logging.WARNING)
        if not shows_live():
            yield cls(lambda done, total: None, say)
            return
        from rich.progress import BarColumn, TimeRemainingColumn

        with live(text("supernet"), BarColumn(), text("{task.percentage:3.0f} %"), TimeRemainingColumn()) as progress:
            task = progress.add_task("supernet", total=None)
            yield cls(lambda done, total: progress.update(task, completed=done, total=total), progress.console.print)

    def run_started(self, run: Run) -> None:
        """Say what the columns are and where the training stands."""
        done = run.facts["epochs_done"]
        self._unit, self._epochs = run.facts["unit"], run.steps
        self._done, self._total = (count * run.facts["steps_per_epoch"] for count in (done, run.steps))
        self._total += run.facts["short_steps"]
        self._advance(self._done, self._total)
        if done:
            self._show(f"going on after epoch {done}")
        if run.facts["parameters"]:
            self._show(printable(f"entropy, nats: {' '.join(run.facts['parameters'])}"))

    def step(self) -> None:
        """Count an optimiser's step."""
        self._done += 1
        self._advance(self._done, self._total)

    def step_finished(self, subject: Subject, measurement: Measurement) -> None:
        """Print an epoch's figures, with the entropy of every parameter's alphas where they train."""
        figures = measurement.metrics
        if subject.architecture:
            self._reached = figures["accuracy"]
            return
        alphas = f"  alphas' {figures['alpha_loss']:.4f}" if "alpha_loss" in figures else ""
        cost = f"  E[cost] {figures['expected_cost']:.4g} {self._unit}" if "expected_cost" in figures else ""
        entropies = [f"{value:.2f}" for name, value in figures.items() if name.startswith("entropy/")]
        entropy = f"  entropy {' '.join(entropies)}" if entropies else ""
        self._show(
            f"epoch {measurement.step:3d}/{self._epochs}  loss {figures['train_loss']:.4f}{alphas}"
            f"  accuracy {figures['train_accuracy']:.4f}{cost}  {seconds(measurement.seconds)}{entropy}"
        )

    def trial_finished(self, subject: Subject, ended: FrozenTrial | None) -> None:
        """Print what a short training reached."""
        if subject.architecture and self._reached is not None:
            self._show(printable(f"{subject.name}, {subject.architecture}: accuracy {self._reached:.4f}"))
            self._reached = None


class FitDisplay(Callback):
    """A fit as it goes: what is being done, what the best is, and how much of the time is left."""

    def __init__(self, budget: TimeBudget, show: Callable[[str], None] | None) -> None:
        self._budget = budget
        self._show = show
        self._best: float | None = None
        self._step = ""

    @classmethod
    @contextmanager
    def shown(cls, budget: TimeBudget) -> Iterator[FitDisplay]:
        """Show one."""
        if not shows_live():
            yield cls(budget, None)
            return
        from rich.progress import BarColumn

        with live(text("{task.description}"), BarColumn(bar_width=24), text("{task.fields[note]}", rest=True)) as bar:
            task = bar.add_task("fit", total=budget.total, note="")
            yield cls(budget, lambda note: bar.update(task, completed=budget.elapsed, note=printable(note)))

    def say(self, line: str) -> None:
        """Tell what begins."""
        self._step = line
        say(f"[{seconds(self._budget.elapsed)}] {line}")
        self._refresh("")

    def step_finished(self, subject: Subject, measurement: Measurement) -> None:
        """Show the figure."""
        name, figure = next(iter(measurement.metrics.items()))
        self._refresh(f"{subject.name} · {name.replace('_', ' ')} {figure:.4f}")

    def trial_finished(self, subject: Subject, ended: FrozenTrial | None) -> None:
        """Say what a network reached."""
        if ended is None:
            return
        from nas_optuna.study.records import TrialRecord
        from nas_optuna.study.schema import TrialKey, attribute

        record = TrialRecord.of(ended)
        value = f"{record.values[0]:.4f}" if record.values else record.cause or record.state
        steps = attribute(ended, TrialKey.STEPS)
        say(
            f"[{seconds(self._budget.elapsed)}] {subject.name}  {value}"
            f"  {f'{steps:,} steps  ' if steps else ''}{record.architecture}  ({record.origin})"
        )

    def _refresh(self, note: str) -> None:
        if self._show is not None:
            self._show(f"{seconds(max(0.0, self._budget.left))} left · {note or self._step}")
