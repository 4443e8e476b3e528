"""How well a latency table tells what whole networks take."""

from __future__ import annotations

import random
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

from nas_optuna.costs.latency import measure_in_rounds
from nas_optuna.costs.latency_soundness import MEASURE
from nas_optuna.costs.latency_table import LatencyTable, whole_network
from nas_optuna.costs.timing import Visit, fastest
from nas_optuna.errors import TableError
from nas_optuna.quantities import plural
from nas_optuna.spaces import SearchSpace
from nas_optuna.spaces.architecture import Architecture

_LEAST_COMPARED = 2
"""One network alone has no rank, and leaves no other network to fit an overhead to."""


@dataclass(frozen=True)
class Check:
    """How well a table tells the latency of whole networks.

    Attributes:
        measured_ms: Each network's latency, measured on the spot.
        table_ms: What the table tells of it, with the table's own overhead.
        overhead_ms: The overhead with which the median error of the table's sums is zero.
        error: Median relative error of the table as it is, and with the overhead that the other networks have instead
            (leave one out).
        spearman: Rank correlation of the two; the overhead does not change it.
    """

    measured_ms: tuple[float, ...]
    table_ms: tuple[float, ...]
    overhead_ms: float
    error: tuple[float, float]
    spearman: float

    @property
    def overhead_helps(self) -> bool:
        """Whether the overhead lowers the error on networks that it was not fitted to."""
        return self.error[1] < self.error[0]


def check_table(
    table: LatencyTable,
    space: SearchSpace,
    *,
    networks: int = 30,
    rounds: int = 5,
    seconds: float = 0.1,
    seed: int = 0,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Check:
    """Compare a table's sums with whole networks."""
    # These are the networks that the table's kit has measured, or random ones measured on the spot under its
    # conditions.
    if table.holds_all(space):
        raise TableError(
            f"the latency table holds all networks of space {space.name!r} as they were measured, so that there is"
            " nothing to check; use it as it is"
        )
    if table.whole or table.kit:
        told, measured = table.own_networks(space)
        return compare(measured, told, table.overhead_ms)
    architectures = {str(a): a for a in _others(table, space, networks, random.Random(seed))}
    told = [table.architecture_ms(space, architecture) for architecture in architectures.values()]
    visits: dict[str, list[Visit]] = {text: [] for text in architectures}
    modules = {text: partial(whole_network, space, architecture) for text, architecture in architectures.items()}
    total = rounds * len(architectures)
    progress(0, total)
    visited = measure_in_rounds(modules, visits, table.conditions, rounds=rounds, seconds=seconds)
    for done, _ in enumerate(visited, start=1):
        progress(done, total)
    return compare(list(map(fastest, visits.values())), told, table.overhead_ms)


def _others(table: LatencyTable, space: SearchSpace, count: int, rng: random.Random) -> list[Architecture]:
    """Random networks: others than the table's own, to which its overhead is fitted, as far as the space has any."""
    drawn = space.sample_distinct(count + len(table.networks), rng)
    return sorted(drawn, key=lambda architecture: str(architecture) in table.networks)[:count]


def compare(measured_ms: Sequence[float], table_ms: Sequence[float], overhead_ms: float = 0.0) -> Check:
    """The figures of a `Check` from both latencies of each network, and the overhead that the table's have in them."""
    from scipy.stats import spearmanr

    if len(measured_ms) < _LEAST_COMPARED:
        raise TableError(
            f"the latency table can be compared with {plural(len(measured_ms), 'whole network')} of this space, and"
            f" {_LEAST_COMPARED} are needed; {MEASURE}"
        )

    def error(predicted: Sequence[float]) -> float:
        return statistics.median(abs(p - m) / m for p, m in zip(predicted, measured_ms, strict=True))

    gaps = [m - t for m, t in zip(measured_ms, table_ms, strict=True)]
    others = [statistics.median(gaps[:i] + gaps[i + 1 :]) for i in range(len(gaps))]
    return Check(
        measured_ms=tuple(measured_ms),
        table_ms=tuple(table_ms),
        overhead_ms=overhead_ms + statistics.median(gaps),
        error=(error(table_ms), error([t + o for t, o in zip(table_ms, others, strict=True)])),
        spearman=float(spearmanr(measured_ms, table_ms).statistic),
    )
