"""Grid search: every network of a small space once, with each choice of other settings."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from contextlib import suppress
from functools import cached_property
from operator import add

from optuna.distributions import BaseDistribution
from optuna.study import Study
from optuna.trial import FrozenTrial, TrialState

from nas_optuna.errors import SpecError
from nas_optuna.quantities import whole
from nas_optuna.samplers.base import GRID_LIMIT, ArchitectureSampler, natural
from nas_optuna.samplers.history import Axis, History, Tokens
from nas_optuna.spaces import SearchSpace
from nas_optuna.study.optuna_internals import all_trials

_COMBINATIONS = 100_000
"""The most networks with settings that are listed."""


class GridSampler(ArchitectureSampler):
    """Every architecture once, in a shuffled order: for small spaces.

    Where trials also choose among settings of the recipe, every combination of them; numbers are drawn at random. It
    stops the study after the last one. Optuna's own grid sampler lists all combinations of choices, of which several
    may give the same network.
    """

    obeys_list = True

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
        """The space and the settings; nothing for a trial that has its choices already."""
        if self._distributions.keys() <= trial.distributions.keys():
            return {}
        with self._lock:
            return self._whole(study)

    def _whole(self, study: Study) -> dict[str, BaseDistribution]:
        """The space, and the choices that trials make beside it, which are known from the first of them on."""
        found = self._common(study)
        if not found:  # none has ended yet
            found = {n: d for trial in all_trials(study) for n, d in trial.distributions.items() if self._proposes(d)}
        if self._count(found) > _COMBINATIONS:  # in a stored study, which goes on as it began: settings are drawn
            found = {}
        every = self._distributions | found
        return {name: every[name] for name in sorted(every, key=natural)}

    def _count(self, settings: Mapping[str, BaseDistribution]) -> int:
        """How many networks there are with each choice of the settings."""
        chosen = [d for name, d in settings.items() if self._proposes(d) and name not in self._distributions]
        return self._networks * math.prod(Axis(d).size for d in chosen)

    @cached_property
    def _networks(self) -> int:
        return len(super()._all(History(self._distributions, self.canonical, self.pinned)))

    def _all(self, history: History) -> list[Tokens]:
        """Every network with every combination of the settings."""
        if "combinations" not in history.derived:
            networks, names = super()._all(history), list(history.axes)
            sizes = [1 if name in self._distributions else history.sizes[i] for i, name in enumerate(names)]
            offsets = list(itertools.product(*map(range, sizes)))
            every = (tuple(map(add, network, offset)) for network in networks for offset in offsets)
            history.derived["combinations"] = list(dict.fromkeys(map(history.proposed, every)))
        combinations: list[Tokens] = history.derived["combinations"]
        return combinations

    def check(self, settings: Mapping[str, BaseDistribution]) -> None:
        """Refuse settings of a new study with too many choices to be listed."""
        if (count := self._count(settings)) > _COMBINATIONS:
            raise SpecError(
                "sampler 'grid' lists every architecture with every choice of the settings, together"
                f" {whole(count)} (more than {_COMBINATIONS:,}); use random, or give fewer choices"
            )

    def propose(self, history: History, study: Study, trial: FrozenTrial) -> Tokens:
        """An untried network, if possible an allowed one, or any if none is left."""
        rng = self._rng(trial)
        left = self._left(history, rng)
        return next((t for t in left if self._allows(history, t)), (left or self._all(history))[0])

    def _allows(self, history: History, tokens: Tokens) -> bool:
        # Remembered, because each trial asks again, and a network may have to be built for the answer.
        known: dict[Tokens, bool] = history.derived.setdefault("allowed", {})
        if tokens not in known:
            known[tokens] = super()._allows(history, tokens)
        return known[tokens]

    def after_trial(self, study: Study, trial: FrozenTrial, state: TrialState, values: Sequence[float] | None) -> None:
        """Stop ``study.optimize`` after the last network; who asks and tells alone has nothing to stop."""
        if self.is_exhausted(study):
            with suppress(RuntimeError):
                study.stop()

    def is_exhausted(self, study: Study) -> bool:
        """Whether everything that is allowed was tried, or is being tried."""
        with self._lock:
            history = self._read(study, self._whole(study))
            left = (tokens for tokens in self._all(history) if tokens not in history.seen)
            return not any(self._allows(history, tokens) for tokens in left)
