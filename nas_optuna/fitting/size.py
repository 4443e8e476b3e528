"""How large a fit's space is, where a limit is below the network that it begins with."""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch

from nas_optuna.costs.study_costs import Limits, StudyCosts, nearest_inside
from nas_optuna.data import SearchData
from nas_optuna.spaces.residual import DIVISOR
from nas_optuna.spec import StudySpec
from nas_optuna.spec_parts import make_space

WIDTH, STAGES = 16, 3
"""The residual space's own defaults, from which it is made smaller."""
NEAR = 3.0
"""The most that a cost of the reference may be above its limit, as a share of it, for a walk from there: a network of a
quarter has half the widths."""


def smaller_space(spec: StudySpec, data: SearchData, device: torch.device) -> list[str]:
    """What to override in the spec, so that the space's reference is about as large as the limits let it be."""
    # A search has to find good networks around its first one. So a limit makes the residual space narrower until the
    # reference is inside, then shorter until some network near the reference is.
    if not spec.limits or spec.space.name != "residual" or spec.latency.table is not None:
        return []  # a latency table is of the space as it is
    excess = _excess(spec, data, device, walks=False)
    for overrides in _sizes(spec, excess) if excess > 0 else ():
        if _excess(spec.override(overrides), data, device, walks="space.stages" in " ".join(overrides)) <= 0:
            return overrides
    return []


def decided_size(spec: StudySpec, stored: StudySpec) -> list[str]:
    """The overrides by which an earlier run of the same fit has made its space smaller."""
    if not spec.limits or spec.space.name != "residual":
        return []
    options = stored.space.options
    return [f"space.{name}={options[name]}" for name in ("width", "stages") if name in options]


def _sizes(spec: StudySpec, excess: float) -> Iterator[list[str]]:
    """Narrower spaces, then shorter ones; costs grow with the square of the width at most."""
    options = spec.space.options
    width, stages = int(options.get("width", WIDTH)), int(options.get("stages", STAGES))
    widest = min(width - 2, 2 * math.ceil(width / math.sqrt(1 + excess) / 2))
    yield from ([f"space.width={narrower}"] for narrower in range(widest, DIVISOR - 1, -2))
    yield from ([f"space.width={min(width, DIVISOR)}", f"space.stages={fewer}"] for fewer in range(stages, 0, -1))


def _excess(spec: StudySpec, data: SearchData, device: torch.device, *, walks: bool) -> float:
    """How far the space's reference is outside the limits; 0 where a short walk leads to a network inside."""
    space = make_space(spec, data)
    costs = StudyCosts(space, device, (), list(spec.limits), spec.latency)
    limits, known = Limits(spec.limits, costs, space), space.reference
    if known is None:
        return math.inf
    excess = limits.largest_excess(known)
    near = walks and (excess <= NEAR or spec.space.options["stages"] == 1)
    return 0.0 if near and nearest_inside(space, costs, limits, known) is not None else excess
