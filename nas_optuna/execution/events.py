"""Events of trainings, and the callbacks that are told of them.

One `Callback` serves a search, a supernet's training, a check and a retraining: terminal, dashboard notes and trackers
are callbacks, and so is any plain Optuna callback ``(study, trial)``.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from optuna.study import Study
from optuna.trial import BaseTrial, FrozenTrial

from nas_optuna.errors import SpecError, reason_of, require_kind
from nas_optuna.execution.evaluator import Measurement
from nas_optuna.study.storage import failure

if TYPE_CHECKING:
    from nas_optuna.execution.retrain import TestReport

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Run:
    """One run: a search, a supernet's training, a supernet's check, or a retraining.

    Attributes:
        kind: Which of these.
        study: The study that it belongs to.
        subjects: How many trainings are planned, if that is known; a supernet's short trainings are not counted.
        steps: Steps (epochs) of each training.
        timeout: Seconds after which no further training begins, if there is such a limit.
        facts: Further facts for a person, by name, JSON-ready.
    """

    kind: Literal["search", "supernet", "check", "retrain"]
    study: Study
    subjects: int | None
    steps: int
    timeout: float | None = None
    facts: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name, limit in {"trials": self.subjects, "timeout": self.timeout}.items():
            if limit is not None and not limit >= 0:  # as of NaN
                raise SpecError(f"{name} = {limit} is no limit; give a number of at least 0, or None")


@dataclass(frozen=True)
class Subject:
    """One training: a trial of a search, a seed of a retraining, a supernet, or a short training.

    Attributes:
        name: For a person, e.g. ``"trial 3"``, ``"seed 0"`` or ``"short training 1"``.
        trial: The trial, in a search; None if another process runs it.
        architecture: The architecture's string, if there is one.
        study: The study, in a search.
        worker: The number of the worker that trains it, from 1, if there are several.
    """

    name: str
    trial: BaseTrial | None = None
    architecture: str = ""
    study: Study | None = None
    worker: int | None = None


class Callback:
    """Told of events by these methods, in this order. All of them do nothing; override what you need.

    A callback that raises is closed and not called again; the run continues.

    Examples:
        >>> class Printer(Callback):
        ...     def step_finished(self, subject, measurement):
        ...         print(subject.name, measurement.step, measurement.metrics)
    """

    def run_started(self, run: Run) -> None:
        """Before the first training."""
        self.any_event("run_started", run)

    def trial_started(self, subject: Subject) -> None:
        """Before one training."""
        self.any_event("trial_started", subject)

    def step_finished(self, subject: Subject, measurement: Measurement) -> None:
        """After each step (epoch) of a training."""
        self.any_event("step_finished", subject, measurement)

    def trial_finished(self, subject: Subject, ended: FrozenTrial | None) -> None:
        """After one training; `ended` has a trial's state, values, params and user attributes."""
        self.any_event("trial_finished", subject, ended)

    def tested(self, run: Run, report: TestReport) -> None:
        """After the networks of a retraining were scored on the test images."""
        self.any_event("tested", run, report)

    def run_finished(self, run: Run) -> None:
        """After the last training, even if the run was interrupted or failed."""
        self.any_event("run_finished", run)

    def any_event(self, event: str, about: Run | Subject, *more: Any) -> None:
        """Receives every event whose method is not overridden: that method's name and arguments."""

    def close(self) -> None:
        """Release resources after a method has raised; called again at the end of the run if it raises itself."""


OptunaCallback = Callable[[Study, FrozenTrial], None]


class Callbacks(Callback):
    """Several callbacks as one, including plain Optuna callbacks ``(study, trial)``; one that raises is dropped."""

    # If a plain Optuna callback raises, the run ends, as in ``study.optimize``.

    def __init__(self, callbacks: Iterable[Callback | OptunaCallback] = ()) -> None:
        require_kind(callbacks, Iterable, "callbacks", "give a list of them, which may be empty")
        self._callbacks = list(callbacks)
        self._unclosed: list[Callback] = []
        self._ended_by: str | None = None

    @contextmanager
    def during(self, run: Run) -> Iterator[None]:
        """Tell all that a run begins and, however it ends, that it has ended."""
        try:
            self.run_started(run)
            yield
        except BaseException as error:
            self._ended_by = failure(error)
            raise
        finally:
            self.run_finished(run)

    def any_event(self, event: str, about: Run | Subject, *more: Any) -> None:
        """Tell all; at the end of the run, close those that could not be closed before."""
        for callback in list(self._callbacks):
            if not isinstance(callback, Callback):
                if event == "trial_finished" and about.study is not None and more[0] is not None:
                    callback(about.study, more[0])
                continue
            try:
                getattr(callback, event)(about, *more)
            except Exception as error:
                if isinstance(callback, Callbacks):  # of those only Optuna's raise
                    raise
                self._drop(callback, error)
        if event == "run_finished":
            for callback in self._unclosed:
                with suppress(Exception):  # its failure was already reported
                    callback.close()
            self._unclosed.clear()

    def _drop(self, callback: Callback, error: Exception) -> None:
        try:
            self._callbacks.remove(callback)
        except ValueError:  # in another thread, it raised at the same time
            return
        told = failure(error) or reason_of(error)
        if told != self._ended_by:  # which its caller reports
            logger.warning("%s is told nothing more: %s", type(callback).__name__, told)
        try:
            callback.close()
        except Exception:
            self._unclosed.append(callback)
