"""So much time and no more: a clock that begins with the command, and goes on where an earlier run stopped."""

from __future__ import annotations

import re
import time
from dataclasses import dataclass, field

from nas_optuna.errors import SpecError, shown

_UNITS = {"": 1.0, "s": 1.0, "m": 60.0, "min": 60.0, "h": 3600.0, "d": 86400.0}
_DURATION = re.compile(r"(\d+(?:\.\d+)?)\s*([a-z]*)", re.IGNORECASE)
LEAST = 10.0
"""Seconds below which not even one network could be trained and tested."""


def parse_duration(text: str | float, option: str = "--within") -> float:
    """Seconds of a text such as ``90s``, ``10m`` or ``2h``; a bare number is seconds.

    Raises:
        SpecError: It is no duration, or shorter than ten seconds.

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
