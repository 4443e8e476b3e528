"""The loop that asks for trials, runs them and tells their outcome, and that can be stopped and resumed."""

from __future__ import annotations

import copy
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType
from typing import Any

import optuna
from optuna.study import Study
from optuna.study._tell import _tell_with_warning
from optuna.trial import FrozenTrial, Trial, TrialState

from nas_optuna.errors import Interrupted, NasOptunaError, TrainingError
from nas_optuna.execution.events import Callback, Callbacks, OptunaCallback, Subject
from nas_optuna.study.lease import release, release_abandoned, this_worker
from nas_optuna.study.optuna_internals import set_trial_attributes
from nas_optuna.study.schema import TrialKey
from nas_optuna.study.storage import failure


@dataclass(frozen=True)
class Outcome:
    """What a run did.

    Attributes:
        trials: Trials that it finished, whatever their state.
        interrupted: Whether it was asked to stop.
        resumed: Numbers of abandoned trials that it put back into the queue at its beginning.
    """

    trials: int
    interrupted: bool
    resumed: tuple[int, ...]


class StopRequest:
    """Whether somebody asked to stop. `interruptible` sets it on Ctrl-C and on SIGTERM."""

    def __init__(self) -> None:
        self.asked = False

    def __call__(self) -> bool:
        """Whether to stop."""
        return self.asked


@contextmanager
def interruptible(stop: StopRequest) -> Iterator[None]:
    """Within it the first Ctrl-C or SIGTERM asks to stop after the current step; a second Ctrl-C interrupts at once."""
    if threading.current_thread() is not threading.main_thread():
        yield  # only the main thread may set handlers
        return

    def handle(number: int, frame: FrameType | None) -> None:
        if stop.asked and number == signal.SIGINT:
            raise KeyboardInterrupt
        stop.asked = True

    previous: dict[int, Any] = {number: signal.signal(number, handle) for number in (signal.SIGINT, signal.SIGTERM)}
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
    stop: StopRequest | None = None,
    callbacks: Sequence[Callback | OptunaCallback] = (),
) -> Outcome:
    """Run trials of a study until there were enough, time is up, or somebody asks to stop (``study.stop()`` too).

    As ``study.optimize``, with three differences. A trial that is interrupted goes back into the queue rather than to
    waste. So do, at the beginning, trials whose process died. A trial that fails (`TrainingError`) does not end it.

    Args:
        study: Its sampler and pruner are used.
        objective: A plain Optuna objective; it may raise `Interrupted`.
        trials: Finish this many; None is no limit.
        timeout: Begin no trial after this many seconds; None is no limit.
        stop: Looked at between trials; give the same one to the objective, as ``interrupted``.
        callbacks: Told of every trial, in order.
    """
    stop = stop or StopRequest()
    told = Callbacks(callbacks)
    resumed = tuple(release_abandoned(study))
    finished, started = 0, time.monotonic()
    with _stoppable(study):
        while not (stop.asked or study._stop_flag) and (trials is None or finished < trials):
            if timeout is not None and time.monotonic() - started >= timeout:
                break
            finished += _run_trial(study, objective, stop, told)
    return Outcome(finished, stop.asked, resumed)


@contextmanager
def _stoppable(study: Study) -> Iterator[None]:
    """Within it an objective, or a sampler that has nothing left, may call ``study.stop()``, as in `optimize`."""
    study._stop_flag = False
    study._thread_local.in_optimize_loop = True
    try:
        yield
    finally:
        study._thread_local.in_optimize_loop = False


def _run_trial(study: Study, objective: Callable[[Trial], Any], stop: StopRequest, told: Callback) -> bool:
    """Run one trial; whether it finished, rather than was interrupted."""
    trial = study.ask()
    set_trial_attributes(trial, {TrialKey.WORKER: this_worker()})
    subject = Subject(f"trial {trial.number}", trial)
    told.trial_started(subject)
    try:
        ended = _evaluate(study, objective, trial)
    except (Interrupted, KeyboardInterrupt):
        release(study, trial)
        stop.asked = True
        return False
    except (NasOptunaError, OSError):
        release(study, trial)  # not the architecture's fault: a full disk, say
        raise
    except BaseException as error:
        if failure(error) is None:
            study.tell(trial, state=TrialState.FAIL)
        else:
            release(study, trial)
        raise
    told.trial_finished(subject, ended)
    return True


def _evaluate(study: Study, objective: Callable[[Trial], Any], trial: Trial) -> FrozenTrial:
    try:
        value = objective(trial)
    except optuna.TrialPruned:
        return _tell(study, trial, state=TrialState.PRUNED)
    except TrainingError:
        return _tell(study, trial, state=TrialState.FAIL)
    return _tell(study, trial, value)


def _tell(study: Study, trial: Trial, value: Any = None, state: TrialState | None = None) -> FrozenTrial:
    """As ``study.tell``, which ends by reading from the database all that is known here."""
    told_state, told_values, _ = _tell_with_warning(study, trial, value, state)
    ended = copy.copy(trial._cached_frozen_trial)
    ended.state, ended.values = told_state, told_values
    return ended
