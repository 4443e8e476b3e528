"""The architectures that a study's supernet proposes."""

from __future__ import annotations

import math
from dataclasses import dataclass

from nas_optuna.spaces import SearchSpace
from nas_optuna.spaces.architecture import Architecture
from nas_optuna.study.supernet_result import SupernetResult

ORIGIN = "supernet"
"""The origin of trials that a supernet's export put into the queue."""


@dataclass(frozen=True)
class Candidate:
    """An architecture that a supernet proposes."""

    architecture: Architecture
    by: str  # "score" for the best by the score (or short trainings), "alphas" for the most probable choices
    probability: float  # under the alphas


def candidates(result: SupernetResult, space: SearchSpace, count: int) -> list[Candidate]:
    """The best that a study's supernet found, best first."""
    # Where there is a score, the best by it come first, and differ from each other; the alphas' argmax follows the
    # first of them. Otherwise these are the most probable.
    most_probable = [
        ({name: space.parameters[name].choices[i] for name, i in indices.items() if name in space.parameters}, log)
        for indices, log in result.most_probable(count)
    ]
    by_alphas = [Candidate(space.architecture(params), "alphas", math.exp(log)) for params, log in most_probable]
    scored = [space.architecture(params) for params in result.start_params()]
    if not scored:
        return by_alphas
    shares = result.probabilities()

    def probability(architecture: Architecture) -> float:
        tokens = zip(space.parameters, space.tokens(architecture), strict=True)
        return float(math.prod(shares[name][token] for name, token in tokens))

    by_score = [Candidate(a, "score", probability(a)) for a in scored]
    listed = [by_score[0], *by_alphas[:1], *by_score[1:]]
    distinct = {candidate.architecture: candidate for candidate in reversed(listed)}
    return [c for c in listed if distinct[c.architecture] is c][:count]
