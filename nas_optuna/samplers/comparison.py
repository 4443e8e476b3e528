"""How a trial stands among others: complete ones by value, pruned ones at the epoch that they reached."""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence

import numpy as np
from numpy.typing import NDArray
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState

SPREAD = 0.29
"""Standard deviation of a rank that is uniform in [0, 1]; standardised values are scaled to the same."""


def is_informative(trial: FrozenTrial) -> bool:
    """Whether there is a value to learn from: the trial is complete, or pruned after at least one epoch."""
    return trial.state == TrialState.COMPLETE or (trial.state == TrialState.PRUNED and bool(trial.intermediate_values))


def violation(trial: FrozenTrial) -> float:
    """By how much a trial breaks its constraints in sum; 0 where it is feasible."""
    return sum(max(0.0, value) for value in trial.constraints.values())


def quantile_rank(trial: FrozenTrial, others: Collection[FrozenTrial], sign: float) -> float:
    """The share of `others` that a trial beats, from 0 to 1; equals, such as itself, count by half."""
    return sum(_beats(trial, other, sign) for other in others) / len(others)


def z_score(trial: FrozenTrial, others: Collection[FrozenTrial], sign: float) -> float:
    """How far a trial is above the mean of `others`, in standard deviations within ±3, times `SPREAD`."""
    # A pruned trial is compared at its last epoch, with all that reached it. Failed and infeasible ones are at -3.
    if trial.state == TrialState.FAIL or violation(trial) > 0:
        return -3 * SPREAD
    step = _last_step(trial)
    values = np.array([v for other in others if (v := _value_at(other, step)) is not None])
    values = values[np.isfinite(values)]
    value = _value_at(trial, step)
    assert value is not None
    mean, deviation = (values.mean(), values.std()) if len(values) else (0.0, 0.0)
    deviations = np.nan_to_num(sign * (value - mean) / (deviation + 1e-12), nan=-3)
    return SPREAD * float(np.clip(deviations, -3, 3))


def nondominated_ranks(trials: Sequence[FrozenTrial], directions: Sequence[StudyDirection]) -> NDArray[np.int64]:
    """Rank complete and pruned trials; 0 is the first front."""
    signs = np.array([1.0 if d == StudyDirection.MINIMIZE else -1.0 for d in directions])
    # Compared first, as a tuple: complete before pruned, then by violation, or by the last step that was reached.
    tiers: list[tuple[int, float]] = []
    losses = np.empty((len(trials), len(signs)))
    for i, trial in enumerate(trials):
        if trial.state == TrialState.COMPLETE:
            tiers.append((0, violation(trial)))
            losses[i] = signs * np.asarray(trial.values)
        else:
            step = max(trial.intermediate_values)
            tiers.append((1, -step))
            losses[i] = signs * trial.intermediate_values[step]
    losses = np.nan_to_num(losses, nan=np.inf, posinf=np.inf, neginf=-np.inf)
    order = {tier: i for i, tier in enumerate(sorted(set(tiers)))}
    tier = np.array([order[t] for t in tiers])
    better = (losses[:, None] <= losses).all(2) & (losses[:, None] < losses).any(2)
    dominates = (tier[:, None] < tier) | ((tier[:, None] == tier) & better)
    ranks = np.full(len(trials), -1)
    dominators, rank = dominates.sum(0), 0  # of those without a rank
    while (left := ranks < 0).any():
        front = left & (dominators == 0)
        ranks[front] = rank
        dominators -= dominates[front].sum(0)
        rank += 1
    return ranks


def _beats(a: FrozenTrial, b: FrozenTrial, sign: float) -> float:
    """1, ½ or 0. The first difference decides: failed, infeasible by how much, value at the last common epoch."""
    step = min(_last_step(a), _last_step(b))
    x, y = _value_at(a, step), _value_at(b, step)
    if x is None or y is None:  # the epochs differ, so neither can be compared: the one that came further wins
        x, y, sign = _last_step(a), _last_step(b), 1.0
    mine = (a.state != TrialState.FAIL, -violation(a), sign * x)
    theirs = (b.state != TrialState.FAIL, -violation(b), sign * y)
    return 0.5 if mine == theirs else float(mine > theirs)


def _last_step(trial: FrozenTrial) -> float:
    return math.inf if trial.state == TrialState.COMPLETE else max(trial.intermediate_values, default=-1)


def _value_at(trial: FrozenTrial, step: float) -> float | None:
    if step == math.inf:
        return trial.value if trial.state == TrialState.COMPLETE else None
    return trial.intermediate_values.get(int(step))
