"""The network inside a study's limits that is nearest to a good one outside."""

from __future__ import annotations

from collections.abc import Iterator

from nas_optuna.costs.limits import Limits
from nas_optuna.costs.study_costs import StudyCosts
from nas_optuna.spaces import SearchSpace
from nas_optuna.spaces.architecture import Architecture


def nearest_inside(space: SearchSpace, costs: StudyCosts, limits: Limits, start: Architecture) -> Architecture | None:
    """The network itself where it is inside, or the one at which a walk over its smaller neighbours comes inside.

    Each step changes one parameter: the one that loses the fewest MACs for what it saves of what is limited, so that
    weights are saved where a network has most of them, which is at its end. Only when that is done, parts are left out.
    """
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
