import math
from typing import Any

import numpy as np
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState, create_trial

from nas_optuna.samplers.history import first_nondominated, nondominated_ranks, quantile_rank, z_score


def finished(value: float | None, curve: dict[int, float], state: TrialState) -> FrozenTrial:
    return create_trial(state=state, value=value, intermediate_values=curve)


def test_pruned_trials_are_ranked_at_their_last_epoch() -> None:
    best = finished(0.9, {1: 0.5, 2: 0.8, 3: 0.9}, TrialState.COMPLETE)
    worst = finished(0.6, {1: 0.4, 2: 0.5, 3: 0.6}, TrialState.COMPLETE)
    early = finished(None, {1: 0.2}, TrialState.PRUNED)
    late = finished(None, {1: 0.3, 2: 0.6}, TrialState.PRUNED)
    failed = finished(None, {}, TrialState.FAIL)
    everyone = [best, worst, early, late, failed]
    ranks = [quantile_rank(t, everyone, 1.0) for t in everyone]
    assert ranks == [0.9, 0.5, 0.3, 0.7, 0.1]  # `late` was above `worst` at epoch 2
    assert [quantile_rank(t, everyone[:4], -1.0) for t in everyone[:4]] == [0.125, 0.625, 0.875, 0.375]
    assert z_score(best, everyone, 1.0) > z_score(late, everyone, 1.0) > z_score(early, everyone, 1.0)
    assert z_score(failed, everyone, 1.0) < z_score(early, everyone, 1.0)


def test_infeasible_trials_rank_last_by_violation() -> None:
    trials = [
        create_trial(state=TrialState.COMPLETE, value=value, constraints={"latency": over})
        for value, over in ((0.5, -1.0), (0.9, 0.2), (0.9, 0.1))
    ]
    assert np.argsort([quantile_rank(t, trials, 1.0) for t in trials]).tolist() == [1, 2, 0]


def trial(values: tuple[float, ...], **options: Any) -> FrozenTrial:
    return create_trial(values=values, **options)


def test_ranks_of_several_objectives_are_fronts() -> None:
    directions = [StudyDirection.MAXIMIZE, StudyDirection.MINIMIZE]
    trials = [trial(v) for v in ((0.9, 5.0), (0.8, 2.0), (0.8, 6.0), (0.7, 2.0), (0.6, 9.0), (0.9, 5.0))]
    assert nondominated_ranks(trials, directions).tolist() == [0, 0, 1, 1, 2, 0]


def test_ranks_put_feasible_before_infeasible_before_pruned() -> None:
    trials = [
        trial((0.1,), constraints={"c": 0.0}),
        trial((0.9,), constraints={"c": 2.0}),
        trial((0.2,), constraints={"c": 1.0}),
        create_trial(state=TrialState.PRUNED, intermediate_values={1: 0.99}),
        create_trial(state=TrialState.PRUNED, intermediate_values={1: 0.1, 2: 0.2}),
        trial((math.inf,)),
    ]
    assert nondominated_ranks(trials, [StudyDirection.MAXIMIZE]).tolist() == [1, 3, 2, 5, 4, 0]


def test_the_first_of_the_first_front_is_found_without_comparing_all_pairs() -> None:
    rng = np.random.default_rng(0)
    directions = [StudyDirection.MAXIMIZE, StudyDirection.MINIMIZE]
    for turn in range(200):
        rows = rng.integers(0, 8, (1 + turn % 30, 1 + turn % 2)).astype(float)
        trials = [trial(tuple(row), constraints={"c": float(turn % 5 - 3)}) for row in rows]
        trials += [trial((math.inf,) * rows.shape[1])]
        some = directions[: rows.shape[1]]
        assert first_nondominated(trials, some) == int(np.argmin(nondominated_ranks(trials, some)))
    many = [trial((float(i % 100), float(i // 100))) for i in range(5_000, 0, -1)]
    assert first_nondominated(many, directions) == 4_901


def test_ranks_are_what_is_left_when_fronts_are_taken_away() -> None:
    rng = np.random.default_rng(0)
    directions = [StudyDirection.MAXIMIZE, StudyDirection.MINIMIZE]
    for objectives in (1, 2):
        trials = [trial(tuple(rng.integers(0, 8, objectives).astype(float))) for _ in range(60)]
        left, expected, rank = list(range(60)), [0] * 60, 0
        values = np.array([t.values for t in trials]) * np.array([-1, 1])[:objectives]
        while left:
            front = [
                i
                for i in left
                if not any((values[j] <= values[i]).all() and (values[j] < values[i]).any() for j in left)
            ]
            for i in front:
                expected[i] = rank
                left.remove(i)
            rank += 1
        assert nondominated_ranks(trials, directions[:objectives]).tolist() == expected
