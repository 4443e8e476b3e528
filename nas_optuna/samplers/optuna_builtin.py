"""Optuna's samplers, seeded for each trial so that a study can be resumed, and kept from repeating networks."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import optuna
from numpy.typing import NDArray
from optuna.distributions import BaseDistribution, CategoricalDistribution
from optuna.samplers import BaseSampler, RandomSampler
from optuna.study import Study, StudyDirection
from optuna.trial import FrozenTrial, TrialState

from nas_optuna.digests import seed_for
from nas_optuna.samplers.base import Allowed, ArchitectureSampler, completed
from nas_optuna.samplers.history import History, Tokens, best_and_latest
from nas_optuna.spaces import SearchSpace
from nas_optuna.study.optuna_internals import is_enqueued, showing

GP_TRIALS = 100
"""The most complete trials that Optuna's Gaussian process is fitted to; 3,000 take ten minutes and 5 GB."""

DRAWS = 8
"""How often a sampler is asked for a new network before a random one is taken."""


def random(space: SearchSpace, seed: int) -> BaseSampler:
    """Uniformly at random: the baseline that a search has to beat."""
    return DistinctSampler(RandomSampler, space, seed)


def tpe(
    space: SearchSpace,
    seed: int,
    *,
    n_startup_trials: int = 10,
    multivariate: bool = True,
    constant_liar: bool = True,
) -> BaseSampler:
    """Tree-structured Parzen estimator: for any space; arch and evolution need fewer trials."""
    options = {"n_startup_trials": n_startup_trials, "multivariate": multivariate, "constant_liar": constant_liar}
    return DistinctSampler(TPESampler, space, seed, **options)


def gp(space: SearchSpace, seed: int, *, n_startup_trials: int = 10) -> BaseSampler:
    """Optuna's Gaussian process: as few trials as arch, but each proposal takes many times as long."""
    return DistinctSampler(GPSampler, space, seed, n_startup_trials=n_startup_trials, warn_independent_sampling=False)


def nsga2(space: SearchSpace, seed: int, *, population_size: int = 20) -> BaseSampler:
    """NSGA-II: for several objectives and hundreds of trials."""
    return DistinctSampler(optuna.samplers.NSGAIISampler, space, seed, population_size=population_size)


def qmc(space: SearchSpace, seed: int) -> BaseSampler:
    """Quasi-random points that cover the space evenly."""
    # Its position in the sequence is stored in the study, so that all trials share one seed.
    made = optuna.samplers.QMCSampler(
        seed=seed,
        scramble=True,
        independent_sampler=random(space, seed),
        warn_independent_sampling=False,
        warn_asynchronous_seeding=False,
    )
    return DistinctSampler(made, space, seed)


class TPESampler(optuna.samplers.TPESampler):
    """Optuna's sampler, restricted to those of its candidates that are allowed, if any are."""

    allowed: Allowed | None = None
    whole: Mapping[str, BaseDistribution] = {}  # the parameters by which that is decided

    def _compute_acquisition_func(
        self, samples: dict[str, NDArray[Any]], mpe_below: Any, mpe_above: Any
    ) -> NDArray[np.float64]:
        merit: NDArray[np.float64] = super()._compute_acquisition_func(samples, mpe_below, mpe_above)
        if self.allowed is not None and samples.keys() >= self.whole.keys():  # not one parameter alone
            named = [{n: d.to_external_repr(samples[n][i]) for n, d in self.whole.items()} for i in range(len(merit))]
            merit = np.where([self.allowed(params) for params in named], merit, -np.inf)
        return merit


