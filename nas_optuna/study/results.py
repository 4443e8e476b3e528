"""What a study has found: records of its trials, the best, the front of several objectives and its hypervolume."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray
from optuna.study import Study, StudyDirection
from optuna.trial import FrozenTrial, TrialState

from nas_optuna.errors import SpecError, unknown
from nas_optuna.hyperparameters import PREFIX
from nas_optuna.objectives import COSTS, Criterion, parse_criterion
from nas_optuna.quantities import Direction
from nas_optuna.study.optuna_internals import hypervolume, pareto_front, read_once
from nas_optuna.study.schema import StudyKey, TrialKey, attribute, costs_of
from nas_optuna.study.studies import maximizes
from nas_optuna.study.transactions import metric_names

ALIKE = 1.2
"""Trainings are compared if their seconds differ by less than this factor."""


@dataclass(frozen=True)
class TrialRecord:
    """One trial, as a row of a table.

    Attributes:
        number: Its number in the study.
        state: ``"complete"``, ``"pruned"``, ``"fail"``, ``"running"``, ``"waiting"`` or ``"unreadable"``.
        values: The objectives' values; empty if it has none.
        architecture: The canonical string; empty if it was not reached.
        epochs: Epochs trained.
        seconds: Training time.
        costs: Every cost that is known of the trial, by name, in the unit that `nas_optuna.objectives.describe` gives.
        accuracy: Validation accuracy after the last epoch trained.
        feasible: Whether it is inside the study's limits, where there are any.
        origin: Who proposed it.
        cause: Why it ended, if neither the pruner nor the last epoch ended it.
        duplicate_of: Number of the trial whose training was reused.
        continues: Number of the stopped trial whose training this one continued.
        spread: Standard deviation over the recipe's repeats, if there are several.
        settings: What it chose for the settings of the recipe that are searched.

    Examples:
        >>> import optuna
        >>> record = TrialRecord.of(optuna.trial.create_trial(value=0.9))
        >>> record.state, record.values
        ('complete', (0.9,))
    """

    number: int
    state: str
    values: tuple[float, ...]
    architecture: str
    epochs: int
    seconds: float
    costs: dict[str, float]
    accuracy: float | None
    feasible: bool | None
    origin: str
    cause: str | None
    duplicate_of: int | None
    continues: int | None
    spread: float | None
    settings: dict[str, Any]

    @classmethod
    def of(cls, trial: FrozenTrial) -> TrialRecord:
        """Read a trial's attributes; a trial of another objective gives empty fields."""
        attribute = trial.user_attrs.get
        return cls(
            number=trial.number,
            state="unreadable" if TrialKey.UNREADABLE in trial.user_attrs else trial.state.name.lower(),
            values=tuple(trial.values or ()),
            architecture=attribute(TrialKey.ARCHITECTURE, ""),
            epochs=attribute(TrialKey.EPOCHS, 0),
            seconds=attribute(TrialKey.SECONDS, 0.0),
            costs=costs_of(trial.user_attrs),
            accuracy=attribute(TrialKey.ACCURACY),
            feasible=attribute(TrialKey.FEASIBLE),
            origin=attribute(TrialKey.ORIGIN, ""),
            # A complete trial may have that of a failed one whose attributes it got, to try it again.
            cause=None if trial.state == TrialState.COMPLETE else attribute(TrialKey.CAUSE),
            duplicate_of=attribute(TrialKey.DUPLICATE_OF),
            continues=attribute(TrialKey.CONTINUES),
            spread=attribute(TrialKey.SPREAD),
            settings={k.removeprefix(PREFIX): v for k, v in trial.params.items() if k.startswith(PREFIX)},
        )

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        return asdict(self)


REFERENCE = "reference"
"""The origin of the trial of the space's reference network."""


def reference_of(trials: Iterable[FrozenTrial]) -> str | None:
    """The architecture of the reference's trial; None without one, or if architectures of the space are short codes."""
    found = [trial for trial in trials if attribute(trial, TrialKey.ORIGIN) == REFERENCE]
    architectures: Iterable[str] = (attribute(trial, TrialKey.ARCHITECTURE, "") for trial in found)
    return next((architecture for architecture in architectures if "=" in architecture), None)


