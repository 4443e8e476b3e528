"""What a study's supernet puts forward."""

from __future__ import annotations

import math
from dataclasses import dataclass

from optuna.study import Study

from nas_optuna.samplers.prior import (
    probabilities,
    read_alphas,
    starts,
    top,
)
from nas_optuna.spaces import SearchSpace
from nas_optuna.spaces.architecture import Architecture

ORIGIN = "supernet"
"""Origin of a trial that a supernet's export put into the queue."""


@dataclass(frozen=True)
class Candidate:
    """What a supernet puts forward.

    Attributes:
        architecture: The architecture.
        by: ``"score"``, of the best by the score, the first of them by short trainings; or ``"alphas"``, the most
            probable choices.
        probability: Under the alphas.
    """

    architecture: Architecture
    by: str
    probability: float


def candidates(study: Study, space: SearchSpace, count: int) -> list[Candidate]:
    """The best that a study's supernet found, best first.

    With strategy ``"fair"`` the best by the score come first, and differ from each other; the alphas' argmax follows
    the first of them. With ``"darts"`` these are the most probable.

    Raises:
        StudyError: The study has no trained supernet.
        ArchitectureError: It was trained for another space.
    """
    alphas, _ = read_alphas(study)
    by_alphas = [Candidate(a, "alphas", p) for a, p in most_probable(study, space, count)]
    scored = [space.architecture(params) for params in starts(study)]
    if not scored:
        return by_alphas
    shares = {name: probabilities(logits) for name, logits in alphas.items()}

    def probability(architecture: Architecture) -> float:
        tokens = zip(space.parameters, space.tokens(architecture), strict=True)
        return float(math.prod(shares[name][token] for name, token in tokens))

    by_score = [Candidate(a, "score", probability(a)) for a in scored]
    listed = [by_score[0], *by_alphas[:1], *by_score[1:]]
    distinct = {candidate.architecture: candidate for candidate in reversed(listed)}
    return [c for c in listed if distinct[c.architecture] is c][:count]


def most_probable(study: Study, space: SearchSpace, count: int) -> list[tuple[Architecture, float]]:
    """The argmax of a study's alphas and what follows it, with their probabilities.

    Raises:
        StudyError: The study has no trained supernet.
        ArchitectureError: It was trained for another space.
    """
    alphas, _ = read_alphas(study)
    found = []
    for indices, log_probability in top(alphas, count):
        params = {name: space.parameters[name].choices[i] for name, i in indices.items() if name in space.parameters}
        found.append((space.architecture(params), math.exp(log_probability)))
    return found
