"""What every tracker is told of a trial that has ended, and of a retraining."""

from __future__ import annotations

from typing import Any

from optuna.study import Study
from optuna.trial import FrozenTrial

from nas_optuna.errors import NasOptunaError
from nas_optuna.report.drawing import draw_trial
from nas_optuna.report.selection import space_of
from nas_optuna.study.records import TrialRecord

_FIGURES = ("accuracy", "macs", "params", "memory", "latency_ms", "epochs", "seconds")


def figures(ended: FrozenTrial) -> dict[str, float]:
    """Costs and the last accuracy, by name, each in the unit of `TrialRecord`."""
    record = TrialRecord.of(ended)
    return {name: float(value) for name in _FIGURES if (value := getattr(record, name)) is not None}


def facts(ended: FrozenTrial) -> dict[str, Any]:
    """What is no number: architecture, state, and the choices that the trial made."""
    record = TrialRecord.of(ended)
    return {"architecture": record.architecture, "state": record.state} | dict(ended.params)


def drawing(study: Study, ended: FrozenTrial) -> str | None:
    """A trial's network as SVG; None where it has none or cannot be drawn."""
    if not TrialRecord.of(ended).architecture:
        return None
    try:
        return draw_trial(space_of(study), ended).svg
    except NasOptunaError:
        return None