def changes(architecture: str, reference: str | None) -> str:
    """An architecture for a person: what it changes in the reference, if that is known.

    Examples:
        >>> changes("width=16,depth=2", "width=16,depth=1"), changes("width=16", None)
        ('depth=2', 'width=16')
        >>> changes("width=16,depth=1", "width=16,depth=1")
        'the reference'
    """
    if reference is None or not architecture:
        return architecture
    known = set(reference.split(","))
    found = [choice for choice in architecture.split(",") if choice not in known]
    return ", ".join(found) if found else "the reference" if architecture == reference else architecture


def cost_names(records: Iterable[TrialRecord], objectives: Sequence[str] = ()) -> list[str]:
    """Costs that any of the records has, in the order of `COSTS`, without those that are objectives."""
    shown = {name.partition(":")[0] for name in objectives}
    known = list(dict.fromkeys(name for record in records for name in record.costs if name not in shown))
    order = COSTS.names()
    return sorted(known, key=lambda name: order.index(name) if name in order else len(order))


def ranked(trials: Iterable[FrozenTrial], maximize: bool = True) -> list[TrialRecord]:
    """Records by their first value, best first: complete trials, then pruned ones, then the rest by number.

    Longer trainings come before shorter ones; see `_training_levels`.
    """
    states = (TrialState.COMPLETE, TrialState.PRUNED)
    found = list(trials)

    def key(pair: tuple[FrozenTrial, int]) -> tuple[int, int, float, int]:
        trial, level = pair
        if trial.state not in states or not trial.values:
            return len(states), 0, 0.0, trial.number
        value = trial.values[0]
        return states.index(trial.state), level, -value if maximize else value, trial.number

    return [TrialRecord.of(trial) for trial, _ in sorted(zip(found, _training_levels(found), strict=True), key=key)]


def _training_levels(trials: Sequence[FrozenTrial]) -> list[int]:
    """For each trial, how many levels shorter than the longest one its training was; only one level is comparable.

    A training by the recipe is on the top level. Trainings with a clock share a level if their seconds differ by less
    than the factor `ALIKE`, as they do between two runs of the same time.
    """
    shares: list[float | None] = [
        None if attribute(t, TrialKey.RUNG) is None else attribute(t, TrialKey.SHARE) for t in trials
    ]
    seconds = [None if share is None else max(share, 1e-3) for share in shares]  # 0 where loading took all of the time
    longest = max((s for s in seconds if s is not None), default=1.0)
    below = 1 if None in shares else 0
    return [0 if s is None else below + int(math.log(longest / s, ALIKE)) for s in seconds]


def would_mix(study: Study, *, by_clock: bool) -> bool:
    """Whether a study has complete trainings by the recipe where it is to get others by a clock, or the reverse."""
    return any((attribute(t, TrialKey.RUNG) is None) == by_clock for t in complete_trials(study))


# --- the best ---------------------------------------------------------------------------------------------------------


def is_feasible(trial: FrozenTrial) -> bool:
    """Whether a trial is inside every limit of its study."""
    return all(excess <= 0 for excess in trial.constraints.values())


def complete_trials(study: Study) -> list[FrozenTrial]:
    """Trials that were trained to the end and are inside the study's limits."""
    return [t for t in study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,)) if is_feasible(t)]


def losses_of(study: Study, trials: Sequence[FrozenTrial]) -> NDArray[np.float64]:
    """The values of trials as losses, lower is better: ``[trials, objectives]``."""
    signs = np.array([-1.0 if direction == StudyDirection.MAXIMIZE else 1.0 for direction in study.directions])
    losses: NDArray[np.float64] = signs * np.array([t.values for t in trials]).reshape(len(trials), len(signs))
    return losses


