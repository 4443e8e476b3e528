"""Samplers whose prior is a study's supernet: for all trials, or for the first ones."""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from optuna.distributions import BaseDistribution
from optuna.samplers import BaseSampler, RandomSampler
from optuna.study import Study
from optuna.trial import FrozenTrial

from nas_optuna.digests import seed_for
from nas_optuna.errors import SpecError, StudyError
from nas_optuna.samplers.base import Allowed, configured
from nas_optuna.samplers.optuna_builtin import DistinctSampler
from nas_optuna.samplers.wrapping import WrappingSampler
from nas_optuna.spaces import SearchSpace
from nas_optuna.study.optuna_internals import all_trials, is_enqueued, set_trial_attribute
from nas_optuna.study.schema import TrialKey, attribute
from nas_optuna.study.studies import command
from nas_optuna.study.supernet_result import SupernetResult, first_trial, read_result, softmax

_REDRAWS = 50
"""Draws before an architecture that the study has seen is proposed again."""
_FLATTEN = 1.1
"""Factor by which each draw of such an architecture raises the temperature."""
WARM_START = "supernet warm start"
"""The user attribute ``origin`` of a warm-started trial."""


def propose(
    study: Study,
    space: SearchSpace,
    *,
    seed: int,
    temperature: float,
    pinned: Mapping[str, Any] | None = None,
    allowed: Allowed | None = None,
    skip: int = 0,
) -> dict[str, Any]:
    """The best by the score, or the argmax of the alphas, until seen; then draws from the prior, if possible new.

    So many of the new ones are skipped, since other workers are about to train them.
    """
    # A supernet of strategy ``"fair"`` has a list of good architectures that differ from each other.
    result = read_result(study)
    alphas = result.alphas
    choices = {name: parameter.choices for name, parameter in space.parameters.items()}
    if {name: len(logits) for name, logits in alphas.items()} != {name: len(c) for name, c in choices.items()}:
        raise StudyError(
            f"the supernet of study {study.study_name!r} was trained for another space;"
            f" run: {command(study, 'supernet', 'train', '--study', study.study_name, '--restart')}"
        )

    def key(params: Mapping[str, Any]) -> tuple[Any, ...]:
        return tuple(map(space.canonical(params).get, choices))

    def is_good(params: Mapping[str, Any]) -> bool:
        return key(params) not in seen and (allowed is None or allowed(params))

    pinned = pinned or {}
    seen = {key(trial.params) for trial in all_trials(study) if trial.params.keys() >= choices.keys()}
    first = {name: c[0] for name, c in choices.items()}
    # A supernet may hold a part of the space.
    starts = ({**first, **start, **pinned} for start in result.start_params())
    for params in itertools.chain(starts, _drawn(result, choices, pinned, seed, temperature)):
        if is_good(params):
            if not skip:
                break
            skip -= 1
            seen.add(key(params))
    return params


def _drawn(
    result: SupernetResult, choices: Mapping[str, Any], pinned: Mapping[str, Any], seed: int, temperature: float
) -> Iterator[dict[str, Any]]:
    """The argmax of the alphas, then draws from the prior, which grows flatter."""
    rng, indices = random.Random(seed), result.derived
    for _ in range(_REDRAWS):
        yield {**{name: c[indices[name]] for name, c in choices.items()}, **pinned}
        shares = {name: softmax(logits, temperature) for name, logits in result.alphas.items()}
        indices = {name: rng.choices(range(len(p)), p)[0] for name, p in shares.items()}
        temperature *= _FLATTEN


@dataclass(frozen=True)
class SupernetConfig:
    """Options of `SupernetSampler`."""

    start_temperature: float = 2.0  # of the first trial after the supernet's training
    end_temperature: float = 0.5  # from `anneal_trials` trials on
    anneal_trials: int = 50  # over how many trials it falls from one to the other, geometrically

    def __post_init__(self) -> None:
        if min(self.start_temperature, self.end_temperature, self.anneal_trials) <= 0:
            raise SpecError("sampler 'supernet' needs temperatures and anneal_trials above 0")

    def temperature(self, trials: int) -> float:
        """The temperature after that many trials since the supernet's training."""
        change = self.end_temperature / self.start_temperature
        return float(self.start_temperature * change ** min(1.0, trials / self.anneal_trials))


class SupernetSampler(DistinctSampler):
    """Draws every parameter from the study's supernet, at a temperature that falls from trial to trial."""

    numbers = choices = False  # of settings of the recipe

    def __init__(self, space: SearchSpace, seed: int, config: SupernetConfig | None = None) -> None:
        super().__init__(RandomSampler, space, seed)  # of a parameter that the space does not have
        self._of = space
        self._config = config or SupernetConfig()

    def __str__(self) -> str:
        return type(self).__name__

    def _proposal(self, study: Study, trial: FrozenTrial) -> dict[str, Any]:
        temperature = self._config.temperature(max(0, trial.number - first_trial(study)))
        seed = seed_for(self._seed, trial.number, *(["warm start"] if _is_warm(trial) else []))
        given: dict[str, Any] = {"pinned": self.pinned, "allowed": self.allowed, "skip": self._draw}
        return propose(study, self._of, seed=seed, temperature=temperature, **given)


AS_LEARNED = SupernetConfig(start_temperature=1.0, end_temperature=1.0)
"""Draws from the distribution that the supernet has learned, for a warm start."""


class WarmStartSampler(WrappingSampler):
    """Takes the first trials from a sampler of the supernet's prior, and the others from another sampler.

    The `trials` that the former proposes have the origin `WARM_START`; each worker counts those of all workers. A
    supernet that is trained anew proposes as many again.
    """

    def __init__(self, sampler: BaseSampler, warm: BaseSampler, *, trials: int = 5) -> None:
        if trials < 1:
            raise SpecError("a warm start needs at least one trial")
        self.sampler = sampler
        self._warm = warm
        self._trials = trials

    def __str__(self) -> str:
        return f"{self.sampler}, warm-started by a supernet"

    def before_trial(self, study: Study, trial: FrozenTrial) -> None:
        """Decide who proposes this trial, unless it began earlier, or was enqueued."""
        super().before_trial(study, trial)
        self._warm.before_trial(study, trial)
        is_free = attribute(trial, TrialKey.ORIGIN) is None and not is_enqueued(trial)
        if is_free and warm_trials(study) < self._trials:
            set_trial_attribute(study, trial, TrialKey.ORIGIN, WARM_START)
            trial.set_user_attr(TrialKey.ORIGIN, WARM_START)  # the running trial reads this copy

    def infer_relative_search_space(self, study: Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        """That of whoever proposes the trial."""
        return self._asked(trial).infer_relative_search_space(study, trial)

    def sample_relative(
        self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        """The proposal from the prior while warm, then the other sampler's."""
        return self._asked(trial).sample_relative(study, trial, search_space)

    def _asked(self, trial: FrozenTrial) -> BaseSampler:
        return self._warm if _is_warm(trial) else self.sampler


def warm_trials(study: Study) -> int:
    """How many trials the study's supernet has proposed for a warm start, without those of an earlier supernet."""
    warm = [trial.number for trial in all_trials(study) if _is_warm(trial)]
    first = first_trial(study) if warm else 0
    return sum(number >= first for number in warm)


def _is_warm(trial: FrozenTrial) -> bool:
    return bool(attribute(trial, TrialKey.ORIGIN) == WARM_START)


@configured(SupernetConfig)
def supernet(space: SearchSpace, seed: int, config: SupernetConfig) -> BaseSampler:
    """Draws from the prior of the study's supernet; train one first."""
    return SupernetSampler(space, seed, config)
