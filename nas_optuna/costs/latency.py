"""Latency of networks and operations: measured in rounds, kept as a table, checked, and used as a cost."""

from __future__ import annotations

import random
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cached_property, partial
from pathlib import Path

from nas_optuna.costs.cost import Cost, CostContext
from nas_optuna.costs.latency_table import MEASURE, LatencyTable, measurable_operations
from nas_optuna.costs.runtimes import RENAMED, RUNTIMES, Conditions, make_runtime
from nas_optuna.costs.timing import Visit, fastest, visit, visit_in_rounds
from nas_optuna.devices import current, network_failures
from nas_optuna.errors import SpecError, TableError, named, needing_every_network
from nas_optuna.lazily import lazily
from nas_optuna.quantities import plural
from nas_optuna.spaces import SearchSpace, Shape
from nas_optuna.spaces.architecture import Architecture
from nas_optuna.spec import LatencySpec

with lazily():
    import torch
    from scipy.stats import spearmanr
    from torch import nn

    from nas_optuna.randomness import seeded

SECONDS = 0.015
"""Length of a visit; several short ones are not all affected by the same disturbance."""
WHOLE_NETWORKS = 300
"""How many networks are measured if no operations are."""
BESIDE = 30
"""How many networks are measured beside the operations, to correct their sums and to estimate the error."""
_SECONDS, _AGAIN_SECONDS = 0.1, 0.01
"""How long a network is timed at first, and after each epoch of its training."""


def measure(module: nn.Module, input_shape: Shape, conditions: Conditions, seconds: float = 0.1) -> Visit:
    """Time a module's forward pass."""
    images = torch.randn(conditions.batch_size, *input_shape, generator=torch.Generator().manual_seed(0))
    runtime, threads = make_runtime(conditions.runtime), torch.get_num_threads()
    torch.set_num_threads(conditions.threads)
    try:
        call = runtime.prepare(module.eval(), images, conditions.device, conditions.precision, conditions.threads)
        return visit(call, seconds)
    finally:
        torch.set_num_threads(threads)


