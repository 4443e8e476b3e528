"""The loop that takes trials, runs them and tells their outcome; it can be stopped and resumed."""

from __future__ import annotations

import logging
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

import optuna
from optuna.exceptions import UpdateFinishedTrialError
from optuna.study import Study
from optuna.trial import FrozenTrial, Trial, TrialState

from nas_optuna import errors
from nas_optuna.devices import require_working
from nas_optuna.errors import ArchitectureError, Gone, Interrupted, NasOptunaError, StudyError, TrainingError
from nas_optuna.execution.events import Callback, Callbacks, OptunaCallback, Subject
from nas_optuna.execution.objective import EvaluatorObjective
from nas_optuna.study import lease, lease_table, optuna_internals
from nas_optuna.study.database import giving_up, is_away
from nas_optuna.study.schema import StudyKey, TrialKey, attribute
from nas_optuna.study.storage import failure, is_of_the_deleted

logger = logging.getLogger(__name__)

_CAUSE_LENGTH = 300
_LOOK_EVERY = 10.0
"""Seconds after which a run looks again, between two trials, for abandoned trials of other processes."""


@dataclass(frozen=True)
class Outcome:
    """The outcome of a run.

    Attributes:
        trials: Trials that it finished, whatever their state.
        interrupted: Whether it was asked to stop.
    """

    trials: int
    interrupted: bool


class StopRequest:
    """Whether somebody asked to stop. `interruptible` sets it on Ctrl-C, on SIGTERM, and if the terminal is closed.

    A training asks it between steps, so it may finish its step. Code that does not ask, such as a sampler that computes
    for minutes, is interrupted at once, and a second signal interrupts everything. Only writes to the study, which take
    milliseconds, are never interrupted.

    Attributes:
        asked: Whether somebody has asked.
        insisted: Whether somebody has asked again.
    """

    def __init__(self) -> None:
        self.asked = False
        self.insisted = False
        self._guarded = False
        self._was_asked_for = True

    def __call__(self) -> bool:
        """Whether to stop."""
        self._was_asked_for = True
        return self.asked

    @contextmanager
    def guarding(self) -> Iterator[None]:
        """Let nothing in the block be interrupted, except within `evaluating`."""
        self._guarded = True
        try:
            yield
        finally:
            self._guarded = False

    @contextmanager
    def evaluating(self) -> Iterator[None]:
        """Let a signal interrupt the block at once unless it asks whether to stop."""
        self._was_asked_for, self._guarded = False, False
        try:
            if self.asked:
                raise KeyboardInterrupt
            yield
        finally:
            self._was_asked_for, self._guarded = True, True

    def signal(self) -> None:
        """Handle a signal."""
        again, self.asked = self.asked, True
        self.insisted = self.insisted or again
        if not self._guarded and (again or not self._was_asked_for):
            self._guarded = True
            raise KeyboardInterrupt


@contextmanager
def interruptible(stop: StopRequest) -> Iterator[None]:
    """Make Ctrl-C, SIGTERM and the end of the terminal set `stop`; see `StopRequest`."""
    if threading.current_thread() is not threading.main_thread():
        yield  # only the main thread may set handlers
        return

    hangup = getattr(signal, "SIGHUP", None)  # not on Windows

    def handle(number: int, frame: object) -> None:
        if number != hangup or not stop.asked:  # the system sends it, and then the shell does: nobody insists
            stop.signal()

    # nohup ignores it, and a program may have a use of its own for it.
    more = [hangup] if hangup and signal.getsignal(hangup) == signal.SIG_DFL else []
    numbers: list[int] = [signal.SIGINT, signal.SIGTERM, *more]
    previous: dict[int, Any] = {number: signal.signal(number, handle) for number in numbers}
    try:
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


def run(
    study: Study,
    objective: Callable[[Trial], Any],
    *,
    trials: int | None = None,
    timeout: float | None = None,
    total: int | None = None,
    budget: TrialBudget | None = None,
    may_begin: Callable[[], bool] = lambda: True,
    stop: StopRequest | None = None,
    callbacks: Sequence[Callback | OptunaCallback] = (),
) -> Outcome:
    """Run trials of a study until there are enough, time is up, or somebody asks to stop (also by ``study.stop()``)."""
    # A budget, whose clock may run already, stands for the three limits before it.
    # It differs from ``study.optimize`` as follows:
    # - An interrupted trial goes back into the queue, as do trials whose process died or did not renew its lease; see
    #   `nas_optuna.study.lease`.
    # - Any number of processes may run the same study, even on SQLite: one of them gets each trial.
    # - A trial that fails (`TrainingError`, `ArchitectureError`, or anything in an enqueued one) does not end the run.
    # - A trial that somebody else took, ended or deleted meanwhile is dropped with a warning.
    # - The callbacks are told of each step as well, if the objective is an `EvaluatorObjective`.
    budget = budget or TrialBudget(trials, timeout, total)
    return _Run(study, objective, stop or StopRequest(), Callbacks(callbacks), may_begin, budget).run()


