"""Neural architecture search as a plugin for Optuna.

The names below are imported on first use, so that ``import nas_optuna`` does not import torch.
"""

from __future__ import annotations

import importlib
import os
from typing import TYPE_CHECKING, Any

# Read when torch is loaded, so set here; a value of the user's own wins. Both matter on the CPU alone.
# Activations of large images are allocated and freed in every step: with huge pages the kernel has far fewer to clear.
os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")
# Threads that wait for each other sleep rather than spin. Spinning costs a factor of ten and more where something else
# (another worker, a browser) wants the same cores.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
# oneDNN and torch's bridge to it keep a compiled kernel for each shape that they have met, 1,024 of them: in a search,
# where every trial has new shapes, memory grew by a tenth over 200 trials. A deep network needs about a hundred.
os.environ.setdefault("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "256")
os.environ.setdefault("LRU_CACHE_CAPACITY", "256")

if TYPE_CHECKING:
    from nas_optuna.data import ImageSet, SearchData, load_data
    from nas_optuna.errors import NasOptunaError
    from nas_optuna.execution.objective import Objective
    from nas_optuna.samplers import create_sampler
    from nas_optuna.spaces import SearchSpace, create_space
    from nas_optuna.spaces.architecture import Architecture
    from nas_optuna.spaces.conv import ConvSpace
    from nas_optuna.spec import Recipe, StudySpec
    from nas_optuna.study.records import TrialRecord
    from nas_optuna.training import load_network

_HOMES = {
    "Architecture": "nas_optuna.spaces.architecture",
    "ConvSpace": "nas_optuna.spaces.conv",
    "ImageSet": "nas_optuna.data",
    "NasOptunaError": "nas_optuna.errors",
    "Objective": "nas_optuna.execution.objective",
    "Recipe": "nas_optuna.spec",
    "SearchData": "nas_optuna.data",
    "SearchSpace": "nas_optuna.spaces",
    "StudySpec": "nas_optuna.spec",
    "TrialRecord": "nas_optuna.study.records",
    "create_sampler": "nas_optuna.samplers",
    "create_space": "nas_optuna.spaces",
    "load_data": "nas_optuna.data",
    "load_network": "nas_optuna.training",
}

__all__ = [
    "Architecture",
    "ConvSpace",
    "ImageSet",
    "NasOptunaError",
    "Objective",
    "Recipe",
    "SearchData",
    "SearchSpace",
    "StudySpec",
    "TrialRecord",
    "create_sampler",
    "create_space",
    "load_data",
    "load_network",
]


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(importlib.import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'nas_optuna' has no attribute {name!r}")
