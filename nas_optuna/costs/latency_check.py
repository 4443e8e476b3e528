"""How well a latency table tells what whole networks take."""

from __future__ import annotations

import random
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

from nas_optuna.costs.latency import Latency, fastest, measure_in_rounds
from nas_optuna.costs.latency_table import LatencyTable, whole_network
from nas_optuna.spaces import SearchSpace, require_operations


@dataclass(frozen=True)
class Check:
    """How well a table tells the latency of whole networks.

    Attributes:
        measured_ms: Each network's latency, measured on the spot.
        table_ms: The table's sum for it, without overhead.
        overhead_ms: The constant that makes the median error of the sums zero.
        error: Median relative error of the sums, and of the sums with the overhead that the other networks
            have (leave one out).
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
    if table.whole:
        told, measured = table.own_networks(space)
        return compare(measured, told)
    made = require_operations(space, "a latency table")
    drawn = map(space.parse, table.networks) if table.kit else space.sample_distinct(networks, random.Random(seed))
    architectures = {str(architecture): architecture for architecture in drawn}
    sums = {
        text: sum(map(table.operation_ms, made.operations(architecture)))
        for text, architecture in architectures.items()
    }
    if table.kit:
        latencies = table.network_ms()
        return compare([latencies[text] for text in sums], list(sums.values()))
    visits: dict[str, list[Latency]] = {text: [] for text in sums}
    modules = {text: partial(whole_network, space, architecture) for text, architecture in architectures.items()}
    total = rounds * len(architectures)
    progress(0, total)
    visited = measure_in_rounds(modules, table.conditions, rounds=rounds, seconds=seconds, seed=seed)
    for done, (text, latency) in enumerate(visited, start=1):
        visits[text].append(latency)
        progress(done, total)
    return compare([fastest(found).median_ms for found in visits.values()], list(sums.values()))


def compare(measured_ms: Sequence[float], table_ms: Sequence[float]) -> Check:
    """The figures of a `Check` from both latencies of each network."""
    from scipy.stats import spearmanr

    def error(predicted: Sequence[float]) -> float:
        return statistics.median(abs(p - m) / m for p, m in zip(predicted, measured_ms, strict=True))

    gaps = [m - t for m, t in zip(measured_ms, table_ms, strict=True)]
    others = [statistics.median(gaps[:i] + gaps[i + 1 :]) for i in range(len(gaps))]
    return Check(
        measured_ms=tuple(measured_ms),
        table_ms=tuple(table_ms),
        overhead_ms=statistics.median(gaps),
        error=(error(table_ms), error([t + o for t, o in zip(table_ms, others, strict=True)])),
        spearman=float(spearmanr(measured_ms, table_ms).statistic),
    )
