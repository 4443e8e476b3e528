"""Samplers that take what a study's supernet found as their prior: drawn from, or used for the first trials."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from typing import Any

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution
from optuna.samplers import BaseSampler
from optuna.study import Study
from optuna.trial import FrozenTrial, TrialState

from nas_optuna.digests import seed_for
from nas_optuna.errors import SpecError, StudyError
from nas_optuna.samplers.history import Canonical
from nas_optuna.samplers.optuna_builtin import DistinctSampler
from nas_optuna.samplers.wrapping import FixedSampler
from nas_optuna.spaces import SearchSpace
from nas_optuna.study.optuna_internals import all_trials, is_enqueued, set_trial_attribute
from nas_optuna.study.schema import TrialKey, attribute
from nas_optuna.study.studies import command
from nas_optuna.study.supernet_result import read_result, softmax

_REDRAWS = 50
"""Draws before an architecture that the study has seen is proposed again."""
_FLATTEN = 1.1
"""Factor of the temperature after each draw of such an architecture."""
WARM_START = "supernet warm start"
"""What the trial user attribute ``origin`` of a warm-started trial says."""


def propose(
    study: Study,
    distributions: Mapping[str, CategoricalDistribution],
    *,
    seed: int,
    temperature: float,
    canonical: Canonical | None = None,
) -> dict[str, Any]:
    """The best by the score, or the alphas' argmax, while not seen; then draws from the prior, new ones if possible."""
    # A supernet of strategy ``"fair"`` has a list of the best that differ from each other; it comes first.
    result = read_result(study)
    alphas = result.alphas
    if {name: len(logits) for name, logits in alphas.items()} != {n: len(d.choices) for n, d in distributions.items()}:
        raise StudyError(
            f"the supernet of study {study.study_name!r} was trained for another space;"
            f" run: {command(study, 'supernet', 'train', '--study', study.study_name, '--restart')}"
        )
    first = {name: d.choices[0] for name, d in distributions.items()}

    def key(params: Mapping[str, Any]) -> tuple[Any, ...]:
        found = params if canonical is None else canonical(params)
        return tuple(map(found.get, distributions))

    seen = {key(trial.params) for trial in all_trials(study) if trial.params.keys() >= distributions.keys()}
    for params in ({**first, **start} for start in result.start_params()):  # a supernet may hold a part of the space
        if key(params) not in seen:
            return params
    rng = random.Random(seed)
    indices = result.derived
    params = {}
    for _ in range(_REDRAWS):
        params = {name: d.choices[indices[name]] for name, d in distributions.items()}
        if key(params) not in seen:
            break
        indices = {
            name: rng.choices(range(len(logits)), softmax(logits, temperature))[0] for name, logits in alphas.items()
        }
        temperature *= _FLATTEN
    return params


