"""The long chain: its best is the best, and a search comes nearer to it than random chains do."""

import itertools
import sys
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))

import long_chain


def test_dynamic_programming_finds_the_best_chain() -> None:
    chain = long_chain.Chain.drawn(3, layers=3)
    everything = np.array(list(itertools.product(range(long_chain.KINDS), repeat=3)))
    assert chain.best() == pytest.approx(chain.worth(everything).max())


def test_a_search_of_it_improves_and_never_passes_the_best() -> None:
    chain = long_chain.Chain.drawn(0, layers=6)
    searched, _ = long_chain.regrets(chain, "arch", 0, 60)
    drawn, _ = long_chain.regrets(chain, "random", 0, 60)
    assert searched == sorted(searched, reverse=True)
    assert 0 <= searched[-1] < drawn[-1]
