"""What a search may propose: networks inside the limits, with the pinned values, from the list if there is one."""

from __future__ import annotations

import math
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from nas_optuna.costs.study_costs import Limits, best_in_cost, nearest_inside
from nas_optuna.errors import ArchitectureError
from nas_optuna.quantities import Direction
from nas_optuna.spaces import SearchSpace
from nas_optuna.spaces.architecture import Architecture, Choice


@dataclass(frozen=True)
class Candidates:
    """The architectures that a search may propose, begin with, and name as its reference.

    Attributes:
        limits: Limits on their costs.
        fixed: The values that are pinned, by parameter.
        listed: The only ones, each once; None is the whole space.
    """

    limits: Limits
    fixed: Mapping[str, Choice] = field(default_factory=dict)
    listed: tuple[Architecture, ...] | None = None

    @property
    def space(self) -> SearchSpace:
        """The space that they belong to."""
        return self.limits.space

    @cached_property
    def _known(self) -> frozenset[Architecture]:
        return frozenset(self.listed or ())

    def check(self) -> None:
        """Refuse limits that no network with the pinned values meets, before a search; a list is checked when read."""
        if self.fixed and self.listed is None:
            self.limits.check(self.fixed)

    def pinned(self, architecture: Architecture) -> Architecture:
        """An architecture with the pinned values."""
        return self.space.architecture({**architecture.params, **self.fixed})

    def excess(self, architecture: Architecture) -> float:
        """How far one is outside all limits together; infinite if it lacks a pinned value, or is not listed."""
        own = self.pinned(architecture)  # of the whole space, though the architecture may be of a part
        if self.fixed and own != self.space.architecture(architecture.params):  # it uses a pinned parameter
            return math.inf
        return math.inf if self.listed is not None and own not in self._known else self.limits.total_excess(own)

    def __contains__(self, architecture: Architecture) -> bool:
        return self.excess(architecture) <= 0

    def listed_in(self, part: SearchSpace) -> tuple[Architecture, ...] | None:
        """The listed ones that a part of the space has; None without a list."""
        if self.listed is None:
            return None
        found = []
        for architecture in self.listed:
            with suppress(ArchitectureError):
                found.append(part.parse(str(architecture)))
        return tuple(found)

    def allows(self, params: Mapping[str, Any]) -> bool:
        """Whether a proposal is one; parameters that it lacks are pinned or have a single choice."""
        known = {**params, **self.fixed}
        parameters = self.space.parameters.items()
        return self.space.architecture({name: known.get(name, p.choices[0]) for name, p in parameters}) in self

    def reference(self, until: float = math.inf) -> Architecture | None:
        """The space's reference with the pinned values, or the network nearest to it inside the limits.

        None if there is none, if it is not found until that time by `time.monotonic`, or if it is not listed.
        """
        known, found = self.space.reference, None
        if known is not None:
            with suppress(ArchitectureError):  # it cannot be pinned
                found = nearest_inside(self.limits, self.pinned(known), until, self.fixed)
        return found if self.listed is None or found in self.listed else None

    def best_in_cost(self, name: str, direction: Direction) -> Architecture | None:
        """The best in a cost, as far as it can be found; None if that is not inside the limits."""
        found = best_in_cost(self.limits.costs, name, direction, fixed=self.fixed, listed=self.listed)
        return found if found in self else None
