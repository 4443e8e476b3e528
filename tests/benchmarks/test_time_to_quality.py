"""Time to quality: it agrees with the comparison of samplers, and pruning spends fewer seconds on as many trainings."""

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))

import samplers as comparison
import time_to_quality
from tabular import digits


def test_a_target_is_reached_when_the_regret_says_so() -> None:
    table, trials = digits(), 40
    regrets, _ = comparison.simulate(table, "arch", seed=0, workers=1, trials=trials)
    reached = time_to_quality.search(table, "arch", "none", seed=0, trials=trials)
    assert reached[0] is not None
    for target, end in zip(time_to_quality.TARGETS, reached, strict=True):
        first = next((n for n, regret in enumerate(regrets, start=1) if regret <= target), None)
        assert (None if end is None else end[1]) == first


def test_a_search_without_success_counts_as_infinitely_long() -> None:
    lines = [
        {"table": "digits", "sampler": "tpe", "pruner": "none", "seed": seed, "reached": [end, None, None]}
        for seed, end in enumerate([(1.0, 2), (3.0, 4), None])
    ]
    options = type("Options", (), {"tables": ["digits"], "samplers": ["tpe"]})
    first, second, _ = time_to_quality.summarise(lines, options)
    assert (first["seconds"], first["trainings"]) == ([1.0, 3.0, None], [2, 4, None])
    assert first["reached"] == pytest.approx(2 / 3)
    assert time_to_quality.cell(first, "trainings") == "4 (2 to -), 67 %"
    assert time_to_quality.cell(second, "seconds") == "- (- to -), 0 %"


def test_the_pruner_spends_fewer_seconds_on_as_many_trainings() -> None:
    table = digits()
    (plain, *_), (pruned, *_) = (
        time_to_quality.search(table, "random", pruner, seed=5, trials=60) for pruner in time_to_quality.PRUNERS
    )
    assert plain is not None
    assert pruned is not None
    assert pruned[1] == plain[1]
    assert pruned[0] < 0.8 * plain[0]
