"""Short trainings: how many there are, and what they change of what is chosen."""

from collections.abc import Sequence

import numpy as np
import pytest

from nas_optuna.costs.complexity import figures
from nas_optuna.oneshot.score import FEATURES
from nas_optuna.oneshot.short import ShortPlan
from nas_optuna.spaces.architecture import Architecture
from nas_optuna.spec import SupernetSpec
from tests.oneshot.test_choosing import SPACE, TABLE, KernelsOfFive, chooser


class Few:
    """Stands for trainings in which networks with few parameters learn fastest, whatever their kernels."""

    def __init__(self, teachers: int = 16, finalists: int = 4) -> None:
        self.plan = ShortPlan(teachers, 2, finalists, 3)
        self.asked: list[tuple[int, list[Architecture]]] = []

    def __call__(self, architectures: Sequence[Architecture], epochs: int) -> list[float]:
        self.asked.append((epochs, list(architectures)))
        return [1 / (1 + figures(SPACE, a).params / 10_000) for a in architectures]


@pytest.mark.parametrize(
    ("count", "epochs", "trained", "plan"),
    [
        (16, 12, 0, ShortPlan(16, 1, 4, 2)),
        (16, 90, 0, ShortPlan(16, 7, 4, 15)),
        (16, 12, 10, ShortPlan(6, 1, 4, 2)),  # the study's own trainings teach as well
        (16, 12, 14, ShortPlan(0, 1, 4, 2)),  # two would teach nothing
        (16, 12, 99, ShortPlan(0, 1, 4, 2)),
        (16, 5, 0, ShortPlan(10, 1, 4, 1)),
        (16, 1, 0, ShortPlan(0, 1, 2, 1)),
        (0, 12, 0, ShortPlan(0, 1, 0, 2)),
    ],
)
def test_short_trainings_cost_a_few_full_ones(count: int, epochs: int, trained: int, plan: ShortPlan) -> None:
    assert ShortPlan.of(count, epochs, trained) == plan
    assert plan.epochs <= 4 * epochs


def test_random_ones_teach_the_score_what_shared_weights_are_wrong_about() -> None:
    short = Few(finalists=0)
    untaught, taught = chooser(), chooser(short=short)
    ((epochs, teachers),) = short.asked
    assert epochs == 2
    assert len(set(teachers)) == 16
    rows = untaught.rows(
        [SPACE.tokens(SPACE.parse(text)) for text in ("f16k3s1-f16k3s1-f16k3s1", "f48k5s1-f48k5s1-f48k5s1")]
    )
    before, after = untaught.score(rows), taught.score(rows)
    assert before[1] - before[0] > after[1] - after[0]
    assert taught.score.short == 16
    found = taught.choose()
    assert [SPACE.from_tokens(tokens) for tokens, _ in found.teachers] == teachers
    again = chooser()
    again.learn_short(found.teachers)
    assert np.allclose(again.score.weights, taught.score.weights)


def test_the_best_come_in_the_order_of_their_short_trainings() -> None:
    short = Few(teachers=0)
    found, plain = chooser(short=short).choose(), chooser().choose()
    ((epochs, finalists),) = short.asked
    assert epochs == 3
    assert [SPACE.tokens(a) for a in finalists] == list(plain.starts[:4])
    params = [figures(SPACE, SPACE.from_tokens(tokens)).params for tokens in found.starts[:4]]
    assert params == sorted(params) != [figures(SPACE, a).params for a in finalists]
    assert SPACE.tokens(found.best) == found.starts[0]
    assert list(found.starts[4:]) == list(plain.starts[4:])
    assert found.logits == plain.logits


def test_a_cost_term_counts_among_the_finalists() -> None:
    class Equal(Few):
        def __call__(self, architectures: Sequence[Architecture], epochs: int) -> list[float]:
            return [0.5 for _ in architectures]

    found = chooser(short=Equal(teachers=0), latency_weight=3.0).choose()
    macs = [figures(SPACE, SPACE.from_tokens(tokens)).macs for tokens in found.starts[:4]]
    assert macs == sorted(macs)


@pytest.mark.parametrize("share", [0.5, 1.001])
def test_teachers_are_inside_the_limits_where_some_are(share: float) -> None:
    smallest = figures(SPACE, SPACE.parse("f16k3s2-f16k3s2-f16k3s2")).macs
    limit = 10 * smallest if share < 1 else share * smallest / 2
    short = Few(finalists=0)
    chooser(limit=limit, short=short)
    ((_, teachers),) = short.asked
    assert len(teachers) == 16
    assert all(figures(SPACE, a).macs <= limit for a in teachers) == (share < 1)


def test_a_small_space_is_not_asked_for_more_than_it_has() -> None:
    from nas_optuna.oneshot.choosing import Chooser
    from nas_optuna.spaces.conv import ConvSpace

    space = ConvSpace(depth=1, filters=(8, 16), kernels=(3,), strides=(1,), input_size=16)

    class Any(Few):
        def __call__(self, architectures: Sequence[Architecture], epochs: int) -> list[float]:
            self.asked.append((epochs, list(architectures)))
            return [0.5] * len(architectures)

    short = Any()
    found = Chooser(space, KernelsOfFive(), SupernetSpec(), TABLE, short=short).choose()  # type: ignore[arg-type]
    assert [len(architectures) for _, architectures in short.asked] == [2, 2]
    assert len(found.starts) == 2
    assert len(found.score.to_dict()) == len(FEATURES)