def longest_trained(trials: Sequence[FrozenTrial]) -> list[FrozenTrial]:
    """The trials that were trained longest, in their order: only these can be compared."""
    levels = _training_levels(trials)
    return [trial for trial, level in zip(trials, levels, strict=True) if level == 0]


def best_of(study: Study, trials: Sequence[FrozenTrial]) -> FrozenTrial | None:
    """The best in the first objective among those trained longest, the earliest of equals; None if there is none.

    If a fit has chosen one of them, that one: it may be the reference, if no other network clearly beat it.
    """
    comparable = longest_trained(trials)
    sign = -1.0 if maximizes(study) else 1.0
    best = min(comparable, key=lambda trial: (sign * trial.values[0], trial.number), default=None)
    chosen = _chosen(study, comparable)
    return next((trial for trial in comparable if trial.number == chosen), best)


def _chosen(study: Study, trials: Sequence[FrozenTrial]) -> int | None:
    """The number of the trial that a fit has chosen; None if it has not, or has not seen all of these."""
    state: Mapping[str, Any] = study.user_attrs.get(StudyKey.FIT, {})
    final: Mapping[str, Any] = state.get("final", {})
    if any(trial.number >= final.get("trials", trial.number + 1) for trial in trials):
        return None
    return final.get("trial")


def best_trial(study: Study) -> FrozenTrial | None:
    """The best complete trial; see `best_of`."""
    return best_of(study, complete_trials(study))


def best_trials(study: Study) -> list[FrozenTrial]:
    """The best and its equals; with several objectives, the front as well."""
    best = best_trial(study)
    equals = [t for t in longest_trained(complete_trials(study)) if best is not None and t.values == best.values]
    if len(study.directions) == 1:
        return equals
    known = {trial.number for trial in equals}
    return equals + [trial for trial in front_trials(study) if trial.number not in known]


def front_trials(study: Study) -> list[FrozenTrial]:
    """The comparable complete trials that no other one beats in every objective, by number."""
    return pareto_front(longest_trained(complete_trials(study)), study.directions)


# --- the front of several objectives ----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Front:
    """The feasible trials that no other one beats in every objective, best in the first objective first."""

    # The hypervolume is a share of the box between `reference`, its worst corner, and the ideal: the best possible
    # value or, without a bound, the best of any trial.

    objectives: tuple[str, ...]
    records: tuple[TrialRecord, ...]
    reference: tuple[float, ...]
    hypervolume: float


def front_of(study: Study, reference: Mapping[str, float] | None = None) -> Front:
    """The front of a study."""
    objectives = [
        replace(parse_criterion(name, imports=False), direction=cast(Direction, direction.name.lower()))
        for name, direction in zip(metric_names(study) or (), study.directions, strict=False)
    ]
    given = dict(reference or {})
    for name, value in given.items():
        if name not in [objective.name for objective in objectives]:
            raise SpecError(unknown("objective", name, [objective.name for objective in objectives]))
        if not math.isfinite(value):
            raise SpecError(f"reference {name} = {value:g}: it must be a finite number")
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
    """The best and the worst value of an objective: possible ones, or else observed ones."""
    if objective.metric is None:
        key = TrialKey.cost(str(objective.cost))
        seen = [value for trial in trials if (value := attribute(trial, key)) is not None]
    else:
        complete = [trial for trial in trials if trial.state == TrialState.COMPLETE]
        seen = [trial.values[place] for trial in longest_trained(complete)]
    sign = 1.0 if objective.maximize else -1.0
    best = objective.ideal if objective.ideal is not None else max(seen, key=lambda v: sign * v, default=sign)
    worst = objective.worst if objective.worst is not None else min(seen, key=lambda v: sign * v, default=best - sign)
    return best, worst if worst != best else best - sign


def feasible_share(trials: Sequence[FrozenTrial]) -> tuple[int, int] | None:
    """How many of a study's proposals were inside its limits, and how many there were; None without limits."""
    limited = [trial for trial in trials if trial.constraints]
    if not limited:
        return None
    return sum(map(is_feasible, limited)), sum(attribute(trial, TrialKey.PROPOSALS, 1) for trial in limited)
