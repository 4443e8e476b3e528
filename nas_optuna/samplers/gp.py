"""Bayesian optimisation with a Gaussian process over architectures, which proposes within milliseconds."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from optuna.distributions import BaseDistribution
from optuna.study import Study, StudyDirection
from optuna.trial import FrozenTrial, TrialState

from nas_optuna.digests import seed_for
from nas_optuna.samplers.base import ArchitectureSampler, one_blas_thread
from nas_optuna.samplers.gaussian_process import (
    Array,
    Beforehand,
    GaussianProcess,
    LearnedMean,
    Scorer,
    Space,
    expected_improvement,
)
from nas_optuna.samplers.history import History, Observation, Tokens, best_and_latest

MAX_POINTS = 200
"""The most trials that the process is fitted to: the best half and the latest half."""

PARENTS = 5
"""How many of the best architectures have all their neighbours among the candidates."""

DISTANT_CANDIDATES = 150
"""Candidates that differ from one of the best in two parameters."""

RANDOM_CANDIDATES = 300

SCORED_STARTUP = 3
"""How many trials must have finished if a supernet's score tells where to begin."""

MOST_AHEAD = 16
"""Trials just before ours that are running without parameters are assumed to be choosing them now, up to this many.

Older ones are assumed to have been killed before they chose.
"""


@dataclass(frozen=True)
class ArchitectureGPConfig:
    """Options of `ArchitectureGPSampler`.

    Attributes:
        n_startup_trials: How many trials must have finished before the process is fitted; until then, they are random.
    """

    n_startup_trials: int = 3

    def __post_init__(self) -> None:
        if self.n_startup_trials < 1:
            raise ValueError(f"n_startup_trials must be at least 1, got {self.n_startup_trials}")


