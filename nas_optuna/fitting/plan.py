"""How the time of a search is divided: many networks for a little, the best of them for more, one for the rest."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

SHORTEST = 0.03
"""Share of the time for each network of the first rung."""
FIRST_RUNG = 0.3
SECOND_RUNG = 0.24
"""Shares of the time for all networks of a rung."""
MOST_NETWORKS = 12
FEWEST_NETWORKS = 3
"""With fewer there is nothing to choose from: the reference is taken."""
ALONE = 0.15
"""Share of the time for a look at the reference where there is no search, so that its validation figure is known."""
FINALISTS = 3
"""Networks of the second rung, the reference among them."""
LEAST_STEPS = 20
"""Steps of the reference network in the first rung: after fewer, every network is still at chance."""


@dataclass(frozen=True)
class Rung:
    """Networks that are trained for equal seconds.

    Attributes:
        networks: How many.
        seconds: For each.
    """

    networks: int
    seconds: float


@dataclass(frozen=True)
class Plan:
    """How a search divides its time.

    Attributes:
        rungs: One after the other; each takes the best networks of the one before it, and the reference.
        reserve: Seconds at the end for the test, the export and the report.
    """

    rungs: tuple[Rung, ...]
    reserve: float

    @classmethod
    def of(cls, seconds: float, per_step: float, validation_steps: float, reserve: float, *, retrain: bool) -> Plan:
        """Divide the time that is left.

        Args:
            seconds: That are left.
            per_step: Seconds of a step of the reference network.
            validation_steps: How many steps take as long as one look at the images that select.
            reserve: Seconds to keep for the end.
            retrain: Whether the chosen network is to be trained anew on all images; otherwise the rungs have all.

        Examples:
            >>> [(rung.networks, round(rung.seconds)) for rung in Plan.of(300, 0.02, 8, 9, retrain=True).rungs]
            [(10, 9), (3, 23)]
            >>> Plan.of(20, 0.5, 8, 5, retrain=True).rungs  # not even a few steps for each of three networks
            (Rung(networks=1, seconds=2.25),)
        """
        usable = max(0.0, seconds - reserve)
        stretch = 1.0 if retrain else 1 / (FIRST_RUNG + SECOND_RUNG)
        first = max(SHORTEST * usable, (LEAST_STEPS + validation_steps) * per_step)
        networks = min(MOST_NETWORKS, int(FIRST_RUNG * stretch * usable / first + 1e-6))
        if networks < FEWEST_NETWORKS:
            return cls((Rung(1, ALONE * usable),), reserve)
        rungs = [Rung(networks, first)]
        second = SECOND_RUNG * stretch * usable / FINALISTS
        if networks > FINALISTS and second > 1.5 * first:
            rungs.append(Rung(FINALISTS, second))
        return cls(tuple(rungs), reserve)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Plan:
        """What `to_dict` gave."""
        return cls(tuple(Rung(**rung) for rung in values["rungs"]), values["reserve"])

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        return asdict(self) | {"rungs": [asdict(rung) for rung in self.rungs]}

    def describe(self) -> str:
        """One line for a person.

        Examples:
            >>> Plan((Rung(10, 9.0), Rung(2, 30.0)), 9.0).describe()
            '10 networks for 9 s each, the best 2 for 30 s each'
        """
        if self.rungs[0].networks == 1:
            return "the time is too short for a search: the reference alone"
        parts = [f"{self.rungs[0].networks} networks for {self.rungs[0].seconds:.0f} s each"]
        parts += [f"the best {rung.networks} for {rung.seconds:.0f} s each" for rung in self.rungs[1:]]
        return ", ".join(parts)
