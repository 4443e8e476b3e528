"""Neural architecture search as a plugin for Optuna.

The names below are imported on first use, so that ``import nas_optuna`` does not import torch.
"""

from __future__ import annotations

import importlib
from functools import partial
from typing import Any

from nas_optuna.lazily import lazily, taken_from

__version__ = "0.2.0"

with lazily():
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

_LATER = taken_from(globals()) | {"layers": partial(importlib.import_module, "nas_optuna.layers")}

__all__ = [*_LATER, "__version__"]


def __getattr__(name: str) -> Any:
    if name in _LATER:
        return _LATER[name]()
    raise AttributeError(f"module 'nas_optuna' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
