"""What a study optimises and limits, by name: metrics, costs, and soft targets that trade a metric for a cost."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace

from nas_optuna.errors import SpecError, TrainingError, unknown
from nas_optuna.metrics import METRICS, Metric, find_metric
from nas_optuna.quantities import Direction, Quantity
from nas_optuna.registry import Registry

COSTS = Registry(
    "cost",
    "nas_optuna.costs",
    {
        "latency_ms": "nas_optuna.costs.latency:LatencyCost",
        "macs": "nas_optuna.costs.cost:MacsCost",
        "params": "nas_optuna.costs.cost:ParamsCost",
        "memory": "nas_optuna.costs.cost:MemoryCost",
        "flash": "nas_optuna.costs.microcontroller:FlashCost",
        "arena": "nas_optuna.costs.microcontroller:ArenaCost",
        "energy_mj": "nas_optuna.costs.cost:EnergyCost",
    },
)
"""All costs, in the order of tables; each has its own unit, label and direction (`costs.cost.Cost`)."""

_AMOUNT = re.compile(r"(\d+(?:\.\d*)?|\.\d+)(?:e([+-]?\d+))?\s*([kMG]?)")
_SOFT = re.compile(r"([^()*]+)\*\s*\(([^()/]+)/([^()]+)\)\s*\^\s*([+-]?[\d.]+)")
_SUFFIXES = {"": 1.0, "k": 1e3, "M": 1e6, "G": 1e9}
_DIRECTIONS: tuple[Direction, ...] = ("maximize", "minimize")
EXAMPLE = "accuracy*(latency_ms/0.5)^-0.07"
ELSEWHERE: Mapping[str, str] = {
    **dict.fromkeys(("loss", "nll", "crossentropy", "logloss"), "negative_log_likelihood"),
    **dict.fromkeys(("f1", "fscore", "f1score"), "macro_f1"),
    **dict.fromkeys(("flops", "flop", "madds", "multadds"), "macs"),
    **dict.fromkeys(("size", "weights", "parameters"), "params"),
    **dict.fromkeys(("time", "speed", "runtime", "milliseconds", "ms"), "latency_ms"),
    **dict.fromkeys(("ram", "bytes"), "memory"),
}
"""Names of metrics and costs in other tools -> the name here."""


@dataclass(frozen=True)
class Criterion(Quantity):
    """One objective; `name` is that of a metric or a cost, or the formula of a soft target."""

    metric: str | None = None  # the metric that it needs, if any
    cost: str | None = None  # the cost that it needs, if any
    target: float | None = None  # of a soft target: the cost at which the metric is unchanged
    exponent: float = 0.0  # of a soft target: negative, or positive for a cost that is maximised

    @property
    def code(self) -> str | None:
        """Where the metric is imported from, if no package has registered it."""
        return self.metric if self.metric is not None and METRICS.is_code(self.metric) else None

    def value(self, metrics: Mapping[str, float], costs: Mapping[str, float]) -> float:
        """The value for Optuna."""
        if self.metric is None:
            assert self.cost is not None
            return costs[self.cost]
        value = metrics[self.metric]
        if self.cost is None or self.target is None:
            return value
        share = costs[self.cost] / self.target
        if share < 0 or (share == 0 and self.exponent < 0):
            raise TrainingError(f"{self.cost} is {costs[self.cost]:g}, and {self.name} has a value only above 0")
        return float(value * share**self.exponent)


def parse_criteria(objectives: Sequence[str]) -> tuple[Criterion, ...]:
    """Parse the names of objectives; a single name need not be in a list."""
    return tuple(map(parse_criterion, (objectives,) if isinstance(objectives, str) else objectives))


def parse_criterion(text: str, *, imports: bool = True) -> Criterion:
    """Parse the name of an objective.

    Besides plain names there is the soft target, ``METRIC*(COST/TARGET)^W`` with a negative ``W``, which combines two
    objectives (MnasNet, arXiv:1807.11626, equation 2, with ``W`` = -0.07; FBNet, arXiv:1812.03443, equation 2, weights
    its loss in the same way). ``accuracy*(latency_ms/0.5)^-0.07`` does not change the accuracy of a network that takes
    0.5 ms, and subtracts about 5 % if it takes twice as long. A cost is optimised in the other direction as
    ``maximize:params`` or ``params:maximize``; a figure that only the study's own evaluator knows needs a direction as
    well: ``rmse:minimize``.

    Args:
        text: The name or the formula.
        imports: Whether a metric that is named as ``package.module:function`` may be imported. A stored study may be
            somebody else's, and reading it imports nothing: such a metric then counts as maximised, with unknown
            bounds. `Criterion.code` is the same either way.

    Raises:
        SpecError: It is neither.

    Examples:
        >>> parse_criterion("macs").direction
        'minimize'
        >>> parse_criterion("maximize:params").name
        'params:maximize'
    """
    text = text.strip()
    soft = _SOFT.fullmatch(text) if len(text) < 200 else None
    if soft is not None:
        return _soft_target(text, *map(str.strip, soft.groups()), imports=imports)
    if "(" in text or "*" in text:
        raise SpecError(f"objective {text!r} is not of the form {EXAMPLE}")
    name, direction = _with_direction(text)
    if name in COSTS:
        own = describe_cost(name)
        if direction is None or direction == own.direction:
            return _criterion(own, Criterion(name, cost=name))
        turned = replace(own, name=f"{name}:{direction}", direction=direction, ideal=own.worst, worst=own.ideal)
        return _criterion(turned, Criterion(name, cost=name))
    if direction is not None and name in METRICS.builtin:
        right = find_metric(name).direction
        raise SpecError(f"objective {name!r} has one direction, {right}; write it without {direction!r}")
    if direction is not None:  # a figure of the study's own evaluator
        return Criterion(f"{name}:{direction}", direction, format=".4f", metric=name)
    if ":" not in name and name not in METRICS:
        known = (*METRICS.names(), *COSTS.names())
        raise SpecError(f"{unknown('objective', name, known, ELSEWHERE)} (or a soft target such as {EXAMPLE})")
    return _criterion(_metric(name, imports), Criterion(name, metric=name))


def _with_direction(text: str) -> tuple[str, Direction | None]:
    """Split a name from a direction before or after it."""
    for direction in _DIRECTIONS:
        for name in (text.removeprefix(f"{direction}:"), text.removesuffix(f":{direction}")):
            if name != text and ":" not in name:
                return name, direction
    return text, None


def _metric(name: str, imports: bool) -> Metric:
    return find_metric(name) if imports or not METRICS.is_code(name) else Metric(name, ideal=None, worst=None)


def _criterion(quantity: Quantity, needs: Criterion) -> Criterion:
    """A criterion with the description of a quantity."""
    return replace(needs, **{field.name: getattr(quantity, field.name) for field in fields(Quantity)})


def describe_cost(name: str) -> Quantity:
    """The description of a registered cost from its class."""
    found = COSTS.find(name)
    maximized = getattr(found, "direction", "minimize") == "maximize"
    return Quantity(
        name,
        "maximize" if maximized else "minimize",
        ideal=None if maximized else 0.0,
        worst=0.0 if maximized else None,
        label=getattr(found, "label", ""),
        unit=getattr(found, "unit", ""),
        format=getattr(found, "format", ""),
    )


def describe(name: str) -> Quantity:
    """The description of an objective, a metric or a cost of a study, by name.

    It imports no code that a study names, and never fails: something unknown has only its name.

    Examples:
        >>> describe("memory").heading
        'memory (bytes)'
    """
    try:
        return parse_criterion(name, imports=False)
    except SpecError:
        return Quantity(name)


def _soft_target(text: str, metric: str, cost: str, target: str, exponent: str, *, imports: bool) -> Criterion:
    if cost not in COSTS:
        raise SpecError(unknown("cost", cost, COSTS.names(), ELSEWHERE))
    if metric not in METRICS and ":" not in metric:
        raise SpecError(unknown("metric", metric, METRICS.names()))
    found = _metric(metric, imports)
    if not found.maximize:
        raise SpecError(f"objective {text!r}: a soft target needs a metric that is maximised, as accuracy is")
    try:
        amount, power = parse_amount(target), float(exponent)
    except ValueError as error:
        raise SpecError(f"objective {text!r}: {error}") from None
    more_is_better = describe_cost(cost).maximize
    if power <= 0 if more_is_better else power >= 0:
        worse, sign = ("smaller", "positive") if more_is_better else ("larger", "negative")
        raise SpecError(f"objective {text!r} would reward a {worse} {cost}; the exponent must be {sign}")
    # The share of the cost may be any positive factor, so that a cheap network exceeds a metric's ideal of 1.
    ideal, worst = (bound if bound == 0 else None for bound in (found.ideal, found.worst))
    needs = Criterion(text, metric=metric, cost=cost, target=amount, exponent=power)
    return replace(needs, direction="maximize", ideal=ideal, worst=worst, format=".4f")


def parse_amount(text: str | float) -> float:
    """Parse a positive number that may end in k, M or G: ``"2M"`` is 2,000,000.

    Examples:
        >>> parse_amount("300k")
        300000.0
    """
    found = _AMOUNT.fullmatch(str(text).strip()) if len(str(text)) < 40 else None
    amount = float(f"{found[1]}e{found[2] or 0}") * _SUFFIXES[found[3]] if found else 0.0
    if not 0 < amount < float("inf"):
        raise SpecError(f"{str(text)[:40]!r} is not a positive amount; write for example 0.5, 300k or 2M")
    return amount


def parse_limits(limits: Mapping[str, str | float]) -> dict[str, float]:
    """Parse the limits of costs, each a positive amount.

    Examples:
        >>> parse_limits({"params": "50k"})
        {'params': 50000.0}
    """
    for name in limits:
        if name not in COSTS:
            raise SpecError(unknown("cost", name, COSTS.names(), ELSEWHERE))
    return {name: parse_amount(amount) for name, amount in limits.items()}
