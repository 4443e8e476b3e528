"""The costs that a study knows of each architecture before training, and limits on them."""

from __future__ import annotations

import itertools
import logging
import math
import random
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from nas_optuna.costs.cost import Cost, CostContext
from nas_optuna.devices import network_failures
from nas_optuna.errors import SpecError, TrainingError, shown
from nas_optuna.objectives import COSTS, describe_cost
from nas_optuna.quantities import LARGEST, Direction, Quantity
from nas_optuna.spaces import Decomposable, SearchSpace
from nas_optuna.spaces.architecture import Architecture, Choice
from nas_optuna.spec import LatencySpec, StudySpec

if TYPE_CHECKING:
    import torch

logger = logging.getLogger(__name__)
_STARTS = 4
_ENUMERATED = 1024
_MANY, _SOME = 10_000, 1_000
"""Among how many networks a proposal is looked for where all limits are on counted costs, and else."""
_HOPELESS = 1.0
"""If the first descent in a large space has this excess over a limit, others would not get within it."""


class StudyCosts:
    """The costs of a study, by name: those that it needs, and those that are known at no cost."""

    def __init__(
        self,
        space: SearchSpace,
        device: torch.device,
        optimised: Sequence[str] = (),
        limited: Sequence[str] = (),
        latency: LatencySpec | None = None,
    ) -> None:
        self.space = space
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
        """Names of the costs."""
        return tuple(self._costs)

    def __call__(self, architecture: Architecture, names: Iterable[str] | None = None) -> dict[str, float]:
        """Every cost, by name, or only some, because measuring others would take time."""
        return {name: self.of(name, architecture) for name in (self._costs if names is None else names)}

    def of(self, name: str, architecture: Architecture) -> float:
        """One cost; a `TrainingError` for a network that cannot be built."""
        with network_failures(f"the costs of {architecture} cannot be known"):
            return _number(self._costs[name](architecture), name, architecture)

    def refine(self, architecture: Architecture, costs: Mapping[str, float]) -> dict[str, float]:
        """The costs, more exact by now for those that are objectives (`Cost.refine`)."""
        with network_failures(f"the costs of {architecture} cannot be known"):
            return {
                name: _number(self._costs[name].refine(architecture, known), name, architecture)
                if name in self._optimised
                else known
                for name, known in costs.items()
            }

    def __getitem__(self, name: str) -> Cost:
        return self._costs[name]

    def quantity(self, name: str) -> Quantity:
        """How a cost is named, written and compared."""
        return self._quantities[name]


def _number(found: Any, name: str, architecture: Architecture) -> float:
    """What a cost gave, checked because it may be third-party code."""
    try:
        value = found if type(found) in (int, float) else float(found)
    except (TypeError, ValueError, RuntimeError):
        value = math.nan
    if math.isnan(value) or LARGEST <= abs(value) < math.inf:
        raise SpecError(f"cost {name!r} gave {shown(found)} for {architecture}, not a number; correct its class")
    return value


