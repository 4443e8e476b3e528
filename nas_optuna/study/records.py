"""What a trial of ours carries beside its params and values: typed, and readable in any Optuna tool."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

from optuna.trial import FrozenTrial, TrialState

from nas_optuna.study.schema import TrialKey, attribute_of


def count(number: int, noun: str) -> str:
    """E.g. ``"1 epoch"``, ``"2 epochs"``."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


@dataclass(frozen=True)
class TrialRecord:
    """One trial, as a row of a table.

    Attributes:
        number: Its number in the study.
        state: ``"complete"``, ``"pruned"``, ``"fail"``, ``"running"`` or ``"waiting"``.
        values: The objectives' values; empty where it has none.
        architecture: The canonical string; empty where it was not reached.
        epochs: Epochs trained.
        seconds: Training time.
        macs: Multiply-accumulates of one image's forward pass.
        params: Number of weights.
        memory: Bytes of weights and of the peak of activations in inference.
        latency_ms: Milliseconds of one inference, where the study asks for it.
        accuracy: Validation accuracy after the last epoch trained.
        feasible: Whether it is inside the study's limits, where there are any.
        origin: Who proposed it.
        cause: Why it was stopped, where neither the pruner nor the end did it.
        duplicate_of: Number of the trial whose training was reused.
        spread: Standard deviation over the recipe's repeats, where there are several.

    Example:
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
    macs: int | None
    params: int | None
    memory: int | None
    latency_ms: float | None
    accuracy: float | None
    feasible: bool | None
    origin: str
    cause: str | None
    duplicate_of: int | None
    spread: float | None

    @classmethod
    def of(cls, trial: FrozenTrial) -> TrialRecord:
        """Read a trial's attributes; a trial that is not ours gives empty fields."""
        attribute = partial(attribute_of, trial.user_attrs)
        return cls(
            number=trial.number,
            state=trial.state.name.lower(),
            values=tuple(trial.values or ()),
            architecture=attribute(TrialKey.ARCHITECTURE, ""),
            epochs=attribute(TrialKey.EPOCHS, 0),
            seconds=attribute(TrialKey.SECONDS, 0.0),
            macs=attribute(TrialKey.cost("macs")),
            params=attribute(TrialKey.cost("params")),
            memory=attribute(TrialKey.cost("memory")),
            latency_ms=attribute(TrialKey.cost("latency_ms")),
            accuracy=attribute(TrialKey.ACCURACY),
            feasible=attribute(TrialKey.FEASIBLE),
            origin=attribute(TrialKey.ORIGIN, ""),
            cause=attribute(TrialKey.CAUSE),
            duplicate_of=attribute(TrialKey.DUPLICATE_OF),
            spread=attribute(TrialKey.SPREAD),
        )

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        return asdict(self)


def ranked(trials: Iterable[FrozenTrial], maximize: bool = True) -> list[TrialRecord]:
    """Records, best first value first: complete trials, then pruned ones, then the rest by number."""
    states = (TrialState.COMPLETE, TrialState.PRUNED)

    def key(trial: FrozenTrial) -> tuple[int, float, int]:
        if trial.state not in states or not trial.values:
            return len(states), 0.0, trial.number
        value = trial.values[0]
        return states.index(trial.state), -value if maximize else value, trial.number

    return [TrialRecord.of(trial) for trial in sorted(trials, key=key)]
