"""What samplers that ask another sampler have in common."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from optuna.distributions import BaseDistribution
from optuna.samplers import BaseSampler
from optuna.study import Study
from optuna.trial import FrozenTrial, TrialState


class WrappingSampler(BaseSampler):
    """Tells the sampler that it asks what Optuna tells it.

    Attributes:
        sampler: The sampler that is asked.
    """

    sampler: BaseSampler

    def __str__(self) -> str:
        return str(self.sampler)

    def before_trial(self, study: Study, trial: FrozenTrial) -> None:
        """Tell the sampler that a trial begins."""
        self.sampler.before_trial(study, trial)

    def after_trial(self, study: Study, trial: FrozenTrial, state: TrialState, values: Sequence[float] | None) -> None:
        """Tell the sampler that a trial has ended."""
        self.sampler.after_trial(study, trial, state, values)

    def sample_independent(
        self, study: Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        """Ask the sampler."""
        return self.sampler.sample_independent(study, trial, param_name, param_distribution)

    def reseed_rng(self) -> None:
        """Reseed the sampler."""
        self.sampler.reseed_rng()


def whole_proposal(
    sampler: BaseSampler, study: Study, trial: FrozenTrial, space: Mapping[str, BaseDistribution]
) -> dict[str, Any]:
    """A sampler's proposal of every parameter of a space: what it proposes together, and the rest one by one."""
    found = sampler.sample_relative(study, trial, sampler.infer_relative_search_space(study, trial))
    return {
        name: found[name] if name in found else sampler.sample_independent(study, trial, name, distribution)
        for name, distribution in space.items()
    }