def _cost_class(name: str) -> type[Cost]:
    """The class of a registered cost, checked because it may be third-party code."""
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
    """Upper limits on costs, by name, in their units; lower limits on costs that are maximised."""

    def __init__(self, limits: Mapping[str, float], costs: StudyCosts) -> None:
        self._limits = dict(limits)
        self.costs = costs
        self.space = costs.space

    @classmethod
    def of(cls, spec: StudySpec, space: SearchSpace, device: torch.device) -> Limits:
        """The limits of a spec on the networks of a space, which may be another than its own."""
        return cls(spec.limits, StudyCosts(space, device, limited=list(spec.limits), latency=spec.latency))

    def __bool__(self) -> bool:
        return bool(self._limits)

    @property
    def known(self) -> Limits:
        """Those on costs that the device need not measure."""
        return Limits({name: limit for name, limit in self._limits.items() if not self.costs[name].proxy}, self.costs)

    @property
    def most_asked(self) -> int:
        """How many networks of a small space may be asked about for one proposal."""
        costs = [self.costs[name] for name in self._limits]
        if any(cost.proxy for cost in costs):  # the device measures it
            return 0
        # Operations that networks share are counted once; elsewhere each network is built, or a user's cost computed.
        shared = isinstance(self.space, Decomposable) and self.space.sequential
        return _MANY if shared and all(cost.counted for cost in costs) else _SOME

    def excess(self, costs: Mapping[str, float]) -> dict[str, float]:
        """How far each limited cost is outside its limit, as a share of the limit; at most 0 if feasible."""
        return {name: self._excess(name, costs[name]) for name in self._limits}

    def _excess(self, name: str, cost: float) -> float:
        # A share, because samplers add up the excess over limits of different units.
        return self.costs.quantity(name).sign * (cost / self._bound(name) - 1)

    def _bound(self, name: str) -> float:
        """The known value up to which the true one is assumed to be inside the limit."""
        margin = self.costs[name].margin or 0.0
        if self.costs.quantity(name).maximize:
            return self._limits[name] / (1 - margin) if margin < 1 else math.inf
        return self._limits[name] / (1 + margin)

    def remarks(self) -> Iterator[str]:
        """Remarks for a person on limits on costs with an error, one line each."""
        for name, limit in self._limits.items():
            margin = self.costs[name].margin
            if margin is None:
                yield f"the error of {name} is not known, so networks near the limit may turn out to be outside"
            elif margin > 0:
                worse, end = ("less", "down") if self.costs.quantity(name).maximize else ("more", "up")
                yield (
                    f"{name} may be {margin:.1%} {worse} than predicted, so the limit of {limit:.4g} allows predictions"
                    f" {end} to {self._bound(name):.4g}"
                )

    def facts(self, architecture: Architecture) -> dict[str, str]:
        """The limited costs of an architecture, for a person."""
        known = self.costs(architecture, self._limits)
        found = {}
        for name, limit in self._limits.items():
            cost, under = self.costs.quantity(name), self.costs[name].conditions
            least = "least" if cost.maximize else "most"
            text = f"{cost.text(known[name])}, where at {least} {cost.text(limit)} was asked for"
            found[cost.label or name] = f"{text}; {under}" if under else text
        return found

    def side(self, name: str) -> str:
        """The side of its limit on which a cost is infeasible."""
        return "below" if self.costs.quantity(name).maximize else "above"

    def largest_excess(self, architecture: Architecture) -> float:
        """The largest excess over a limit, as a share of it; negative if all costs are inside."""
        return max(self.all_excess(architecture).values(), default=-1.0)

    def all_excess(self, architecture: Architecture) -> dict[str, float]:
        """`excess` of the costs of an architecture."""
        return {name: self._excess_of(name, architecture) for name in self._limits}

    def _excess_of(self, name: str, architecture: Architecture) -> float:
        try:
            return self._excess(name, self.costs.of(name, architecture))
        except TrainingError:  # it cannot be built, as its trial would say
            return math.inf

    def total_excess(self, architecture: Architecture) -> float:
        """The sum of all excess over limits; 0 if feasible."""
        return sum(max(0.0, value) for value in self.all_excess(architecture).values())

    def check(self, fixed: Mapping[str, Choice] | None = None) -> None:
        """Refuse a limit that no architecture meets, or none with pinned values."""
        for name, limit in self._limits.items():
            more, bound = self.costs.quantity(name).maximize, self._bound(name)
            architecture = self._closest(name, fixed or {})
            cost = self.costs.of(name, architecture)
            if cost < bound if more else cost > bound:
                room = "" if bound == limit else f" with a margin of {self.costs[name].margin:.1%} for its error"
                known = "possible" if self.space.size <= _ENUMERATED else "found"
                pinned, less = (" with the pinned values", " or pin less") if fixed else ("", "")
                raise SpecError(
                    f"no architecture{pinned} has {name} of at {'least' if more else 'most'} {limit:,.7g}{room};"
                    f" the {'largest' if more else 'smallest'} {known} is {cost:,.7g}, of {architecture};"
                    f" {'lower' if more else 'raise'} the limit{less}"
                )

    def _closest(self, name: str, fixed: Mapping[str, Choice]) -> Architecture:
        """The first network that is found inside a limit, or hopelessly outside, else the best in its cost."""
        first = self.space.from_tokens([0] * len(self.space.parameters))
        first = self.space.architecture({**first.params, **fixed})
        if self._excess_of(name, first) <= 0:  # not its proxy hundreds of times
            return first
        key, found = _key(self.costs, name, self.costs.quantity(name).direction), []
        ends = itertools.chain([_descent(self.space, key, first, fixed)], _candidates(self.space, key, fixed))
        for candidate in ends:
            found.append(candidate)
            if self.costs[name].proxy is None:
                excess = self._excess_of(name, candidate)
                if excess <= 0 or (excess >= _HOPELESS and self.space.size > _ENUMERATED):
                    break
        return min(found, key=key)


