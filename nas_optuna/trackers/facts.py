"""What every tracker is told of a trial that has ended."""

from __future__ import annotations

from typing import Any

from optuna.trial import FrozenTrial

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
