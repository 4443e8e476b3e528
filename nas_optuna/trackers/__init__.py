"""Trackers: callbacks that copy a run to another tool, as it happens.

A new one is a file here and a line in `TRACKERS`; third parties register the entry point group ``nas_optuna.trackers``
or are named as ``package.module:Class``. It is called with the text after its name's colon, where there is one.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterable

from nas_optuna.errors import SpecError, unknown
from nas_optuna.execution.events import Callback
from nas_optuna.registry import Registry

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
    """The tracker that a person names.

    Args:
        text: ``NAME:PLACE``, e.g. ``tensorboard:DIR`` or ``mlflow:URI``; ``mlflow`` or ``wandb`` alone for its own
            default. NAME is a built-in tracker or an entry point. ``package.module:Class`` and ``file.py:Class`` have
            no place.

    Raises:
        SpecError: The name is unknown, its place is missing or refused, or its package is not installed.

    Examples:
        >>> tracker = create_tracker("tensorboard:logs")
    """
    name, _, place = text.partition(":")
    if name not in TRACKERS:
        if "." not in name:
            raise SpecError(unknown("tracker", name, TRACKERS.names()))
        name, place = text, ""
    try:
        factory = TRACKERS.find(name)
    except SpecError as error:
        if name in TRACKERS.builtin and isinstance(error.__cause__, ImportError):
            raise SpecError(f"tracker {name} is not installed: pip install 'nas-optuna[{name}]'") from error
        raise
    if not place and _needs_place(factory):
        raise SpecError(f"tracker {name} needs a place: {name}:PLACE")
    made: Callback = TRACKERS.make(name, *([place] if place else []), options={}, wanted=Callback)
    return made


def create_trackers(texts: Iterable[str] | None) -> list[Callback]:
    """The trackers that a person names, in order; see `create_tracker`."""
    return [create_tracker(text) for text in texts or ()]


def _needs_place(factory: object) -> bool:
    if not callable(factory):
        return False
    required = (p for p in inspect.signature(factory).parameters.values() if p.default is p.empty)
    return any(p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD) for p in required)