def _is_ours(error: BaseException) -> bool:
    """Whether an error comes from this package, the machine or the storage, and not from the objective."""
    return isinstance(error, NasOptunaError | Interrupted | OSError) or failure(error) is not None


@dataclass
class _Run:
    """One call of `run`."""

    study: Study
    objective: Callable[[Trial], Any]
    stop: StopRequest
    told: Callback
    may_begin: Callable[[], bool]
    budget: TrialBudget
    uid: str | None = None  # of the study

    def run(self) -> Outcome:
        with (
            self._noticing_deletion(),
            self._telling_steps(),
            self.stop.guarding(),
            giving_up(optuna_internals.storage_of(self.study), lambda: self.stop.asked),
            optuna_internals.stoppable(self.study) as stopped,
        ):
            lease.require_transactions(self.study)
            self._require_same_study()
            self._take_over()
            lease.advise(self.study)
            looked = time.monotonic()
            while not (self.stop.asked or stopped()) and self.budget.ask(0):
                if time.monotonic() - looked >= min(_LOOK_EVERY, lease_table.seconds() / 5):
                    self._take_over(again=True)
                    looked = time.monotonic()
                if not self.may_begin() or not self._run_trial():
                    break
            finished = self.budget.finished
            if not self.stop.asked and self.budget.is_open and self._is_exhausted():
                logger.warning(
                    "every architecture that may be proposed has been tried; trials in this run: %d", finished
                )
        return Outcome(finished, self.stop.asked)

    def _take_over(self, *, again: bool = False) -> None:
        """Put back the trials of dead processes, and report those that ended just before their process died."""
        for ended in lease.take_unclosed(self.study):
            subject = Subject(f"trial {ended.number}", None, study=self.study)
            self.told.trial_started(subject)
            self.told.trial_finished(subject, ended)
            lease.close(self.study, optuna_internals.trial_id_of(ended))
        lease.release_abandoned(self.study, again=again)

    def _run_trial(self) -> bool:
        """Run one trial; False if there is none left to run."""
        self._require_same_study()
        trial_id = lease.take_waiting(self.study, below=self.budget.total)
        if trial_id is None and not self._is_exhausted():
            trial_id = lease.take_new(self.study, below=self.budget.total)
        if trial_id is None:
            return False
        with lease.hold(self.study, trial_id):
            self._run_held(trial_id)
        return True

    def _run_held(self, trial_id: int) -> None:
        subject = Subject("trial ?", None, study=self.study)
        try:
            with self.stop.evaluating():
                trial = optuna_internals.open_trial(self.study, trial_id)
                subject = Subject(f"trial {trial.number}", trial, study=self.study)
                self.told.trial_started(subject)
                value, state = self._evaluate(trial, trial_id)
            ended = self._tell(trial, trial_id, value, state)
        except (Interrupted, KeyboardInterrupt):
            lease.release(self.study, trial_id)
            self.stop.asked = True
            return
        except BaseException as error:
            if isinstance(error, Gone) or is_away(error):
                raise  # the next run takes the trial over when this process has ended
            if not self._is_lost(trial_id, error):
                self._give_back(trial_id, error)
                raise
            has_ended = lease.state(self.study, trial_id) is not None  # and nobody else has it
            how = "ended" if has_ended else "put back or deleted"
            logger.warning("%s was %s by somebody else; its result is dropped", subject.name, how)
            if not has_ended:
                return
            ended = optuna_internals.read_trial(self.study, trial_id)
        self.told.trial_finished(subject, ended)
        lease.close(self.study, trial_id)
        self._count(ended)

    def _evaluate(self, trial: Trial, trial_id: int) -> tuple[Any, TrialState | None]:
        try:
            return self.objective(trial), None
        except optuna.TrialPruned:
            return None, TrialState.PRUNED
        except TrainingError:
            return None, TrialState.FAIL
        except Exception as error:
            if isinstance(error, UpdateFinishedTrialError) and not self._runs(trial_id):
                raise lease.LostError from error
            refused = isinstance(error, ArchitectureError)
            if not refused and (_is_ours(error) or not optuna_internals.is_enqueued(trial)):
                raise
            text = str(error) if refused else errors.describe_error(error, _CAUSE_LENGTH)
            trial.set_user_attr(TrialKey.CAUSE, " ".join(text.split())[:_CAUSE_LENGTH])
            return None, TrialState.FAIL

    def _tell(self, trial: Trial, trial_id: int, value: Any, state: TrialState | None) -> FrozenTrial:
        self._require_same_study()
        if not self._runs(trial_id):
            raise lease.LostError
        try:
            return self.study.tell(trial, value, state)
        except (UpdateFinishedTrialError, KeyError) as error:
            # Either the server went away after it had written the end, so the call was repeated; or a grid sampler
            # looked up the grid point of an enqueued trial, which has none.
            if errors.place_of(error) or lease.state(self.study, trial_id) in (None, TrialState.RUNNING):
                raise
            return optuna_internals.read_trial(self.study, trial_id)

    def _runs(self, trial_id: int) -> bool:
        """Whether the trial still runs, and in this process."""
        return lease.state(self.study, trial_id) == TrialState.RUNNING

    def _is_lost(self, trial_id: int, error: BaseException) -> bool:
        """Whether somebody else took, ended or deleted the trial, which explains an error."""
        with suppress(Exception):  # the database still fails
            found = lease.state(self.study, trial_id)
            return found is None or (isinstance(error, lease.LostError) and found.is_finished())
        return False

    def _give_back(self, trial_id: int, error: BaseException) -> None:
        """End the trial after an error that ends the run; it waits again if the machine caused it, as a full disk."""
        if _is_ours(error):
            lease.release(self.study, trial_id)
            return
        found = optuna_internals.read_trial(self.study, trial_id)
        if found.state.is_finished():  # its sampler fails to learn from it
            self.told.trial_finished(Subject(f"trial {found.number}", None, study=self.study), found)
        else:
            optuna_internals.set_trial_attribute(self.study, found, TrialKey.CAUSE, errors.describe_error(error))
            self.study.tell(found.number, state=TrialState.FAIL)
        lease.close(self.study, trial_id)

    def _count(self, ended: FrozenTrial) -> None:
        if ended.state == TrialState.FAIL and isinstance(self.objective, EvaluatorObjective):
            require_working(self.objective.device)  # else every trial that is left would fail within a second
        self.budget.finish(0, ended)

    def _require_same_study(self) -> None:
        """Refuse to work on a study that was made after this one was deleted, with its id, which SQLite gives again."""
        before, self.uid = self.uid, optuna_internals.study_user_attributes(self.study).get(StudyKey.UID)
        if before not in (None, self.uid):
            raise Gone(f"study {self.study.study_name!r} was deleted while this run worked on it, and another is there")

    def _is_exhausted(self) -> bool:
        exhausted = getattr(self.study.sampler, "is_exhausted", None)
        return exhausted is not None and bool(exhausted(self.study))

    @contextmanager
    def _telling_steps(self) -> Iterator[None]:
        """Let an `EvaluatorObjective` tell the run's callbacks of its steps, in addition to its own."""
        if not isinstance(self.objective, EvaluatorObjective):
            yield
            return
        before, self.objective.callbacks = self.objective.callbacks, Callbacks([self.objective.callbacks, self.told])
        try:
            yield
        finally:
            self.objective.callbacks = before

    @contextmanager
    def _noticing_deletion(self) -> Iterator[None]:
        """Report that the study was deleted rather than what its storage says of that."""
        try:
            yield
        except KeyError as error:
            if not is_of_the_deleted(error):
                raise
            raise Gone(f"study {self.study.study_name!r} was deleted while this run worked on it") from None


