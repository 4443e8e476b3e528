"""When a run ends, and who of its workers may begin one more trial."""

from __future__ import annotations

import time
from dataclasses import dataclass


@dataclass(frozen=True)
class Budget:
    """When a run ends; None is no limit."""

    trials: int | None = None  # to finish, by all workers of the run together
    timeout: float | None = None  # seconds after which no trial begins
    total: int | None = None  # trials that the study may have, whoever makes them


class TrialBudget:
    """Gives each worker leave for one trial after another, until there are enough.

    A trial that a worker does not finish (it died, or somebody else took the trial) is given to the next that asks, so
    that the run ends with exactly as many trials as it shall have.

    Examples:
        >>> budget = TrialBudget(Budget(trials=1))
        >>> budget.ask(1), budget.ask(2)
        (True, False)
        >>> budget.drop(1)
        >>> budget.ask(2)
        True
    """

    def __init__(self, budget: Budget) -> None:
        self.finished = 0
        self._trials = budget.trials
        self._deadline = None if budget.timeout is None else time.monotonic() + budget.timeout
        self._held: set[int] = set()
        self._closed = False

    @property
    def is_open(self) -> bool:
        """Whether a trial may still begin, now or when one is dropped."""
        late = self._deadline is not None and time.monotonic() >= self._deadline
        return not (self._closed or late or (self._trials is not None and self.finished >= self._trials))

    def ask(self, worker: int) -> bool:
        """Whether a worker may begin a trial; it has ended, or dropped, the one before."""
        self._held.discard(worker)
        if not self.is_open or (self._trials is not None and self.finished + len(self._held) >= self._trials):
            return False
        self._held.add(worker)
        return True

    def finish(self, worker: int) -> None:
        """Count a trial that a worker has finished."""
        self._held.discard(worker)
        self.finished += 1

    def drop(self, worker: int) -> None:
        """Take back the leave of a worker that has ended."""
        self._held.discard(worker)

    def close(self) -> None:
        """Let no further trial begin."""
        self._closed = True
