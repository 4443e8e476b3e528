"""Short trainings: how many there are, and what they change of what is chosen."""

import random
from collections.abc import Sequence

import numpy as np
import pytest

from nas_optuna.costs.complexity import figures
from nas_optuna.oneshot.ranking import ArchitectureRanker
from nas_optuna.oneshot.short_trainings import ShortPlan
from nas_optuna.spaces.architecture import Architecture
from nas_optuna.spaces.conv import ConvSpace
from nas_optuna.spec import SupernetSpec
from tests.oneshot.test_ranking import SPACE, TABLE, KernelsOfFive, ranker


class Few:
    """Stands for trainings in which networks with few parameters learn fastest, whatever their kernels."""

    def __init__(self, calibrating: int = 16, finalists: int = 4) -> None:
        self.plan = ShortPlan(calibrating, 2, finalists, 3)
        self.asked: list[tuple[int, list[Architecture]]] = []

    def __call__(self, architectures: Sequence[Architecture], epochs: int) -> list[float | None]:
        self.asked.append((epochs, list(architectures)))
        return [1 / (1 + figures(SPACE, a).params / 10_000) for a in architectures]


@pytest.mark.parametrize(
    ("count", "epochs", "trained", "plan"),
    [
        (16, 12, 0, ShortPlan(16, 1, 4, 2)),
        (16, 90, 0, ShortPlan(16, 7, 4, 15)),
        (1000, 120, 0, ShortPlan(24, 10, 12, 20)),
        (16, 12, 10, ShortPlan(6, 1, 4, 2)),  # the study's own trainings teach as well
        (16, 12, 14, ShortPlan(0, 1, 4, 2)),  # two would teach nothing
        (16, 12, 99, ShortPlan(0, 1, 4, 2)),
        (16, 5, 0, ShortPlan(10, 1, 4, 1)),
        (16, 1, 0, ShortPlan(0, 1, 2, 1)),
        (0, 12, 0, ShortPlan(0, 1, 0, 2)),
    ],
)
def test_short_trainings_cost_a_few_full_ones(count: int, epochs: int, trained: int, plan: ShortPlan) -> None:
    assert ShortPlan.of(count, epochs, 1000, trained) == plan
    assert plan.epochs <= 4 * epochs


def test_random_ones_teach_the_score_what_shared_weights_are_wrong_about() -> None:
    short = Few(finalists=0)
    untaught, taught = ranker(), ranker(short=short)
    ((epochs, calibrating),) = short.asked
    assert epochs == 2
    assert len(set(calibrating)) == 16
    rows = untaught.rows(
        [SPACE.tokens(SPACE.parse(text)) for text in ("f16k3s1-f16k3s1-f16k3s1", "f48k5s1-f48k5s1-f48k5s1")]
    )
    before, after = untaught.score(rows), taught.score(rows)
    assert before[1] - before[0] > after[1] - after[0]
    assert taught.score.short == 16
    found = taught.rank()
    assert [SPACE.from_tokens(tokens) for tokens, _ in found.calibration_set] == calibrating
    again = ranker()
    again.fit(found.calibration_set, short=True)
    assert np.allclose(again.score.weights, taught.score.weights)


def test_the_best_come_in_the_order_of_their_short_trainings() -> None:
    short = Few(calibrating=0)
    found, plain = ranker(short=short).rank(), ranker().rank()
    ((epochs, finalists),) = short.asked
    assert epochs == 3
    assert [SPACE.tokens(a) for a in finalists] == list(plain.starts[:4])
    params = [figures(SPACE, SPACE.from_tokens(tokens)).params for tokens in found.starts[:4]]
    assert params == sorted(params) != [figures(SPACE, a).params for a in finalists]
    assert SPACE.tokens(SPACE.parse(found.best)) == found.starts[0]
    assert list(found.starts[4:]) == list(plain.starts[4:])
    assert found.alphas == plain.alphas


def test_a_cost_term_counts_among_the_finalists() -> None:
    class Equal(Few):
        def __call__(self, architectures: Sequence[Architecture], epochs: int) -> list[float | None]:
            return [0.5 for _ in architectures]

    found = ranker(short=Equal(calibrating=0), latency_weight=3.0).rank()
    macs = [figures(SPACE, SPACE.from_tokens(tokens)).macs for tokens in found.starts[:4]]
    assert macs == sorted(macs)


@pytest.mark.parametrize("failing", [1, 3, 4])
def test_a_finalist_whose_training_fails_comes_after_the_others(failing: int) -> None:
    class Failing(Few):
        def __call__(self, architectures: Sequence[Architecture], epochs: int) -> list[float | None]:
            whole = super().__call__(architectures, epochs)
            return [None if i < failing else accuracy for i, accuracy in enumerate(whole)]

    short = Failing(calibrating=0)
    found = ranker(short=short).rank()
    ((_, asked),) = short.asked
    assert {SPACE.from_tokens(tokens) for tokens in found.starts[:4]} == set(asked)
    assert [SPACE.from_tokens(tokens) for tokens in found.starts[4 - failing : 4]] == asked[:failing]
    assert found.finalists == 4 - failing


def test_calibrating_whose_training_fails_teach_nothing() -> None:
    class Failing(Few):
        def __call__(self, architectures: Sequence[Architecture], epochs: int) -> list[float | None]:
            return [None, *super().__call__(architectures, epochs)[1:]]

    assert ranker(short=Failing(finalists=0)).score.short == 15


@pytest.mark.parametrize("feasible", [0.3, 0.004])
def test_what_is_outside_the_limits_is_not_trained(feasible: float) -> None:
    rng = random.Random(1)
    limit = float(np.quantile([figures(SPACE, SPACE.sample(rng)).macs for _ in range(2000)], feasible))
    short = Few()
    ranker(limit=limit, short=short).rank()
    assert [len(architectures) for _, architectures in short.asked] == [16, 4]
    assert all(figures(SPACE, a).macs <= limit for _, asked in short.asked for a in asked)
    nothing = Few()
    ranker(limit=1.0, short=nothing).rank()
    assert nothing.asked == []


@pytest.mark.parametrize(
    ("filters", "asked", "finalists"), [((8, 16), [2], 2), ((8,), [], 0), ((8, 16, 24), [3, 3], 3)]
)
def test_a_small_space_is_not_asked_for_more_than_it_has(
    filters: tuple[int, ...], asked: list[int], finalists: int
) -> None:
    space = ConvSpace(depth=1, filters=filters, kernels=(3,), strides=(1,), input_size=16)
    plan = ShortPlan.of(16, 12, space.size)

    class Equal(Few):
        def __call__(self, architectures: Sequence[Architecture], epochs: int) -> list[float | None]:
            self.asked.append((epochs, list(architectures)))
            return [0.5] * len(architectures)

    short = Equal(plan.calibrating, plan.finalists)
    found = ArchitectureRanker(space, KernelsOfFive(), SupernetSpec(), table=TABLE, short=short).rank()  # type: ignore[arg-type]
    assert [len(architectures) for _, architectures in short.asked] == asked
    assert found.finalists == finalists
