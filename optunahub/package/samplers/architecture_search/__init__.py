"""Samplers for neural architecture search, for any Optuna study with categorical parameters."""

from nas_optuna.samplers.controller import ControllerConfig, ControllerSampler
from nas_optuna.samplers.curve_pruner import CurvePruner
from nas_optuna.samplers.curves import CurveSampler
from nas_optuna.samplers.evolution import EvolutionConfig, EvolutionSampler
from nas_optuna.samplers.gp import ArchitectureGPConfig, ArchitectureGPSampler

__all__ = [
    "ArchitectureGPConfig",
    "ArchitectureGPSampler",
    "ControllerConfig",
    "ControllerSampler",
    "CurvePruner",
    "CurveSampler",
    "EvolutionConfig",
    "EvolutionSampler",
]
