"""A training that ends when time is up, with its rate come down to zero, and with time left for what comes after it."""

from __future__ import annotations

import statistics
import time
from collections.abc import Sequence
from typing import Any

from nas_optuna.fitting.equal_seconds import FORWARD, paced
from nas_optuna.fitting.time_budget import TimeBudget
from nas_optuna.spec import Recipe
from nas_optuna.training import EpochResult

EPOCHS = 40
"""Epochs of the last training: after each its state is kept, and the clock decides anew."""
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


def epochs_within(recipe: Recipe, seconds: float, per_step: float, *, least: float = 0.0) -> dict[str, Any]:
    """The epochs and the epoch size of a training of so many seconds; no epochs where these are fewer than `least`.

    A network that begins with the weights of a search is left as it is where the rate, which rises first, has less time
    to come down than it had in the search.
    """
    steps = max(1, int(max(seconds, 1.0) / per_step))
    epochs = min(EPOCHS, steps)
    late = least > 0 and seconds < least
    return {"epochs": 0 if late else epochs, "epoch_size": paced(recipe, steps, epochs).epoch_size}


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
