"""A training that ends when time is up, with its rate come down to zero."""

from __future__ import annotations

import statistics
from collections.abc import Sequence

from nas_optuna.fitting.time_budget import TimeBudget
from nas_optuna.training import EpochResult

_RECENT = 3


class Clock:
    """Says after each epoch how many there are to be; a `nas_optuna.training.fit.Pace`.

    A machine that becomes slower gets fewer epochs and one that becomes faster more. The rest of the schedule is spread
    over them, so that the rate is zero at the end in any case.

    Args:
        budget: The clock.
        reserve: Seconds to leave.
        epochs: How many are planned.
    """

    def __init__(self, budget: TimeBudget, reserve: float, epochs: int) -> None:
        self._budget = budget
        self._reserve = reserve
        self._planned = epochs

    def __call__(self, results: Sequence[EpochResult]) -> int:
        """The number of epochs in all."""
        done = len(results)
        if not done or done >= self._planned:
            return self._planned
        each = statistics.median(result.seconds for result in results[-_RECENT:])
        self._planned = done + max(1, round((self._budget.left - self._reserve) / each))
        return self._planned