class ArchitectureGPSampler(ArchitectureSampler):
    """Bayesian optimisation with a Gaussian process that compares architectures parameter by parameter.

    Choices of an ordered parameter, and levels of a float's or an integer's range, are more alike the nearer they are;
    choices of other parameters are all equally unlike. The kernel is a polynomial of the parameters' mean similarity:
    the effects of single parameters, of pairs, and of more add up (as in the additive kernels of Duvenaud et al. 2011).
    A trend is added: how often each choice occurs in the network, whatever the layer. Only one range, one noise and the
    trend's share, which may be 0, are fitted, by marginal likelihood on a small grid. That takes milliseconds, whereas
    fitting a range for each parameter takes a tenth of a second. Among new neighbours of the best architectures and
    random ones, the candidate with the highest expected improvement (Jones et al. 1998) is proposed.

    Running trials, and what other workers are expected to propose at this moment, count as finished with the value that
    the process predicts, so that workers do not crowd. A pruned trial counts as the quantile of the complete ones at
    which it stood when it was pruned, an infeasible one as the worst. Several objectives are weighted at random for
    each trial (ParEGO, Knowles 2006).

    Prior knowledge of a study is the mean of the process, with learned coefficients that fade (`LearnedMean`), and
    shortens the random start. A sampler from `create_sampler` finds a supernet's score and the trials of an earlier
    study.

    Attributes:
        beforehand: Finds a study's prior knowledge of architectures; None if there is none.

    Examples:
        >>> import optuna
        >>> sampler = ArchitectureGPSampler(seed=0)
        >>> study = optuna.create_study(sampler=sampler)
    """

    Config = ArchitectureGPConfig
    numbers = True
    obeys_list = True
    beforehand: Beforehand | None = None
    _config: ArchitectureGPConfig

    def _scores(self, study: Study, history: History) -> Sequence[tuple[Scorer, float]]:
        return () if self.beforehand is None else self.beforehand(study, history, self._order(history))

    def propose(self, history: History, study: Study, trial: FrozenTrial) -> Tokens:
        """The new candidate with the highest expected improvement."""
        rng = self._rng(trial)
        members = history.informative
        scores = self._scores(study, history)
        startup = self._config.n_startup_trials
        if len(members) < (min(SCORED_STARTUP, startup) if scores else startup):
            return self._random(history, rng)
        process, candidates, _, merit = self._fitted(history, study, rng, scores)
        if history.running:
            process.fantasize(np.array([history.canonical(tokens) for tokens in history.running.values()]))
        ahead = sum(trial.number - MOST_AHEAD <= number < trial.number for number in history.pending)
        for _ in range(ahead):  # predict the choices of the workers ahead of us
            choice = self._best(process, candidates, history, merit.max())
            if choice is None:
                break
            process.fantasize(np.array([choice]))
            candidates.remove(choice)
        history.read(study)  # other workers may have chosen meanwhile
        candidates = [c for c in candidates if c not in history.seen]
        choice = self._best(process, candidates, history, merit.max())
        return self._random(history, rng) if choice is None else choice

    def expected_gain(self, study: Study) -> float | None:
        """By how much the best untried architecture is expected to exceed the best one of a study."""
        # A search may end when this is less than an improvement is worth. (Makarova et al. 2022 bound the regret
        # instead; the expected improvement tells what the next training would bring.)
        with self._lock, one_blas_thread():
            history = self._read(study, self._common(study))
            members = history.informative
            if sum(map(_counts, members)) < self._config.n_startup_trials or not history.space:
                return None
            rng = np.random.default_rng(seed_for(self._seed, len(members), "gain"))
            process, candidates, kept, merit = self._fitted(history, study, rng)
            told = [(m.trial.value, merit[j]) for j, m in enumerate(members[i] for i in kept) if _counts(m)]
            values, figures = np.array(told).T
            choice = self._best(process, candidates, history, figures.max())
            if choice is None or np.ptp(values) == 0:
                return 0.0
            improvement = expected_improvement(*process.predict(np.array([choice])), figures.max())
            return float(improvement[0] * np.ptp(values) / np.ptp(figures))

    def _fitted(
        self, history: History, study: Study, rng: np.random.Generator, scores: Sequence[tuple[Scorer, float]] = ()
    ) -> tuple[GaussianProcess, list[Tokens], list[int], Array]:
        """The process fitted to the trials, new candidates, and what `utilities` has of the trials."""
        kept, merit = utilities(history.informative, study.directions, rng)
        tokens = np.array([history.canonical(history.informative[i].tokens) for i in kept])
        mean = LearnedMean(scores, list(map(tuple, tokens.tolist())), merit) if scores else None
        parents = tokens[np.argsort(-merit, kind="stable")[:PARENTS]]
        pool = self.pool_tokens(history, rng) or candidates_near(parents, history.sizes, rng)
        candidates = history.new(pool)
        return GaussianProcess(self._space_of(history), tokens, merit, mean), candidates, kept, merit

    def _space_of(self, history: History) -> Space:
        return history.sizes, self._order(history), groups_of(history.space)

    def _best(
        self, process: GaussianProcess, candidates: Sequence[Tokens], history: History, best: float
    ) -> Tokens | None:
        """The allowed candidate with the highest expected improvement; those below it are not checked."""
        if not candidates:
            return None
        improvement = expected_improvement(*process.predict(np.array(candidates)), best)
        ranked = (candidates[i] for i in np.argsort(-improvement, kind="stable"))
        return next((tokens for tokens in ranked if self._allows(history, tokens)), None)


def _counts(member: Observation) -> bool:
    """Whether a trial is complete and feasible and has a finite value."""
    value = member.trial.value if member.trial.state == TrialState.COMPLETE else None
    return value is not None and math.isfinite(value) and member.violation == 0


def groups_of(space: Mapping[str, BaseDistribution]) -> list[int]:
    """The group of each parameter: names that differ only in numbers, with equal choices; it is its first member."""
    kinds = [(re.sub(r"\d+", "#", name), repr(distribution)) for name, distribution in space.items()]
    return [kinds.index(kind) for kind in kinds]


