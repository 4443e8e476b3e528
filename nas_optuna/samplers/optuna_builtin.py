"""Optuna's own samplers, seeded so that a study can be stopped and resumed, and kept from repeating networks."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
import optuna
from numpy.typing import NDArray
from optuna.distributions import BaseDistribution
from optuna.samplers import BaseSampler
from optuna.study import Study, StudyDirection
from optuna.trial import FrozenTrial, TrialState

from nas_optuna.samplers.distinct import DistinctSampler
from nas_optuna.samplers.per_trial_seed import Allowed, PerTrialSeedSampler
from nas_optuna.spaces import SearchSpace
from nas_optuna.study.optuna_internals import showing

GP_TRIALS = 100
"""Optuna's Gaussian process is fitted to so many complete trials at most; 3,000 take ten minutes and 5 GB."""


def random(space: SearchSpace, seed: int) -> BaseSampler:
    """Uniformly at random: the baseline that a search has to beat."""
    return DistinctSampler(_per_trial(optuna.samplers.RandomSampler, seed), space, seed)


def tpe(
    space: SearchSpace,
    seed: int,
    *,
    n_startup_trials: int = 10,
    multivariate: bool = True,
    constant_liar: bool = True,
) -> BaseSampler:
    """Tree-structured Parzen estimator: for any space; arch and evolution need fewer trials."""
    options = {
        "n_startup_trials": n_startup_trials,
        "multivariate": multivariate,
        "constant_liar": constant_liar,
    }
    return DistinctSampler(_per_trial(_TPESampler, seed, **options), space, seed)


def gp(space: SearchSpace, seed: int, *, n_startup_trials: int = 10) -> BaseSampler:
    """Optuna's Gaussian process: as few trials as arch, but many times its time for a proposal."""
    options = {"n_startup_trials": n_startup_trials, "warn_independent_sampling": False}
    return DistinctSampler(_per_trial(_GPSampler, seed, **options), space, seed)


def nsga2(space: SearchSpace, seed: int, *, population_size: int = 20) -> BaseSampler:
    """NSGA-II: for several objectives and hundreds of trials."""
    made = _per_trial(optuna.samplers.NSGAIISampler, seed, population_size=population_size)
    return DistinctSampler(made, space, seed)


def qmc(space: SearchSpace, seed: int) -> BaseSampler:
    """Quasi-random points: for a study that is to cover the space evenly."""
    # Its position in the sequence lives in the study, so it keeps the study's seed.
    made = _QMCSampler(
        seed=seed,
        scramble=True,
        independent_sampler=_per_trial(optuna.samplers.RandomSampler, seed),
        warn_independent_sampling=False,
        warn_asynchronous_seeding=False,
    )
    return DistinctSampler(made, space, seed)


def _per_trial(kind: type[BaseSampler], seed: int, **options: Any) -> BaseSampler:
    return PerTrialSeedSampler(partial(_made, kind, options), seed)


def _made(kind: Any, options: dict[str, Any], seed: int) -> BaseSampler:
    """A function of its own, because a sampler that holds a lambda cannot be pickled."""
    sampler: BaseSampler = kind(seed=seed, **options)
    return sampler


class _TPESampler(optuna.samplers.TPESampler):
    """Optuna's, which chooses among those of its candidates that are allowed, if there are any."""

    allowed: Allowed | None = None

    def __str__(self) -> str:
        return "TPESampler"

    def sample_relative(
        self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        """Return its proposal; the distributions tell which choices its candidates stand for."""
        self._distributions = search_space
        return super().sample_relative(study, trial, search_space)

    def _compute_acquisition_func(
        self, samples: dict[str, NDArray[Any]], mpe_below: Any, mpe_above: Any
    ) -> NDArray[np.float64]:
        merit: NDArray[np.float64] = super()._compute_acquisition_func(samples, mpe_below, mpe_above)
        if self.allowed is not None and samples.keys() >= self._distributions.keys():
            named = [
                {n: d.to_external_repr(samples[n][i]) for n, d in self._distributions.items()}
                for i in range(len(merit))
            ]
            merit = np.where([self.allowed(params) for params in named], merit, -np.inf)
        return merit


class _QMCSampler(optuna.samplers.QMCSampler):
    """Optuna's, which takes a point of its sequence whenever a trial begins, also where one merely goes on."""

    def __str__(self) -> str:
        return "QMCSampler"

    def infer_relative_search_space(self, study: Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        """Nothing for a trial that has its choices already."""
        found = super().infer_relative_search_space(study, trial)
        return {} if found.keys() <= trial.distributions.keys() else found


class _GPSampler(optuna.samplers.GPSampler):
    """Optuna's, whose time and memory grow with the cube and the square of the trials: fitted to `GP_TRIALS`."""

    def __str__(self) -> str:
        return "GPSampler"

    def sample_relative(
        self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        """Return a proposal of Optuna's sampler, which is fitted to at most `GP_TRIALS` complete trials."""
        return super().sample_relative(_with_fewer_trials(study), trial, search_space)


def _with_fewer_trials(study: Study) -> Study:
    """Return a view of a study with at most `GP_TRIALS` complete trials, half the best, half the latest."""
    sign = -1.0 if study.directions[0] == StudyDirection.MAXIMIZE else 1.0

    def fewer(trials: list[FrozenTrial]) -> list[FrozenTrial]:
        complete = [t for t in trials if t.state == TrialState.COMPLETE]
        if len(complete) <= GP_TRIALS:
            return trials
        best = sorted(complete, key=lambda t: sign * t.values[0])[: GP_TRIALS // 2]
        kept = {t.number for t in [*best, *complete[-(GP_TRIALS // 2) :]]}
        return [t for t in trials if t.state != TrialState.COMPLETE or t.number in kept]

    return showing(study, fewer)