@dataclass
class TrialBudget:
    """When a run ends, and which of its workers may begin one more trial; None is no limit. Its clock starts at once.

    If a worker does not finish a trial (it died, or somebody else took the trial), another worker may begin one, so
    that the run ends with exactly as many trials as it was asked for.

    Attributes:
        trials: Trials to finish, by all workers of the run together.
        timeout: Seconds after which no trial begins.
        total: Trials that the study may have, no matter who makes them.
        hopeless: The run ends if so many first trials all fail for the same cause, as the next ones would; None: never.
        finished: Trials that the workers have finished.

    Examples:
        >>> budget = TrialBudget(trials=1)
        >>> budget.ask(1), budget.ask(2)
        (True, False)
        >>> budget.drop(1)
        >>> budget.ask(2)
        True
    """

    trials: int | None = None
    timeout: float | None = None
    total: int | None = None
    hopeless: int | None = 3
    finished: int = field(default=0, init=False)

    def __post_init__(self) -> None:
        self._deadline = None if self.timeout is None else time.monotonic() + self.timeout
        self._held: set[int] = set()
        self._causes: set[str | None] = set()
        self._closed = False

    @property
    def is_open(self) -> bool:
        """Whether a trial may still begin, now or after another one is dropped."""
        late = self._deadline is not None and time.monotonic() >= self._deadline
        return not (self._closed or late or (self.trials is not None and self.finished >= self.trials))

    def ask(self, worker: int) -> bool:
        """Whether a worker, which has finished or dropped its previous trial, may begin a new one."""
        self._held.discard(worker)
        if not self.is_open or (self.trials is not None and self.finished + len(self._held) >= self.trials):
            return False
        self._held.add(worker)
        return True

    def finish(self, worker: int, ended: FrozenTrial | None = None) -> None:
        """Count a trial that a worker has finished; raise `StudyError` if the run is hopeless."""
        self._held.discard(worker)
        self.finished += 1
        failed = ended if ended is not None and ended.state == TrialState.FAIL else None
        self._causes.add(None if failed is None else attribute(failed, TrialKey.CAUSE, "without a cause"))
        if self.finished == self.hopeless and len(self._causes) == 1 and None not in self._causes:
            raise StudyError(f"the first {self.hopeless} trials all failed: {self._causes.pop()}")

    def drop(self, worker: int) -> None:
        """Take back the permission of a worker that has ended."""
        self._held.discard(worker)

    def close(self) -> None:
        """Let no further trial begin."""
        self._closed = True
