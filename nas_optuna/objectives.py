"""What a study can optimise and limit, by name: accuracy, four costs, and accuracy softly traded for a cost."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from nas_optuna.errors import SpecError, unknown

COSTS: dict[str, str] = {
    "latency_ms": "milliseconds of one inference, from a latency table or measured",
    "macs": "multiply-accumulates of one image's forward pass",
    "params": "number of weights",
    "memory": "bytes of weights and of the peak of activations in inference",
}
"""Every cost, all of them to be minimised, with what it counts."""

_AMOUNT = re.compile(r"(\d+(?:\.\d*)?|\.\d+)(?:e([+-]?\d+))?\s*([kMG]?)")
_SOFT = re.compile(r"accuracy\s*\*\s*\(\s*(\w+)\s*/\s*([^()]+?)\s*\)\s*\^\s*([+-]?[\d.]+)")
_SUFFIXES = {"": 1.0, "k": 1e3, "M": 1e6, "G": 1e9}


@dataclass(frozen=True)
class Goal:
    """One thing that is optimised.

    Attributes:
        name: ``"accuracy"``, one of `COSTS`, or the formula of a soft target.
        cost: The cost that it needs to know, if any.
        target: A soft target's cost at which accuracy counts as it is.
        exponent: A soft target's exponent, negative.
    """

    name: str
    cost: str | None = None
    target: float | None = None
    exponent: float = 0.0

    @property
    def needs_accuracy(self) -> bool:
        """Whether a network must be trained to know it."""
        return self.name not in COSTS

    @property
    def direction(self) -> Literal["maximize", "minimize"]:
        """Optuna's word for it."""
        return "maximize" if self.needs_accuracy else "minimize"

    def value(self, accuracy: float, costs: Mapping[str, float]) -> float:
        """What is told to Optuna.

        Args:
            accuracy: Between 0 and 1.
            costs: The cost that is needed, by name.
        """
        if self.cost is None:
            return accuracy
        cost = costs[self.cost]
        return cost if self.target is None else accuracy * (cost / self.target) ** self.exponent


def parse_objective(text: str) -> Goal:
    """The objective of a name.

    Beside the plain names there is the soft target, ``accuracy*(COST/TARGET)^W`` with a negative ``W``, which makes
    one objective of two (MnasNet, arXiv:1807.11626, equation 2, with ``W`` = -0.07; FBNet, arXiv:1812.03443,
    equation 2, weighs its loss likewise). ``accuracy*(latency_ms/0.5)^-0.07`` leaves accuracy as it is for a
    network that takes 0.5 ms, and takes about 5 % of it from one that takes twice as long.

    Raises:
        SpecError: The name or the formula is not one of these.
    """
    text = text.strip()
    name, colon, direction = text.partition(":")
    if colon and name in ("accuracy", *COSTS):
        right = parse_objective(name).direction
        raise SpecError(f"objective {name!r} has one direction, {right}; write it without {':' + direction!r}")
    if text == "accuracy":
        return Goal(text)
    if text in COSTS:
        return Goal(text, cost=text)
    soft = _SOFT.fullmatch(text)
    if soft is None:
        example = "accuracy*(latency_ms/0.5)^-0.07"
        if "(" in text or "*" in text:
            raise SpecError(f"objective {text!r} is not of the form {example}")
        raise SpecError(f"{unknown('objective', text, ('accuracy', *COSTS))}; or a soft target such as {example}")
    cost, target, exponent = soft.groups()
    if cost not in COSTS:
        raise SpecError(unknown("cost", cost, COSTS))
    try:
        objective = Goal(text, cost, parse_amount(target), float(exponent))
    except ValueError as error:
        raise SpecError(f"objective {text!r}: {error}") from None
    if objective.exponent >= 0:
        raise SpecError(f"objective {text!r} would reward a larger {cost}; the exponent must be negative")
    return objective


def parse_amount(text: str | float) -> float:
    """A positive number that may end in k, M or G: ``"2M"`` is 2,000,000.

    Raises:
        SpecError: It is not one.
    """
    found = _AMOUNT.fullmatch(str(text).strip())
    amount = float(f"{found[1]}e{found[2] or 0}") * _SUFFIXES[found[3]] if found else 0.0
    if not 0 < amount < float("inf"):
        raise SpecError(f"{text!r} is not a positive amount; write for example 0.5, 300k or 2M")
    return amount
