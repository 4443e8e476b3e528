"""The ranking of architectures, with or without shared weights: alphas, the best architecture, and data for samplers.

Both are found with forward passes only. The alphas are a product of one distribution per parameter, fitted by the
cross-entropy method (Rubinstein 1999): draw architectures, keep the best share, move each distribution towards their
choices. The best architecture need not be the mode of a product: a short evolutionary search by mutations finds it.
"""

from __future__ import annotations

import itertools
import math
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray

from nas_optuna.errors import needing_every_network
from nas_optuna.oneshot.price import cost_of, with_cost
from nas_optuna.oneshot.score import MIN_TRAININGS, Score, SharedFigures, distil, features, logits
from nas_optuna.oneshot.short_trainings import ShortTrainer
from nas_optuna.spaces import SearchSpace
from nas_optuna.spaces.architecture import Architecture
from nas_optuna.spec import SupernetSpec
from nas_optuna.study.supernet_result import Predictor, SupernetResult, Tokens, indicators

ROUNDS = 4
"""Rounds of draws, each from the distribution after the previous round."""
FREE_DRAWS = 1000
"""Draws per round if all architectures are evaluated already, so that draws are free."""
ELITE = 0.15
"""The share of a round's draws that the alphas move towards."""
RATE = 0.5
"""The step size of the alphas towards the best of a round."""
LEAST = 0.05
"""The least probability of a choice, as a share of the uniform one, so that a wrong prior excludes nothing."""
SEARCH_SHARE = 0.4
"""The share of all evaluations for the evolutionary search."""
POPULATION, CHILDREN = 24, 16


@dataclass
class Evaluated:
    """Architectures with their utilities, each evaluated once, up to a limit."""

    utility: Callable[[Sequence[Tokens]], Sequence[float]]  # higher is better; called once for each architecture
    limit: int
    found: dict[Tokens, float] = field(default_factory=dict)  # in the order of evaluation

    def __call__(self, wanted: Sequence[Tokens]) -> None:
        """Evaluate the new ones, as far as the limit allows."""
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


