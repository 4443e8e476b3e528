"""What a Gaussian process is told beforehand: a supernet's score, as far as the study's own trials bear it out.

The process models what the score leaves unexplained. The score's coefficient is a ridge regression's, so that a
score that does not help is ignored, and it fades as trials arrive: what many trainings say needs no prior (as the
prior of πBO, Hvarfner et al. 2022, fades).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray
from optuna.study import Study

from nas_optuna.samplers.base import History
from nas_optuna.samplers.encoding import Tokens
from nas_optuna.samplers.prior import load_predictor

Array = NDArray[np.float64]

SHRINKAGE = 2.0
"""Trials that it takes to believe half of a coefficient."""
FADING = 50.0
"""Trials after which half of the coefficient is left."""


def score_of(study: Study, history: History) -> Callable[[Sequence[Tokens]], Array] | None:
    """From token sequences to the supernet's scores; None in a study without a score."""
    predictor = load_predictor(study, {name: getattr(d, "choices", ()) for name, d in history.space.items()})
    if predictor is None:
        return None
    return lambda tokens: np.array(predictor([history.params(one) for one in tokens]))


class LearnedMean:
    """``coefficient · score``, the coefficient from trials.

    Args:
        score: From token sequences to scores.
        tokens: What was trained.
        merit: Its merit, standardised; ``[points]``.
    """

    def __init__(self, score: Callable[[Sequence[Tokens]], Array], tokens: Sequence[Tokens], merit: Array) -> None:
        self._score = score
        scores = score(tokens)
        self._centre = float(scores.mean())
        centred = scores - self._centre
        slope = float(centred @ merit / (centred @ centred + SHRINKAGE * max(centred.var(), 1e-9)))
        self._coefficient = max(0.0, slope) / (1 + len(merit) / FADING)

    def __call__(self, tokens: Sequence[Tokens]) -> Array:
        """The mean at each token sequence, in units of merit; ``[tokens]``."""
        result: Array = self._coefficient * (self._score(tokens) - self._centre)
        return result
