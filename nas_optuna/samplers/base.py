"""What our samplers share: categorical parameters as tokens, and a study's finished trials read once each."""

from __future__ import annotations

import re
import secrets
import threading
from abc import abstractmethod
from collections.abc import Collection, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from datetime import datetime
from functools import cache
from typing import Any

import numpy as np
from optuna.distributions import BaseDistribution, CategoricalDistribution
from optuna.samplers import BaseSampler, RandomSampler
from optuna.search_space import IntersectionSearchSpace
from optuna.study import Study
from optuna.trial import FrozenTrial, TrialState
from threadpoolctl import ThreadpoolController

from nas_optuna.samplers.comparison import teaches, violation
from nas_optuna.samplers.per_trial_seed import seed_for

Tokens = tuple[int, ...]
"""One index into its choices for every categorical parameter, in the natural order of their names."""


@dataclass(frozen=True)
class Finished:
    """A finished trial that chose every categorical parameter.

    Attributes:
        tokens: What it chose.
        trial: The trial; complete, pruned or failed.
        violation: By how much it breaks its constraints, see `standing.violation`; asked for often, reckoned once.
    """

    tokens: Tokens
    trial: FrozenTrial
    violation: float


class History:
    """The trials of one study as tokens. Each is looked at until it has finished, and never again.

    Args:
        space: Parameter name → distribution, in order.

    Attributes:
        finished: In order of completion, as far as this process could know it.
        teaching: Those of them that have a value, be it that of the last epoch before they were pruned.
        running: What unfinished trials chose, as far as they have chosen.
        undecided: Numbers of running trials that have not chosen everything yet, as while another worker proposes.
        seen: Every token sequence that was evaluated or is being evaluated.
    """

    def __init__(self, space: Mapping[str, BaseDistribution]) -> None:
        self.space = {name: d for name, d in space.items() if isinstance(d, CategoricalDistribution)}
        self.sizes = tuple(len(d.choices) for d in self.space.values())
        self.finished: list[Finished] = []
        self.teaching: list[Finished] = []
        self.running: list[Tokens] = []
        self.undecided: list[int] = []
        self.seen: set[Tokens] = set()
        self._unfinished: list[int] = []
        self._count = 0

    def read(self, study: Study) -> None:
        """Take in what has been started or has finished since the last call."""
        # Not study.get_trials: under Hyperband that shows one bracket, and a number is not a position in it.
        trials = study._storage.get_all_trials(study._study_id, deepcopy=False)
        news = [trials[number] for number in self._unfinished] + trials[self._count :]
        self._count = len(trials)
        unfinished = [trial for trial in news if not trial.state.is_finished()]
        self._unfinished = [trial.number for trial in unfinished]
        self.running = [tokens for trial in unfinished if (tokens := self.tokens(trial)) is not None]
        self.undecided = [
            trial.number for trial in unfinished if trial.state == TrialState.RUNNING and self.tokens(trial) is None
        ]
        finished = [trial for trial in news if trial.state.is_finished()]
        for trial in sorted(finished, key=lambda t: (t.datetime_complete or datetime.min, t.number)):
            tokens = self.tokens(trial)
            if tokens is not None:
                self.finished.append(Finished(tokens, trial, violation(trial)))
                self.seen.add(tokens)
                if teaches(trial):
                    self.teaching.append(self.finished[-1])
        self.seen.update(self.running)

    def tokens(self, trial: FrozenTrial) -> Tokens | None:
        """What a trial chose, or None while a parameter is missing or has other choices."""
        if any(trial.distributions.get(name) != d for name, d in self.space.items()):
            return None
        return tuple(int(d.to_internal_repr(trial.params[name])) for name, d in self.space.items())

    def params(self, tokens: Tokens) -> dict[str, Any]:
        """The choices that tokens stand for."""
        return {name: d.choices[t] for (name, d), t in zip(self.space.items(), tokens, strict=True)}


