"""The cost ``latency_ms``: looked up in a table, or measured network by network."""

from __future__ import annotations

from functools import cached_property
from pathlib import Path

from nas_optuna.costs.cost import Cost, CostContext
from nas_optuna.costs.latency import Conditions, measure
from nas_optuna.costs.latency_table import LatencyTable
from nas_optuna.spaces import require_operations
from nas_optuna.spaces.architecture import Architecture

_SECONDS, _AGAIN_SECONDS = 0.1, 0.01
"""How long a network is timed at first, and after each epoch of its training."""


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
            if not self._table.whole:
                require_operations(context.space, "a latency table")
        if self._table is not None and self._table.kit:  # of another device, on purpose
            self._conditions = self._table.conditions
            self.conditions = str(self._conditions)
            return
        self._conditions = Conditions.here(
            context.device,
            runtime=settings.runtime,
            threads=settings.threads,
            batch_size=settings.batch_size,
            precision=settings.precision,
        )
        self.conditions = str(self._conditions)
        if self._table is not None and not settings.force:
            remedy = "use it as it is: --set latency.force=true"
            self._table.require(self._conditions, Path(settings.table or ""), remedy)

    @classmethod
    def always(cls, context: CostContext) -> bool:
        """A table makes it as cheap to know as a count."""
        return context.latency.table is not None

    @cached_property
    def proxy(self) -> str | None:
        """A network's MACs stand for its latency where that has to be measured."""
        return "macs" if self._table is None else None

    @cached_property
    def margin(self) -> float | None:
        """What the table's own whole networks say of its error, unless the user has said it."""
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
        # What else runs on a machine disturbs it for seconds, longer than one measurement takes. A training is longer,
        # so that with a short visit in each epoch some are undisturbed, as in a table (`costs.timing.fastest`).
        if self._table is not None:
            return so_far
        self._measured[architecture] = min(so_far, self._timed(architecture, _AGAIN_SECONDS))
        return self._measured[architecture]

    def _timed(self, architecture: Architecture, seconds: float) -> float:
        from nas_optuna.devices import current
        from nas_optuna.randomness import seeded

        space = self.context.space
        with seeded(0):  # a network is drawn, which no training, in whatever thread, may notice
            network = space.build(architecture)
        with current(self.context.device):
            return measure(network, space.input_shape, self._conditions, seconds)[1]
