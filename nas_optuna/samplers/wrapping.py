"""Wrappers that constrain any sampler: pinned parameters, listed architectures, a study's limits."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cached_property
from itertools import chain
from typing import Any

import numpy as np
from optuna.distributions import BaseDistribution, CategoricalDistribution
from optuna.samplers import BaseSampler, RandomSampler
from optuna.study import Study
from optuna.trial import FrozenTrial, TrialState

from nas_optuna.digests import seed_for
from nas_optuna.samplers.base import GRID_LIMIT, ArchitectureSampler, completed, places_having
from nas_optuna.samplers.curves import CurveSampler, is_paused, trained_nothing
from nas_optuna.spaces import SearchSpace
from nas_optuna.spaces.architecture import Architecture
from nas_optuna.study.optuna_internals import all_trials, is_enqueued, partially_fixed, set_trial_attribute
from nas_optuna.study.schema import TrialKey, reports_of

_OWN_DRAWS = 8
_UNIFORM_DRAWS = 248
_MAX_KNOWN = 20_000


class WrappingSampler(BaseSampler):
    """Forwards everything to another sampler."""

    sampler: BaseSampler  # which is asked

    def __str__(self) -> str:
        return str(self.sampler)

    def before_trial(self, study: Study, trial: FrozenTrial) -> None:
        """Tell the sampler that a trial begins."""
        self.sampler.before_trial(study, trial)

    def after_trial(self, study: Study, trial: FrozenTrial, state: TrialState, values: Sequence[float] | None) -> None:
        """Tell the sampler that a trial has ended."""
        self.sampler.after_trial(study, trial, state, values)

    def infer_relative_search_space(self, study: Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        """The sampler's own."""
        return self.sampler.infer_relative_search_space(study, trial)

    def sample_independent(
        self, study: Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        """Ask the sampler."""
        return self.sampler.sample_independent(study, trial, param_name, param_distribution)

    def reseed_rng(self) -> None:
        """Reseed the sampler."""
        self.sampler.reseed_rng()

    def is_exhausted(self, study: Study) -> bool:
        """Whether the sampler says that it has nothing left to try."""
        exhausted = getattr(self.sampler, "is_exhausted", None)
        return exhausted is not None and bool(exhausted(study))


class FixedSampler(WrappingSampler):
    """Ask a sampler, and set the parameters that are pinned.

    Unlike with Optuna's ``PartialFixedSampler``, the sampler still sees the whole space, because some samplers (the
    controller, the Gaussian process) propose whole architectures. So a study can be pinned in one run and not in the
    next.
    """

    def __init__(self, sampler: BaseSampler, fixed: Mapping[str, Any]) -> None:
        self.sampler = sampler
        self._fixed = dict(fixed)

    def sample_relative(
        self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        """The sampler's proposal with the pinned values."""
        found = self.sampler.sample_relative(study, trial, search_space)
        return {name: self._fixed.get(name, value) for name, value in found.items()}

    def sample_independent(
        self, study: Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        """The pinned value, or the sampler's draw."""
        if param_name in self._fixed:
            return self._fixed[param_name]
        return super().sample_independent(study, trial, param_name, param_distribution)


class AmongSampler(FixedSampler):
    """Ask a sampler, and propose the untried listed architecture that is nearest to its answer.

    The list may hold what a hardware team allows, or the rows of a table of trainings. Our own samplers that compare
    candidates take them from the list, and random search draws from it.
    """

    def __init__(
        self, sampler: BaseSampler, space: SearchSpace, listed: Sequence[Mapping[str, Any]], seed: int
    ) -> None:
        super().__init__(sampler, {})
        self._seed = seed
        self._names = list(space.parameters)
        self._places = {n: {c: i for i, c in enumerate(p.choices)} for n, p in space.parameters.items()}
        self._distributions: dict[str, BaseDistribution] = dict(space.distributions())
        # Ordered choices are as far apart as their places, on a scale from 0 to 1; any two others are 1 apart.
        self._ordered = np.array([parameter.ordered for parameter in space.parameters.values()])
        self._lengths = np.array([max(1, len(places) - 1) for places in self._places.values()])
        self._listed = [dict(params) for params in listed]
        self._tokens = np.array([self._tokens_of(params) for params in self._listed])
        if isinstance(sampler, ArchitectureSampler) and sampler.obeys_list:
            sampler.among = self._listed

    def _tokens_of(self, params: Mapping[str, Any]) -> tuple[int, ...]:
        return tuple(self._places[name][params[name]] for name in self._names)

    def infer_relative_search_space(self, study: Study, trial: FrozenTrial) -> dict[str, Any]:
        """The whole space, because whole architectures are listed, and what else the sampler proposes."""
        whole = {name: d for name, d in self._distributions.items() if not d.single()}
        return whole | self.sampler.infer_relative_search_space(study, trial)

    def sample_relative(self, study: Study, trial: FrozenTrial, search_space: dict[str, Any]) -> dict[str, Any]:
        """A listed architecture, and the sampler's proposals for other parameters."""
        if is_enqueued(trial):
            return {}
        own = self.sampler
        if isinstance(own, ArchitectureSampler) and own.obeys_list:
            return own.sample_relative(study, trial, search_space)
        wanted = own.infer_relative_search_space(study, trial)
        found = own.sample_relative(study, trial, wanted)
        rng = np.random.default_rng(seed_for(self._seed, trial.number, "among"))
        left = self._left(study)
        if str(own) == RandomSampler.__name__:
            return _within(search_space, found | self._listed[int(rng.choice(left))])
        found |= completed(found, own, study, trial, self._distributions)
        place = np.array(self._tokens_of(found))
        away = np.abs(self._tokens[left] - place)
        distance = np.where(self._ordered, away / self._lengths, away > 0).sum(1)
        nearest = left[distance <= distance.min() + 1e-12]
        return _within(search_space, found | self._listed[int(rng.choice(nearest))])

    def is_exhausted(self, study: Study) -> bool:
        """Whether every listed architecture was tried, and none has stopped that the sampler would resume.

        With settings of the recipe to choose, an architecture has a training for each of their values, which have no
        end unless all are choices.
        """
        goes_on = isinstance(self.sampler, CurveSampler)
        settings = {n: d for t in all_trials(study) for n, d in t.distributions.items() if n not in self._names}
        trainings = math.prod(
            len(d.choices) if isinstance(d, CategoricalDistribution) else math.inf for d in settings.values()
        )
        return len(self._tried(study, ended=goes_on)) >= len(self._listed) * trainings

    def _tried(self, study: Study, ended: bool = False) -> set[tuple[int, str]]:
        """Place and settings of each listed architecture that a trial had."""
        known = {tokens: i for i, tokens in enumerate(map(tuple, self._tokens.tolist()))}
        tried: set[tuple[int, str]] = set()
        reached: dict[tuple[int, str], int] = {}
        for trial in all_trials(study):
            if trial.state == TrialState.WAITING or not all(name in trial.params for name in self._names):
                continue
            settings = sorted((name, value) for name, value in trial.params.items() if name not in self._names)
            one = known.get(self._tokens_of(trial.params), -1), str(settings)
            if ended and is_paused(trial):
                if trained_nothing(trial):
                    continue
                last, before = max(reports_of(trial), default=0), reached.get(one, 0)
                # As in `read_curves`: one that came no further than before would not do so the next time.
                if last > before or (one not in tried and is_enqueued(trial)):
                    reached[one] = max(last, before)
                    tried.discard(one)
                    continue
            tried.add(one)
        return {one for one in tried if one[0] != -1}

    def _left(self, study: Study) -> np.ndarray[Any, np.dtype[np.int64]]:
        """Places of the untried architectures, or of all, that have what ``PartialFixedSampler`` fixes if any has."""
        places, tried = places_having(partially_fixed(study.sampler), self._listed), dict(self._tried(study))
        return np.array([i for i in places if i not in tried] or places, dtype=np.int64)


class WithinLimitsSampler(WrappingSampler):
    """Ask a sampler until it proposes an architecture inside the limits.

    Costs are known before training, so rejecting a proposal costs next to nothing, whereas a trial outside the limits
    wastes a trial. Such trials also mislead TPE (optuna #2969), whether they are told as pruned or as complete: it then
    stays further away from the limit than necessary. ``benchmarks/limits.py`` compares.

    A sampler that compares candidates (TPE, and ours) is told what is allowed, and its first proposal is inside if any
    of its candidates is. Other samplers are asked again. After several draws outside, uniform ones follow, because a
    sampler with one favourite (Optuna's GP) would propose it forever. If they are outside, too, or tried already, a
    small space is looked through for an untried network inside. If there is none, the draw with the smallest excess is
    proposed.
    """

    def __init__(
        self,
        make: Callable[[int], BaseSampler],  # for a seed; each further draw comes from a sampler with another seed
        space: SearchSpace,
        excess: Callable[[Architecture], float],  # how far an architecture is outside the limits; at most 0 inside
        seed: int,
        fixed: Mapping[str, Any] | None = None,  # pinned parameters, which the samplers that are made obey already
        most_asked: int = GRID_LIMIT,  # how many networks of a small space are looked through for one proposal
    ) -> None:
        self._make = make
        self._samplers: dict[int, BaseSampler] = {}
        self._fixed = dict(fixed or {})
        self._space = space
        self._distributions: dict[str, BaseDistribution] = dict(space.distributions())
        self._excess = excess
        self._most_asked = most_asked
        self._seed = seed
        self._known: dict[tuple[Any, ...], float] = {}
        self._only = {name: p.choices[0] for name, p in space.parameters.items() if len(p.choices) == 1}
        self.sampler = self._sampler(0)

    def _sampler(self, draw: int) -> BaseSampler:
        if draw not in self._samplers:
            made = self._make(seed_for(self._seed, "draw", draw) if draw else self._seed)
            own = made.sampler if isinstance(made, FixedSampler) else made
            if hasattr(own, "allowed"):
                own.allowed = self.is_inside
            self._samplers[draw] = made
        return self._samplers[draw]

    def is_inside(self, params: Mapping[str, Any]) -> bool:
        """Whether a proposal is inside the limits; parameters that it lacks are pinned or have a single choice."""
        return self._outside(self._only | dict(params) | self._fixed) <= 0

    def _outside(self, params: Mapping[str, Any]) -> float:
        """How far params are outside, cached: a sampler keeps asking about the neighbours of its best."""
        chosen = {name: params[name] for name in self._distributions}
        key = tuple(chosen.values())
        if key not in self._known:
            if len(self._known) >= _MAX_KNOWN:
                self._known.clear()
            self._known[key] = self._excess(self._space.architecture(chosen))
        return self._known[key]

    def infer_relative_search_space(self, study: Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        """The whole space, because limits are on whole architectures, and what else the sampler proposes."""
        return self.sampler.infer_relative_search_space(study, trial) | self._distributions

    def sample_relative(
        self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        """The sampler's first proposal inside the limits, with what it proposes for other parameters."""
        if is_enqueued(trial):
            return {}
        choices = {name: parameter.choices for name, parameter in self._space.parameters.items()}
        fixed = {n: v for n, v in partially_fixed(study.sampler).items() if v in choices.get(n, ())}
        found: dict[str, Any] = {}
        best: tuple[float, dict[str, Any]] | None = None
        for draw in range(_OWN_DRAWS + _UNIFORM_DRAWS):
            if draw < _OWN_DRAWS:
                own = self._sampler(draw)
                found = own.sample_relative(study, trial, own.infer_relative_search_space(study, trial))
                params = found | completed(found, own, study, trial, self._distributions) | fixed
            else:
                params = found | self._uniform(trial, draw) | fixed
            excess = self._outside(params)
            if best is None or excess < best[0]:
                best = excess, params
            if excess <= 0:
                break
        assert best is not None
        set_trial_attribute(study, trial, TrialKey.PROPOSALS, draw + 1)
        params = best[1] if draw < _OWN_DRAWS else self._untried(study, trial, best[1], fixed)
        return _within(search_space, params)

    def _untried(
        self, study: Study, trial: FrozenTrial, params: dict[str, Any], fixed: Mapping[str, Any]
    ) -> dict[str, Any]:
        """The params, if need be with an untried network inside; as they are if none is found."""
        # A trial with settings of the recipe, too, does not count, since with others a network is another training.
        ended = (t.params for t in all_trials(study) if t.params.keys() == self._distributions.keys())
        tried = set(map(self._space.architecture, ended))
        others = ({**params, **each, **self._fixed, **fixed} for each in self._shuffled(trial))
        for found in chain([params], others):
            chosen = {name: found[name] for name in self._distributions}
            if self._outside(chosen) <= 0 and self._space.architecture(chosen) not in tried:
                return found
        return params

    def _shuffled(self, trial: FrozenTrial) -> Iterator[Mapping[str, Any]]:
        """Networks of a small space, in random order, as no more are asked about than needed."""
        rng, every = random.Random(seed_for(self._seed, trial.number, "untried")), self._networks
        yield from rng.sample(every, len(every))[: self._most_asked]  # of fewer, a sample has another order

    @cached_property
    def _networks(self) -> list[Mapping[str, Any]]:
        if not self._most_asked or self._space.size > GRID_LIMIT:
            return []
        return [architecture.params for architecture in self._space.enumerate()]

    def _uniform(self, trial: FrozenTrial, draw: int) -> dict[str, Any]:
        rng = random.Random(seed_for(self._seed, trial.number, "uniform", draw))
        drawn = {name: rng.choice(parameter.choices) for name, parameter in self._space.parameters.items()}
        return drawn | self._fixed


def _within(search_space: Mapping[str, BaseDistribution], params: Mapping[str, Any]) -> dict[str, Any]:
    """What Optuna asked for; more, which ``PartialFixedSampler`` hides or a trial that has ended leaves, it refuses."""
    return {name: value for name, value in params.items() if name in search_space}
