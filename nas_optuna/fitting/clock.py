"""So much time and no more: a clock that begins with the command, and goes on where an earlier run stopped."""

from __future__ import annotations

import re
import statistics
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from optuna.study import Study

from nas_optuna.errors import SpecError, shown
from nas_optuna.execution.evaluator import Measurement
from nas_optuna.execution.events import Callback, Subject
from nas_optuna.spec import StudySpec

if TYPE_CHECKING:
    from nas_optuna.training import EpochResult

_UNITS = {"": 1.0, "s": 1.0, "m": 60.0, "min": 60.0, "h": 3600.0, "d": 86400.0}
_DURATION = re.compile(r"(\d+(?:\.\d+)?)\s*([a-z]*)", re.IGNORECASE)
LEAST = 10.0
"""Seconds below which not even one network could be trained and tested."""
_RECENT = 3
"""Epochs whose median tells how long the next ones take."""
END = 3.0
"""Seconds that the export and the report need of a processor, beside the test."""
BUSIEST = 5.0
"""Where other processes take more of the machine than this leaves, the end comes late."""
_DECIDED = {
    "recipe.epochs": "how many epochs each network has; leave out --epochs (recipe.epochs)",
    "recipe.epoch_size": "how many images an epoch has; leave out recipe.epoch_size",
    "pruner": "when a training ends, and prunes none; leave out --pruner",
    "keep_paused": "when a training ends, and pauses none; leave out --keep-paused",
}
"""What nobody may name, and what the clock does instead."""


def parse_duration(text: str | float, option: str = "--within") -> float:
    """Seconds of a text such as ``90s``, ``10m`` or ``2h``; a bare number is seconds.

    Examples:
        >>> parse_duration("90s"), parse_duration("1.5h"), parse_duration(300)
        (90.0, 5400.0, 300.0)
    """
    match = _DURATION.fullmatch(str(text).strip())
    if match is None or match[2].lower() not in _UNITS:
        raise SpecError(f"{option} needs a time such as 90s, 10m or 2h, got {shown(text)}")
    seconds = float(match[1]) * _UNITS[match[2].lower()]
    if not LEAST <= seconds <= 365 * 86400:
        raise SpecError(f"{option} needs at least {LEAST:.0f}s and at most a year, got {shown(text)}")
    return seconds


@dataclass
class TimeBudget:
    """The seconds that a user gives, and how many of them are left.

    Attributes:
        total: What the user gives.
        spent: What earlier runs of the same work took.
        began: When this run began, by `time.monotonic`.

    Examples:
        >>> budget = TimeBudget(60.0, spent=20.0)
        >>> 39 < budget.left <= 40
        True
    """

    total: float
    spent: float = 0.0
    began: float = field(default_factory=time.monotonic)

    @property
    def elapsed(self) -> float:
        """Seconds that are used up, over all runs."""
        return self.spent + time.monotonic() - self.began

    @property
    def left(self) -> float:
        """Seconds that are left; negative once time is up."""
        return self.total - self.elapsed


@dataclass(eq=False)
class Progress(Callback):
    """What a search with a clock has decided and spent, kept with its study after each epoch: a kill loses no more."""

    study: Study
    key: str
    budget: TimeBudget
    state: dict[str, Any]

    def remember(self, **decided: Any) -> None:
        """Write down what is decided now, and how much time is spent."""
        self.state |= decided | {"spent": round(self.budget.elapsed, 2), "within": self.budget.total}
        self.study.set_user_attr(self.key, self.state)

    def step_finished(self, subject: Subject, measurement: Measurement) -> None:
        """Write down the time."""
        self.remember()


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
    """Says after each epoch how many there are to be, so that `reserve` seconds are left; a `training.fit.Pace`."""

    # A machine that becomes slower gets fewer epochs and one that becomes faster more. The rest of the schedule is
    # spread over them, so that the rate is zero at the end in any case.

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


def refuse_named(overrides: Iterable[str], *, pruner: str | None = None) -> None:
    """Refuse settings that somebody names now and that a search with a clock would ignore."""
    keys = {text.partition("=")[0].strip() for text in overrides} | ({"pruner"} if pruner else set())
    for key in keys:
        decided = _DECIDED.get("pruner" if key.startswith("pruner.") else key)
        if decided is not None:
            raise SpecError(f"a search with a clock decides {decided}, or use run --trials")


def refuse_undivided(spec: StudySpec) -> None:
    """Refuse a spec that trains a network more than once, or by several recipes."""
    if spec.search:
        raise SpecError("a search with a clock trains every network by one recipe; leave out search, or use --timeout")
    if spec.recipe.repeats > 1:
        raise SpecError(
            f"a search with a clock trains every network once; leave out recipe.repeats={spec.recipe.repeats}, or use"
            " run --trials"
        )
    if spec.recipe.epoch_size is not None:
        refuse_named([f"recipe.epoch_size={spec.recipe.epoch_size}"])
