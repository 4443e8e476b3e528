"""A supernet's score inside samplers: used where it helps, ignored where it does not, found through the study."""

import statistics
from typing import Any

import numpy as np
import optuna
import pytest
from torch import nn

import nas_optuna as nas
from nas_optuna.oneshot.score import distil
from nas_optuna.samplers import create_sampler
from nas_optuna.samplers.beforehand import SUPERNET_FADING
from nas_optuna.samplers.gaussian_process import LearnedMean
from nas_optuna.spaces.conv import ConvSpace
from nas_optuna.spaces.supernet import widened
from nas_optuna.study.supernet_result import (
    Predictor,
    SupernetResult,
    find_predictor,
    indicators,
    read_result,
    write_result,
)

SPACE = ConvSpace(depth=2)
SIZES = [len(p.choices) for p in SPACE.parameters.values()]
CHOICES = {name: p.choices for name, p in SPACE.parameters.items()}
RNG = np.random.default_rng(0)
WORTH = [RNG.normal(size=size) for size in SIZES]


def value(tokens: tuple[int, ...]) -> float:
    return float(sum(worth[t] for worth, t in zip(WORTH, tokens, strict=True)))


ALL = [tuple(int(i) for i in point) for point in np.ndindex(*SIZES)]
BEST = max(map(value, ALL))


def objective(trial: optuna.Trial) -> float:
    return value(SPACE.tokens(SPACE.suggest(trial)))


def study_with_score(sign: float, url: str | None = None) -> optuna.Study:
    """A study whose supernet's score is right (1.0), or the contrary of what is right (-1.0)."""
    study = optuna.create_study(direction="maximize", storage=url)
    scores = sign * np.array([value(tokens) for tokens in ALL])
    coefficients, intercept = distil(indicators(SIZES, ALL), scores)
    best = [ALL[i] for i in np.argsort(-scores)[:5]]
    alphas = {name: [0.0] * len(c) for name, c in CHOICES.items()}
    predictor = Predictor(CHOICES, coefficients, intercept)
    write_result(study, SupernetResult(alphas, starts=best, predictor=predictor))
    return study


def regret(study: optuna.Study, sampler: str, seed: int, trials: int = 8) -> float:
    study.sampler = create_sampler(sampler, SPACE, seed, {})
    study.optimize(objective, n_trials=trials)
    return BEST - study.best_value


@pytest.mark.parametrize("sampler", ["arch", "evolution"])
def test_a_right_score_helps_and_needs_no_weights(sampler: str) -> None:
    without, right = [], []
    for seed in range(5):
        without.append(regret(optuna.create_study(direction="maximize"), sampler, seed))
        right.append(regret(study_with_score(1.0), sampler, seed))
    assert statistics.fmean(right) < 0.7 * statistics.fmean(without)


def test_a_wrong_score_is_ignored_by_the_process() -> None:
    wrong = statistics.fmean(regret(study_with_score(-1.0), "arch", seed, 40) for seed in range(2))
    assert wrong < 0.1 * (BEST - statistics.fmean(map(value, ALL)))


def test_the_coefficient_is_learned_and_fades() -> None:
    def score(tokens: object) -> np.ndarray:
        return np.array([float(t[0]) for t in tokens])  # type: ignore[attr-defined]

    few = [(i,) for i in range(10)]
    merit = np.array([i - 4.5 for i in range(10)]) / np.std(range(10))
    agreeing = LearnedMean([(score, SUPERNET_FADING)], few, merit)
    contrary = LearnedMean([(score, SUPERNET_FADING)], few, -merit)
    slope = float(np.ptp(agreeing([(0,), (1,)])))
    assert 0 < slope < 1 / np.std(range(10))
    assert np.ptp(contrary([(0,), (9,)])) == 0
    many = LearnedMean(
        [(score, SUPERNET_FADING)], few * int(SUPERNET_FADING // 10 * 4), np.tile(merit, int(SUPERNET_FADING // 10 * 4))
    )
    assert float(np.ptp(many([(0,), (1,)]))) < 0.4 * slope


def test_workers_find_the_score_in_the_study(tmp_path: object) -> None:
    url = f"sqlite:///{tmp_path}/study.db"
    study = study_with_score(1.0, url)
    assert all(len(str(v)) < 2046 for v in study.user_attrs.values())
    other = optuna.load_study(study_name=study.study_name, storage=url)
    predictor = find_predictor(other, {**CHOICES, "recipe.batch_size": (32, 64)})
    assert predictor is not None, "trials may choose settings of the recipe, too"
    params = [SPACE.from_tokens(tokens).params for tokens in ALL[:50]]
    assert np.corrcoef(predictor(params), [value(t) for t in ALL[:50]])[0, 1] > 0.99
    assert SPACE.architecture(read_result(other).start_params()[0]) == SPACE.from_tokens(max(ALL, key=value))
    deeper = ConvSpace(depth=3)
    assert find_predictor(other, {n: p.choices for n, p in deeper.parameters.items()}) is None


@nas.space
def of_depth(c: Any, task: Any) -> nn.Module:
    units, layers = c.choice("units", [8, 16]), []
    for i in range(c.integer("depth", 1, 2)):
        layers += [nn.Linear(units, units), c.layer(f"act{i}", {"relu": nn.ReLU, "silu": nn.SiLU})]
    return nn.Sequential(nn.Flatten(), nn.LazyLinear(units), *layers, nn.Linear(units, task.classes))


def test_a_score_serves_where_a_pin_leaves_parameters_without_use() -> None:
    space, pins = of_depth(in_channels=1, classes=3, input_size=4), {"depth": 1}
    part, whole = space.fixed(pins), {name: p.choices for name, p in space.parameters.items()}
    held = {name: p.choices for name, p in part.parameters.items()}
    assert whole.keys() - held.keys() == {"act1"}
    sizes = [len(choices) for choices in held.values()]
    first, last = indicators(sizes, [[0] * len(sizes), [size - 1 for size in sizes]])
    predictor, study = Predictor(held, last - first, 0.0), optuna.create_study(direction="maximize")
    write_result(study, SupernetResult(widened({}, part, space), predictor=predictor, fixed=pins))
    found = find_predictor(study, whole)
    assert found is not None
    narrow, wide = found([{"units": u, "depth": 1, "act0": "relu", "act1": "silu"} for u in (8, 16)])
    assert wide > narrow
    for other in ({"act2": ["relu", "silu"]}, {"act1": ["relu", "silu", "gelu"]}, {"units": [8, 32]}):
        assert find_predictor(study, {**whole, **other}) is None
