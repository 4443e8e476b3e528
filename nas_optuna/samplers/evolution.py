"""Regularized evolution: the strongest simple search over architectures."""

from __future__ import annotations

from collections.abc import Collection

import numpy as np
from numpy.typing import NDArray
from optuna.study import Study
from optuna.trial import FrozenTrial

from nas_optuna.samplers.base import CategoricalSampler, History, Tokens, is_ordered, unseen_at_random
from nas_optuna.samplers.comparison import nondominated_ranks
from nas_optuna.spaces import SearchSpace


class EvolutionSampler(CategoricalSampler):
    """Regularized (ageing) evolution, for any number of objectives and asynchronous workers.

    Real et al., "Regularized Evolution for Image Classifier Architecture Search" (2019), algorithm 1.

    The population is the last `population_size` trials to finish, so that even the best one dies of age. A parent
    is the best of `tournament_size` members drawn at random; its child differs in one categorical parameter. A
    child is never an architecture that was evaluated or is being evaluated while a member of the population has a
    neighbour that was not.

    Members are compared by non-dominated rank, feasible ones before infeasible ones (Deb et al. 2002, section VI),
    complete ones before pruned ones, and those pruned late before those pruned early. Failed trials are no members.

    Args:
        seed: The study's seed; None draws one.
        population_size: How many finished trials may be parents.
        tournament_size: How many of them compete to be one.
        n_startup_trials: So many trials must have finished before evolution begins; until then, random.
        neighbour_bias: How many times likelier a mutation takes an ordered parameter to an adjacent choice than
            to a distant one.
        crossover: The probability that a child mixes two parents, parameter by parameter, before it mutates.
        ordered: Names of the parameters whose neighbouring choices are alike; None stands for those whose choices
            are all numbers.
    """

    def __init__(
        self,
        *,
        seed: int | None = None,
        population_size: int = 50,
        tournament_size: int = 20,
        n_startup_trials: int = 10,
        neighbour_bias: float = 4.0,
        crossover: float = 0.0,
        ordered: Collection[str] | None = None,
    ) -> None:
        if not 1 <= tournament_size <= population_size:
            raise ValueError(
                f"tournament_size must be from 1 to population_size ({population_size}), got {tournament_size}"
            )
        if n_startup_trials < 1:
            raise ValueError(f"n_startup_trials must be at least 1, got {n_startup_trials}")
        if neighbour_bias <= 0:
            raise ValueError(f"neighbour_bias must be positive, got {neighbour_bias}")
        if not 0 <= crossover <= 1:
            raise ValueError(f"crossover is a probability, got {crossover}")
        super().__init__(seed)
        self._population_size = population_size
        self._tournament_size = tournament_size
        self._n_startup_trials = n_startup_trials
        self._neighbour_bias = neighbour_bias
        self._crossover = crossover
        self._ordered = None if ordered is None else frozenset(ordered)

    def propose(self, history: History, study: Study, trial: FrozenTrial) -> Tokens:
        """A mutated winner of a tournament."""
        rng = self._rng(trial)
        members = history.teaching[-self._population_size :]
        if len(members) < self._n_startup_trials:
            return unseen_at_random(history, rng)
        ranks = nondominated_ranks([m.trial for m in members], study.directions)
        # Members in order of merit; equals in a random one. A tournament's winner is its first in this order.
        merit = np.lexsort((rng.random(len(members)), ranks))
        parent = members[self._winner(merit, rng)].tokens
        if rng.random() < self._crossover:
            other = members[self._winner(merit, rng)].tokens
            mask = rng.random(len(parent)) < 0.5
            parent = tuple(b if m else a for a, b, m in zip(parent, other, mask, strict=True))
        for tokens in (parent, *(members[i].tokens for i in merit)):
            child = self._mutate(tokens, history, rng)
            if child is not None:
                return child
        return unseen_at_random(history, rng)

    def _winner(self, merit: NDArray[np.int64], rng: np.random.Generator) -> int:
        size = min(self._tournament_size, len(merit))
        return int(merit[rng.choice(len(merit), size, replace=False).min()])

    def _mutate(self, parent: Tokens, history: History, rng: np.random.Generator) -> Tokens | None:
        """Change one parameter so that the result was not seen, or None where every neighbour was."""
        children, weights = [], []
        for i, (name, distribution) in enumerate(history.space.items()):
            ordered = is_ordered(name, distribution, self._ordered)
            for token in range(history.sizes[i]):
                child = (*parent[:i], token, *parent[i + 1 :])
                if token != parent[i] and child not in history.seen:
                    children.append(child)
                    weights.append(self._neighbour_bias if ordered and abs(token - parent[i]) == 1 else 1.0)
        if not children:
            return None
        probabilities = np.asarray(weights) / np.sum(weights)
        return children[int(rng.choice(len(children), p=probabilities))]


def evolution(
    space: SearchSpace,
    seed: int,
    *,
    population_size: int = 50,
    tournament_size: int = 20,
    n_startup_trials: int = 10,
    neighbour_bias: float = 4.0,
    crossover: float = 0.0,
) -> EvolutionSampler:
    """Regularized evolution: for many trials, many workers or several objectives."""
    return EvolutionSampler(
        seed=seed,
        population_size=population_size,
        tournament_size=tournament_size,
        n_startup_trials=n_startup_trials,
        neighbour_bias=neighbour_bias,
        crossover=crossover,
        ordered=[name for name, parameter in space.parameters.items() if parameter.ordered],
    )
