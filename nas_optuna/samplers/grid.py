"""Every network of a small space once."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from optuna.distributions import BaseDistribution
from optuna.study import Study
from optuna.trial import FrozenTrial, TrialState

from nas_optuna.errors import SpecError
from nas_optuna.samplers.base import ArchitectureSampler, History
from nas_optuna.samplers.encoding import Tokens
from nas_optuna.spaces import SearchSpace

GRID_LIMIT = 10_000
"""The largest space that ``grid`` accepts. It lists every network before the first trial."""


class GridSampler(ArchitectureSampler):
    """Proposes each network of a space once, in a random order, and stops the study after the last.

    Optuna's own lists all combinations of choices, of which several may give the same network.

    Args:
        space: A space of at most `GRID_LIMIT` architectures.
        seed: The study's seed.
    """

    def __init__(self, space: SearchSpace, seed: int) -> None:
        super().__init__(seed)
        self.for_space(space)
        self._distributions: dict[str, BaseDistribution] = dict(space.distributions())
        self._params = [dict(architecture.params) for architecture in space.enumerate()]

    def infer_relative_search_space(self, study: Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        """The whole space; nothing for a trial that has its choices already."""
        return {} if trial.distributions else self._distributions

    def sample_relative(
        self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        """A network that no trial has tried; see `ArchitectureSampler.sample_relative`."""
        if study.study_name != self._study_name:
            self._follow(study.study_name)
        return super().sample_relative(study, trial, search_space)

    def propose(self, history: History, study: Study, trial: FrozenTrial) -> Tokens:
        """One of those that are left; where none is, any."""
        left = self._left(history)
        rng = self._rng(trial)
        choices = [tokens for tokens in left if self._allows(history, tokens)] or left or self._points(history)
        return choices[int(rng.integers(len(choices)))]

    def after_trial(self, study: Study, trial: FrozenTrial, state: TrialState, values: Sequence[float] | None) -> None:
        """Stop the study when no network but this trial's was left."""
        with self._lock:
            history = self._read(study, self._distributions)
            tokens = history.tokens(trial)
            own = None if tokens is None else history.canonical(tokens)
            if all(left == own for left in self._left(history)):
                study.stop()

    def is_exhausted(self, study: Study) -> bool:
        """Whether every network was tried."""
        with self._lock:
            return not self._left(self._read(study, self._distributions))

    def _points(self, history: History) -> list[Tokens]:
        return [tuple(a.token(params[name]) for name, a in history.axes.items()) for params in self._params]

    def _left(self, history: History) -> list[Tokens]:
        return [tokens for tokens in self._points(history) if tokens not in history.seen]


def grid(space: SearchSpace, seed: int) -> GridSampler:
    """Every architecture once, in a shuffled order: for small spaces."""
    if space.size > GRID_LIMIT:
        raise SpecError(
            f"sampler 'grid' lists every architecture, and this space has {space.size:,}"
            f" (more than {GRID_LIMIT:,}); use random, or a smaller space"
        )
    return GridSampler(space, seed)
