"""Grid search: every network of a small space once."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress

from optuna.distributions import BaseDistribution
from optuna.study import Study
from optuna.trial import FrozenTrial, TrialState

from nas_optuna.errors import SpecError
from nas_optuna.quantities import whole
from nas_optuna.samplers.base import GRID_LIMIT, ArchitectureSampler
from nas_optuna.samplers.history import History, Tokens
from nas_optuna.spaces import SearchSpace


class GridSampler(ArchitectureSampler):
    """Every architecture once, in a shuffled order: for small spaces.

    It stops the study after the last one. Optuna's own grid sampler lists all combinations of choices, of which several
    may give the same network.
    """

    def __init__(self, space: SearchSpace, seed: int) -> None:
        if space.size > GRID_LIMIT:
            raise SpecError(
                f"sampler 'grid' lists every architecture, and this space has {whole(space.size)}"
                f" (more than {GRID_LIMIT:,}); use random, or a smaller space"
            )
        super().__init__(seed=seed)
        self.for_space(space)
        self._distributions: dict[str, BaseDistribution] = dict(space.distributions())

    def infer_relative_search_space(self, study: Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        """The whole space; nothing for a trial that has its choices already."""
        return {} if self._distributions.keys() <= trial.distributions.keys() else dict(self._distributions)

    def propose(self, history: History, study: Study, trial: FrozenTrial) -> Tokens:
        """An untried network, or any if none is left."""
        rng = self._rng(trial)
        left = self._left(history, rng)
        choices = [tokens for tokens in left if self._allows(history, tokens)] or left or self._all(history)
        return choices[0]

    def after_trial(self, study: Study, trial: FrozenTrial, state: TrialState, values: Sequence[float] | None) -> None:
        """Stop ``study.optimize`` after the last network; who asks and tells alone has nothing to stop."""
        if self.is_exhausted(study):
            with suppress(RuntimeError):
                study.stop()

    def is_exhausted(self, study: Study) -> bool:
        """Whether every network was tried, or is being tried."""
        with self._lock:
            history = self._read(study, self._distributions)
            return all(tokens in history.seen for tokens in self._all(history))