def utilities(
    members: Sequence[Observation], directions: Sequence[StudyDirection], rng: np.random.Generator
) -> tuple[list[int], Array]:
    """Places of the trials that are kept, and the merit of each, the higher the better, standardised."""
    signs = np.array([1.0 if d == StudyDirection.MAXIMIZE else -1.0 for d in directions])
    unknown = [np.nan] * len(signs)
    # Optuna gives a pruned trial its latest intermediate value, which is not the value of a whole training.
    values = [m.trial.values if m.trial.state == TrialState.COMPLETE else unknown for m in members]
    gains = signs * np.array(values, dtype=float)
    merit = _scalarise(gains, rng) if len(signs) > 1 else _finite(gains)[:, 0]
    infeasible = [m.violation > 0 for m in members]
    if np.isfinite(merit).any():
        merit[infeasible] = np.nanmin(merit)
    kept = best_and_latest(merit, MAX_POINTS).tolist()
    merit = _with_pruned([members[i].trial for i in kept], merit[kept], signs[0])
    return kept, (merit - merit.mean()) / (merit.std() + 1e-12)


def _with_pruned(trials: Sequence[FrozenTrial], merit: Array, sign: float) -> Array:
    """Set the merit of pruned trials to the quantile of the complete ones at which they stood at their last epoch."""
    pruned = np.flatnonzero(np.isnan(merit)).tolist()
    complete = merit[~np.isnan(merit)]
    rivals = [t for t in trials if t.state == TrialState.COMPLETE] or trials
    at_step: dict[int, Array] = {}
    for i in pruned:
        step = max(trials[i].intermediate_values)
        if step not in at_step:
            values = [sign * t.intermediate_values[step] for t in rivals if step in t.intermediate_values]
            at_step[step] = np.sort(np.nan_to_num(values, nan=-np.inf))
        value = np.nan_to_num(sign * trials[i].intermediate_values[step], nan=-np.inf)
        standing = np.searchsorted(at_step[step], value) / max(len(at_step[step]), 1)
        merit[i] = np.quantile(complete, standing) if len(complete) else standing
    return merit


def _finite(gains: Array) -> Array:
    """Replace infinities by the extremes of the rest; NaN stays."""
    finite = gains[np.isfinite(gains)]
    low, high = (finite.min(), finite.max()) if len(finite) else (0.0, 0.0)
    return np.clip(gains, low, high)


def _scalarise(gains: Array, rng: np.random.Generator) -> Array:
    """The augmented Chebyshev function of objectives scaled to [0, 1], with random weights (Knowles 2006, eq. 2)."""
    gains = np.column_stack([_finite(column) for column in gains.T])
    low, high = np.nanmin(gains, 0), np.nanmax(gains, 0)
    losses = (high - gains) / np.maximum(high - low, 1e-12)
    weighted = rng.dirichlet(np.ones(gains.shape[1])) * losses
    merit: Array = -(weighted.max(1) + 0.05 * weighted.sum(1))
    return merit


def candidates_near(parents: NDArray[Any], sizes: Sequence[int], rng: np.random.Generator) -> list[Tokens]:
    """Neighbours of the parents, more distant mutations, and random points, each once."""
    result = [parents]
    for parameter, size in enumerate(sizes):
        for token in range(size):
            neighbours = parents.copy()
            neighbours[:, parameter] = token
            result.append(neighbours)
    distant = parents[rng.integers(0, len(parents), DISTANT_CANDIDATES)]
    for _ in range(2):
        mutated = rng.integers(0, len(sizes), len(distant))
        distant[np.arange(len(distant)), mutated] = rng.integers(0, np.array(sizes)[mutated])
    result += [distant, rng.integers(0, sizes, (RANDOM_CANDIDATES, len(sizes)))]
    return list(dict.fromkeys(map(tuple, np.concatenate(result).tolist())))