class GPSampler(optuna.samplers.GPSampler):
    """Optuna's sampler, fitted to few trials, as its time grows with their cube and its memory with their square."""

    def sample_relative(
        self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        """Optuna's proposal from at most `GP_TRIALS` complete trials: the best half and the latest half."""
        sign = 1.0 if study.directions[0] == StudyDirection.MAXIMIZE else -1.0

        def fewer(trials: list[FrozenTrial]) -> list[FrozenTrial]:
            complete = [t for t in trials if t.state == TrialState.COMPLETE]
            if len(complete) <= GP_TRIALS:
                return trials
            gains = np.array([sign * t.values[0] for t in complete])
            kept = {complete[i].number for i in best_and_latest(gains, GP_TRIALS)}
            return [t for t in trials if t.state != TrialState.COMPLETE or t.number in kept]

        return super().sample_relative(showing(study, fewer), trial, search_space)


class DistinctSampler(ArchitectureSampler):
    """Ask a sampler, which does not know which params give the same network, until it proposes a new network.

    Where choices switch others off, many params give one network, and some samplers favour what they have seen. A
    repeat would cost a trial and teach nothing. Rejecting draws does not change the distribution of the others, so
    random search stays uniform over the rest.

    Where a trial also chooses numbers, such as a learning rate, the same network is another training, and the first
    proposal is taken as it is.

    Optuna's samplers hold one random stream. A second process with the same seed starts that stream again and
    repeats its proposals (optuna #3255), and two workers with one seed propose the same points. So every draw is that
    of a fresh sampler, seeded by (study seed, trial number): proposals depend on the study's history alone, and ten
    trials and ten more in a second process are the same as twenty in one.

    Args:
        sampler: A class of samplers that learn from the study alone (random, TPE, GP, NSGA-II), or a sampler that needs
            no fresh seed.
        space: The space that is sampled.
        seed: The study's seed.
        options: Those of the class.
    """

    numbers = True

    def __init__(
        self, sampler: BaseSampler | Callable[..., BaseSampler], space: SearchSpace, seed: int, **options: Any
    ) -> None:
        super().__init__(seed=seed)
        self.for_space(space)
        self.sampler = sampler
        self._options = options
        self._whole: dict[str, BaseDistribution] = {n: d for n, d in space.distributions().items() if not d.single()}
        self._draw = 0
        self._inferred: tuple[object, dict[str, BaseDistribution]] = (None, {})
        self._seeded(0)  # so that an option is refused now, and not in the first trial

    def __str__(self) -> str:
        return str(self._seeded(0))

    def _seeded(self, *parts: int | str) -> BaseSampler:
        if isinstance(self.sampler, BaseSampler):
            return self.sampler
        again = (self._draw,) if self._draw else ()
        made = self.sampler(seed=seed_for(self._seed, *parts, *again), **self._options)
        if isinstance(made, TPESampler):
            made.allowed, made.whole = self.allowed, self._whole
        return made

    def infer_relative_search_space(self, study: Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        """The whole space and what else the sampler proposes; nothing for a trial that has its choices already."""
        # Optuna asks when the first parameter with several choices is suggested; those with one may be there.
        if self._whole.keys() <= trial.distributions.keys():
            return {}
        return self._whole | self._together(study, trial)

    def _together(self, study: Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        """The parameters that the sampler proposes together."""
        # Cached for the trial, because a fresh sampler reads all trials and a trial may need many draws.
        key = (study.study_name, trial.number, trial.datetime_start)
        known, space = self._inferred
        if known != key:
            space = self._seeded(trial.number).infer_relative_search_space(study, trial)
            self._inferred = key, space
        return dict(space)

    def sample_relative(
        self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        """The sampler's first proposal of a new network, or its first of all if trials choose numbers, too."""
        if not search_space:  # a trial that is resumed takes no further point of a sequence
            return {}
        with self._lock:
            known = [*search_space.values(), *self._shared(study).values()]
        if is_enqueued(trial) or not all(isinstance(d, CategoricalDistribution) for d in known):
            return self._drawn(study, trial, search_space)
        return super().sample_relative(study, trial, search_space)

    def sample_independent(
        self, study: Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        """Ask the sampler, seeded by the trial and the parameter."""
        made = self._seeded(trial.number, param_name)
        return made.sample_independent(study, trial, param_name, param_distribution)

    def propose(self, history: History, study: Study, trial: FrozenTrial) -> Tokens:
        """The first draw that is new and allowed; else a random one."""
        drawn: set[Tokens] = set()
        for draw in range(DRAWS):
            params = self._drawn(study, trial, history.space, draw)
            tokens = history.proposed(tuple(a.token(params[name]) for name, a in history.axes.items()))
            if tokens not in history.seen and self._allows(history, tokens):
                return tokens
            if tokens in drawn:  # it repeats itself, and each answer may take a second
                break
            drawn.add(tokens)
        rng = np.random.default_rng(seed_for(self._seed, trial.number, DistinctSampler.__name__))
        return self._random(history, rng)

    def _drawn(
        self, study: Study, trial: FrozenTrial, space: dict[str, BaseDistribution], draw: int = 0
    ) -> dict[str, Any]:
        """One proposal of the sampler for every parameter of a space."""
        self._draw = draw
        return completed(self._proposal(study, trial), self, study, trial, space)

    def _proposal(self, study: Study, trial: FrozenTrial) -> dict[str, Any]:
        """What the sampler proposes together."""
        return self._seeded(trial.number, "").sample_relative(study, trial, self._together(study, trial))
