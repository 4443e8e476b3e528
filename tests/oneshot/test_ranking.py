"""Choosing on frozen weights: alphas, the best architecture, limits, the cost term, and the score's own learning."""

import random
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from scipy.stats import spearmanr
from torch import nn

import nas_optuna as nas
from nas_optuna.costs.complexity import figures, macs_table
from nas_optuna.oneshot.price import cost_of
from nas_optuna.oneshot.ranking import ArchitectureRanker, Evaluated, agreeing, diverse, learn_alphas, search_best
from nas_optuna.oneshot.score import FEATURES, Score, SharedFigures, features
from nas_optuna.spaces.architecture import Architecture
from nas_optuna.spaces.conv import ConvSpace
from nas_optuna.spaces.macro import MacroSpace
from nas_optuna.spec import SupernetSpec
from nas_optuna.study.supernet_result import Tokens

SPACE = ConvSpace(depth=3, input_size=16)
TABLE = {key: macs / 1e6 for key, macs in macs_table(SPACE).items()}
ACTIVATIONS = {"relu": nn.ReLU, "silu": nn.SiLU}
SIZES = [len(p.choices) for p in SPACE.parameters.values()]


class KernelsOfFive:
    """Stands for shared weights that are right about architectures with kernels of 5, whatever their size."""

    def __init__(self) -> None:
        self.calls = 0

    def __call__(self, architectures: Sequence[Architecture]) -> list[SharedFigures]:
        self.calls += len(architectures)
        fives = [sum(v == 5 for n, v in a.params.items() if n.endswith("kernel")) for a in architectures]
        return [SharedFigures(0.5 + 0.15 * five, float(np.exp(-five))) for five in fives]


def ranker(
    evaluator: KernelsOfFive | None = None,
    limit: float = 0.0,
    short: Any = None,
    **options: object,
) -> ArchitectureRanker:
    excess = (lambda a: figures(SPACE, a).macs / limit - 1) if limit else (lambda a: 0.0)
    return ArchitectureRanker(
        SPACE, evaluator or KernelsOfFive(), SupernetSpec(**options), 300, TABLE, excess, short=short
    )


def test_the_best_and_the_alphas_follow_the_shared_weights() -> None:
    evaluator = KernelsOfFive()
    made = ranker(evaluator)
    found = made.rank()
    kernels = [v for n, v in SPACE.parse(found.best).params.items() if n.endswith("kernel")]
    assert kernels == [5, 5, 5]
    for name, logits in found.alphas.items():
        if name.endswith("kernel"):
            assert SPACE.parameters[name].choices[int(np.argmax(logits))] == 5
    assert evaluator.calls <= 300 + 128, "an architecture was evaluated more than once"
    assert len(set(found.starts)) == len(found.starts)
    assert found.predictor is not None
    unseen = SPACE.sample_distinct(60, random.Random(7))
    scores = made.score(made.rows([SPACE.tokens(architecture) for architecture in unseen]))
    assert spearmanr(found.predictor([architecture.params for architecture in unseen]), scores).statistic > 0.9


def test_a_small_space_is_evaluated_whole_and_once() -> None:
    space = ConvSpace(depth=1, input_size=16)
    evaluator = KernelsOfFive()
    made = ArchitectureRanker(space, evaluator, SupernetSpec())
    found = made.rank()
    assert evaluator.calls == space.size
    everything = [space.tokens(a) for a in map(space.from_tokens, np.ndindex(*(map(len, _choices(space)))))]
    scores = made.score(made.rows(everything))
    assert space.tokens(space.parse(found.best)) == everything[int(np.argmax(scores))]


@nas.space
def of_depth(c: Any, task: Any) -> nn.Module:
    units, layers = c.choice("units", [8, 16]), []
    for i in range(c.integer("depth", 0, 2)):
        layers += [nn.Conv2d(units if i else task.channels, units, 1), c.layer(f"act{i}", ACTIVATIONS)]
    return nn.Sequential(*layers, nn.Flatten(), nn.LazyLinear(task.classes))


def test_a_small_space_is_evaluated_whole_where_choices_switch_others_off() -> None:
    """Fourteen networks of 24 combinations, of which those of the first fourteen alone were chosen from."""
    space = of_depth(in_channels=1, classes=3, input_size=4)

    def wide(architectures: Sequence[Architecture]) -> list[SharedFigures]:
        return [SharedFigures(a.params["units"] / 20, 8 / a.params["units"]) for a in architectures]

    found = ArchitectureRanker(space, wide, SupernetSpec()).rank()
    assert space.parse(found.best).params["units"] == 16
    alphas = dict(zip(space.parameters["units"].choices, found.alphas["units"], strict=True))
    assert alphas[16] > alphas[8]
    networks = [str(space.from_tokens(tokens)) for tokens in found.starts]
    assert len(networks) == space.size == 14
    assert len(set(networks)) == 14, "each network is one start"


def test_a_small_space_with_many_combinations_is_not_evaluated_by_these() -> None:
    """A hundred networks of two slots, each with 864 combinations of choices: a million were listed and evaluated."""
    space = MacroSpace(stages=1, widths=[8], depths=[2], layers=["skip", "maxpool"])
    evaluator = KernelsOfFive()
    found = ArchitectureRanker(space, evaluator, SupernetSpec(), 200).rank()
    assert space.size == 100
    assert evaluator.calls <= 200 + 128
    assert found.best is not None


def _choices(space: ConvSpace) -> list[Sequence[object]]:
    return [p.choices for p in space.parameters.values()]


def test_nothing_inside_the_limits_gives_no_starts() -> None:
    assert ranker(limit=1.0).rank().starts == []


