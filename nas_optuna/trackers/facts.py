"""What every tracker is told of a trial that has ended, and of a retraining."""

from __future__ import annotations

from typing import Any

from optuna.study import Study
from optuna.trial import FrozenTrial

from nas_optuna.errors import NasOptunaError
from nas_optuna.report.drawing import draw_trial
from nas_optuna.report.selection import space_of
from nas_optuna.study.records import TrialRecord
from nas_optuna.study.schema import TrialKey, attribute


def figures(study: Study, ended: FrozenTrial) -> dict[str, float]:
    """Every figure of a trial, by name: objectives (a formula, too), all costs, the last metrics, epochs, seconds."""
    record = TrialRecord.of(ended)
    found: dict[str, float] = {"epochs": record.epochs, "seconds": record.seconds, **record.costs}
    found |= attribute(ended, TrialKey.METRICS, {})
    if record.accuracy is not None:
        found["accuracy"] = record.accuracy
    names = study.metric_names or [f"value_{i}" for i in range(len(record.values))]
    found |= dict(zip(names, record.values, strict=False))
    return {name: float(value) for name, value in found.items()}


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
