"""What a study with several objectives or limits has found: its front, and how much of it is feasible."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from optuna.trial import FrozenTrial


def hypervolume(losses: Sequence[Sequence[float]], reference: Sequence[float]) -> float:
    """Volume between a set of points and a reference point, all coordinates to be minimised.

    Slices along the last coordinate and adds up the volumes of the slices (HSO; While et al., "A faster algorithm
    for calculating hypervolume", IEEE TEC 2006). Exact; exponential in the number of coordinates, of which a
    study has few.

    Args:
        losses: Points, one coordinate an objective; what lies beyond the reference in any counts nothing.
        reference: The worst corner.
    """
    *rest, last = reference
    points = sorted(
        {tuple(p) for p in losses if all(x < r for x, r in zip(p, reference, strict=True))}, key=lambda p: p[-1]
    )
    if not points:
        return 0.0
    if not rest:
        return last - points[0][0]
    volume = 0.0
    for i, point in enumerate(points):
        top = points[i + 1][-1] if i + 1 < len(points) else last
        if top > point[-1]:
            volume += hypervolume([p[:-1] for p in points[: i + 1]], rest) * (top - point[-1])
    return volume


@dataclass(frozen=True)
class FeasibleShare:
    """How many of a study's proposals were inside its limits.

    Attributes:
        feasible: Proposals inside every limit.
        proposals: Proposals whose costs are known.
        recent: The feasible ones among the last ten.
    """

    feasible: int
    proposals: int
    recent: int


def is_feasible(trial: FrozenTrial) -> bool:
    """Whether a trial is inside every limit; so is one of a study without limits."""
    return all(excess <= 0 for excess in trial.constraints.values())


def feasible_share(trials: Sequence[FrozenTrial]) -> FeasibleShare | None:
    """How many proposals were inside the limits; None in a study without limits."""
    inside = [is_feasible(trial) for trial in trials if trial.constraints]
    return FeasibleShare(sum(inside), len(inside), sum(inside[-10:])) if inside else None
