"""Numbers as tokens: every value has a level, every level's values belong to it, and the samplers learn from them."""

import numpy as np
import optuna
import pytest
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution

import nas_optuna as nas
from nas_optuna.samplers import create_sampler
from nas_optuna.samplers.evolution import EvolutionSampler
from nas_optuna.samplers.gp import ArchitectureGPSampler
from nas_optuna.samplers.history import LEVELS, Axis

optuna.logging.set_verbosity(optuna.logging.ERROR)


@pytest.mark.parametrize(
    ("distribution", "size"),
    [
        (CategoricalDistribution(["a", "b", None]), 3),
        (FloatDistribution(1e-4, 1.0, log=True), LEVELS),
        (FloatDistribution(-1.0, 3.0), LEVELS),
        (FloatDistribution(0.0, 1.0, step=0.25), 5),
        (FloatDistribution(0.1, 7.7, step=0.1), LEVELS),
        (IntDistribution(2, 5), 4),
        (IntDistribution(1, 9, log=True), 9),
        (IntDistribution(1, 1000, log=True), 29),
        (IntDistribution(1, 2**53, log=True), 33),
        (IntDistribution(0, 1000, step=10), LEVELS),
        (IntDistribution(-50, 50), LEVELS),
    ],
)
def test_a_value_of_every_token_has_that_token(distribution: BaseDistribution, size: int) -> None:
    ours = Axis(distribution)
    assert ours.size == size
    for token in range(size):
        for place in (0.01, 0.3, 0.5, 0.999):
            value = ours.value(token, place)
            assert distribution._contains(distribution.to_internal_repr(value))
            assert ours.token(value) == token


@pytest.mark.parametrize("sampler", ["arch", "curves", "evolution", "neighbours"])
def test_no_training_is_repeated_where_a_whole_number_is_on_a_logarithmic_scale(sampler: str) -> None:
    space = nas.ConvSpace(depth=1, filters=(4, 8), kernels=(3,), input_size=8)
    study = optuna.create_study(sampler=create_sampler(sampler, space, 1))
    study.optimize(lambda t: t.suggest_int("batch", 1, 32, log=True) - len(str(space.suggest(t))), n_trials=25)
    assert len({tuple(sorted(trial.params.items())) for trial in study.trials}) == 25


@pytest.mark.parametrize("make", [EvolutionSampler, ArchitectureGPSampler])
def test_samplers_find_the_best_numbers(make: type[EvolutionSampler] | type[ArchitectureGPSampler]) -> None:
    def loss(trial: optuna.Trial) -> float:
        rate = trial.suggest_float("rate", 1e-5, 1.0, log=True)
        epochs = trial.suggest_int("epochs", 1, 40)
        kind = trial.suggest_categorical("kind", ["a", "b", "c"])
        return float(abs(np.log10(rate) + 2) + abs(epochs - 30) / 10 + (kind != "b"))

    ours, random = [], []
    for seed in range(5):
        for sampler, found in ((make(seed=seed), ours), (optuna.samplers.RandomSampler(seed=seed), random)):
            study = optuna.create_study(sampler=sampler)
            study.optimize(loss, n_trials=60)
            found.append(study.best_value)
    assert np.mean(ours) < 0.6 * np.mean(random)
