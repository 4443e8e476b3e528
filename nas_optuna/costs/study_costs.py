"""The costs that a study knows of each architecture before it is trained."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from nas_optuna.costs.cost import Cost, CostContext
from nas_optuna.errors import SpecError
from nas_optuna.objectives import COSTS, describe_cost
from nas_optuna.quantities import Quantity
from nas_optuna.spaces import SearchSpace
from nas_optuna.spaces.architecture import Architecture
from nas_optuna.spec import LatencySpec

if TYPE_CHECKING:
    import torch

logger = logging.getLogger(__name__)


class StudyCosts:
    """Every cost of a study, by name: those that it asks for, and those that cost nothing to know.

    Examples:
        >>> import torch
        >>> from nas_optuna import ConvSpace
        >>> space = ConvSpace(depth=1, input_size=8)
        >>> StudyCosts(space, torch.device("cpu"))(space.parse("f16k3s1"))["params"]
        4170
    """

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
