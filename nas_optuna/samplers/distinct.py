"""Another sampler's proposals, drawn again where a trial has the same network already."""

from __future__ import annotations

from typing import Any

from optuna.distributions import BaseDistribution, CategoricalDistribution
from optuna.samplers import BaseSampler
from optuna.study import Study
from optuna.trial import FrozenTrial

from nas_optuna.samplers.base import ArchitectureSampler, History
from nas_optuna.samplers.encoding import Tokens
from nas_optuna.samplers.per_trial_seed import PerTrialSeedSampler, Selective
from nas_optuna.samplers.wrapping import WrappingSampler, whole_proposal
from nas_optuna.spaces import SearchSpace
from nas_optuna.study.optuna_internals import is_enqueued

DRAWS = 8
"""A sampler is asked so many times at most for a new network, then a random one is taken."""


class DistinctSampler(WrappingSampler, ArchitectureSampler):
    """Ask a sampler that does not know which params give the same network until it proposes a new network.

    Choices that switch others off give many params to one network, and some samplers favour what they have seen. A
    repeat would teach nothing and cost a trial. Draws that are thrown away leave the distribution of the others as it
    is, so that random search stays uniform among what is left.

    Where trials have parameters with numbers, such as a learning rate, the same network is another training, and the
    sampler is obeyed.

    Attributes:
        sampler: The sampler that is asked.
    """

    def __init__(self, sampler: BaseSampler, space: SearchSpace, seed: int) -> None:
        super().__init__(seed)
        self.for_space(space)
        self.sampler = sampler
        self._distributions: dict[str, BaseDistribution] = dict(space.distributions())

    def infer_relative_search_space(self, study: Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        """The whole space and what else the sampler proposes; nothing for a trial that has its choices already."""
        # Optuna asks when the first parameter of several choices is suggested; those of one choice may be there.
        if self._distributions.keys() <= trial.distributions.keys():
            return {}
        if study.study_name != self._study_name:
            self._follow(study.study_name)
        whole = {name: d for name, d in self._distributions.items() if not d.single()}
        return whole | self.sampler.infer_relative_search_space(study, trial)

    def sample_relative(
        self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        """The sampler's first proposal of a new network; its first of all where a network may be trained again."""
        with self._lock:
            known = [*search_space.values(), *self._intersection.calculate(study).values()]
        if is_enqueued(trial) or not all(isinstance(d, CategoricalDistribution) for d in known):
            return self._drawn(study, trial, search_space)
        return super().sample_relative(study, trial, search_space)

    def propose(self, history: History, study: Study, trial: FrozenTrial) -> Tokens:
        """The first draw that is new and allowed; else a random one."""
        drawn: set[Tokens] = set()
        for draw in range(DRAWS):
            params = self._drawn(study, trial, history.space, draw)
            tokens = history.proposed(tuple(a.token(params[name]) for name, a in history.axes.items()))
            if tokens not in history.seen and self._allows(history, tokens):
                return tokens
            if tokens in drawn:  # it has a favourite, and may think for a second about each answer
                break
            drawn.add(tokens)
        return self._random(history, self._rng(trial))

    def _drawn(
        self, study: Study, trial: FrozenTrial, space: dict[str, BaseDistribution], draw: int = 0
    ) -> dict[str, Any]:
        """One proposal of the sampler, of every parameter of a space."""
        sampler = self.sampler
        if isinstance(sampler, Selective):
            sampler.allowed = self.allowed
        if isinstance(sampler, PerTrialSeedSampler):
            sampler.attempt = draw
        return whole_proposal(sampler, study, trial, space)