class CategoricalSampler(BaseSampler):
    """A sampler of the categorical parameters that every trial of a study has in common.

    It infers them from the study, as Optuna's own samplers do: the first trials, and every parameter that is not
    categorical or not in all trials, are sampled independently and uniformly. All draws come from (seed, trial
    number), so a study may be resumed and shared by workers: what is proposed depends on the history alone.

    Threads of one process may share an instance; an instance follows one study at a time.

    Args:
        seed: The study's seed; None draws one.
    """

    def __init__(self, seed: int | None = None) -> None:
        self._seed = secrets.randbelow(2**31) if seed is None else seed
        self._lock = threading.Lock()
        self._follow(None)

    def _follow(self, study_name: str | None) -> None:
        """Forget what is known of another study."""
        self._study_name = study_name
        self._intersection = IntersectionSearchSpace(include_pruned=True)
        self._history = History({})

    def __getstate__(self) -> dict[str, Any]:
        """Only the options travel to another process: everything learned is in the study."""
        return {
            name: value
            for name, value in vars(self).items()
            if name not in ("_lock", "_study_name", "_intersection", "_history")
        }

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        self._lock = threading.Lock()
        self._follow(None)

    @abstractmethod
    def propose(self, history: History, study: Study, trial: FrozenTrial) -> Tokens:
        """Choose a token for every parameter of `history`; called by one thread at a time.

        Args:
            history: What is known. It is a new object whenever the study or the parameters have changed.
            study: The study.
            trial: The trial that will evaluate the choice.
        """

    def infer_relative_search_space(self, study: Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        """The categorical parameters that complete and pruned trials share, in the natural order of their names."""
        with self._lock:
            if study.study_name != self._study_name:
                self._follow(study.study_name)
            common = self._intersection.calculate(study)
        names = [n for n, d in common.items() if isinstance(d, CategoricalDistribution) and not d.single()]
        return {name: common[name] for name in sorted(names, key=_natural)}

    def sample_relative(
        self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        """All categorical parameters together, the others one by one."""
        space = {name: d for name, d in search_space.items() if isinstance(d, CategoricalDistribution)}
        params: dict[str, Any] = {}
        if space:
            with self._lock, one_blas_thread():
                history = self._read(study, space)
                params = history.params(self.propose(history, study, trial))
        for name in search_space.keys() - space.keys():
            params[name] = self.sample_independent(study, trial, name, search_space[name])
        return params

    def sample_independent(
        self, study: Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        """Uniformly at random, under a seed of the trial and the parameter."""
        sampler = RandomSampler(seed=seed_for(self._seed, trial.number, param_name))
        return sampler.sample_independent(study, trial, param_name, param_distribution)

    def _read(self, study: Study, space: Mapping[str, BaseDistribution]) -> History:
        if list(self._history.space.items()) != list(space.items()):
            self._history = History(space)
        self._history.read(study)
        return self._history

    def _rng(self, trial: FrozenTrial) -> np.random.Generator:
        return np.random.default_rng(seed_for(self._seed, trial.number, type(self).__name__))


def one_blas_thread() -> AbstractContextManager[Any]:
    """Within it NumPy's matrix products use one thread: for small ones, waking others costs ten times the product."""
    limit: AbstractContextManager[Any] = _blas().limit(limits=1, user_api="blas")
    return limit


@cache
def _blas() -> ThreadpoolController:
    import scipy.linalg  # noqa: F401 - brings a BLAS of its own, which the controller must find loaded

    return ThreadpoolController()


def unseen_at_random(history: History, rng: np.random.Generator, attempts: int = 100) -> Tokens:
    """A uniformly drawn point, not seen before unless that many attempts were in vain."""
    draws = rng.integers(0, history.sizes, (attempts, len(history.sizes)))
    candidates = [tuple(int(t) for t in draw) for draw in draws]
    return next((tokens for tokens in candidates if tokens not in history.seen), candidates[0])


def is_ordered(name: str, distribution: CategoricalDistribution, ordered: Collection[str] | None) -> bool:
    """Whether neighbouring choices are alike: where `ordered` does not say, whether all choices are numbers."""
    if ordered is not None:
        return name in ordered
    return all(isinstance(c, int | float) and not isinstance(c, bool) for c in distribution.choices)


def _natural(name: str) -> list[tuple[int, str]]:
    """Sorts ``conv2.kernel`` before ``conv10.kernel``."""
    return [(int(part), "") if part.isdigit() else (-1, part) for part in re.split(r"(\d+)", name)]
