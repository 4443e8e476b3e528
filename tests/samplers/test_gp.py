import itertools
import time
from typing import Any

import numpy as np
import optuna
import pytest
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState, create_trial

from nas_optuna.errors import SpecError
from nas_optuna.samplers import create_sampler
from nas_optuna.samplers.gaussian_process import NOISES, GaussianProcess, _slope, expected_improvement
from nas_optuna.samplers.gp import MAX_POINTS, ArchitectureGPSampler, utilities
from nas_optuna.samplers.history import Observation, violation
from nas_optuna.spaces.conv import ConvSpace

SPACE = ConvSpace(depth=3)
SIZES = [4, 3, 2]
MAXIMIZE = [StudyDirection.MAXIMIZE]


def rng() -> np.random.Generator:
    return np.random.default_rng(0)


def process(points: int = 12) -> tuple[GaussianProcess, np.ndarray, np.ndarray]:
    tokens = np.array([(a, b, c) for a in range(4) for b in range(3) for c in range(2)])
    values = tokens @ np.array([1.0, -2.0, 0.5])
    values = (values - values.mean()) / values.std()
    taken = rng().permutation(len(tokens))[:points]
    return GaussianProcess((SIZES, [True, True, False], range(3)), tokens[taken], values[taken]), tokens, values


def test_the_process_is_the_textbooks() -> None:
    ours, tokens, values = process()
    reach = -1 / np.log(3 * ours._similarity[0, 1])

    def kernel(a: np.ndarray, b: np.ndarray) -> float:  # written out, one pair of architectures at a time
        likeness = [np.exp(-abs(a[0] - b[0]) / reach), np.exp(-abs(a[1] - b[1]) / reach)]
        likeness.append(1.0 if a[2] == b[2] else np.exp(-1 / reach))
        mean = np.mean(likeness)
        return float(0.3 * mean + 0.4 * mean**2 + 0.3 * mean**4)

    taken = rng().permutation(len(tokens))[:12]
    cross = np.array([[kernel(a, b) for b in tokens[taken]] for a in tokens])
    inverse = np.linalg.inv(cross[taken] + ours._noise * np.eye(12))
    y = values[taken]
    mean, deviation = ours.predict(tokens)
    np.testing.assert_allclose(mean, cross @ inverse @ y, atol=1e-8)
    variance = (y @ inverse @ y / 12) * (1 - np.einsum("ij,jk,ik->i", cross, inverse, cross))
    np.testing.assert_allclose(deviation**2, variance, atol=1e-8)


def test_the_process_interpolates_and_generalises() -> None:
    ours, tokens, values = process(16)
    assert ours._noise == min(NOISES)
    mean, _ = ours.predict(tokens)
    assert np.corrcoef(mean, values)[0, 1] > 0.95


def test_a_believed_point_is_certain_and_moves_no_mean() -> None:
    ours, tokens, _ = process()
    before = ours.predict(tokens)
    target = tokens[[int(np.argmax(before[1]))]]
    ours.fantasize(target)
    mean, deviation = ours.predict(tokens)
    np.testing.assert_allclose(mean, before[0], atol=1e-3)
    assert (deviation <= before[1] + 1e-9).all()
    assert ours.predict(target)[1][0] < 0.1 * before[1].max()


def test_expected_improvement_is_the_mean_of_what_exceeds_the_best() -> None:
    mean, deviation = np.array([0.0, 1.0, -1.0]), np.array([1.0, 0.2, 3.0])
    draws = mean + deviation * rng().normal(size=(400_000, 3))
    expected = np.maximum(draws - 0.5, 0).mean(0)
    np.testing.assert_allclose(expected_improvement(mean, deviation, 0.5), expected, rtol=0.02)


def members(*trials: FrozenTrial) -> list[Observation]:
    return [Observation((0,), trial, violation(trial)) for trial in trials]


def test_utilities_of_pruned_and_infeasible_trials() -> None:
    complete = [create_trial(value=v, intermediate_values={1: v - 0.1}) for v in (0.5, 0.6, 0.7, 0.8, 0.9)]
    low, high = (create_trial(state=TrialState.PRUNED, intermediate_values={1: v}, value=v) for v in (0.1, 0.75))
    infeasible = create_trial(value=0.99, constraints={"latency": 1.0})
    kept, merit = utilities(members(*complete, low, high, infeasible), MAXIMIZE, rng())
    assert kept == list(range(8))
    assert merit.mean() == pytest.approx(0)
    assert merit.std() == pytest.approx(1)
    assert merit[5] <= merit[0] + 0.3  # below all at its epoch
    assert merit[3] <= merit[6] <= merit[4]
    assert merit[7] == merit[0]
    _, minimised = utilities(members(*complete, low, high), [StudyDirection.MINIMIZE], rng())
    assert np.argmax(minimised) in (0, 5)


def test_utilities_of_infinite_values_are_finite() -> None:
    values = (0.1, float("-inf"), float("inf"), 0.3)
    _, merit = utilities(members(*(create_trial(value=v) for v in values)), MAXIMIZE, rng())
    assert np.isfinite(merit).all()
    assert merit[1] == merit[0] == merit.min()
    assert merit[2] == merit[3] == merit.max()


def test_utilities_keep_the_best_and_the_latest() -> None:
    trials = [create_trial(value=float(v)) for v in range(1000, 0, -1)]
    kept, _ = utilities(members(*trials), MAXIMIZE, rng())
    half = MAX_POINTS // 2
    assert kept == [*range(half), *range(1000 - half, 1000)]


