"""Seeds that follow the trial's number, so that a study can be stopped, resumed and shared by workers."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol, runtime_checkable

from optuna.distributions import BaseDistribution
from optuna.samplers import BaseSampler
from optuna.study import Study
from optuna.trial import FrozenTrial, TrialState

from nas_optuna.digests import seed_from

Allowed = Callable[[Mapping[str, Any]], bool]
"""Whether an architecture, given by its params, may be proposed."""


@runtime_checkable
class Selective(Protocol):
    """A sampler that proposes the best that is allowed, and so spares whoever asks it further draws.

    Attributes:
        allowed: None allows everything.
    """

    allowed: Allowed | None


def seed_for(*parts: int | str) -> int:
    """A 31-bit seed from what identifies one draw, e.g. the study's seed and the trial's number."""
    return seed_from("/".join(map(str, parts)), 4) >> 1


class PerTrialSeedSampler(BaseSampler):
    """Ask a fresh copy of a sampler, seeded by (study seed, trial number), for every draw.

    Optuna's samplers hold one random stream. A second process with the same seed starts that stream again and
    repeats its proposals (optuna #3255), and two workers with one seed propose the same points. With a seed for
    each trial the proposals depend on the study's history alone: ten trials and then ten more in a
    second process are the same as twenty in one.

    Fits samplers whose state lives in the study (random, TPE, GP, NSGA-II).

    Attributes:
        allowed: What a sampler that can choose among its candidates may propose; None allows everything.
        attempt: How often it was asked for the same trial before; each time it draws anew.
    """

    def __init__(self, make: Callable[[int], BaseSampler], seed: int) -> None:
        self._make = make
        self._seed = seed
        self._name = str(make(0))
        self.allowed: Allowed | None = None
        self.attempt = 0
        self._inferred: tuple[object, dict[str, BaseDistribution]] = (None, {})

    def __str__(self) -> str:
        return self._name

    def _sampler(self, trial: FrozenTrial, draw: str = "") -> BaseSampler:
        again = (self.attempt,) if self.attempt else ()
        made = self._make(seed_for(self._seed, trial.number, draw, *again))
        if isinstance(made, Selective):
            made.allowed = self.allowed
        return made

    def infer_relative_search_space(self, study: Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        """Ask the wrapped sampler for the parameters that it proposes together."""
        # A fresh copy reads all trials for it, and a trial may be drawn for again and again.
        key = (study.study_name, trial.number, trial.datetime_start)
        known, space = self._inferred
        if known != key:
            space = self._sampler(trial).infer_relative_search_space(study, trial)
            self._inferred = key, space
        return dict(space)

    def sample_relative(
        self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        """Ask the wrapped sampler, under the trial's seed."""
        return self._sampler(trial).sample_relative(study, trial, search_space)

    def sample_independent(
        self, study: Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        """Ask the wrapped sampler, under a seed of the trial and the parameter."""
        return self._sampler(trial, param_name).sample_independent(study, trial, param_name, param_distribution)

    def before_trial(self, study: Study, trial: FrozenTrial) -> None:
        """Tell the wrapped sampler that a trial begins."""
        self._sampler(trial).before_trial(study, trial)

    def after_trial(self, study: Study, trial: FrozenTrial, state: TrialState, values: Sequence[float] | None) -> None:
        """Tell the wrapped sampler that a trial has ended."""
        self._sampler(trial).after_trial(study, trial, state, values)
