"""What a trial takes over rather than train it: its own results from before a kill, or those of an earlier trial."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import optuna
from optuna.trial import BaseTrial, FrozenTrial, Trial, TrialState

from nas_optuna.objectives import Criterion
from nas_optuna.study.optuna_internals import known_of
from nas_optuna.study.schema import TrialKey, attribute


def own_metrics(trial: BaseTrial, choice: Mapping[str, Any]) -> Mapping[str, float]:
    """The metrics of a trial whose last step of this choice was recorded, and not yet its end; empty otherwise."""
    known = known_of(trial) if isinstance(trial, Trial) else None  # without a query
    if known is None or not choice.items() <= known.user_attrs.items():
        return {}
    found: Mapping[str, float] = attribute(known, TrialKey.METRICS, {})
    return found


def are_known(criteria: Sequence[Criterion], metrics: Mapping[str, float]) -> bool:
    """Whether the objectives follow from these metrics; release 0.2 kept none, and JSON has no infinity."""
    return all(criterion.metric is None or criterion.metric in metrics for criterion in criteria)


def values_of_another(
    trial: BaseTrial, earlier: FrozenTrial, criteria: Sequence[Criterion], costs: Mapping[str, float]
) -> list[float]:
    """End a trial like an earlier one of the same architecture."""
    trial.set_user_attr(TrialKey.DUPLICATE_OF, earlier.number)
    for name in (TrialKey.CAUSE, TrialKey.ACCURACY, TrialKey.SPREAD, TrialKey.METRICS):
        if (value := attribute(earlier, name)) is not None:
            trial.set_user_attr(name, value)
    if earlier.state == TrialState.COMPLETE:
        # Not what the study has: a function around this objective may have changed it, and will do so again.
        metrics = attribute(earlier, TrialKey.METRICS, {})
        return [c.value(metrics, costs) for c in criteria] if are_known(criteria, metrics) else list(earlier.values)
    if earlier.last_step is not None:  # a pruned trial's value for Optuna
        trial.report(earlier.intermediate_values[earlier.last_step], earlier.last_step)
    raise optuna.TrialPruned(f"as trial {earlier.number}")
