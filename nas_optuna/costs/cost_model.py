"""What each architecture of a study costs, known before it is trained, and the limits on it."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from nas_optuna.costs.complexity import figures
from nas_optuna.costs.latency import Conditions, measure
from nas_optuna.costs.latency_table import LatencyTable
from nas_optuna.errors import SpecError
from nas_optuna.objectives import COSTS, parse_objective
from nas_optuna.spaces import SearchSpace, require_operations
from nas_optuna.spaces.architecture import Architecture
from nas_optuna.spec import LatencySpec

if TYPE_CHECKING:
    import torch

_STARTS = 4
_ENUMERATED = 1024
_SECONDS, _AGAIN_SECONDS = 0.1, 0.01
"""How long a network is timed, at first and in each epoch of its training."""


class Costs:
    """The costs of architectures, by name, and how far each is above its limit.

    ``macs``, ``params`` and ``memory`` are always known. ``latency_ms`` is, where an objective or a limit needs it
    or the spec names a table.

    Args:
        space: The study's space.
        objectives: Names of what is optimised.
        limits: The most that each cost may be, by name.
        latency: How latency is known.
        device: Where networks are measured, if there is no table.

    Raises:
        TableError: The table is damaged, or was measured elsewhere and ``latency.force`` is not set.
        SpecError: The settings in the latency section are refused.
    """

    def __init__(
        self,
        space: SearchSpace,
        device: torch.device,
        objectives: Sequence[str] = (),
        limits: Mapping[str, float] | None = None,
        latency: LatencySpec | None = None,
    ) -> None:
        latency = latency or LatencySpec()
        self._space = space
        self._limits = dict(limits or {})
        self._batch_size = latency.batch_size
        optimised = {parse_objective(text).cost for text in objectives}
        self._knows_latency = "latency_ms" in {*self._limits, *optimised} or latency.table is not None
        self._refines_latency = "latency_ms" in optimised and latency.table is None
        self._table: LatencyTable | None = None
        self._measured: dict[Architecture, float] = {}
        if self._knows_latency:
            self._conditions = Conditions.here(
                device,
                threads=latency.threads,
                batch_size=latency.batch_size,
                precision=latency.precision,
            )
        if latency.table is not None:
            require_operations(space, "a latency table")
            self._table = LatencyTable.load(Path(latency.table))
            if not latency.force:
                self._table.require(self._conditions, Path(latency.table), "use it as it is: --set latency.force=true")

    @property
    def names(self) -> tuple[str, ...]:
        """The costs that are known."""
        return tuple(name for name in COSTS if name != "latency_ms" or self._knows_latency)

    def __call__(self, architecture: Architecture) -> dict[str, float]:
        """Every known cost, by name."""
        costs = self._counted(architecture)
        return costs | {"latency_ms": self._latency_ms(architecture)} if self._knows_latency else costs

    def measured_again(self, architecture: Architecture, costs: dict[str, float]) -> dict[str, float]:
        """The costs with a latency that was timed once more, where it is measured and an objective: the faster counts.

        What else runs on a machine disturbs it for seconds, longer than one measurement takes. A training is longer,
        so that with a short visit in each epoch some are undisturbed, as in a table (`costs.latency.fastest`).
        """
        if not self._refines_latency:
            return costs
        self._measured[architecture] = min(costs["latency_ms"], self._timed(architecture, _AGAIN_SECONDS))
        return costs | {"latency_ms": self._measured[architecture]}

    def excess(self, costs: Mapping[str, float]) -> dict[str, float]:
        """How far each limited cost is above its limit, as a share of the limit; feasible at 0 and below.

        Shares, because samplers add up what is above limits of different units.
        """
        return {name: costs[name] / limit - 1 for name, limit in self._limits.items()}

    def total_excess(self, architecture: Architecture) -> float:
        """How far an architecture is above its limits, added up; feasible at 0 and below."""
        # Latency may have to be measured, which is worth it only where it is limited.
        costs = self(architecture) if "latency_ms" in self._limits else self._counted(architecture)
        return sum(max(0.0, value) for value in self.excess(costs).values())

    @property
    def limited(self) -> bool:
        """Whether there are limits."""
        return bool(self._limits)

    def check_limits(self) -> None:
        """Refuse a limit that no architecture meets.

        Raises:
            SpecError: Naming the smallest possible.
        """
        for name, limit in self._limits.items():
            architecture = self.cheapest(name, limit)
            cost = self(architecture)[name]
            if cost > limit:
                raise SpecError(
                    f"no architecture has {name} of at most {limit:,.7g};"
                    f" the smallest possible is {cost:,.7g}, of {architecture}"
                )

    def cheapest(self, name: str, enough: float = 0.0) -> Architecture:
        """The architecture with the least of a cost, or one that has little enough.

        MACs decide between equals, since a peak of memory does not show what lies beside it. Where latency has to
        be measured, the architecture with the fewest MACs stands for the fastest.

        Args:
            name: One of `names`.
            enough: An architecture with no more of it ends the search for a cheaper one.
        """
        measured = name == "latency_ms" and self._table is None

        def key(architecture: Architecture) -> tuple[float, float]:
            counted = self._counted(architecture)
            if name == "latency_ms":
                return (counted["macs"] if measured else self._latency_ms(architecture), counted["macs"])
            return counted[name], counted["macs"]

        best = None
        for candidate in _candidates(self._space, key):
            if best is None or key(candidate) < key(best):
                best = candidate
            if not measured and key(best)[0] <= enough:
                break
        assert best is not None
        return best

    def _counted(self, architecture: Architecture) -> dict[str, float]:
        counted = figures(self._space, architecture, self._batch_size)
        return {
            "macs": counted.macs,
            "params": counted.params,
            "memory": counted.weight_bytes + counted.activation_bytes,
        }

    def _latency_ms(self, architecture: Architecture) -> float:
        if self._table is not None:
            return self._table.architecture_ms(self._space, architecture)
        if architecture not in self._measured:
            self._measured[architecture] = self._timed(architecture, _SECONDS)
        return self._measured[architecture]

    def _timed(self, architecture: Architecture, seconds: float) -> float:
        from nas_optuna.randomness import seeded

        with seeded(0):  # a network is drawn, which no training, in whatever thread, may notice
            network = self._space.build(architecture)
        return measure(network, self._space.input_shape, self._conditions, seconds).median_ms


def _candidates(space: SearchSpace, key: Callable[[Architecture], tuple[float, float]]) -> Iterator[Architecture]:
    """Every architecture of a small space; of a larger one, where descents from several starts end.

    In a descent each parameter in turn takes the choice with the least key, until none gets better.
    """
    if space.size <= _ENUMERATED:
        yield from space.enumerate()
        return
    rng = random.Random(0)
    for start in range(_STARTS):
        best = space.from_tokens([0] * len(space.parameters)) if start == 0 else space.sample(rng)
        improved = True
        while improved:
            before = key(best)
            for name, parameter in space.parameters.items():
                params = {other: p.choices[0] for other, p in space.parameters.items()} | dict(best.params)
                best = min((space.architecture({**params, name: value}) for value in parameter.choices), key=key)
            improved = key(best) < before
        yield best
