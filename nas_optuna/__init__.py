"""Neural architecture search as a plugin for Optuna.

The names below are imported on first use, so that ``import nas_optuna`` does not import torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.2.0"

if TYPE_CHECKING:
    from nas_optuna import layers as layers
    from nas_optuna.cli.progress import watch as watch
    from nas_optuna.data import ImageSet as ImageSet
    from nas_optuna.data import SearchData as SearchData
    from nas_optuna.data import load_data as load_data
    from nas_optuna.errors import Interrupted as Interrupted
    from nas_optuna.errors import NasOptunaError as NasOptunaError
    from nas_optuna.execution.evaluator import Evaluator as Evaluator
    from nas_optuna.execution.evaluator import EvaluatorContext as EvaluatorContext
    from nas_optuna.execution.evaluator import Measurement as Measurement
    from nas_optuna.execution.events import Callback as Callback
    from nas_optuna.execution.objective import EvaluatorObjective as EvaluatorObjective
    from nas_optuna.execution.training_objective import Objective as Objective
    from nas_optuna.experiment import Experiment as Experiment
    from nas_optuna.fitting import Fitted as Fitted
    from nas_optuna.fitting import fit as fit
    from nas_optuna.metrics import metric as metric
    from nas_optuna.report.notebook import load_study as load_study
    from nas_optuna.samplers import create_sampler as create_sampler
    from nas_optuna.spaces import SearchSpace as SearchSpace
    from nas_optuna.spaces import create_space as create_space
    from nas_optuna.spaces.architecture import Architecture as Architecture
    from nas_optuna.spaces.conv import ConvSpace as ConvSpace
    from nas_optuna.spaces.function import space as space
    from nas_optuna.spec import Recipe as Recipe
    from nas_optuna.spec import StudySpec as StudySpec
    from nas_optuna.study.results import TrialRecord as TrialRecord
    from nas_optuna.training import load_network as load_network

_NAMES_IN = {
    "cli.progress": ("watch",),
    "data": ("ImageSet", "SearchData", "load_data"),
    "errors": ("Interrupted", "NasOptunaError"),
    "execution.evaluator": ("Evaluator", "EvaluatorContext", "Measurement"),
    "execution.events": ("Callback",),
    "execution.objective": ("EvaluatorObjective",),
    "execution.training_objective": ("Objective",),
    "experiment": ("Experiment",),
    "fitting": ("Fitted", "fit"),
    "metrics": ("metric",),
    "report.notebook": ("load_study",),
    "samplers": ("create_sampler",),
    "spaces": ("SearchSpace", "create_space"),
    "spaces.architecture": ("Architecture",),
    "spaces.conv": ("ConvSpace",),
    "spaces.function": ("space",),
    "spec": ("Recipe", "StudySpec"),
    "study.results": ("TrialRecord",),
    "training": ("load_network",),
}
_HOMES = {name: f"nas_optuna.{home}" for home, names in _NAMES_IN.items() for name in names}

__all__ = [*_HOMES, "__version__", "layers"]


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(importlib.import_module(_HOMES[name]), name)
    if name == "layers":
        return importlib.import_module("nas_optuna.layers")
    raise AttributeError(f"module 'nas_optuna' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
