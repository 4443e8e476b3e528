"""A training that ends when time is up, with its rate come down to zero, and with time left for what comes after it."""

from __future__ import annotations

import statistics
import time
from collections.abc import Sequence

from nas_optuna.fitting.equal_seconds import FORWARD
from nas_optuna.fitting.time_budget import TimeBudget
from nas_optuna.training import EpochResult

_RECENT = 3
TEST = 1.2 * FORWARD
"""Time of a test batch, as a share of a training step."""
END = 3.0
"""Seconds that the export and the report need of a processor, beside the test."""
BUSIEST = 5.0
"""Where other processes take more of the machine than this leaves, the end comes late."""


class Load:
    """How many times longer than on an idle machine things take here, by what this thread has got since it was made."""

    def __init__(self) -> None:
        self._began = time.monotonic(), time.thread_time()

    def __call__(self) -> float:
        """1 on an idle machine, at most `BUSIEST`."""
        waited, computed = time.monotonic() - self._began[0], time.thread_time() - self._began[1]
        return min(BUSIEST, max(1.0, waited / max(computed, 1.0)))

    def reserve(self) -> float:
        """Seconds for the export and the report."""
        return END * self()


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
        self._planned = done + max(1, int((self._budget.left - self._reserve) / each))
        return self._planned
