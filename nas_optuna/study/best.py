"""What "best" means: one rule for tables, reports, exports and kept weights."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from optuna.study import Study, StudyDirection
from optuna.trial import FrozenTrial, TrialState

from nas_optuna.study.records import training_levels
from nas_optuna.study.schema import StudyKey
from nas_optuna.study.studies import maximizes


def is_feasible(trial: FrozenTrial) -> bool:
    """Whether a trial is inside every limit; so is one of a study without limits."""
    return all(excess <= 0 for excess in trial.constraints.values())


def complete_trials(study: Study) -> list[FrozenTrial]:
    """Trials that were trained to the end and are inside the study's limits."""
    return [t for t in study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,)) if is_feasible(t)]


def longest_trained(trials: Sequence[FrozenTrial]) -> list[FrozenTrial]:
    """Those that were trained for as long as any, in their order: only these can be compared."""
    levels = training_levels(trials)
    return [trial for trial, level in zip(trials, levels, strict=True) if level == 0]


def best_of(study: Study, trials: Sequence[FrozenTrial]) -> FrozenTrial | None:
    """The best in the first objective of those trained longest; the earliest of equals; None where there is none.

    Where a fit has chosen one of them, and trained it anew, that one: it is what the study was for, and may be the
    reference, which a better figure of another network did not clearly beat.
    """
    comparable = longest_trained(trials)
    sign = -1.0 if maximizes(study) else 1.0
    best = min(comparable, key=lambda trial: (sign * trial.values[0], trial.number), default=None)
    chosen = _chosen(study, comparable)
    return next((trial for trial in comparable if trial.number == chosen), best)


def _chosen(study: Study, trials: Sequence[FrozenTrial]) -> int | None:
    """The number of the trial that a fit has chosen; None where it has not, or has not seen all of these."""
    state: Mapping[str, Any] = study.user_attrs.get(StudyKey.FIT, {})
    final: Mapping[str, Any] = state.get("final", {})
    if any(trial.number >= final.get("trials", trial.number + 1) for trial in trials):
        return None
    return final.get("trial")


def best_trial(study: Study) -> FrozenTrial | None:
    """The best complete trial; see `best_of`."""
    return best_of(study, complete_trials(study))


def best_trials(study: Study) -> list[FrozenTrial]:
    """The best and its equals; with several objectives those that no other trial beats in all of them, too."""
    best = best_trial(study)
    equals = [t for t in longest_trained(complete_trials(study)) if best is not None and t.values == best.values]
    if len(study.directions) == 1:
        return equals
    known = {trial.number for trial in equals}
    return equals + [trial for trial in front_trials(study) if trial.number not in known]


def front_trials(study: Study) -> list[FrozenTrial]:
    """The complete trials that no other one beats in every objective, by their numbers; only what can be compared."""
    trials = longest_trained(complete_trials(study))
    signs = np.array([-1.0 if direction == StudyDirection.MAXIMIZE else 1.0 for direction in study.directions])
    losses = signs * np.array([trial.values for trial in trials]).reshape(len(trials), len(signs))
    front: list[int] = []
    for i in np.lexsort(losses.T[::-1]):  # whatever beats a trial comes before it
        others = losses[front]
        if not ((others <= losses[i]).all(1) & (others < losses[i]).any(1)).any():
            front.append(int(i))
    return [trials[i] for i in sorted(front)]
