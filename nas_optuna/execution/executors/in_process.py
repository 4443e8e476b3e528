"""Trials in this process, one after another."""

from __future__ import annotations

from collections.abc import Callable

from nas_optuna.execution.events import Callback, Callbacks
from nas_optuna.execution.executors.contract import Budget, Executor, Work
from nas_optuna.execution.loop import Outcome, StopRequest, always
from nas_optuna.execution.loop import run as run_trials


class InProcess(Executor):
    """Runs trials in this process; see `nas_optuna.execution.executors.contract.Executor`.

    Args:
        may_begin: Asked before each trial; the run ends when it says no.
    """

    def __init__(self, may_begin: Callable[[], bool] = always) -> None:
        super().__init__()
        self._may_begin = may_begin

    def run(self, work: Work, budget: Budget, *, stop: StopRequest, told: Callback) -> Outcome:
        """See `Executor`."""
        objective = work.objective
        before, objective.callbacks = objective.callbacks, Callbacks([objective.callbacks, told])
        try:
            return run_trials(
                work.study,
                objective,
                trials=budget.trials,
                timeout=budget.timeout,
                total=budget.total,
                may_begin=self._may_begin,
                stop=stop,
                callbacks=[told],
            )
        finally:
            objective.callbacks = before
