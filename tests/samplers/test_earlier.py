"""An earlier study inside samplers: used where it helps, ignored where it misleads, found through the study."""

import itertools
import statistics

import numpy as np
import optuna
import pytest

from nas_optuna.errors import StudyError
from nas_optuna.samplers import create_sampler
from nas_optuna.samplers.beforehand import MOST, best_of, remember, trials_of
from nas_optuna.samplers.evolution import EvolutionSampler
from nas_optuna.spaces.architecture import Parameter
from nas_optuna.spaces.conv import ConvSpace

optuna.logging.set_verbosity(optuna.logging.ERROR)
SPACE = ConvSpace(depth=3)
SIZES = [len(p.choices) for p in SPACE.parameters.values()]
RNG = np.random.default_rng(0)
WORTH = [RNG.normal(size=size) for size in SIZES]
PAIRS = [RNG.normal(size=(a, b)) for a, b in itertools.pairwise(SIZES)]


def value(tokens: tuple[int, ...]) -> float:
    single = sum(worth[t] for worth, t in zip(WORTH, tokens, strict=True))
    return float(single + sum(pair[a, b] for pair, (a, b) in zip(PAIRS, itertools.pairwise(tokens), strict=True)))


BEST = max(map(value, np.ndindex(*SIZES)))


def objective(trial: optuna.Trial) -> float:
    return value(SPACE.tokens(SPACE.suggest(trial)))


def earlier(sign: float, trials: int = 60, direction: str = "maximize", url: str | None = None) -> optuna.Study:
    """A study of the same space on another scale; with the sign -1, of the contrary."""
    sampler = create_sampler("random", SPACE, 7, {})
    study = optuna.create_study(direction=direction, sampler=sampler, storage=url)
    study.optimize(lambda trial: 10 + 3 * sign * objective(trial), n_trials=trials)
    return study


def regret(sampler: str, seed: int, other: optuna.Study | None, trials: int = 15) -> float:
    study = optuna.create_study(direction="maximize", sampler=create_sampler(sampler, SPACE, seed, {}))
    if other is not None:
        remember(study, other, SPACE.parameters)
        for params in best_of(study, SPACE.parameters, 1):
            study.enqueue_trial(params)
    study.optimize(objective, n_trials=trials)
    return BEST - study.best_value


@pytest.mark.parametrize("sampler", ["arch", "evolution"])
def test_a_related_study_helps_and_a_contrary_one_costs_little(sampler: str) -> None:
    related, contrary = earlier(1.0), earlier(-1.0)
    without, right, wrong = (
        statistics.fmean(regret(sampler, seed, other) for seed in range(6)) for other in (None, related, contrary)
    )
    assert right < 0.9 * without
    assert wrong < 1.6 * without


def test_a_small_population_ignores_a_contrary_study_too() -> None:
    sampler = create_sampler("evolution", SPACE, 0, {"population_size": 3, "tournament_size": 2})
    study = optuna.create_study(direction="maximize", sampler=create_sampler("random", SPACE, 1, {}))
    remember(study, earlier(-1.0, trials=40), SPACE.parameters)
    study.optimize(objective, n_trials=20)
    assert isinstance(sampler, EvolutionSampler)
    history = sampler._read(study, sampler._common(study))
    assert sampler._preference(history, study) is None


def test_workers_find_the_trials_in_the_study(tmp_path: object) -> None:
    url = f"sqlite:///{tmp_path}/study.db"
    study = optuna.create_study(direction="maximize", storage=url)
    other = earlier(1.0, trials=20)
    assert remember(study, other, SPACE.parameters) == 20
    loaded = optuna.load_study(study_name=study.study_name, storage=url)
    assert all(len(str(v)) < 2046 for v in loaded.user_attrs.values())
    found = trials_of(loaded)
    assert max(gain for gain, _ in found) == pytest.approx(other.best_value)
    first, second, third = best_of(loaded, SPACE.parameters, 3)
    assert first == other.best_params
    assert all(
        sum(a[n] != b[n] for n in SPACE.parameters) >= 2 for a, b in ((first, second), (first, third), (second, third))
    )


def test_what_is_not_allowed_leaves_its_place_to_the_next_best() -> None:
    study, other = optuna.create_study(direction="maximize"), earlier(1.0, trials=20)
    remember(study, other, SPACE.parameters)
    every = best_of(study, SPACE.parameters, 20)
    found = best_of(study, SPACE.parameters, 1, lambda params: params["conv1.kernel"] != every[0]["conv1.kernel"])
    assert found == [next(params for params in every if params["conv1.kernel"] != every[0]["conv1.kernel"])]


def test_a_choice_that_has_become_true_or_false_is_another_one() -> None:
    """Python takes 1 for True, and a space does not."""
    before, now = ({"extra": Parameter(choices)} for choices in ((0, 1), (False, True)))
    study, other = optuna.create_study(direction="maximize"), optuna.create_study(direction="maximize")
    other.optimize(lambda trial: float(trial.suggest_categorical("extra", before["extra"].choices)), n_trials=5)
    remember(study, other, now)
    assert best_of(study, now, 3) == []
    assert best_of(study, before, 1) == [{"extra": 1}]


def test_a_long_study_is_shortened_and_keeps_its_best() -> None:
    other = optuna.create_study(direction="minimize", sampler=optuna.samplers.RandomSampler(seed=0))
    other.optimize(objective, n_trials=MOST + 150)
    study = optuna.create_study(direction="minimize")
    assert MOST / 2 < remember(study, other, SPACE.parameters) <= MOST
    assert -max(gain for gain, _ in trials_of(study)) == other.best_value


@pytest.mark.parametrize("sampler", ["arch", "evolution"])
def test_of_another_space_what_is_common_counts(sampler: str) -> None:
    """The earlier space has a layer less and other filters: choices that are not offered here are left out."""
    smaller = ConvSpace(depth=2, filters=(8, 16, 24))
    other = optuna.create_study(direction="maximize", sampler=create_sampler("random", smaller, 0, {}))
    other.optimize(lambda trial: float(smaller.suggest(trial).params["conv1.kernel"]), n_trials=40)
    study = optuna.create_study(direction="maximize", sampler=create_sampler(sampler, SPACE, 0, {}))
    remember(study, other, SPACE.parameters)
    assert best_of(study, SPACE.parameters, 3) == []
    study.optimize(lambda trial: float(SPACE.suggest(trial).params["conv1.kernel"]), n_trials=12)
    kernels = [t.params["conv1.kernel"] for t in study.trials[3:]]
    assert statistics.fmean(kernels) > 5.5, "a random draw has 5 in the mean"


@pytest.mark.filterwarnings("error")
def test_equal_trials_agree_with_no_earlier_study_and_nothing_is_said() -> None:
    study = optuna.create_study(direction="maximize", sampler=create_sampler("evolution", SPACE, 0, {}))
    remember(study, earlier(1.0, trials=20), SPACE.parameters)
    study.optimize(lambda trial: 0.0 * objective(trial), n_trials=7)
    assert len(study.trials) == 7


def test_what_cannot_teach_is_refused() -> None:
    study = optuna.create_study(direction="maximize")
    with pytest.raises(StudyError, match=r"too few complete trials to learn from \(4, and it takes 5\)"):
        remember(study, earlier(1.0, trials=4), SPACE.parameters)
    with pytest.raises(StudyError, match="another direction"):
        remember(study, earlier(1.0, trials=5, direction="minimize"), SPACE.parameters)
    with pytest.raises(StudyError, match="no parameter of this space"):
        remember(study, earlier(1.0, trials=5), ["layer1"])
    assert study.user_attrs == {}
