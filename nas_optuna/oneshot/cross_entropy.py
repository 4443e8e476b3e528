"""Alphas and the best architecture, found on frozen shared weights with forward passes only.

The alphas are a product of one distribution per parameter, fitted by the cross-entropy method (Rubinstein 1999): draw
architectures, keep the best share, move each distribution towards their shares of choices. The best architecture is
not bound to a product: a short evolutionary search over single mutations looks for it.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from nas_optuna.study.supernet_result import Tokens

Utility = Callable[[Sequence[Tokens]], Sequence[float]]
"""Utilities of architectures: the higher, the better; called once for each architecture."""

ROUNDS = 4
"""Rounds of draws; each draws from the distribution that the round before it gave."""
FREE_DRAWS = 1000
"""Draws per round where all architectures are evaluated already, so that a draw costs nothing."""
ELITE = 0.15
"""The share of a round's draws that the alphas move towards."""
RATE = 0.5
"""How far the alphas move towards the best of a round."""
LEAST = 0.05
"""The least probability of a choice as a share of an even one, so that a wrong prior excludes nothing."""
SEARCH_SHARE = 0.4
"""The share of all evaluations that the evolutionary search gets."""
POPULATION, CHILDREN = 24, 16


@dataclass
class Evaluated:
    """Architectures and their utilities, each evaluated once, and at most so many."""

    utility: Utility
    limit: int
    found: dict[Tokens, float] = field(default_factory=dict)  # in the order of evaluation

    def __call__(self, wanted: Sequence[Tokens]) -> None:
        """Evaluate those that are new, as far as the limit allows."""
        new = [tokens for tokens in dict.fromkeys(wanted) if tokens not in self.found][: self.left]
        if new:
            self.found |= zip(new, self.utility(new), strict=True)

    @property
    def left(self) -> int:
        """How many more may be evaluated."""
        return max(0, self.limit - len(self.found))

    def best(self, count: int) -> list[Tokens]:
        """The best so far, best first."""
        return sorted(self.found, key=self.found.__getitem__, reverse=True)[:count]


def learn_alphas(sizes: Sequence[int], evaluated: Evaluated, rng: random.Random) -> list[list[float]]:
    """Fit one distribution for each parameter to the best architectures."""
    shares = [[1 / size] * size for size in sizes]
    per_round = max(8, int(evaluated.limit * (1 - SEARCH_SHARE)) // ROUNDS) if evaluated.left else FREE_DRAWS
    for _ in range(ROUNDS):
        drawn = [tuple(rng.choices(range(len(p)), p)[0] for p in shares) for _ in range(per_round)]
        evaluated(drawn)
        known = sorted((t for t in drawn if t in evaluated.found), key=evaluated.found.__getitem__, reverse=True)
        elite = known[: max(2, round(ELITE * per_round))]
        shares = [_moved(p, [tokens[i] for tokens in elite]) for i, p in enumerate(shares)]
    return [[math.log(share) for share in p] for p in shares]


def _moved(shares: Sequence[float], chosen: Sequence[int]) -> list[float]:
    even = 1 / len(shares)
    moved = [(1 - RATE) * p + RATE * chosen.count(i) / max(1, len(chosen)) for i, p in enumerate(shares)]
    floored = [max(p, LEAST * even) for p in moved]
    return [p / sum(floored) for p in floored]


def search_best(sizes: Sequence[int], evaluated: Evaluated, rng: random.Random) -> Tokens:
    """The best architecture found by mutating the best ones, until nothing new is left or the limit is reached."""
    vain = 0
    while evaluated.left and vain < 5:
        parents = evaluated.best(POPULATION)
        before = len(evaluated.found)
        evaluated([_mutated(rng.choice(parents), sizes, rng) for _ in range(CHILDREN)])
        vain = vain + 1 if len(evaluated.found) == before else 0
    return evaluated.best(1)[0]


def _mutated(parent: Tokens, sizes: Sequence[int], rng: random.Random) -> Tokens:
    """One parameter changed; two in a third of the cases."""
    child = list(parent)
    for _ in range(1 if rng.random() < 2 / 3 else 2):
        place = rng.randrange(len(sizes))
        child[place] = rng.randrange(sizes[place])
    return tuple(child)


def diverse(ranked: Sequence[Tokens], count: int, distance: int) -> list[Tokens]:
    """The best ones that differ from each other in at least `distance` parameters, best first."""
    # Where the ranking ends before enough are taken, the distance shrinks by one and it begins anew.

    def differences(a: Tokens, b: Tokens) -> int:
        return sum(x != y for x, y in zip(a, b, strict=True))

    taken: list[Tokens] = []
    while len(taken) < min(count, len(ranked)):
        for tokens in ranked:
            if len(taken) < count and all(differences(tokens, other) >= max(1, distance) for other in taken):
                taken.append(tokens)
        distance -= 1
    return taken


def agreeing(logits: Sequence[Sequence[float]], wanted: Tokens) -> list[list[float]]:
    """Logits whose argmax is `wanted`: its choices are raised a little above the largest."""
    # For a study with limits: the most probable choices, each for itself, may add up to more than is allowed.
    return [
        [max(p) + 1e-3 if i == token and value < max(p) else value for i, value in enumerate(p)]
        for p, token in zip(logits, wanted, strict=True)
    ]
