"""Pruners by name, with defaults for steps that are epochs, of which there are few."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from nas_optuna.lazily import lazily
from nas_optuna.registry import Registry

with lazily():
    import optuna
    from optuna.pruners import BasePruner


def none(epochs: int) -> BasePruner:
    """Train every architecture to the end."""
    return optuna.pruners.NopPruner()


def median(epochs: int, *, n_startup_trials: int = 5, n_warmup_steps: int = 1) -> BasePruner:
    """Stop a trial whose best so far is below the median of the others at the same epoch."""
    return optuna.pruners.MedianPruner(n_startup_trials=n_startup_trials, n_warmup_steps=n_warmup_steps)


def percentile(
    epochs: int, *, percentile: float = 25.0, n_startup_trials: int = 5, n_warmup_steps: int = 1
) -> BasePruner:
    """Stop a trial that is not among the best `percentile` percent at the same epoch."""
    return optuna.pruners.PercentilePruner(percentile, n_startup_trials=n_startup_trials, n_warmup_steps=n_warmup_steps)


def asha(epochs: int, *, min_epochs: int = 1, reduction_factor: int = 3) -> BasePruner:
    """Asynchronous successive halving: at epochs 1, 3, 9, … go on only with the best third."""
    return optuna.pruners.SuccessiveHalvingPruner(min_resource=min_epochs, reduction_factor=reduction_factor)


def hyperband(epochs: int, *, min_epochs: int = 1, reduction_factor: int = 3) -> BasePruner:
    """Several successive halvings that start at different epochs."""
    return optuna.pruners.HyperbandPruner(
        min_resource=min_epochs, max_resource=epochs, reduction_factor=reduction_factor
    )


def patient(epochs: int, *, patience: int = 2, min_delta: float = 0.0) -> BasePruner:
    """Stop a trial below the median at the same epoch once it has not improved for `patience` epochs."""
    return optuna.pruners.PatientPruner(median(epochs), patience=patience, min_delta=min_delta)


PRUNERS = Registry(
    "pruner",
    "nas_optuna.pruners",
    {
        "curves": "nas_optuna.samplers.curve_pruner:CurvePruner",
        "guarded": "nas_optuna.samplers.curve_pruner:GuardedPruner",
        **{
            function.__name__: f"{__name__}:{function.__name__}"
            for function in (none, median, percentile, asha, hyperband, patient)
        },
    },
    ("epochs",),
)


def create_pruner(name: str, epochs: int, options: Mapping[str, Any]) -> BasePruner:
    """Make the pruner of that name."""
    pruner: BasePruner = PRUNERS.make(name, epochs, options=options, wanted=optuna.pruners.BasePruner)
    return pruner