def test_the_same_seed_chooses_the_same() -> None:
    first, second = ranker().rank(), ranker().rank()
    assert first.alphas == second.alphas
    assert first.starts == second.starts


@pytest.mark.parametrize("share", [0.05, 0.3])
def test_everything_that_is_put_forward_is_inside_the_limits(share: float) -> None:
    rng = random.Random(0)
    limit = float(np.quantile([figures(SPACE, SPACE.sample(rng)).macs for _ in range(200)], share))
    found = ranker(limit=limit).rank()
    argmax = SPACE.from_tokens([int(np.argmax(logits)) for logits in found.alphas.values()])
    for architecture in (SPACE.parse(found.best), argmax, *(SPACE.from_tokens(tokens) for tokens in found.starts)):
        assert figures(SPACE, architecture).macs <= limit


def test_a_greater_latency_weight_gives_a_cheaper_choice() -> None:
    weights = [0.0, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0]
    costs = [figures(SPACE, SPACE.parse(ranker(latency_weight=weight).rank().best)).macs for weight in weights]
    assert spearmanr(weights, costs).statistic <= -0.8
    assert costs[-1] < 0.3 * costs[0]


def test_alphas_fit_a_product_and_the_search_finds_what_no_product_holds() -> None:
    """Two parameters that are good only together: the independent argmax may miss it, the search does not."""

    def utility(tokens: Sequence[Tokens]) -> list[float]:
        return [10.0 * (t[0] == t[1] == 3) + (t[0] == 0) + (t[2] == 1) for t in tokens]

    evaluated = Evaluated(utility, 60)
    logits = learn_alphas([4, 4, 4], evaluated, random.Random(0))
    assert int(np.argmax(logits[2])) == 1
    assert all(min(p) > np.log(0.05 / 4 / 1.2) for p in logits), "a choice was excluded"
    assert search_best([4, 4, 4], evaluated, random.Random(0)) == (3, 3, 1)
    assert len(evaluated.found) <= 60


def test_alphas_of_hundreds_of_parameters_fit_a_list() -> None:
    """The product of their shares is below the least number above zero, and nothing could be drawn."""
    good, bad = (0,) * 800, (1,) * 800
    evaluated = Evaluated(lambda tokens: [float(t == good) for t in tokens], 60)
    logits = learn_alphas([3] * 800, evaluated, random.Random(0), [good, bad])
    assert {int(np.argmax(p)) for p in logits} == {0}


def test_starts_differ_and_the_argmax_can_be_moved_to_what_is_allowed() -> None:
    ranked = [(0, 0, 0), (0, 0, 1), (1, 1, 0), (1, 1, 1), (2, 0, 2)]
    assert diverse(ranked, 3, 2) == [(0, 0, 0), (1, 1, 0), (2, 0, 2)]
    assert len(diverse(ranked, 5, 2)) == 5
    moved = agreeing([[0.0, 1.0], [2.0, 0.0]], (0, 0))
    assert [int(np.argmax(p)) for p in moved] == [0, 0]


def rows(count: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(count, len(FEATURES)))


def test_trials_teach_the_score_what_it_should_trust() -> None:
    reference = rows(128)
    score = Score.prior(reference)
    trained = rows(40, seed=1)
    parameters_matter = 1 / (1 + np.exp(-trained[:, FEATURES.index("log parameters")]))
    taught = score.fit(trained, parameters_matter.tolist())
    unseen = rows(200, seed=2)
    wanted = unseen[:, FEATURES.index("log parameters")]
    assert spearmanr(taught(unseen), wanted).statistic > 0.8 > spearmanr(score(unseen), wanted).statistic + 0.5
    assert taught.trials == 40


def test_few_trials_or_equal_ones_leave_the_prior() -> None:
    score = Score.prior(rows(128))
    assert score.fit(rows(2), [0.1, 0.9]) is score
    assert score.fit(rows(5), [0.5] * 5) is score


def test_size_says_only_what_is_too_small_before_there_are_trials() -> None:
    score = Score.prior(rows(1000))
    small, middle, large = (np.zeros((1, len(FEATURES))) for _ in range(3))
    for row, size in ((small, -2.0), (middle, 1.0), (large, 3.0)):
        row[0, 2:] = size
    assert score(small)[0] < score(middle)[0] == score(large)[0]


def test_resolution_counts_where_strides_are_searched() -> None:
    """Where two networks have equal shared figures, the one with fewer strides ranks first."""
    texts = ("f32k3s2-f32k3s2-f32k3s1", "f32k3s1-f32k3s1-f32k3s2")
    coarse, fine = (features(SPACE, [SPACE.parse(text)], [SharedFigures(0.9, 0.3)]) for text in texts)
    rng = random.Random(0)
    drawn = [SPACE.sample(rng) for _ in range(64)]
    score = Score.prior(features(SPACE, drawn, [SharedFigures(0.8 + 0.1 * rng.random(), 0.3) for _ in drawn]))
    assert score(fine)[0] > score(coarse)[0] + 0.5


def test_without_a_table_a_cost_is_the_macs() -> None:
    """The same cost term as that of a table of MACs, for spaces that no table could hold."""
    drawn = [SPACE.sample(random.Random(seed)) for seed in range(5)]
    for architecture in drawn:
        assert cost_of(SPACE, architecture, {}) == pytest.approx(cost_of(SPACE, architecture, TABLE))
    rankers = [ArchitectureRanker(SPACE, None, SupernetSpec(latency_weight=weight), 300) for weight in (0.0, 10.0)]
    free, priced = (figures(SPACE, SPACE.parse(ranker.rank().best)).macs for ranker in rankers)
    assert priced < free
