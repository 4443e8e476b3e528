"""What a study optimises and limits, by name: metrics, costs, and a metric softly traded for a cost."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from nas_optuna.errors import SpecError, unknown
from nas_optuna.metrics import METRICS, Direction, Metric, find_metric
from nas_optuna.registry import Registry

COSTS = Registry(
    "cost",
    "nas_optuna.costs",
    {
        "latency_ms": "nas_optuna.costs.latency_cost:LatencyCost",
        "macs": "nas_optuna.costs.counted:MacsCost",
        "params": "nas_optuna.costs.counted:ParamsCost",
        "memory": "nas_optuna.costs.counted:MemoryCost",
        "energy_mj": "nas_optuna.costs.energy:EnergyCost",
    },
)
"""Every cost; all of them are to be minimised."""

_AMOUNT = re.compile(r"(\d+(?:\.\d*)?|\.\d+)(?:e([+-]?\d+))?\s*([kMG]?)")
_SOFT = re.compile(r"([\w.:]+)\s*\*\s*\(\s*(\w+)\s*/\s*([^()]+?)\s*\)\s*\^\s*([+-]?[\d.]+)")
_SUFFIXES = {"": 1.0, "k": 1e3, "M": 1e6, "G": 1e9}
EXAMPLE = "accuracy*(latency_ms/0.5)^-0.07"


@dataclass(frozen=True)
class Criterion:
    """One thing that is optimised.

    Attributes:
        name: A metric's name, a cost's name, or the formula of a soft target.
        direction: Optuna's word for which way is better.
        ideal: The best value there can be; None where there is no bound.
        worst: The worst value there can be; None where there is no bound.
        metric: The metric that it needs, if any.
        cost: The cost that it needs, if any.
        target: A soft target's cost at which the metric counts as it is.
        exponent: A soft target's exponent, negative.
    """

    name: str
    direction: Direction
    ideal: float | None
    worst: float | None
    metric: str | None = None
    cost: str | None = None
    target: float | None = None
    exponent: float = 0.0

    @property
    def maximize(self) -> bool:
        """Whether larger is better."""
        return self.direction == "maximize"

    def value(self, metrics: Mapping[str, float], costs: Mapping[str, float]) -> float:
        """What is told to Optuna.

        Args:
            metrics: The metric that is needed, by name.
            costs: The cost that is needed, by name, in its unit.
        """
        if self.metric is None:
            assert self.cost is not None
            return costs[self.cost]
        value = metrics[self.metric]
        if self.cost is None or self.target is None:
            return value
        return float(value * (costs[self.cost] / self.target) ** self.exponent)

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        return asdict(self)


def parse_criterion(text: str, *, imports: bool = True) -> Criterion:
    """What an objective's name stands for.

    Beside the plain names there is the soft target, ``METRIC*(COST/TARGET)^W`` with a negative ``W``, which makes one
    objective of two (MnasNet, arXiv:1807.11626, equation 2, with ``W`` = -0.07; FBNet, arXiv:1812.03443, equation 2,
    weighs its loss in the same way). ``accuracy*(latency_ms/0.5)^-0.07`` leaves accuracy as it is for a network that
    takes 0.5 ms, and takes about 5 % of it from one that takes twice as long. A figure that only the study's own
    evaluator knows is named with its direction: ``rmse:minimize``.

    Args:
        text: The name or the formula.
        imports: Whether a metric that is named by its place, ``package.module:function``, may be imported. A stored
            study may be somebody else's: reading it imports nothing. Such a metric then counts as maximised, and its
            bounds are unknown.

    Raises:
        SpecError: It is neither.

    Example:
        >>> parse_criterion("macs").direction
        'minimize'
    """
    text = text.strip()
    if text in COSTS:
        return Criterion(text, "minimize", 0.0, None, cost=text)
    soft = _SOFT.fullmatch(text) if len(text) < 200 else None
    if soft is not None:
        return _soft_target(text, *soft.groups(), imports=imports)
    if "(" in text or "*" in text:
        raise SpecError(f"objective {text!r} is not of the form {EXAMPLE}")
    name, colon, direction = text.partition(":")
    if colon and name in (*METRICS.builtin, *COSTS.builtin):
        right = parse_criterion(name).direction
        raise SpecError(f"objective {name!r} has one direction, {right}; write it without {':' + direction!r}")
    if colon and direction in ("minimize", "maximize"):  # a figure of the study's own evaluator
        return Criterion(text, "minimize" if direction == "minimize" else "maximize", None, None, metric=name)
    if not colon and text not in METRICS:
        known = (*METRICS.names(), *COSTS.names())
        raise SpecError(f"{unknown('objective', text, known)}; or a soft target such as {EXAMPLE}")
    found = _metric(text, imports)
    return Criterion(text, found.direction, found.ideal, found.worst, metric=text)


def _metric(name: str, imports: bool) -> Metric:
    return find_metric(name) if imports or not METRICS.is_code(name) else Metric(name, "maximize", None, None)


def _soft_target(text: str, metric_name: str, cost: str, target: str, exponent: str, *, imports: bool) -> Criterion:
    if cost not in COSTS:
        raise SpecError(unknown("cost", cost, COSTS.names()))
    if metric_name not in METRICS and ":" not in metric_name:
        raise SpecError(unknown("metric", metric_name, METRICS.names()))
    found = _metric(metric_name, imports)
    if found.direction != "maximize":
        raise SpecError(f"objective {text!r}: a soft target needs a metric that is maximised, as accuracy is")
    try:
        amount, power = parse_amount(target), float(exponent)
    except ValueError as error:
        raise SpecError(f"objective {text!r}: {error}") from None
    if power >= 0:
        raise SpecError(f"objective {text!r} would reward a larger {cost}; the exponent must be negative")
    # A cheap network can have more than the metric's ideal, but no network has less than its worst.
    return Criterion(text, "maximize", found.ideal, found.worst, metric_name, cost, amount, power)


def parse_amount(text: str | float) -> float:
    """A positive number that may end in k, M or G: ``"2M"`` is 2,000,000.

    Raises:
        SpecError: It is not one.

    Example:
        >>> parse_amount("300k")
        300000.0
    """
    found = _AMOUNT.fullmatch(str(text).strip()) if len(str(text)) < 40 else None
    amount = float(f"{found[1]}e{found[2] or 0}") * _SUFFIXES[found[3]] if found else 0.0
    if not 0 < amount < float("inf"):
        raise SpecError(f"{str(text)[:40]!r} is not a positive amount; write for example 0.5, 300k or 2M")
    return amount
