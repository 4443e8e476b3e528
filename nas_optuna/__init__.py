"""Neural architecture search as a plugin for Optuna.

The names below are imported on first use, so that ``import nas_optuna`` does not import torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.2.0"

if TYPE_CHECKING:
    from nas_optuna import layers
    from nas_optuna.cli.progress import watch
    from nas_optuna.data import ImageSet, SearchData, load_data
    from nas_optuna.errors import Interrupted, NasOptunaError
    from nas_optuna.execution.evaluator import Evaluator, EvaluatorContext, Measurement
    from nas_optuna.execution.events import Callback
    from nas_optuna.execution.objective import EvaluatorObjective
    from nas_optuna.execution.training_objective import Objective
    from nas_optuna.experiment import Experiment
    from nas_optuna.fitting import Fitted, fit
    from nas_optuna.metrics import metric
    from nas_optuna.report.notebook import load_study
    from nas_optuna.samplers import create_sampler
    from nas_optuna.spaces import SearchSpace, create_space
    from nas_optuna.spaces.architecture import Architecture
    from nas_optuna.spaces.conv import ConvSpace
    from nas_optuna.spaces.function import space
    from nas_optuna.spec import Recipe, StudySpec
    from nas_optuna.study.records import TrialRecord
    from nas_optuna.training import load_network

_HOMES = {
    "Architecture": "nas_optuna.spaces.architecture",
    "Callback": "nas_optuna.execution.events",
    "ConvSpace": "nas_optuna.spaces.conv",
    "Evaluator": "nas_optuna.execution.evaluator",
    "EvaluatorContext": "nas_optuna.execution.evaluator",
    "EvaluatorObjective": "nas_optuna.execution.objective",
    "Experiment": "nas_optuna.experiment",
    "Fitted": "nas_optuna.fitting",
    "ImageSet": "nas_optuna.data",
    "Interrupted": "nas_optuna.errors",
    "Measurement": "nas_optuna.execution.evaluator",
    "NasOptunaError": "nas_optuna.errors",
    "Objective": "nas_optuna.execution.training_objective",
    "Recipe": "nas_optuna.spec",
    "SearchData": "nas_optuna.data",
    "SearchSpace": "nas_optuna.spaces",
    "StudySpec": "nas_optuna.spec",
    "TrialRecord": "nas_optuna.study.records",
    "create_sampler": "nas_optuna.samplers",
    "create_space": "nas_optuna.spaces",
    "fit": "nas_optuna.fitting",
    "load_data": "nas_optuna.data",
    "load_network": "nas_optuna.training",
    "load_study": "nas_optuna.report.notebook",
    "metric": "nas_optuna.metrics",
    "space": "nas_optuna.spaces.function",
    "watch": "nas_optuna.cli.progress",
}

__all__ = [
    "Architecture",
    "Callback",
    "ConvSpace",
    "Evaluator",
    "EvaluatorContext",
    "EvaluatorObjective",
    "Experiment",
    "Fitted",
    "ImageSet",
    "Interrupted",
    "Measurement",
    "NasOptunaError",
    "Objective",
    "Recipe",
    "SearchData",
    "SearchSpace",
    "StudySpec",
    "TrialRecord",
    "__version__",
    "create_sampler",
    "create_space",
    "fit",
    "layers",
    "load_data",
    "load_network",
    "load_study",
    "metric",
    "space",
    "watch",
]


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(importlib.import_module(_HOMES[name]), name)
    if name == "layers":
        return importlib.import_module("nas_optuna.layers")
    raise AttributeError(f"module 'nas_optuna' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
