"""The comparison of treatments, on a made-up table."""

import sys
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))

import limits
from tabular import Table


@pytest.fixture(scope="module")
def table() -> Table:
    sizes = [len(p.choices) for p in limits.SPACE.parameters.values()]
    accuracy = np.random.default_rng(0).uniform(0.5, 1, (*sizes, 3, 5)).astype(np.float32)
    return Table("made up", limits.SPACE.parameters, np.sort(accuracy), np.ones_like(accuracy))


@pytest.mark.parametrize("treatment", limits.TREATMENTS)
def test_a_search_trains_as_often_as_it_should(table: Table, treatment: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "TRAININGS", 5)
    limit = limits.macs(limits.by_macs()[288])
    result = limits.search_within(table, "nsga2", treatment, limit, seed=0)
    assert result["trainings"] == 5 <= result["proposals"]
    assert result["best"] <= table.final.max()


def test_pruning_against_all_prunes_more(table: Table) -> None:
    cheaper, everything = (limits.search_front(table, "random", "asha", 0, only) for only in (True, False))
    assert cheaper["pruned"] < everything["pruned"]
    assert 0 < everything["hypervolume"] < 1


def test_a_front_begun_at_its_cheap_end_reaches_it(table: Table) -> None:
    architectures = limits.by_macs()
    least = limits.macs(architectures[0]) / limits.macs(architectures[-1])
    plain, begun = (limits.search_front(table, "random", "asha", 1, first=a) for a in (None, architectures[0]))
    assert plain["least_macs"] > least
    assert begun["least_macs"] == least
