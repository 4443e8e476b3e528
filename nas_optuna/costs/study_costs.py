"""The costs that a study knows of each architecture before it is trained, the limits on them, and what lies inside."""

from __future__ import annotations

import itertools
import logging
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

from nas_optuna.costs.cost import Cost, CostContext
from nas_optuna.errors import SpecError
from nas_optuna.objectives import COSTS, describe_cost
from nas_optuna.quantities import Direction, Quantity
from nas_optuna.spaces import SearchSpace
from nas_optuna.spaces.architecture import Architecture
from nas_optuna.spec import LatencySpec

if TYPE_CHECKING:
    import torch

logger = logging.getLogger(__name__)
_STARTS = 4
_ENUMERATED = 1024
_HOPELESS = 2.0
"""Where the first descent of a large space ends so many times beyond a limit, others would not come within it."""


class StudyCosts:
    """Every cost of a study, by name: those that it asks for, and those that cost nothing to know."""

    def __init__(
        self,
        space: SearchSpace,
        device: torch.device,
        optimised: Sequence[str] = (),
        limited: Sequence[str] = (),
        latency: LatencySpec | None = None,
    ) -> None:
        context = CostContext(space, device, latency or LatencySpec())
        wanted = (*optimised, *limited)
        self._optimised = frozenset(optimised)
        self._costs: dict[str, Cost] = {}
        for name in COSTS.names():
            try:
                found = _cost_class(name)
            except SpecError as error:
                if name in wanted:
                    raise
                logger.warning("a cost that the study does not need is left out: %s", error)
                continue
            if name in wanted or found.always(context):
                self._costs[name] = COSTS.make(name, context, options={}, wanted=Cost)
        self._quantities = {name: describe_cost(name) for name in self._costs}

    @property
    def names(self) -> tuple[str, ...]:
        """The costs that are known."""
        return tuple(self._costs)

    def __call__(self, architecture: Architecture) -> dict[str, float]:
        """Every known cost, by name."""
        return {name: cost(architecture) for name, cost in self._costs.items()}

    def only(self, names: Sequence[str], architecture: Architecture) -> dict[str, float]:
        """Some of the costs, by name: a measured one is worth its time only where it is needed."""
        return {name: self._costs[name](architecture) for name in names}

    def refine(self, architecture: Architecture, costs: Mapping[str, float]) -> dict[str, float]:
        """The costs, where objectives need them as exactly as is known by now (`Cost.refine`)."""
        return {
            name: self._costs[name].refine(architecture, value) if name in self._optimised else value
            for name, value in costs.items()
        }

    def __getitem__(self, name: str) -> Cost:
        return self._costs[name]

    def quantity(self, name: str) -> Quantity:
        """How a known cost is called, written and compared."""
        return self._quantities[name]


def _cost_class(name: str) -> type[Cost]:
    """The class of a registered cost, checked: it may be somebody else's."""
    found = COSTS.find(name)
    if not (isinstance(found, type) and issubclass(found, Cost)):
        raise SpecError(f"cost {name!r} is no subclass of nas_optuna.costs.cost.Cost")
    if found.direction not in ("minimize", "maximize"):
        raise SpecError(f"cost {name!r} has the direction {found.direction!r}; write minimize or maximize")
    try:
        format(1.0, found.format)
    except ValueError:
        raise SpecError(f"cost {name!r} has the format {found.format!r}; write one such as '.3g'") from None
    return found


class Limits:
    """The most that costs may be, by name, in their units, and the least of one that is maximised."""

    def __init__(self, limits: Mapping[str, float], costs: StudyCosts, space: SearchSpace) -> None:
        self._limits = dict(limits)
        self._costs = costs
        self._space = space

    def __bool__(self) -> bool:
        return bool(self._limits)

    def excess(self, costs: Mapping[str, float]) -> dict[str, float]:
        """How far each limited cost is outside its limit, as a share of the limit; feasible at 0 and below."""
        # Shares, because samplers add up what is outside limits of different units.
        signs = {name: self._costs.quantity(name).sign for name in self._limits}
        return {name: signs[name] * (costs[name] / self._bound(name) - 1) for name in self._limits}

    def _bound(self, name: str) -> float:
        """The known value up to which the true one is taken to be inside the limit."""
        room = 1 + (self._costs[name].margin or 0.0)
        return self._limits[name] * room if self._costs.quantity(name).maximize else self._limits[name] / room

    def remarks(self) -> Iterator[str]:
        """What to tell a person of limits on costs that are known with an error, one line each."""
        for name, limit in self._limits.items():
            margin = self._costs[name].margin
            if margin is None:
                yield f"how far {name} is off is not known, so that networks near the limit may turn out to be outside"
            elif margin > 0:
                worse = "less" if self._costs.quantity(name).maximize else "more"
                yield (
                    f"{name} may be {margin:.1%} {worse} than it is known to be, so that the limit of {limit:.4g}"
                    f" lets in what is known as {self._bound(name):.4g}"
                )

    def facts(self, architecture: Architecture) -> dict[str, str]:
        """What an architecture costs of what is limited, for a reader."""
        known = self._costs.only(list(self._limits), architecture)
        found = {}
        for name, limit in self._limits.items():
            cost, under = self._costs.quantity(name), self._costs[name].conditions
            least = "least" if cost.maximize else "most"
            text = f"{cost.text(known[name])}, where at {least} {cost.text(limit)} was asked for"
            found[cost.label or name] = f"{text}; {under}" if under else text
        return found

    def side(self, name: str) -> str:
        """Which side of its limit a cost may not be on."""
        return "below" if self._costs.quantity(name).maximize else "above"

    def largest_excess(self, architecture: Architecture) -> float:
        """How far the cost that is furthest outside its limit is so, as a share of it; below 0 where all are inside."""
        costs = self._costs.only(list(self._limits), architecture)
        return max(self.excess(costs).values(), default=-1.0)

    def total_excess(self, architecture: Architecture) -> float:
        """How far an architecture is outside its limits, added up; feasible at 0 and below."""
        costs = self._costs.only(list(self._limits), architecture)
        return sum(max(0.0, value) for value in self.excess(costs).values())

    def check(self) -> None:
        """Refuse a limit that no architecture meets."""
        for name, limit in self._limits.items():
            more, bound = self._costs.quantity(name).maximize, self._bound(name)
            architecture = best_in_cost(self._space, self._costs, name, limit=bound)
            cost = self._costs.only([name], architecture)[name]
            if cost < bound if more else cost > bound:
                room = "" if bound == limit else f" with a margin of {self._costs[name].margin:.1%} for its error"
                known = "possible" if self._space.size <= _ENUMERATED else "found"
                raise SpecError(
                    f"no architecture has {name} of at {'least' if more else 'most'} {limit:,.7g}{room};"
                    f" the {'largest' if more else 'smallest'} {known} is {cost:,.7g}, of {architecture};"
                    f" {'lower' if more else 'raise'} the limit"
                )