def learn_alphas(
    sizes: Sequence[int], evaluated: Evaluated, rng: random.Random, listed: Sequence[Tokens] | None = None
) -> list[list[float]]:
    """Fit one distribution for each parameter to the best architectures, of a list if there is one."""
    shares = [[1 / size] * size for size in sizes]
    per_round = max(8, int(evaluated.limit * (1 - SEARCH_SHARE)) // ROUNDS) if evaluated.left else FREE_DRAWS
    for _ in range(ROUNDS):
        if listed:
            # As multiples of the largest, since the product of hundreds of shares may be too small for a number.
            logs = [sum(math.log(p[i]) for p, i in zip(shares, tokens, strict=True)) for tokens in listed]
            largest = max(logs)
            drawn = rng.choices(listed, [math.exp(log - largest) for log in logs], k=per_round)
        else:
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
    """The best architecture found by mutating the best ones, until nothing new is found or the limit is reached."""
    vain = 0
    while evaluated.left and vain < 5:
        parents = evaluated.best(POPULATION)
        before = len(evaluated.found)
        evaluated([_mutated(rng.choice(parents), sizes, rng) for _ in range(CHILDREN)])
        vain = vain + 1 if len(evaluated.found) == before else 0
    return evaluated.best(1)[0]


def _mutated(parent: Tokens, sizes: Sequence[int], rng: random.Random) -> Tokens:
    """A child with one changed parameter, or with two in a third of the cases."""
    child = list(parent)
    for _ in range(1 if rng.random() < 2 / 3 else 2):
        place = rng.randrange(len(sizes))
        child[place] = rng.randrange(sizes[place])
    return tuple(child)


def diverse(ranked: Sequence[Tokens], count: int, distance: int) -> list[Tokens]:
    """The best ones that differ from each other in at least `distance` parameters, best first."""
    # If the ranking ends before enough are taken, it is repeated with a smaller distance.

    def differences(a: Tokens, b: Tokens) -> int:
        return sum(x != y for x, y in zip(a, b, strict=True))

    taken: list[Tokens] = []
    while len(taken) < min(count, len(ranked)):
        for tokens in ranked:
            if len(taken) < count and all(differences(tokens, other) >= max(1, distance) for other in taken):
                taken.append(tokens)
        distance -= 1
    return taken


def sample_distinct(
    space: SearchSpace,
    listed: Sequence[Architecture] | None,
    count: int,
    rng: random.Random,
    accept: Callable[[Architecture], bool] = lambda architecture: True,
) -> list[Architecture]:
    """Distinct random architectures of a list, or of the whole space without one; fewer if there are few."""
    if listed is None:
        return space.sample_distinct(count, rng, accept)
    return list(itertools.islice(filter(accept, rng.sample(listed, len(listed))), count))


def agreeing(logits: Sequence[Sequence[float]], wanted: Tokens) -> list[list[float]]:
    """Logits whose argmax is `wanted`: its choices are raised slightly above the largest."""
    # For a study with limits: together, the most probable choices may cost more than is allowed.
    return [
        [max(p) + 1e-3 if i == token and value < max(p) else value for i, value in enumerate(p)]
        for p, token in zip(logits, wanted, strict=True)
    ]


UNKNOWN = SharedFigures(accuracy=0.0, loss=1.0)
"""The figures of every architecture without shared weights; a feature without variance has no weight."""
LOSS_SPREAD = 0.3
"""The assumed standard deviation of log losses without shared weights."""
STARTS = 24
"""How many architectures are kept for a warm start."""
REFERENCE = 128
"""Over how many random architectures features are standardised; over all if all are evaluated."""
OWN_SHARE = 0.3
"""The weight of an architecture's own score in the ranking of starts; the predictor has the rest.

With few images, the best of many networks is often the luckiest; the predictor averages over similar ones.
"""
COMBINATIONS = 10_000
"""The most combinations of choices of a space that is evaluated completely; several may give one architecture."""
POOL = 128
"""The size of the random pool from which the most informative architectures get short trainings."""
OUTSIDE = 1e6
"""The penalty on the utility outside a limit, larger than any score."""


@dataclass(eq=False)
class ArchitectureRanker:
    """Evaluates architectures with shared weights, if there are any, scores them, and chooses.

    A space with no more architectures than are to be evaluated is evaluated completely, in one sweep, which costs a
    fraction of as many random architectures.
    """

    space: SearchSpace
    shared: Callable[[Sequence[Architecture]], Sequence[SharedFigures]] | None  # weights on held-out images
    spec: SupernetSpec
    evaluations: int = 1000
    table: Mapping[str, float] = field(default_factory=dict)  # ``Operation.key`` → cost, for the cost term
    excess: Callable[[Architecture], float] = lambda architecture: 0.0  # above the study's limits; 0 is inside
    trained: Mapping[Architecture, float] = field(default_factory=dict)  # accuracies of own trainings
    short: ShortTrainer | None = None  # of random ones, to fit the score, and of the best by it, to rank these
    listed: Sequence[Architecture] | None = None  # all that may be proposed; None is the whole space

    def __post_init__(self) -> None:
        self._known: dict[Tokens, tuple[SharedFigures, NDArray[np.float64]]] = {}
        self._rng = random.Random(self.spec.seed)
        self._sizes = [len(p.choices) for p in self.space.parameters.values()]
        self._pool = self._evaluated_whole()
        reference = self._pool or [self._random() for _ in range(REFERENCE)]
        rows = self.rows(reference)
        self.score = Score.prior(rows)
        self._calibration_set = self._train_calibration_set()
        self.fit(self._calibration_set, short=True)
        own = [(self.space.tokens(architecture), accuracy) for architecture, accuracy in self.trained.items()]
        self.fit(own, short=False)
        # The score is scaled like the shared cross entropy, so that the weight of the cost term keeps its meaning.
        losses = np.log([self._known[tokens][0].loss for tokens in reference])
        spread = float(self.score(rows).std()) or 1.0
        self._loss_centre = float(np.median(losses))
        self._loss_scale = (float(losses.std()) if self.shared else LOSS_SPREAD) / spread

    def fit(self, trained: Sequence[tuple[Tokens, float]], *, short: bool) -> None:
        """Fit the score to trainings, short or complete: tokens and accuracies."""
        if trained:
            rows = self.rows([tokens for tokens, _ in trained])
            self.score = self.score.fit(rows, [accuracy for _, accuracy in trained], short=short)

    def rank(self) -> SupernetResult:
        """Learn the alphas, search the best architecture, fit the predictor, and train the finalists briefly."""
        # The best is by score, cost term and limits; among finalists, by short trainings.
        limit = len(self._pool) if self._pool else min(self.evaluations, self.space.size)
        evaluated = Evaluated(self.utilities, limit)
        if self._pool:
            evaluated(self._pool)
        alphas = learn_alphas(self._sizes, evaluated, self._rng, self._pool if self.listed else None)
        best = search_best(self._sizes, evaluated, self._rng)
        derived = tuple(max(range(len(p)), key=p.__getitem__) for p in alphas)
        if self.excess(self.space.from_tokens(derived)) > 0 >= self.excess(self.space.from_tokens(best)):
            alphas = agreeing(alphas, best)
        scored = list(self._known)
        scores = self.score(self.rows(scored))
        inputs = indicators(self._sizes, scored)
        coefficients, intercept = distil(inputs, scores)
        smooth = inputs @ coefficients + intercept
        usual: dict[Tokens, float] = {}
        for tokens, value in zip(scored, OWN_SHARE * scores + (1 - OWN_SHARE) * smooth, strict=True):
            usual.setdefault(self._canonical(tokens), value)
        starts, finalists = self._ranked_by_training(self._starts(best, evaluated, usual), usual)
        first = starts[0] if starts else best
        self.rows([first])
        return SupernetResult(
            alphas=dict(zip(self.space.parameters, alphas, strict=True)),
            best=str(self.space.from_tokens(first)),
            best_shared_accuracy=round(self._known[first][0].accuracy, 4) if self.shared else None,
            starts=starts,
            predictor=Predictor(
                {name: p.choices for name, p in self.space.parameters.items()}, coefficients, intercept
            ),
            calibration_set=self._calibration_set,
            score=self.score.to_dict(),
            score_trials=self.score.trials,
            score_short_trainings=self.score.short,
            finalists=finalists,
        )

    def _starts(self, best: Tokens, evaluated: Evaluated, usual: Mapping[Tokens, float]) -> list[Tokens]:
        """The best, then those inside the limits with the best smoothed scores, each network once."""
        best = self._canonical(best)
        inside = list(dict.fromkeys(self._canonical(t) for t, utility in evaluated.found.items() if utility > -OUTSIDE))
        utilities = self._utilities(inside, np.array([usual[t] for t in inside]))
        ranked = [inside[i] for i in np.argsort(utilities)[::-1] if inside[i] != best]
        return diverse([best, *ranked], STARTS, max(2, len(self._sizes) // 5)) if inside else []

    def _train_calibration_set(self) -> list[tuple[Tokens, float]]:
        """Architectures inside the limits with their accuracies after a short training; none if there are too few."""
        # The most informative ones of a random pool are trained.
        if self.short is None or not self.short.plan.calibrating:
            return []
        rng = random.Random(f"teachers {self.spec.seed}")  # unlike the random ones of a check with the same seed
        most = max(POOL, self.short.plan.calibrating)
        drawn = sample_distinct(
            self.space, self.listed, most, rng, lambda a: a not in self.trained and self.excess(a) <= 0
        )
        if len(drawn) < MIN_TRAININGS:
            return []
        pool = list(map(self.space.tokens, drawn))
        chosen = [pool[i] for i in self.score.most_informative(self.rows(pool), self.short.plan.calibrating)]
        reached = self.short([self.space.from_tokens(t) for t in chosen], self.short.plan.calibration_epochs)
        return [(t, accuracy) for t, accuracy in zip(chosen, reached, strict=True) if accuracy is not None]

    def _ranked_by_training(self, starts: list[Tokens], usual: Mapping[Tokens, float]) -> tuple[list[Tokens], int]:
        """The starts, the first few reordered by short trainings and cost term, and how many these are."""
        # Accuracies replace scores, with the mean and spread of the finalists' scores, to balance the cost term. A
        # finalist whose training fails comes after the others.
        wanted = starts[: self.short.plan.finalists] if self.short else []
        if self.short is None or len(wanted) < 2:
            return starts, 0
        reached = self.short([self.space.from_tokens(t) for t in wanted], self.short.plan.final_epochs)
        ended = [(t, accuracy) for t, accuracy in zip(wanted, reached, strict=True) if accuracy is not None]
        finalists = [t for t, _ in ended]
        odds, scores = logits([accuracy for _, accuracy in ended]), np.array([usual[t] for t in finalists])
        order: Sequence[int] = range(len(finalists))
        if len(finalists) > 1:
            standard = (odds - odds.mean()) / (float(odds.std()) or 1.0)
            utilities = self._utilities(finalists, scores.mean() + scores.std() * standard)
            order = np.argsort(-np.array(utilities), kind="stable").tolist()
        failed = [t for t in wanted if t not in finalists]
        return [*(finalists[i] for i in order), *failed, *starts[len(wanted) :]], len(finalists)

    def rows(self, tokens: Sequence[Tokens]) -> NDArray[np.float64]:
        """Features of architectures, each evaluated once."""
        new = [t for t in dict.fromkeys(tokens) if t not in self._known]
        if new:
            architectures = [self.space.from_tokens(t) for t in new]
            shared = self.shared(architectures) if self.shared else [UNKNOWN] * len(new)
            with needing_every_network("a supernet's score"):
                rows = features(self.space, architectures, shared)
            self._known |= {t: (s, row) for t, s, row in zip(new, shared, rows, strict=True)}
        return np.array([self._known[t][1] for t in tokens])

    def utilities(self, tokens: Sequence[Tokens]) -> list[float]:
        """Minus the loss that corresponds to the score, with the cost term; far lower outside the limits."""
        excesses = [self.excess(self.space.from_tokens(t)) for t in tokens]
        inside = [t for t, excess in zip(tokens, excesses, strict=True) if excess <= 0]
        found = iter(self._utilities(inside, self.score(self.rows(inside))) if inside else ())
        return [next(found) if excess <= 0 else -OUTSIDE * (1 + excess) for excess in excesses]

    def _utilities(self, tokens: Sequence[Tokens], scores: NDArray[np.float64]) -> list[float]:
        """The utilities of architectures inside the limits, from their scores."""
        losses = torch.as_tensor(np.exp(self._loss_centre - self._loss_scale * scores))
        if self.spec.latency_weight:
            costs = [cost_of(self.space, self.space.from_tokens(t), self.table) for t in tokens]
            losses = with_cost(self.spec, losses, torch.tensor(costs, dtype=losses.dtype))
        return (-losses).tolist()

    def _canonical(self, tokens: Tokens) -> Tokens:
        """The tokens of the same network in which choices that others switch off are 0."""
        return self.space.tokens(self.space.from_tokens(tokens))

    def _evaluated_whole(self) -> list[Tokens]:
        """Everything that is evaluated, if that is known beforehand: a small space, or a list, or a part of that."""
        if self.listed:
            chosen = sample_distinct(self.space, self.listed, self.evaluations, random.Random(self.spec.seed))
            return list(map(self.space.tokens, chosen))
        small = self.space.size <= self.evaluations and math.prod(self._sizes) <= COMBINATIONS
        return list(itertools.product(*map(range, self._sizes))) if small else []

    def _random(self) -> Tokens:
        return tuple(self._rng.randrange(size) for size in self._sizes)
