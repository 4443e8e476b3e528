"""What a Gaussian process is told beforehand, as far as the study's own trials bear it out.

A supernet's score, or what an earlier study found, tells where good architectures are; the process models what that
leaves unexplained. The coefficient of such a score is a ridge regression's, so that a score that does not help is
ignored, and it fades as trials arrive: what many trainings say needs no prior (as the prior of πBO, Hvarfner et al.
2022, fades).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray
from optuna.study import Study

from nas_optuna.samplers.history import History, Tokens

Array = NDArray[np.float64]
Scorer = Callable[[Sequence[Tokens]], Array]
"""From token sequences to scores, the higher the better; ``[tokens]``."""
Beforehand = Callable[[Study, History, Sequence[bool]], Sequence[tuple[Scorer, float]]]
"""From a study, its history and which parameters are ordered to scores, each with its fading; see `LearnedMean`."""

SHRINKAGE = 2.0
"""Trials that it takes to believe half of a coefficient."""


class LearnedMean:
    """The sum over scores of ``coefficient · score``; each coefficient is learned on what those before it leave.

    Args:
        scores: What is known beforehand, each with the trials after which half of its coefficient is left.
        tokens: What was trained.
        merit: Its merit, standardised; ``[points]``.
    """

    def __init__(self, scores: Sequence[tuple[Scorer, float]], tokens: Sequence[Tokens], merit: Array) -> None:
        self._terms: list[tuple[Scorer, float, float]] = []
        rest = merit
        for scorer, fading in scores:
            values = scorer(tokens)
            centre = float(values.mean())
            coefficient = _slope(values - centre, rest) / (1 + (len(merit) / fading) ** 2)
            rest = rest - coefficient * (values - centre)
            self._terms.append((scorer, centre, coefficient))

    def __call__(self, tokens: Sequence[Tokens]) -> Array:
        """The mean at each token sequence, in units of merit; ``[tokens]``."""
        result: Array = np.zeros(len(tokens))
        for scorer, centre, coefficient in self._terms:
            if coefficient > 0:
                result += coefficient * (scorer(tokens) - centre)
        return result


def _slope(centred: Array, merit: Array) -> float:
    """How far merit grows with a centred score; 0 where it falls."""
    return max(0.0, float(centred @ merit / (centred @ centred + SHRINKAGE * max(centred.var(), 1e-9))))