def best_in_cost(
    space: SearchSpace,
    costs: StudyCosts,
    name: str,
    direction: Direction | None = None,
    limit: float | None = None,
) -> Architecture:
    """The architecture at the good end of a cost; with a limit, the first that is inside, or hopelessly outside."""
    # MACs decide between equals, since a peak of memory does not show what lies beside it. Where a cost has to be
    # measured, the architecture with the least of its proxy stands for the cheapest.
    counted = costs[name].proxy or name
    sign = -1.0 if (direction or costs.quantity(name).direction) == "maximize" else 1.0

    def key(architecture: Architecture) -> tuple[float, float]:
        found = costs.only([counted, "macs"], architecture)
        return sign * found[counted], found["macs"]

    candidates = _candidates(space, key)
    if limit is not None:
        candidates = itertools.chain([_descent(space, key, space.from_tokens([0] * len(space.parameters)))], candidates)
    best = None
    for candidate in candidates:
        if best is None or key(candidate) < key(best):
            best = candidate
        if counted == name and limit is not None:
            cost = sign * key(best)[0]
            beyond = cost / limit if sign > 0 else limit / max(cost, 1e-300)
            if beyond <= 1 or (beyond >= _HOPELESS and space.size > _ENUMERATED):
                break
    assert best is not None
    return best


_Key = Callable[[Architecture], tuple[float, float]]


def _candidates(space: SearchSpace, key: _Key) -> Iterator[Architecture]:
    """Every architecture of a small space; of a larger one, where descents from several starts end."""
    if space.size <= _ENUMERATED:
        yield from space.enumerate()
        return
    rng = random.Random(0)
    yield _descent(space, key, space.from_tokens([0] * len(space.parameters)))
    for _ in range(_STARTS - 1):
        yield _descent(space, key, space.sample(rng))


def _descent(space: SearchSpace, key: _Key, best: Architecture) -> Architecture:
    """Where it ends to let each parameter in turn take the choice with the least key, until none gets better."""
    while True:
        before = key(best)
        for name, parameter in space.parameters.items():
            best = min((space.architecture({**best.params, name: value}) for value in parameter.choices), key=key)
        if key(best) >= before:
            return best


def nearest_inside(space: SearchSpace, costs: StudyCosts, limits: Limits, start: Architecture) -> Architecture | None:
    """The network itself where it is inside, or the one at which a walk over its smaller neighbours comes inside."""
    # Each step changes one parameter: the one that loses the fewest MACs for what it saves of what is limited, so that
    # weights are saved where a network has most of them, which is at its end. Only when that is done, parts are left
    # out.
    here, excess = start, limits.largest_excess(start)
    while excess > 0:
        macs, steps = costs.only(["macs"], here)["macs"], []
        for other in _smaller(space, here):
            saved = excess - limits.largest_excess(other)
            if saved > 1e-9:
                lost = (macs - costs.only(["macs"], other)["macs"]) / saved
                steps.append((_parts(other) < _parts(here), lost, saved, other))
        if not steps:
            return None
        *_, saved, here = min(steps, key=lambda step: step[:3])
        excess -= saved
    return here


def _parts(architecture: Architecture) -> int:
    """How many parameters the network asks for; one whose blocks are left out asks for fewer."""
    return len(str(architecture).split(","))


def _smaller(space: SearchSpace, architecture: Architecture) -> Iterator[Architecture]:
    """Those with one ordered choice a step lower."""
    for name, parameter in space.parameters.items():
        chosen = architecture.params.get(name)
        place = parameter.choices.index(chosen) if parameter.ordered and chosen is not None else 0
        if place > 0:
            yield space.architecture({**architecture.params, name: parameter.choices[place - 1]})
