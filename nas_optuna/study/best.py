"""What "best" means: one rule for tables, reports, exports and kept weights."""

from __future__ import annotations

from collections.abc import Sequence

from optuna.study import Study
from optuna.trial import FrozenTrial, TrialState

from nas_optuna.study.pareto import is_feasible
from nas_optuna.study.records import training_levels
from nas_optuna.study.studies import maximizes


def complete_trials(study: Study) -> list[FrozenTrial]:
    """Trials that were trained to the end and are inside the study's limits."""
    return [t for t in study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,)) if is_feasible(t)]


def longest_trained(trials: Sequence[FrozenTrial]) -> list[FrozenTrial]:
    """Those that were trained for as long as any, in their order: only these can be compared."""
    levels = training_levels(trials)
    return [trial for trial, level in zip(trials, levels, strict=True) if level == 0]


def best_of(study: Study, trials: Sequence[FrozenTrial]) -> FrozenTrial | None:
    """The best in the first objective of those trained longest; the earliest of equals; None where there is none."""
    sign = -1.0 if maximizes(study) else 1.0
    return min(longest_trained(trials), key=lambda trial: (sign * trial.values[0], trial.number), default=None)


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
    return equals + [trial for trial in study.best_trials if trial.number not in known]