def measure_table(
    space: SearchSpace,
    conditions: Conditions,
    path: Path,
    *,
    rounds: int,
    seconds: float = SECONDS,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> LatencyTable:
    """Measure every operation that a space can contain, or continue an earlier call."""
    # The table is saved as it grows and when it is interrupted.
    if RUNTIMES.is_code(conditions.runtime):
        raise SpecError(
            "a latency table may not name code to import; register the runtime (entry point nas_optuna.runtimes), or"
            " measure without a table: nas-optuna run --latency-runtime FILE.py:CLASS"
        )
    if path.exists():
        table = LatencyTable.load(path)
        table.require(conditions, path, "continue it under its own")
        table.require_space(space, path)
    else:
        table = LatencyTable(space=space.name, conditions=conditions, date=datetime.now(UTC).isoformat("T", "seconds"))
    with needing_every_network("a latency table"):
        operations = measurable_operations(space, table.conditions.runtime)
    drawn = space.sample_distinct(BESIDE if operations else WHOLE_NETWORKS, random.Random(0))
    modules = {("entries", op.key): partial(_drawn, op.make, op.input_shape) for op in operations}
    modules |= {
        ("networks", str(each)): partial(_drawn, partial(space.build, each), space.input_shape) for each in drawn
    }
    visits = {place: list(getattr(table, place[0]).get(place[1], ())) for place in modules}
    finished = all(len(found) >= rounds for found in visits.values())

    def save() -> None:
        for (kind, key), found in visits.items():
            if found:
                getattr(table, kind)[key] = found
        # With its visits, so that no file lacks it after a kill; one that `latency check` has fitted stays, and that of
        # a larger space until all networks of this one are there.
        is_due = not finished and all(found for (kind, _), found in visits.items() if kind == "networks")
        if (is_due or not table.overhead_ms) and {op.key for op in operations} <= table.entries.keys():
            table.fit_overhead(space)
        table.save(path)

    def timed(place: tuple[str, str]) -> Visit:
        with needing_every_network("a latency table"), network_failures(f"{place[1]} cannot be measured"):
            return measure(*modules[place](), conditions, seconds)

    visit_in_rounds(visits, timed, rounds, progress, save)
    return table


def _drawn(build: Callable[[], nn.Module], shape: Shape) -> tuple[nn.Module, Shape]:
    """A module to be measured, always with the same weights, and the shape of its input."""
    with seeded(0):  # drawing weights must not affect a training, in whatever thread
        return build(), shape


@dataclass(frozen=True)
class Check:
    """How well a table predicts the latency of whole networks."""

    measured_ms: tuple[float, ...]  # measured latency of each network
    table_ms: tuple[float, ...]  # its latency by the table, with the table's own overhead
    overhead_ms: float  # the overhead with which the median error of the table's sums is zero
    # median relative error of the table as it is, and with an overhead fitted to the other networks (leave one out)
    error: tuple[float, float]
    spearman: float  # rank correlation of the two; the overhead does not change it

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
    # They are those that the table's kit has measured, or random ones measured now under its conditions.
    if table.holds_all(space):
        raise TableError(
            f"the latency table holds all networks of space {space.name!r} as they were measured, so that there is"
            " nothing to check; use it as it is"
        )
    if table.whole or table.kit:
        told, measured = table.own_networks(space)
        return compare(measured, told, table.overhead_ms)
    drawn = space.sample_distinct(networks + len(table.networks), random.Random(seed))
    # If possible others than the table's own, to which its overhead is fitted.
    drawn = sorted(drawn, key=lambda architecture: str(architecture) in table.networks)[:networks]
    told = [table.architecture_ms(space, architecture) for architecture in drawn]
    known = {str(architecture): architecture for architecture in drawn}
    visits: dict[str, list[Visit]] = {text: [] for text in known}

    def timed(text: str) -> Visit:
        return measure(*_drawn(partial(space.build, known[text]), space.input_shape), table.conditions, seconds)

    visit_in_rounds(visits, timed, rounds, progress)
    return compare(list(map(fastest, visits.values())), told, table.overhead_ms)


def compare(measured_ms: Sequence[float], table_ms: Sequence[float], overhead_ms: float = 0.0) -> Check:
    """A `Check` from both latencies of each network; the table's contain its overhead."""
    if len(measured_ms) < 2:  # one network has no rank, and no other to fit an overhead to
        raise TableError(
            f"the latency table can be compared with {plural(len(measured_ms), 'whole network')} of this space, and"
            f" 2 are needed; {MEASURE}"
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


def require_conditions(settings: LatencySpec) -> None:
    """Refuse conditions that were set and that a kit's table does not have; only its device is meant to differ."""
    table = None if settings.table is None or settings.force else LatencyTable.load(Path(settings.table))
    if table is None or not table.kit:  # any other is compared when it is opened
        return
    usual = LatencySpec()
    for name in ("runtime", "threads", "precision"):  # a batch size also holds for memory and energy
        said, measured = getattr(settings, name), getattr(table.conditions, name)
        if said != getattr(usual, name) and RENAMED.get(said, said) != measured:
            raise TableError(
                f"latency table {named(settings.table)} was measured with {name} {measured!r}, not"
                f" {said!r}; leave out latency.{name}"
            )


class LatencyCost(Cost):
    """Milliseconds of one inference, from a latency table or measured on the device that trains."""

    name, label, unit = "latency_ms", "latency", "ms"

    def __init__(self, context: CostContext) -> None:
        super().__init__(context)
        settings = context.latency
        self._table: LatencyTable | None = None
        self._measured: dict[Architecture, float] = {}
        if settings.table is not None:
            self._table = LatencyTable.open(settings.table, context.space, force=settings.force)
        if self._table is not None and self._table.kit:  # of another device, on purpose
            self._conditions = self._table.conditions
        else:
            asked = settings.model_dump(include={"runtime", "threads", "batch_size", "precision"})
            self._conditions = Conditions.here(context.device, **asked)
            if self._table is not None and not settings.force:
                remedy = "use it as it is: --set latency.force=true"
                self._table.require(self._conditions, Path(settings.table or ""), remedy)
        self.conditions, self.proxy = str(self._conditions), None if self._table else "macs"
        self.counted = self._table is not None and not self._table.whole

    @classmethod
    def always(cls, context: CostContext) -> bool:
        """With a table it is known at no cost."""
        return context.latency.table is not None

    @cached_property
    def margin(self) -> float | None:
        """The user's margin, or the error of the table on its own whole networks."""
        said = self.context.latency.margin
        return said if said is not None else self._table.margin(self.context.space) if self._table else 0.0

    def __call__(self, architecture: Architecture) -> float:
        """Milliseconds."""
        if self._table is not None:
            return self._table.architecture_ms(self.context.space, architecture)
        if architecture not in self._measured:
            self._measured[architecture] = self._timed(architecture, _SECONDS)
        return self._measured[architecture]

    def refine(self, architecture: Architecture, so_far: float) -> float:
        """Time the network once more; the faster time counts."""
        # Other processes disturb a machine for seconds, longer than one measurement takes. A training is longer, so
        # some of the short visits in each epoch are undisturbed, as in a table (`costs.timing.fastest`).
        if self._table is not None:
            return so_far
        self._measured[architecture] = min(so_far, self._timed(architecture, _AGAIN_SECONDS))
        return self._measured[architecture]

    def _timed(self, architecture: Architecture, seconds: float) -> float:
        space = self.context.space
        network, input_shape = _drawn(partial(space.build, architecture), space.input_shape)
        with current(self.context.device):
            return measure(network, input_shape, self._conditions, seconds)[1]
