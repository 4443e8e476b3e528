"""Metrics by name, each with its direction, its ideal and its worst value.

A metric is a function of all outputs and targets of the validation images. Other packages add one as an entry point of
the group ``nas_optuna.metrics``, or it is named as ``package.module:function``; `metric` sets its direction.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar, get_args

from nas_optuna.errors import SpecError, checked, shown
from nas_optuna.quantities import Direction, Quantity
from nas_optuna.registry import Registry

if TYPE_CHECKING:
    from torch import Tensor

_F = TypeVar("_F", bound=Callable[..., Any])
_MARK = "nas_optuna_metric"


@dataclass(frozen=True)
class Metric(Quantity):
    """One figure of a trained network; by default a share that is maximised.

    Attributes:
        eight_bits: Whether it is computed from the network's outputs in eight bits.
    """

    eight_bits: bool = False
    ideal: float | None = 1.0
    worst: float | None = 0.0
    format: str = ".4f"

    def __call__(self, outputs: Tensor, targets: Tensor) -> Tensor | float:
        """Compute it."""
        value: Tensor | float = METRICS.find(self.name)(outputs, targets)
        return value


@checked
def metric(
    *,
    direction: Direction = "maximize",
    ideal: float | None = None,
    worst: float | None = None,
    label: str = "",
    unit: str = "",
) -> Callable[[_F], _F]:
    """Describe your own metric function.

    A stored study is shown without importing the code that it names, so of a metric named by its file or module tables
    and reports show the values alone. Register it (entry point ``nas_optuna.metrics``) if they are to use `ideal`,
    `worst`, `label` and `unit`.

    Args:
        direction: ``"maximize"`` or ``"minimize"``.
        ideal: The best possible value; a hypervolume is a share of the box from the worst to it.
        worst: The worst possible value.
        label: Its name in tables and reports; by default the function's name.
        unit: Unit of its values.

    Examples:
        >>> @metric(direction="minimize", ideal=0.0)
        ... def mean_absolute_error(outputs, targets):
        ...     return (outputs.squeeze(1) - targets).abs().mean()
    """
    if direction not in get_args(Direction):
        raise SpecError(f"a metric's direction is 'maximize' or 'minimize', not {shown(direction)}")

    def decorate(function: _F) -> _F:
        setattr(function, _MARK, (direction, ideal, worst, label, unit))
        return function

    return decorate


ACCURACIES = ("accuracy", "accuracy_int8")
"""The accuracies in full precision and in eight bits, which have the standard error of their images."""


def selecting_accuracy(metrics: Iterable[str]) -> str:
    """The accuracy whose spread over repeats is recorded: the first of the objectives' metrics, else the exact one."""
    return next((name for name in metrics if name in ACCURACIES), ACCURACIES[0])


_BUILTIN: Mapping[str, Metric] = {
    metric.name: metric
    for metric in (
        *map(Metric, ("accuracy", "balanced_accuracy", "macro_f1", "top5_accuracy")),
        Metric("negative_log_likelihood", "minimize", 0.0, None),
        Metric("accuracy_int8", eight_bits=True),
    )
}
METRICS = Registry("metric", "nas_optuna.metrics", {name: f"nas_optuna.training.evaluate:{name}" for name in _BUILTIN})


def find_metric(name: str) -> Metric:
    """Find a metric by name."""
    if name in _BUILTIN:
        return _BUILTIN[name]
    function = METRICS.find(name)
    if not callable(function):
        raise SpecError(f"metric {name!r} is a {type(function).__name__}, which cannot be called")
    return Metric(name, *getattr(function, _MARK, ("maximize", None, None)))
