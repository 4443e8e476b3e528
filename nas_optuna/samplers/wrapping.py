"""What samplers that ask another sampler have in common."""

from __future__ import annotations

from collections.abc import Sequence

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

    def reseed_rng(self) -> None:
        """Reseed the sampler."""
        self.sampler.reseed_rng()
