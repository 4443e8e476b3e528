"""Trackers: callbacks that copy a run to another tool while it happens.

A new one is a file here and a line in `TRACKERS`; third parties register an entry point in the group
``nas_optuna.trackers``, or are named as ``package.module:Class``. It is called with the text after the colon of its
name, if there is one.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from optuna.study import Study
from optuna.trial import FrozenTrial

from nas_optuna.errors import NasOptunaError, SpecError, unknown
from nas_optuna.execution.events import Callback
from nas_optuna.registry import Registry
from nas_optuna.report.drawing import draw_trial
from nas_optuna.report.facts import StudyFacts, objective_names
from nas_optuna.study.results import TrialRecord
from nas_optuna.study.schema import TrialKey, attribute

TRACKERS = Registry(
    "tracker",
    "nas_optuna.trackers",
    {
        "tensorboard": "nas_optuna.trackers.tensorboard:TensorBoardTracker",
        "mlflow": "nas_optuna.trackers.mlflow:MlflowTracker",
        "wandb": "nas_optuna.trackers.wandb:WandbTracker",
    },
)


def create_tracker(text: str) -> Callback:
    """The tracker of that name.

    Args:
        text: ``NAME:PLACE``, e.g. ``tensorboard:DIR`` or ``mlflow:URI``; ``NAME`` alone uses the tracker's default.
            NAME is a built-in tracker or an entry point. ``package.module:Class`` and ``file.py:Class`` have no place.

    Raises:
        SpecError: The name is unknown, its place is refused, or its package is not installed.

    Examples:
        >>> tracker = create_tracker("tensorboard:logs")
    """
    name, _, place = text.partition(":")
    if name not in TRACKERS:
        if "." not in name:
            raise SpecError(unknown("tracker", name, TRACKERS.names()))
        name, place = text, ""
    try:
        made: Callback = TRACKERS.make(name, *([place] if place else []), options={}, wanted=Callback)
    except SpecError as error:
        if name in TRACKERS.builtin and isinstance(error.__cause__, ImportError):
            raise SpecError(f"tracker {name} is not installed: pip install 'nas-optuna[{name}]'") from error
        raise
    return made


def create_trackers(texts: Iterable[str] | None) -> list[Callback]:
    """The trackers of several names, in order; see `create_tracker`."""
    return [create_tracker(text) for text in texts or ()]


def figures(study: Study, ended: FrozenTrial) -> dict[str, float]:
    """Every figure of a trial, by name: objectives (a formula, too), all costs, the last metrics, epochs, seconds."""
    record = TrialRecord.of(ended)
    found: dict[str, float] = {"epochs": record.epochs, "seconds": record.seconds, **record.costs}
    found |= attribute(ended, TrialKey.METRICS, {})
    if record.accuracy is not None:
        found["accuracy"] = record.accuracy
    found |= dict(zip(objective_names(study), record.values, strict=False))
    return {name: float(value) for name, value in found.items()}


def facts(ended: FrozenTrial) -> dict[str, Any]:
    """Architecture, state and choices of a trial."""
    record = TrialRecord.of(ended)
    own = {"architecture": record.architecture, "state": record.state}
    return own | {f"param.{name}" if name in own else name: value for name, value in ended.params.items()}


def drawing(study: Study, ended: FrozenTrial) -> str | None:
    """A trial's network as SVG; None if it has none or cannot be drawn."""
    if not TrialRecord.of(ended).architecture:
        return None
    try:
        return draw_trial(StudyFacts(study).space, ended).svg
    except NasOptunaError:
        return None
