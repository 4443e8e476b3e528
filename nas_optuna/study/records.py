"""What a trial of ours carries beside its params and values: typed, and readable in any Optuna tool."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from optuna.trial import FrozenTrial, TrialState

from nas_optuna.objectives import COSTS
from nas_optuna.study.schema import TrialKey, attribute, costs_of

ALIKE = 1.2
"""Trainings whose seconds differ by less than this factor are compared."""


@dataclass(frozen=True)
class TrialRecord:
    """One trial, as a row of a table.

    Attributes:
        number: Its number in the study.
        state: ``"complete"``, ``"pruned"``, ``"fail"``, ``"running"``, ``"waiting"`` or ``"unreadable"``.
        values: The objectives' values; empty where it has none.
        architecture: The canonical string; empty where it was not reached.
        epochs: Epochs trained.
        seconds: Training time.
        costs: Every cost that the trial knows, by name, each in the unit that `nas_optuna.objectives.describe` tells.
        accuracy: Validation accuracy after the last epoch trained.
        feasible: Whether it is inside the study's limits, where there are any.
        origin: Who proposed it.
        cause: Why it was stopped, where neither the pruner nor the end did it.
        duplicate_of: Number of the trial whose training was reused.
        continues: Number of the stopped trial whose training this one went on with.
        spread: Standard deviation over the recipe's repeats, where there are several.

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

    @classmethod
    def of(cls, trial: FrozenTrial) -> TrialRecord:
        """Read a trial's attributes; a trial that is not ours gives empty fields."""
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
            cause=attribute(TrialKey.CAUSE),
            duplicate_of=attribute(TrialKey.DUPLICATE_OF),
            continues=attribute(TrialKey.CONTINUES),
            spread=attribute(TrialKey.SPREAD),
        )

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        return asdict(self)


def cost_names(records: Iterable[TrialRecord], objectives: Sequence[str] = ()) -> list[str]:
    """Costs that any of the records has, in the order of `COSTS`, without those that are objectives themselves."""
    shown = {name.partition(":")[0] for name in objectives}
    known = list(dict.fromkeys(name for record in records for name in record.costs if name not in shown))
    order = COSTS.names()
    return sorted(known, key=lambda name: order.index(name) if name in order else len(order))


def ranked(trials: Iterable[FrozenTrial], maximize: bool = True) -> list[TrialRecord]:
    """Records, best first value first: complete trials, then pruned ones, then the rest by number.

    What was trained for longer comes before what was trained for less; see `training_levels`.
    """
    states = (TrialState.COMPLETE, TrialState.PRUNED)
    found = list(trials)

    def key(pair: tuple[FrozenTrial, int]) -> tuple[int, int, float, int]:
        trial, level = pair
        if trial.state not in states or not trial.values:
            return len(states), 0, 0.0, trial.number
        value = trial.values[0]
        return states.index(trial.state), level, -value if maximize else value, trial.number

    return [TrialRecord.of(trial) for trial, _ in sorted(zip(found, training_levels(found), strict=True), key=key)]


def training_levels(trials: Sequence[FrozenTrial]) -> list[int]:
    """For each trial, how much shorter than the longest one its training was; only trials of one level compare.

    A training by the recipe counts as longest. Those with a clock are on one level where their seconds differ by less
    than the factor `ALIKE`, as they do between two runs of the same time.
    """
    shares: list[float | None] = [
        attribute(t, TrialKey.SHARE) if TrialKey.RUNG in t.user_attrs else None for t in trials
    ]
    longest = max((share for share in shares if share), default=1.0)
    below = 1 if None in shares else 0
    return [0 if s is None else below + int(math.log(longest / max(s, 1e-3), ALIKE)) for s in shares]
