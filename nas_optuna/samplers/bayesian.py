"""The samplers ``arch`` and ``curves`` of a search space, with what is known before any trial."""

from __future__ import annotations

from functools import partial
from typing import TypeVar

from optuna.distributions import CategoricalDistribution

from nas_optuna.costs.complexity import log_sizes
from nas_optuna.samplers.beforehand import beforehand, images_of
from nas_optuna.samplers.config import configured
from nas_optuna.samplers.curves import CurveConfig, CurveSampler, Known
from nas_optuna.samplers.gp import ArchitectureGPConfig, ArchitectureGPSampler
from nas_optuna.spaces import SearchSpace

Made = TypeVar("Made", bound=ArchitectureGPSampler)


def _for_space(sampler: Made, space: SearchSpace) -> Made:
    sampler.beforehand = beforehand
    return sampler.for_space(space)


@configured(ArchitectureGPConfig)
def arch(space: SearchSpace, seed: int, config: ArchitectureGPConfig) -> ArchitectureGPSampler:
    """A Gaussian process over architectures: the fewest trials; for trainings that take minutes."""
    return _for_space(ArchitectureGPSampler(config, seed=seed), space)


@configured(CurveConfig)
def curves(space: SearchSpace, seed: int, config: CurveConfig) -> CurveSampler:
    """Learns from every epoch, stops networks and goes on with them: the fewest epochs; with pruner curves."""
    given = {name: CategoricalDistribution(p.choices) for name, p in space.parameters.items()}
    known = known_of(space)
    sampler = CurveSampler(config, seed=seed, known=known, distributions=given)
    sampler.images = images_of
    return _for_space(sampler, space)


def known_of(space: SearchSpace) -> Known:
    """What a space's networks tell before they are trained; a table of trainings knows it itself."""
    own: Known | None = getattr(space, "known_numbers", None)
    return own if own is not None else partial(log_sizes, space)