class SupernetSampler(BaseSampler):
    """Draws every parameter from the study's supernet, at a temperature that anneals from trial to trial.

    Args:
        distributions: The space's distributions.
        seed: The study's seed; each draw's comes from it and the trial's number.
        start_temperature: Temperature of the first trial after the supernet's training.
        end_temperature: Temperature from `anneal_trials` trials on.
        anneal_trials: How many trials the geometric way from one to the other takes.
        canonical: The space's, where different params may give the same network.

    Raises:
        SpecError: A temperature or `anneal_trials` is not positive.
    """

    numbers = False  # its alphas are of choices

    def __init__(
        self,
        distributions: Mapping[str, CategoricalDistribution],
        seed: int,
        *,
        start_temperature: float = 2.0,
        end_temperature: float = 0.5,
        anneal_trials: int = 50,
        canonical: Canonical | None = None,
    ) -> None:
        if min(start_temperature, end_temperature, anneal_trials) <= 0:
            raise SpecError("sampler 'supernet' needs temperatures and anneal_trials above 0")
        self._distributions = dict(distributions)
        self._seed = seed
        self._start, self._end, self._trials = start_temperature, end_temperature, anneal_trials
        self._canonical = canonical

    def temperature(self, trials: int) -> float:
        """The temperature when that many trials have begun since the supernet's training."""
        return float(self._start * (self._end / self._start) ** min(1.0, trials / self._trials))

    def infer_relative_search_space(self, study: Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        """The whole space."""
        return dict(self._distributions)

    def sample_relative(
        self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        """The argmax first, then draws; raises as `propose`."""
        if not search_space:
            return {}
        begun = max(0, trial.number - read_result(study).first_trial)
        return propose(
            study,
            self._distributions,
            seed=seed_for(self._seed, trial.number),
            temperature=self.temperature(begun),
            canonical=self._canonical,
        )

    def sample_independent(
        self, study: Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        """At random, for a parameter that the space does not have."""
        sampler = optuna.samplers.RandomSampler(seed=seed_for(self._seed, trial.number, param_name))
        return sampler.sample_independent(study, trial, param_name, param_distribution)


class WarmStartSampler(FixedSampler):
    """Begins with the supernet's argmax and draws from its prior, then goes on with another sampler.

    The trials it proposes have the origin `WARM_START`; every worker counts those of all.

    Args:
        sampler: What goes on.
        distributions: The space's distributions.
        seed: The study's seed.
        trials: How many trials the supernet proposes.
        temperature: Of the prior.
        canonical: The space's, where different params may give the same network.

    Raises:
        SpecError: `trials` or `temperature` is not positive.
    """

    def __init__(
        self,
        sampler: BaseSampler,
        distributions: Mapping[str, CategoricalDistribution],
        seed: int,
        *,
        trials: int = 5,
        temperature: float = 1.0,
        canonical: Canonical | None = None,
    ) -> None:
        if trials < 1 or temperature <= 0:
            raise SpecError("a warm start needs at least one trial and a temperature above 0")
        super().__init__(sampler, {})
        self._distributions = dict(distributions)
        self._seed = seed
        self._trials = trials
        self._temperature = temperature
        self._canonical = canonical
        self._warm: set[int] = set()

    def __str__(self) -> str:
        return f"{self.sampler}, warm-started by a supernet"

    def before_trial(self, study: Study, trial: FrozenTrial) -> None:
        """Decide who proposes this trial."""
        if self._is_warm(study, trial):
            self._warm.add(trial.number)
            set_trial_attribute(study, trial, TrialKey.ORIGIN, WARM_START)
            trial.set_user_attr(TrialKey.ORIGIN, WARM_START)  # the running trial reads this copy
        else:
            self.sampler.before_trial(study, trial)

    def _is_warm(self, study: Study, trial: FrozenTrial) -> bool:
        if attribute(trial, TrialKey.ORIGIN) is not None:  # it was begun before, or enqueued
            return bool(attribute(trial, TrialKey.ORIGIN) == WARM_START)
        begun = sum(attribute(t, TrialKey.ORIGIN) == WARM_START for t in all_trials(study))
        return begun < self._trials and not is_enqueued(trial)

    def infer_relative_search_space(self, study: Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        """The whole space while warm, then the other sampler's."""
        if trial.number in self._warm:
            return dict(self._distributions)
        return self.sampler.infer_relative_search_space(study, trial)

    def sample_relative(
        self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        """The supernet's proposal while warm, then the other sampler's."""
        if trial.number in self._warm:
            seed = seed_for(self._seed, trial.number, "warm start")
            return propose(
                study, self._distributions, seed=seed, temperature=self._temperature, canonical=self._canonical
            )
        return self.sampler.sample_relative(study, trial, search_space)

    def after_trial(self, study: Study, trial: FrozenTrial, state: TrialState, values: Sequence[float] | None) -> None:
        """Tell the other sampler that a trial has ended; it learns from warm trials, too."""
        self._warm.discard(trial.number)
        super().after_trial(study, trial, state, values)


def supernet(
    space: SearchSpace,
    seed: int,
    *,
    start_temperature: float = 2.0,
    end_temperature: float = 0.5,
    anneal_trials: int = 50,
) -> BaseSampler:
    """Draws from the prior of the study's supernet; train one first."""
    made = SupernetSampler(
        space.distributions(),
        seed,
        start_temperature=start_temperature,
        end_temperature=end_temperature,
        anneal_trials=anneal_trials,
        canonical=space.canonical if space.conditional else None,
    )
    return DistinctSampler(made, space, seed)