def best_in_cost(
    costs: StudyCosts,
    name: str,
    direction: Direction | None = None,
    *,
    fixed: Mapping[str, Choice] | None = None,
    listed: Iterable[Architecture] | None = None,
) -> Architecture:
    """The best architecture in a cost with pinned values, or of a list; in a large space of some that descents find."""
    key = _key(costs, name, direction or costs.quantity(name).direction)
    return min(_candidates(costs.space, key, fixed or {}) if listed is None else listed, key=key)


_Key = Callable[[Architecture], tuple[float, float]]


def _key(costs: StudyCosts, name: str, direction: Direction) -> _Key:
    """What to minimise for a cost."""
    # MACs decide between equals, since a peak of memory hides smaller differences. For a cost that has to be measured,
    # its proxy decides.
    counted, sign = costs[name].proxy or name, -1.0 if direction == "maximize" else 1.0

    def key(architecture: Architecture) -> tuple[float, float]:
        try:
            return sign * costs.of(counted, architecture), costs.of("macs", architecture)
        except TrainingError:  # it cannot be built
            return math.inf, math.inf

    return key


def _candidates(space: SearchSpace, key: _Key, fixed: Mapping[str, Choice]) -> Iterator[Architecture]:
    """Every architecture of a small space; the ends of descents from several starts in a larger one."""
    if space.size <= _ENUMERATED:
        every = space.enumerate()
        yield from dict.fromkeys(space.architecture({**a.params, **fixed}) for a in every) if fixed else every
        return
    rng = random.Random(0)
    yield _descent(space, key, space.from_tokens([0] * len(space.parameters)), fixed)
    for _ in range(_STARTS - 1):
        yield _descent(space, key, space.sample(rng), fixed)


def _descent(space: SearchSpace, key: _Key, start: Architecture, fixed: Mapping[str, Choice]) -> Architecture:
    """The end of a coordinate descent, in which each parameter in turn takes the choice with the least key."""
    best = space.architecture({**start.params, **fixed})
    free = {name: parameter.choices for name, parameter in space.parameters.items() if name not in fixed}
    while True:
        before = key(best)
        for name, choices in free.items():
            best = min((space.architecture({**best.params, name: value, **fixed}) for value in choices), key=key)
        if key(best) >= before:
            return best


def nearest_inside(
    limits: Limits, start: Architecture, until: float = math.inf, fixed: Mapping[str, Choice] | None = None
) -> Architecture | None:
    """The first network inside the limits on a walk from a start over smaller neighbours; None if there is none.

    The walk keeps the `fixed` values, which the start has. It ends in any case at the time `until`, by
    `time.monotonic`, since costs may have to be measured.
    """
    # Each step changes one parameter: the one that loses the fewest MACs for the excess that it saves. So weights are
    # saved where a network has most of them, at its end. Parts are left out only when no other step helps.
    here, excess, macs = start, limits.largest_excess(start), limits.costs["macs"]
    idle: set[str] = set()  # parameters that change nothing, such as a rate; asked again if no other helps
    while 0 < excess < math.inf:
        steps, all_asked = [], not idle
        for name, other in _smaller(limits.space, here, fixed or {}):
            if time.monotonic() > until:
                return None
            if name in idle:
                continue
            saved = excess - limits.largest_excess(other)
            if saved > 1e-9:
                steps.append((_parts(other) < _parts(here), (macs(here) - macs(other)) / saved, saved, other))
            elif limits.all_excess(other) == limits.all_excess(here) and macs(other) == macs(here):
                idle.add(name)
        if steps:
            *_, saved, here = min(steps, key=lambda step: step[:3])
            excess -= saved
        elif all_asked:
            return None
        else:
            idle.clear()
    return here if excess <= 0 else None


def _parts(architecture: Architecture) -> int:
    """How many parameters the network uses; it is fewer if blocks are left out."""
    return len(str(architecture).split(","))


def _smaller(
    space: SearchSpace, architecture: Architecture, fixed: Mapping[str, Choice]
) -> Iterator[tuple[str, Architecture]]:
    """The parameters that have a lower choice and are not fixed, each with the neighbour one step lower."""
    for name, parameter in space.parameters.items():
        chosen = architecture.params.get(name)
        rising = parameter.rising
        place = rising.index(chosen) if parameter.ordered and chosen is not None else 0
        if place > 0 and name not in fixed:
            yield name, space.architecture({**architecture.params, name: rising[place - 1], **fixed})
