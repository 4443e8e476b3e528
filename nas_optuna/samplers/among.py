"""Proposals among listed architectures only, from any sampler."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from optuna.distributions import CategoricalDistribution
from optuna.samplers import BaseSampler, RandomSampler
from optuna.study import Study
from optuna.trial import FrozenTrial, TrialState

from nas_optuna.errors import SpecError
from nas_optuna.samplers.base import ArchitectureSampler, is_ordered
from nas_optuna.samplers.curves import CurveSampler, is_paused
from nas_optuna.samplers.fixed import FixedSampler
from nas_optuna.samplers.per_trial_seed import Allowed, seed_for
from nas_optuna.spaces import SearchSpace
from nas_optuna.study.optuna_internals import all_trials, is_enqueued


class AmongSampler(FixedSampler):
    """Ask a sampler, and propose the listed architecture that is nearest to its answer and was not tried.

    A list may be what a hardware team allows, or what a table of trainings holds. Our own samplers that compare
    candidates take them from the list; random search draws from it.
    """

    def __init__(
        self, sampler: BaseSampler, space: SearchSpace, listed: Sequence[Mapping[str, Any]], seed: int
    ) -> None:
        super().__init__(sampler, {})
        self._seed = seed
        self._names = list(space.parameters)
        self._places = {n: {c: i for i, c in enumerate(p.choices)} for n, p in space.parameters.items()}
        self._distributions = {n: CategoricalDistribution(p.choices) for n, p in space.parameters.items()}
        # In steps, for what is ordered; any other choice is as far away as the longest way.
        names = [name for name, parameter in space.parameters.items() if parameter.ordered]
        self._ordered = np.array([is_ordered(name, d, names) for name, d in self._distributions.items()])
        self._lengths = np.array([max(1, len(places) - 1) for places in self._places.values()])
        self._list(listed)

    def _list(self, listed: Iterable[Mapping[str, Any]]) -> None:
        self._listed = [dict(params) for params in listed]
        self._tokens = np.array([self._tokens_of(params) for params in self._listed])
        if isinstance(self.sampler, ArchitectureSampler) and self.sampler.obeys_list:
            self.sampler.among = self._listed

    def keep(self, allowed: Allowed) -> None:
        """Forget the listed architectures that are not allowed.

        Raises:
            SpecError: None is allowed.
        """
        left = [params for params in self._listed if allowed(params)]
        if not left:
            raise SpecError("none of the listed architectures is inside the limits; list some, or raise the limits")
        self._list(left)

    def _tokens_of(self, params: Mapping[str, Any]) -> tuple[int, ...]:
        return tuple(self._places[name][params[name]] for name in self._names)

    def infer_relative_search_space(self, study: Study, trial: FrozenTrial) -> dict[str, Any]:
        """The whole space, because whole architectures are listed; and what else the sampler proposes."""
        whole = {name: d for name, d in self._distributions.items() if not d.single()}
        return {**whole, **self.sampler.infer_relative_search_space(study, trial)}

    def sample_relative(self, study: Study, trial: FrozenTrial, search_space: dict[str, Any]) -> dict[str, Any]:
        """A listed architecture, and the sampler's other proposals."""
        if is_enqueued(trial):  # the choice is made
            return {}
        own = self.sampler
        if isinstance(own, ArchitectureSampler) and own.obeys_list:
            return own.sample_relative(study, trial, search_space)
        wanted = own.infer_relative_search_space(study, trial)
        found = own.sample_relative(study, trial, wanted)
        rng = np.random.default_rng(seed_for(self._seed, trial.number, "among"))
        left = self._left(study)
        if self._is_random():
            return found | self._listed[int(rng.choice(left))]
        for name in self._names:
            if name not in found:
                found[name] = own.sample_independent(study, trial, name, self._distributions[name])
        place = np.array(self._tokens_of(found))
        away = np.abs(self._tokens[left] - place)
        distance = np.where(self._ordered, away / self._lengths, away > 0).sum(1)
        nearest = left[distance <= distance.min() + 1e-12]
        return found | self._listed[int(rng.choice(nearest))]

    def is_exhausted(self, study: Study) -> bool:
        """Whether every listed architecture was tried; to the end, where the sampler goes on with stopped ones."""
        goes_on = isinstance(self.sampler, CurveSampler)
        return len(self._tried(study, ended=goes_on)) >= len(self._listed)

    def _is_random(self) -> bool:
        return str(self.sampler) == RandomSampler.__name__

    def _tried(self, study: Study, ended: bool = False) -> set[int]:
        known = {tokens: i for i, tokens in enumerate(map(tuple, self._tokens.tolist()))}
        tried = set()
        for trial in all_trials(study):
            if ended and (trial.state == TrialState.RUNNING or is_paused(trial)):
                continue
            if trial.state != TrialState.WAITING and all(name in trial.params for name in self._names):
                tried.add(known.get(self._tokens_of(trial.params), -1))
        return tried - {-1}

    def _left(self, study: Study) -> np.ndarray[Any, np.dtype[np.int64]]:
        """What was not tried; everything where nothing is left."""
        tried = self._tried(study)
        left = np.array([i for i in range(len(self._listed)) if i not in tried], dtype=np.int64)
        return left if len(left) else np.arange(len(self._listed))
