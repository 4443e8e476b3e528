"""Architectures that a study has trained before: their values are taken over, or their training goes on."""

from __future__ import annotations

import optuna
from optuna.study import Study
from optuna.trial import BaseTrial, FrozenTrial, Trial, TrialState

from nas_optuna.samplers.curves import PLAN
from nas_optuna.spaces.architecture import Architecture
from nas_optuna.study.optuna_internals import read_trial, trial_id_of
from nas_optuna.study.schema import TrialKey, attribute


def finished_with(study: Study, architecture: Architecture, identity: str, other_than: int) -> FrozenTrial | None:
    """The finished trial of a study that scored an architecture under an identity, rather than reused another's."""
    # A complete one comes before those that were stopped.
    wanted = {TrialKey.ARCHITECTURE: str(architecture), TrialKey.IDENTITY: identity, TrialKey.DUPLICATE_OF: None}
    ended = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE, TrialState.PRUNED))
    found = [t for t in ended if all(t.user_attrs.get(key) == value for key, value in wanted.items())]
    found = [other for other in found if other.number != other_than]
    return min(found, key=lambda other: other.state != TrialState.COMPLETE, default=None)


def goes_on(trial: BaseTrial, earlier: FrozenTrial, is_kept: bool) -> bool:
    """Whether a trial trains on where an earlier one was stopped, rather than take over that it was stopped."""
    if earlier.state != TrialState.PRUNED or attribute(earlier, TrialKey.CAUSE) is not None:
        return False
    # Its sampler knows that it was stopped, and wants to know how it ends.
    return is_kept or (isinstance(trial, Trial) and PLAN in read_trial(trial.study, trial_id_of(trial)).system_attrs)


def reused(trial: BaseTrial, earlier: FrozenTrial) -> list[float]:
    """End a trial as an earlier one of the same architecture ended."""
    trial.set_user_attr(TrialKey.DUPLICATE_OF, earlier.number)
    for name in (TrialKey.CAUSE, TrialKey.ACCURACY, TrialKey.METRICS):
        if (value := attribute(earlier, name)) is not None:
            trial.set_user_attr(name, value)
    if earlier.state == TrialState.COMPLETE:
        return list(earlier.values)
    if earlier.last_step is not None:  # its value, where Optuna looks for a pruned trial's
        trial.report(earlier.intermediate_values[earlier.last_step], earlier.last_step)
    raise optuna.TrialPruned(f"as trial {earlier.number}")