def test_it_finds_a_good_architecture_sooner_than_random() -> None:
    def objective(trial: optuna.Trial) -> float:
        point = SPACE.tokens(SPACE.suggest(trial))
        return float(sum((t - 1) ** 2 for t in point) + 2 * (point[0] != point[3]) + 2 * (point[1] == point[4]))

    best = {}
    for name in ("arch", "random"):
        studies = [optuna.create_study(sampler=create_sampler(name, SPACE, seed, {})) for seed in range(5)]
        for study in studies:
            study.optimize(objective, n_trials=40)
        best[name] = [study.best_value for study in studies]
    assert all(a < r for a, r in zip(best["arch"], best["random"], strict=True))


def test_the_expected_gain_is_in_the_unit_of_the_objective_and_ends_at_0() -> None:
    def gain(trials: int, scale: float) -> float | None:
        direction = "maximize" if scale > 0 else "minimize"
        study = optuna.create_study(direction=direction, sampler=optuna.samplers.BruteForceSampler(seed=0))
        study.optimize(lambda t: scale * sum(t.suggest_categorical(n, range(4)) for n in "abc"), n_trials=trials)
        return ArchitectureGPSampler(seed=0).expected_gain(study)

    assert gain(2, 1.0) is None
    some = gain(20, 1.0)
    assert some is not None
    assert 0.1 < some < 9
    assert gain(20, -1000.0) == pytest.approx(1000 * some)
    assert gain(64, 1.0) == 0  # nothing is left


def test_two_objectives_spread_along_the_front() -> None:
    def pair(trial: optuna.Trial) -> tuple[float, float]:
        point = SPACE.tokens(SPACE.suggest(trial))
        return float(sum(point)), float(sum(point[:6]))

    study = optuna.create_study(directions=["maximize", "minimize"], sampler=ArchitectureGPSampler(seed=0))
    study.optimize(pair, n_trials=60)
    ends = np.array([t.values for t in study.best_trials])
    assert ends[:, 0].max() >= 14
    assert ends[:, 1].min() == 0


def test_workers_that_propose_at_once_do_not_coincide() -> None:
    study = optuna.create_study(sampler=ArchitectureGPSampler(seed=0))
    study.optimize(lambda t: float(sum(SPACE.tokens(SPACE.suggest(t)))), n_trials=20)
    trials = [study.ask() for _ in range(8)]  # all of them are running before any has chosen
    samplers = [ArchitectureGPSampler(seed=0) for _ in trials]
    proposals = []
    for trial, sampler in zip(trials, samplers, strict=True):
        frozen = study.trials[trial.number]
        space = sampler.infer_relative_search_space(study, frozen)
        proposals.append(tuple(sampler.sample_relative(study, frozen, space).values()))
    assert len(set(proposals)) == 8


@pytest.mark.parametrize("options", [{"n_startup_trials": 0}, {"startup": 3}])
def test_wrong_options_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(SpecError):
        create_sampler("arch", SPACE, 0, options)


def test_the_trend_has_mean_0_and_variance_1_over_the_space() -> None:
    tokens = np.array(list(itertools.product(range(3), range(3), range(2), range(2))))
    one_hot = np.concatenate([np.eye(size)[tokens[:, i]] for i, size in enumerate((3, 3, 2, 2))], axis=1)
    covariance = one_hot @ _slope((3, 3, 2, 2), (True, True, False, False), (0, 0, 2, 2), 2.0) @ one_hot.T
    np.testing.assert_allclose(covariance.mean(0), 0, atol=1e-9)
    assert np.diag(covariance).mean() == pytest.approx(1)
    assert covariance[tokens.tolist().index([0, 2, 0, 1]), tokens.tolist().index([2, 0, 1, 0])] == pytest.approx(
        covariance[tokens.tolist().index([0, 2, 0, 1]), tokens.tolist().index([0, 2, 0, 1])]
    )


def test_a_trend_is_learned_from_few_points_and_left_out_where_layers_disagree() -> None:
    sizes, groups = [4] * 12, [0] * 12
    draws = rng().integers(0, 4, (220, 12))
    for slopes, helps in ((np.ones(12), True), (np.tile([1.0, -1.0], 6), False)):
        values = draws @ slopes
        values = (values - values[:20].mean()) / values[:20].std()
        errors = []
        for group in (groups, range(12)):
            ours = GaussianProcess((sizes, [True] * 12, group), draws[:20], values[:20])
            errors.append(np.mean((ours.predict(draws[20:])[0] - values[20:]) ** 2))
        assert errors[0] < 0.5 * errors[1] if helps else errors[0] < 1.05 * errors[1]


def test_three_thousand_trials_delay_a_proposal_by_less_than_a_second() -> None:
    study = optuna.create_study(direction="maximize", sampler=ArchitectureGPSampler(seed=0))
    distributions, draw = SPACE.distributions(), rng()
    for _ in range(3000):
        params = {name: d.choices[draw.integers(len(d.choices))] for name, d in distributions.items()}
        value = float(sum(params.values()))
        study.add_trial(create_trial(params=params, distributions=distributions, value=value))
    SPACE.suggest(study.ask())  # reads all trials once
    started = time.process_time()
    SPACE.suggest(study.ask())
    assert time.process_time() - started < 1
