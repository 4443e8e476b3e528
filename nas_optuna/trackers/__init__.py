"""Trackers: callbacks that copy a run to another tool, as it happens."""

from __future__ import annotations

from collections.abc import Iterable

from nas_optuna.errors import SpecError, unknown
from nas_optuna.execution.events import Callback

TRACKERS = ("tensorboard", "mlflow")


def create_tracker(text: str) -> Callback:
    """The tracker that a person names.

    Args:
        text: ``tensorboard:DIR``, or ``mlflow:URI`` (``mlflow`` alone for its own default).

    Raises:
        SpecError: The name is unknown, its place is missing, or its package is not installed.

    Example:
        >>> tracker = create_tracker("tensorboard:logs")
    """
    name, _, where = text.partition(":")
    if name not in TRACKERS:
        raise SpecError(unknown("tracker", name, TRACKERS))
    if name == "tensorboard" and not where:
        raise SpecError("tracker tensorboard needs a folder: tensorboard:DIR")
    try:
        if name == "tensorboard":
            from nas_optuna.trackers.tensorboard import TensorBoardTracker

            return TensorBoardTracker(where)
        from nas_optuna.trackers.mlflow import MlflowTracker

        return MlflowTracker(where or None)
    except ImportError as error:
        raise SpecError(f"tracker {name} is not installed: pip install 'nas-optuna[{name}]'") from error


def create_trackers(texts: Iterable[str] | None) -> list[Callback]:
    """The trackers that a person names, in order; see `create_tracker`.

    Args:
        texts: Each as `create_tracker` takes it; None is none.

    Raises:
        SpecError: The first that cannot be made.
    """
    return [create_tracker(text) for text in texts or ()]
