"""How the time of a search is divided: many networks for a little, the best of them for more, one for the rest."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, replace
from typing import Any

SHORTEST = 0.03
"""Share of the time for each network of the first rung."""
LEAST, MOST = 0.15, 0.4
"""Shares of the time for the search."""
FEW, MANY = 20, 160
"""Epochs that the reference could be trained for in all the time, at which the search gets the least and the most. With
few, each epoch that the search costs is missed at the end; with many, the last half of them brings next to nothing."""
ENOUGH_TO_SELECT = 1000
"""Images that select, with which a search has its whole share of the time: the standard error of an accuracy is then
below 0.016. With fewer the share falls as that error grows: they could not tell the networks apart."""
FIRST = 0.55
"""Share of the search for the first of two rungs."""
MOST_NETWORKS = 12
FEWEST_NETWORKS = 3
"""With fewer there is nothing to choose from: the reference is taken."""
ALONE = 0.05
"""Share of the time for a look at the reference where there is no search, so that its validation figure is known."""
FINALISTS = 3
"""Networks of the second rung, the reference among them."""
LEAST_STEPS = 20
"""Steps of the reference network in the first rung: after fewer, every network is still at chance."""

LEAST_EPOCHS = 4
"""Epochs of the reference network in the first rung of a search. What leads after one epoch is what is cheap: on 12,000
pictures of CIFAR-10 such a search of five minutes ended three points behind a known network with one seed of two."""

LEAST_SECONDS = 1.0
"""The least for a network in the first rung, because proposing, drawing and storing it takes part of a second."""


@dataclass(frozen=True)
class Rung:
    """Networks that are trained for about the same time."""

    networks: int
    seconds: float  # for one that costs as much as the reference
    growth: float = 0.0
    """The power of a network's cost, as a multiple of the reference's, by which its seconds grow: with 0 all have equal
    seconds, with 1 they see equally many images."""


@dataclass(frozen=True)
class Speed:
    """How fast the reference network is trained here."""

    per_step: float  # seconds
    per_validation: float  # seconds of one look at the images that select
    steps: int  # of an epoch over all training images


@dataclass(frozen=True)
class Plan:
    """How a search divides its time."""

    rungs: tuple[Rung, ...]  # each takes the best networks of the one before it, and the reference
    reserve: float  # seconds at the end for the test, the export and the report
    per_step: float = 1.0  # seconds of a training step of the reference network

    @classmethod
    def of(
        cls, seconds: float, speed: Speed, reserve: float, *, retrain: bool = True, selecting: int = ENOUGH_TO_SELECT
    ) -> Plan:
        """Divide the seconds that are left, where so many images select; without a retraining the rungs have all.

        Examples:
            >>> slow, fast = Speed(0.05, 0.2, 172), Speed(0.05, 0.1, 18)
            >>> [[(rung.networks, round(rung.seconds)) for rung in Plan.of(300, s, 9).rungs] for s in (slow, fast)]
            [[(1, 15)], [(7, 9), (3, 17)]]
            >>> [(rung.networks, round(rung.seconds)) for rung in Plan.of(300, fast, 9, selecting=300).rungs]
            [(7, 9)]
            >>> len(Plan.of(300, slow, 0, retrain=False).rungs)  # the last rung has what is left, and is not short
            2
            >>> Plan.of(20, Speed(0.5, 4, 18), 5).rungs  # not even a few steps for each of three networks
            (Rung(networks=1, seconds=3.75, growth=0.0),)
        """
        usable = max(0.0, seconds - reserve)
        told = math.sqrt(min(1.0, selecting / ENOUGH_TO_SELECT))
        share = _share(usable / (speed.per_step * speed.steps)) * told if retrain else 1.0
        shortest = max(SHORTEST * (1.0 if retrain else 1 / MOST) * usable, LEAST_STEPS * speed.per_step, LEAST_SECONDS)
        # Without a later training a rung foretells nothing: its networks are compared as they are.
        first = max(shortest, LEAST_EPOCHS * speed.per_step * speed.steps) if retrain else shortest
        rungs = _rungs(usable, share, first + speed.per_validation) or [
            Rung(1, max(ALONE * usable, min(shortest + speed.per_validation, usable / 4)))
        ]
        longest = usable - sum(rung.networks * rung.seconds for rung in rungs) if retrain else rungs[-1].seconds
        return cls(tuple(_growing(rung, longest) for rung in rungs), reserve, speed.per_step)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Plan:
        """What `to_dict` gave."""
        return cls(**values | {"rungs": tuple(Rung(**rung) for rung in values["rungs"])})

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        return asdict(self)

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


def _share(epochs: float) -> float:
    """The search's share of the time, by how many epochs of the reference all of it is."""
    place = math.log(max(epochs, FEW) / FEW) / math.log(MANY / FEW)
    return LEAST + (MOST - LEAST) * min(1.0, place)


def _rungs(usable: float, share: float, first: float) -> list[Rung]:
    """One rung, two where the second gives its networks clearly more time than the first, none where time is short."""
    networks = min(MOST_NETWORKS, int(FIRST * share * usable / first))
    second = (1 - FIRST) * share * usable / FINALISTS
    if networks > FINALISTS and second > 1.5 * first:
        return [Rung(networks, first), Rung(FINALISTS, second)]
    networks = min(MOST_NETWORKS, int(share * usable / first))
    return [Rung(networks, first)] if networks >= FEWEST_NETWORKS else []


def _growing(rung: Rung, longest: float) -> Rung:
    """The rung with seconds that grow with a network's cost, the more so the longer the last training is."""
    # What a doubling of the time brings falls with about the square root of the time.
    growth = 1 - math.sqrt(min(1.0, rung.seconds / longest)) if rung.networks > 1 else 0.0
    return replace(rung, growth=round(growth, 3))
