"""Any sampler, with some parameters pinned."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from optuna.distributions import BaseDistribution
from optuna.samplers import BaseSampler
from optuna.study import Study
from optuna.trial import FrozenTrial

from nas_optuna.samplers.wrapping import WrappingSampler


class FixedSampler(WrappingSampler):
    """Ask a sampler, and overrule it where a parameter is pinned.

    Unlike Optuna's ``PartialFixedSampler`` the sampler still sees the whole space, because some (the controller, the
    Gaussian process) propose whole architectures; a study can so be pinned in one run and not in the next.

    Attributes:
        sampler: The sampler that is asked.
    """

    def __init__(self, sampler: BaseSampler, fixed: Mapping[str, Any]) -> None:
        self.sampler = sampler
        self._fixed = dict(fixed)

    def infer_relative_search_space(self, study: Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        """Return the sampler's own."""
        return self.sampler.infer_relative_search_space(study, trial)

    def sample_relative(
        self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        """Return the sampler's proposal with the pinned values in it."""
        found = self.sampler.sample_relative(study, trial, search_space)
        return {name: self._fixed.get(name, value) for name, value in found.items()}

    def sample_independent(
        self, study: Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        """Return the pinned value, or what the sampler draws."""
        if param_name in self._fixed:
            return self._fixed[param_name]
        return self.sampler.sample_independent(study, trial, param_name, param_distribution)
