"""What a study of ours knows of architectures before its first trial: a supernet's score, and an earlier study."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from optuna.study import Study

from nas_optuna.samplers.earlier import experience_of
from nas_optuna.samplers.history import History
from nas_optuna.samplers.learned_mean import Scorer
from nas_optuna.study.optuna_internals import study_user_attributes
from nas_optuna.study.schema import StudyKey
from nas_optuna.study.supernet_result import find_predictor

SUPERNET_FADING, EARLIER_FADING = 50.0, 10.0
"""Trials after which half of a coefficient is left; an earlier study knows few architectures, a supernet all."""


def score_of(study: Study, history: History) -> Scorer | None:
    """The supernet's scores; None in a study without a score."""
    predictor = find_predictor(study, {name: getattr(d, "choices", ()) for name, d in history.space.items()})
    if predictor is None:
        return None
    return lambda tokens: np.array(predictor([history.params(one) for one in tokens]))


def beforehand(study: Study, history: History, ordered: Sequence[bool]) -> list[tuple[Scorer, float]]:
    """A supernet's score, and the experience of an earlier study, as far as the study has them."""
    found = (score_of(study, history), SUPERNET_FADING), (experience_of(study, history, ordered), EARLIER_FADING)
    return [(scorer, fading) for scorer, fading in found if scorer is not None]


def images_of(study: Study) -> int | None:
    """On how many validation images the first objective was measured; None where it is no accuracy."""
    if (study.metric_names or [""])[0] != "accuracy":
        return None
    known = study_user_attributes(study).get(StudyKey.DATA)
    images = known.get("validation") if isinstance(known, dict) else None
    return images if isinstance(images, int) and images > 0 else None
