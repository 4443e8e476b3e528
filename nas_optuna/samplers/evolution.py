"""Regularized evolution, a strong and simple search over architectures."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from optuna.study import Study
from optuna.trial import FrozenTrial

from nas_optuna.samplers.base import ArchitectureSampler, configured
from nas_optuna.samplers.beforehand import FEWEST, experience_of, score_of
from nas_optuna.samplers.gaussian_process import Scorer
from nas_optuna.samplers.history import History, Tokens, nondominated_ranks
from nas_optuna.spaces import SearchSpace

DOUBTFUL = 0.2
"""An earlier study whose predictions correlate less than this with the study's own trials is ignored."""

LITTERS = 8
"""The most tournaments until a child is allowed; mutating one parent until then would get stuck near the start."""


@dataclass(frozen=True)
class EvolutionConfig:
    """Options of `EvolutionSampler`.

    Attributes:
        population_size: How many finished trials may be parents.
        tournament_size: How many of them compete to be one.
        n_startup_trials: How many trials must have finished before evolution begins; the first are random.
        neighbour_bias: How many times likelier a mutation moves an ordered parameter by one than further.
        crossover: The probability that a child mixes two parents, parameter by parameter, before it mutates.
        children: From how many children the score of the study's supernet chooses; with 1 it is not used.
    """

    population_size: int = 50
    tournament_size: int = 20
    n_startup_trials: int = 10
    neighbour_bias: float = 4.0
    crossover: float = 0.0
    children: int = 8

    def __post_init__(self) -> None:
        if not 1 <= self.tournament_size <= self.population_size:
            raise ValueError(f"tournament_size must be from 1 to population_size, got {self.tournament_size}")
        if self.n_startup_trials < 1:
            raise ValueError(f"n_startup_trials must be at least 1, got {self.n_startup_trials}")
        if self.neighbour_bias <= 0:
            raise ValueError(f"neighbour_bias must be positive, got {self.neighbour_bias}")
        if not 0 <= self.crossover <= 1:
            raise ValueError(f"crossover is a probability, got {self.crossover}")
        if self.children < 1:
            raise ValueError(f"children must be at least 1, got {self.children}")


class EvolutionSampler(ArchitectureSampler):
    """Regularized (ageing) evolution, for any number of objectives and asynchronous workers.

    Real et al., "Regularized Evolution for Image Classifier Architecture Search" (2019), algorithm 1.

    The population is the last `population_size` trials to finish, so that even the best one dies of age. A parent
    is the best of `tournament_size` members drawn at random; its child differs in one parameter. A child is never an
    architecture that was evaluated or is being evaluated while a member of the population has an untried neighbour.

    Members are compared by non-dominated rank: feasible before infeasible ones (Deb et al. 2002, section VI), complete
    before pruned ones, and those pruned late before those pruned early. Failed trials are no members. The ranges of
    floats and integers are divided into levels, which mutate like ordered choices.

    In a study with a supernet of strategy ``"fair"``, each proposal is the best of several children by the supernet's
    score; each child comes from its own tournament. The random trials of the start are chosen in the same way.

    Examples:
        >>> import optuna
        >>> sampler = EvolutionSampler(EvolutionConfig(population_size=30), seed=0)
        >>> study = optuna.create_study(sampler=sampler)
    """

    Config = EvolutionConfig
    numbers = True
    _config: EvolutionConfig

    def propose(self, history: History, study: Study, trial: FrozenTrial) -> Tokens:
        """A mutated winner of a tournament, or of several the one with the best score."""
        rng = self._rng(trial)
        prefers = self._preference(history, study) if self._config.children > 1 else None
        if prefers is None:
            return self._child(history, study, rng)
        children = [self._child(history, study, rng) for _ in range(self._config.children)]
        return children[int(np.argmax(prefers(children)))]

    def _preference(self, history: History, study: Study) -> Scorer | None:
        """The supernet's score, or an earlier study's predictions as long as the study's own trials agree."""
        score = score_of(study, history)
        if score is not None:
            return score
        experience = experience_of(study, history, self._order(history))
        members = history.informative[-max(self._config.population_size, FEWEST) :]
        if experience is None or len(members) < FEWEST:
            return experience
        ranks = nondominated_ranks([m.trial for m in members], study.directions)
        with np.errstate(invalid="ignore"):  # equal trials agree with nothing
            agreement = np.corrcoef(experience([m.tokens for m in members]), -ranks)[0, 1]
        return experience if agreement > DOUBTFUL else None

    def _child(self, history: History, study: Study, rng: np.random.Generator) -> Tokens:
        """The first allowed child of several tournaments, or else a random one, which keeps the population diverse."""
        children = (self._any_child(history, study, rng) for _ in range(LITTERS))
        allowed = next((child for child in children if self._allows(history, child)), None)
        return self._random(history, rng) if allowed is None else allowed

    def _any_child(self, history: History, study: Study, rng: np.random.Generator) -> Tokens:
        if len(history.informative) < self._config.n_startup_trials:  # the population may be smaller
            return self._random(history, rng)
        members = history.informative[-self._config.population_size :]
        ranks = nondominated_ranks([m.trial for m in members], study.directions)
        # Members in order of merit, equals in random order; a tournament's winner is its first in this order.
        merit = np.lexsort((rng.random(len(members)), ranks))
        parent = members[self._winner(merit, rng)].tokens
        if rng.random() < self._config.crossover:
            other = members[self._winner(merit, rng)].tokens
            mask = rng.random(len(parent)) < 0.5
            parent = tuple(b if m else a for a, b, m in zip(parent, other, mask, strict=True))
        for tokens in (parent, *(members[i].tokens for i in merit)):
            child = self._mutate(tokens, history, rng)
            if child is not None:
                return child
        return self._random(history, rng)

    def _winner(self, merit: NDArray[np.int64], rng: np.random.Generator) -> int:
        size = min(self._config.tournament_size, len(merit))
        return int(merit[rng.choice(len(merit), size, replace=False).min()])

    def _mutate(self, parent: Tokens, history: History, rng: np.random.Generator) -> Tokens | None:
        """A new neighbour of the parent; None if there is none."""
        children, weights = [], []
        for i, ordered in enumerate(self._order(history)):
            for token in range(history.sizes[i]):
                child = (*parent[:i], token, *parent[i + 1 :])
                if token != parent[i] and history.is_new(child):
                    children.append(child)
                    weights.append(self._config.neighbour_bias if ordered and abs(token - parent[i]) == 1 else 1.0)
        if not children:
            return None
        probabilities = np.asarray(weights) / np.sum(weights)
        return history.proposed(children[int(rng.choice(len(children), p=probabilities))])


@configured(EvolutionConfig)
def evolution(space: SearchSpace, seed: int, config: EvolutionConfig) -> EvolutionSampler:
    """Regularized evolution: for many trials, many workers or several objectives."""
    return EvolutionSampler(config, seed=seed).for_space(space)
