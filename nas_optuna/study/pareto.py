"""What a study with several objectives or limits has found: its front, and how much of it is feasible."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, cast

from optuna.study import Study
from optuna.trial import FrozenTrial, TrialState

from nas_optuna.errors import SpecError, unknown
from nas_optuna.objectives import Criterion, parse_criterion
from nas_optuna.quantities import Direction
from nas_optuna.study.best import front_trials, is_feasible
from nas_optuna.study.optuna_internals import read_once
from nas_optuna.study.records import TrialRecord, ranked
from nas_optuna.study.schema import TrialKey, attribute


def hypervolume(losses: Sequence[Sequence[float]], reference: Sequence[float]) -> float:
    """Volume between a set of points and a reference point, all coordinates to be minimised."""
    # Slices along the last coordinate and adds up the volumes of the slices (HSO; While et al., "A faster algorithm for
    # calculating hypervolume", IEEE TEC 2006). Exact; exponential in the number of coordinates, of which a study has
    # few.
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
class Front:
    """The feasible trials that no other one beats in every objective, best in the first objective first."""

    # The hypervolume is the share of the box between `reference`, its worst corner, and the ideal: the best value that
    # there can be, or, where there is no bound, the best of any trial.

    objectives: tuple[str, ...]
    records: tuple[TrialRecord, ...]
    reference: tuple[float, ...]
    hypervolume: float

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        return asdict(self)


def front_of(study: Study, reference: Mapping[str, float] | None = None) -> Front:
    """The front of a study of ours."""
    objectives = [
        replace(parse_criterion(name, imports=False), direction=cast(Direction, direction.name.lower()))
        for name, direction in zip(study.metric_names or (), study.directions, strict=False)
    ]
    given = dict(reference or {})
    for name in given:
        if name not in [objective.name for objective in objectives]:
            raise SpecError(unknown("objective", name, [objective.name for objective in objectives]))
    study = read_once(study)
    trials = study.get_trials(deepcopy=False)
    ends = [_ends(objective, i, trials) for i, objective in enumerate(objectives)]
    ideal = [best for best, _ in ends]
    worst = [given.get(objective.name, value) for objective, (_, value) in zip(objectives, ends, strict=True)]
    for objective, best, value in zip(objectives, ideal, worst, strict=True):
        if value >= best if objective.maximize else value <= best:
            raise SpecError(f"reference {objective.name} = {value:g} leaves no room to its ideal, {best:g}")
    records = ranked(front_trials(study), objectives[0].direction == "maximize")
    losses = [
        [(value - best) / (reference - best) for value, best, reference in zip(r.values, ideal, worst, strict=True)]
        for r in records
    ]
    share = hypervolume(losses, [1.0] * len(objectives))
    return Front(tuple(o.name for o in objectives), tuple(records), tuple(worst), share)


def _ends(objective: Criterion, place: int, trials: Sequence[FrozenTrial]) -> tuple[float, float]:
    """The best and the worst value of an objective: what is possible, or what was seen."""
    if objective.metric is None:
        key = TrialKey.cost(str(objective.cost))
        seen = [value for trial in trials if (value := attribute(trial, key)) is not None]
    else:
        seen = [trial.values[place] for trial in trials if trial.state == TrialState.COMPLETE]
    sign = 1.0 if objective.maximize else -1.0
    best = objective.ideal if objective.ideal is not None else max(seen, key=lambda v: sign * v, default=sign)
    worst = objective.worst if objective.worst is not None else min(seen, key=lambda v: sign * v, default=best - sign)
    return best, worst if worst != best else best - sign


@dataclass(frozen=True)
class FeasibleShare:
    """How many of a study's proposals were inside its limits, and the share among its last ten trials."""

    feasible: int
    proposals: int
    recent: float

    @property
    def share(self) -> float:
        """Fraction of proposals that were feasible."""
        return self.feasible / self.proposals


def feasible_share(trials: Sequence[FrozenTrial]) -> FeasibleShare | None:
    """How many proposals were inside the limits; None in a study without limits."""
    looked_at = [(is_feasible(trial), attribute(trial, TrialKey.PROPOSALS, 1)) for trial in trials if trial.constraints]
    if not looked_at:
        return None
    inside, proposals = (sum(column) for column in zip(*looked_at, strict=True))
    recent_inside, recent_proposals = (sum(column) for column in zip(*looked_at[-10:], strict=True))
    return FeasibleShare(inside, proposals, recent_inside / recent_proposals)
