"""The most that an architecture may cost, and the cheapest architecture there is."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Mapping

from nas_optuna.costs.cost_model import CostModel
from nas_optuna.errors import SpecError
from nas_optuna.spaces import SearchSpace
from nas_optuna.spaces.architecture import Architecture

_STARTS = 4
_ENUMERATED = 1024


class Limits:
    """Limits on costs. What is above one is not trained.

    Args:
        limits: The most that each cost may be, by name, in the cost's unit.
        costs: Knows these costs.
        space: Whose architectures they limit.
    """

    def __init__(self, limits: Mapping[str, float], costs: CostModel, space: SearchSpace) -> None:
        self._limits = dict(limits)
        self._costs = costs
        self._space = space

    def __bool__(self) -> bool:
        return bool(self._limits)

    def excess(self, costs: Mapping[str, float]) -> dict[str, float]:
        """How far each limited cost is above its limit, as a share of the limit; feasible at 0 and below.

        Shares, because samplers add up what is above limits of different units.
        """
        return {name: costs[name] / limit - 1 for name, limit in self._limits.items()}

    def total_excess(self, architecture: Architecture) -> float:
        """How far an architecture is above its limits, added up; feasible at 0 and below."""
        costs = self._costs.only(list(self._limits), architecture)
        return sum(max(0.0, value) for value in self.excess(costs).values())

    def check(self) -> None:
        """Refuse a limit that no architecture meets.

        Raises:
            SpecError: Naming the smallest possible.
        """
        for name, limit in self._limits.items():
            architecture = cheapest(self._space, self._costs, name, limit)
            cost = self._costs.only([name], architecture)[name]
            if cost > limit:
                raise SpecError(
                    f"no architecture has {name} of at most {limit:,.7g};"
                    f" the smallest possible is {cost:,.7g}, of {architecture}"
                )


def cheapest(space: SearchSpace, costs: CostModel, name: str, enough: float = 0.0) -> Architecture:
    """The architecture with the least of a cost, or one that has little enough.

    MACs decide between equals, since a peak of memory does not show what lies beside it. Where a cost has to be
    measured, the architecture with the least of its proxy stands for the cheapest.

    Args:
        space: The space.
        costs: Knows the cost.
        name: The cost.
        enough: An architecture with no more of it ends the search for a cheaper one; in the cost's unit.
    """
    counted = costs.proxy(name) or name

    def key(architecture: Architecture) -> tuple[float, float]:
        found = costs.only([counted, "macs"], architecture)
        return found[counted], found["macs"]

    best = None
    for candidate in _candidates(space, key):
        if best is None or key(candidate) < key(best):
            best = candidate
        if counted == name and key(best)[0] <= enough:
            break
    assert best is not None
    return best


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
