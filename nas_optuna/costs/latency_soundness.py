"""What a latency table's file must not hold: what cannot have been measured, and what is no latency table."""

from __future__ import annotations

from collections import Counter
from typing import Any

from nas_optuna.costs.latency import Conditions
from nas_optuna.costs.runtimes import RENAMED, RUNTIMES, make_runtime
from nas_optuna.costs.timing import FORMAT as KIT_FORMAT
from nas_optuna.costs.timing import TABLE_FORMAT
from nas_optuna.errors import NasOptunaError, named, shown, unknown

MEASURE = "measure one with nas-optuna latency measure, or the measure.py of a kit"
"""How one comes to a table that is sound."""
_FASTEST_MS, _SLOWEST_MS = 1e-4, 600_000.0
"""No runtime answers a call within 100 ns, and nobody waits ten minutes for one."""


def possible(visit: tuple[float, float, float]) -> tuple[float, float, float]:
    """Refuse what cannot be the quartiles of a call's milliseconds."""
    if not all(_FASTEST_MS <= ms <= _SLOWEST_MS for ms in visit):  # NaN is not either
        raise ValueError(f"{', '.join(f'{ms:.4g}' for ms in visit)} cannot be the milliseconds of a call")
    if list(visit) != sorted(visit):
        raise ValueError(f"{', '.join(f'{ms:.4g}' for ms in visit)} are no lower quartile, median and upper quartile")
    return visit


def current(conditions: object) -> object:
    """Give a runtime of release 0.2 the name it has now."""
    if isinstance(conditions, dict) and (name := RENAMED.get(str(conditions.get("runtime")))):
        return {**conditions, "runtime": name}
    return conditions


def known(conditions: Conditions) -> Conditions:
    """Refuse what no runtime is or does."""
    if conditions.runtime not in RUNTIMES:  # a table names no code that would be imported
        raise ValueError(unknown("runtime", conditions.runtime, RUNTIMES.names()))
    try:
        make_runtime(conditions.runtime).require(conditions.device, conditions.precision)
    except NasOptunaError as error:
        raise ValueError(str(error)) from error
    if conditions.threads < 1 or conditions.batch_size < 1:
        raise ValueError("threads and batch_size must be at least 1")
    return conditions


def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Refuse what stands twice in a JSON object, of which readers take either."""
    found = dict(pairs)
    if len(found) < len(pairs):
        twice = next(key for key, count in Counter(key for key, _ in pairs).items() if count > 1)
        raise ValueError(f"{named(twice)} stands in it twice")
    return found


def require_table(content: Any) -> None:
    """Refuse what says of itself that it is something else, or of another version."""
    found = content.get("format") if isinstance(content, dict) else None
    if isinstance(found, str) and found.startswith(KIT_FORMAT.rpartition(" ")[0]):
        raise ValueError("it is the description of a kit: run the kit's measure.py on the device")
    if found != TABLE_FORMAT:
        said = shown(found) if found else "not said"
        raise ValueError(f"its format is {said}, and this release reads {TABLE_FORMAT!r}")
