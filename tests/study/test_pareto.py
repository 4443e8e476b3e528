import itertools
import random
import time

import optuna
import pytest
from optuna.trial import TrialState, create_trial

from nas_optuna.study.optuna_internals import hypervolume
from nas_optuna.study.results import feasible_share


def test_hypervolume_of_a_staircase() -> None:
    assert hypervolume([(1, 3), (2, 2), (3, 1)], (4, 4)) == 1 * 3 + 1 * 2 + 1 * 1
    assert hypervolume([(2,), (1,)], (4,)) == 3
    assert hypervolume([], (4, 4)) == hypervolume([(4, 0), (0, 5)], (4, 4)) == 0


@pytest.mark.parametrize("objectives", [2, 3, 4])
def test_hypervolume_is_the_counted_number_of_cells(objectives: int) -> None:
    rng = random.Random(objectives)
    for _ in range(20):
        points = [tuple(rng.randrange(5) for _ in range(objectives)) for _ in range(8)]
        cells = sum(
            any(all(x <= c for x, c in zip(point, cell, strict=True)) for point in points)
            for cell in itertools.product(range(4), repeat=objectives)
        )
        assert hypervolume(points, (4,) * objectives) == cells


def test_a_front_of_three_objectives_is_measured_at_once() -> None:
    rng, began = random.Random(0), time.process_time()
    assert 0.9 < hypervolume([[rng.random() for _ in range(3)] for _ in range(1000)], (1, 1, 1)) < 1
    assert time.process_time() - began < 5  # it took minutes


def trial(**constraints: float) -> optuna.trial.FrozenTrial:
    return create_trial(state=TrialState.COMPLETE, value=0.5, constraints=constraints)


def test_share_of_feasible_proposals() -> None:
    assert feasible_share([trial(), trial()]) is None
    trials = [trial(macs=0.5), trial(macs=0.0), trial(macs=-1.0, params=0.1), *[trial(macs=-0.1)] * 9]
    assert feasible_share(trials) == (10, 12)
