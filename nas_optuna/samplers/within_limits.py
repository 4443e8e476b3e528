"""Proposals inside a study's limits, from any sampler."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from typing import Any

from optuna.distributions import BaseDistribution
from optuna.samplers import BaseSampler
from optuna.study import Study
from optuna.trial import FrozenTrial

from nas_optuna.samplers.among import AmongSampler
from nas_optuna.samplers.fixed import FixedSampler
from nas_optuna.samplers.grid import GridSampler
from nas_optuna.samplers.per_trial_seed import Selective, seed_for
from nas_optuna.samplers.wrapping import WrappingSampler, whole_proposal
from nas_optuna.spaces import SearchSpace
from nas_optuna.spaces.architecture import Architecture
from nas_optuna.study.optuna_internals import is_enqueued, set_trial_attribute
from nas_optuna.study.schema import TrialKey

_OWN_DRAWS = 8
_UNIFORM_DRAWS = 248
_REMEMBERED = 20_000


class WithinLimitsSampler(WrappingSampler):
    """Ask a sampler until it proposes an architecture inside the limits.

    A cost is known before training, so a proposal outside costs next to nothing, where a trial outside costs a place
    among the trials. And TPE is misled by trials outside (optuna #2969), told as pruned or as complete: it keeps
    further away from the limit than it needs to. ``benchmarks/limits.py`` compares.

    A sampler that compares candidates (TPE, and ours) is told what is allowed and chooses among that: its first
    proposal is inside if one of its candidates is. Other samplers are asked again. Where several draws in a row are
    outside, uniform ones follow: a sampler that has one favourite (Optuna's GP) would propose it forever. If these are
    outside as well, the one that is least so is proposed.

    Args:
        make: Makes the sampler for a seed. Each further draw for a trial is asked of one with a seed of its own.
        space: The space.
        excess: How far an architecture is outside, inside at 0 and below.
        seed: The study's seed.
        fixed: Pinned parameters, which the samplers that `make` makes obey by themselves.
    """

    def __init__(
        self,
        make: Callable[[int], BaseSampler],
        space: SearchSpace,
        excess: Callable[[Architecture], float],
        seed: int,
        fixed: Mapping[str, Any] | None = None,
    ) -> None:
        self._make = make
        self._samplers: dict[int, BaseSampler] = {}
        self._fixed = dict(fixed or {})
        self._space = space
        self._distributions = space.distributions()
        self._excess = excess
        self._seed = seed
        self._known: dict[tuple[Any, ...], float] = {}
        self._only = {name: p.choices[0] for name, p in space.parameters.items() if len(p.choices) == 1}
        self.sampler = self._sampler(0)

    def _sampler(self, draw: int) -> BaseSampler:
        if draw not in self._samplers:
            made = self._make(seed_for(self._seed, "draw", draw) if draw else self._seed)
            own = made.sampler if isinstance(made, FixedSampler) else made
            if isinstance(own, Selective):
                own.allowed = self.is_inside
            if isinstance(made, AmongSampler):
                made.keep(self.is_inside)
            self._samplers[draw] = made
        return self._samplers[draw]

    def is_inside(self, params: Mapping[str, Any]) -> bool:
        """Whether a proposal of some parameters is inside; others are pinned or have a single choice."""
        named = self._only | dict(params) | self._fixed
        return self._outside({name: named[name] for name in self._distributions}) <= 0

    def _outside(self, params: Mapping[str, Any]) -> float:
        """How far params are outside; a sampler asks again and again about the neighbours of its best."""
        key = tuple(params[name] for name in self._distributions)
        if key not in self._known:
            if len(self._known) >= _REMEMBERED:
                self._known.clear()
            self._known[key] = self._excess(self._space.architecture(params))
        return self._known[key]

    def is_exhausted(self, study: Study) -> bool:
        """Whether the sampler has a list of architectures, and nothing of it is left to try."""
        return isinstance(self.sampler, AmongSampler | GridSampler) and self.sampler.is_exhausted(study)

    def infer_relative_search_space(self, study: Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        """The whole space, because limits are on whole architectures."""
        return dict(self._distributions)

    def sample_relative(
        self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        """The first of the sampler's proposals that is inside."""
        if is_enqueued(trial):  # the choice is made
            return {}
        best: tuple[float, dict[str, Any]] | None = None
        for draw in range(_OWN_DRAWS + _UNIFORM_DRAWS):
            if draw < _OWN_DRAWS:
                params = whole_proposal(self._sampler(draw), study, trial, self._distributions)
            else:
                params = self._uniform(trial, draw)
            excess = self._outside(params)
            if best is None or excess < best[0]:
                best = excess, params
            if excess <= 0:
                break
        assert best is not None
        set_trial_attribute(study, trial, TrialKey.PROPOSALS, draw + 1)
        return best[1]

    def _uniform(self, trial: FrozenTrial, draw: int) -> dict[str, Any]:
        rng = random.Random(seed_for(self._seed, trial.number, "uniform", draw))
        drawn = {name: rng.choice(parameter.choices) for name, parameter in self._space.parameters.items()}
        return drawn | self._fixed
