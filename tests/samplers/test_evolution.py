import pickle
from typing import Any

import numpy as np
import optuna
import pytest
from optuna.trial import TrialState

from nas_optuna.errors import SpecError
from nas_optuna.samplers import create_sampler
from nas_optuna.samplers.evolution import EvolutionConfig, EvolutionSampler
from nas_optuna.spaces.conv import ConvSpace

SPACE = ConvSpace(depth=2)
DEEP = ConvSpace(depth=5)
PARAMETERS = list(SPACE.parameters)


def objective(trial: optuna.Trial) -> float:
    return float(sum((t - 1) ** 2 for t in SPACE.tokens(SPACE.suggest(trial))))


def tokens(trial: optuna.trial.FrozenTrial) -> tuple[int, ...]:
    return SPACE.tokens(SPACE.architecture(trial.params))


def deep_objective(trial: optuna.Trial) -> float:
    return float(sum((t - 1) ** 2 for t in DEEP.tokens(DEEP.suggest(trial))))


def differences(a: tuple[int, ...], b: tuple[int, ...]) -> list[int]:
    return [i for i, (x, y) in enumerate(zip(a, b, strict=True)) if x != y]


def test_a_child_differs_from_a_living_member_in_one_parameter() -> None:
    study = optuna.create_study(
        sampler=EvolutionSampler(EvolutionConfig(population_size=15, tournament_size=5), seed=0)
    )
    study.optimize(objective, n_trials=60)
    points = [tokens(t) for t in study.trials]
    for i in range(10, 60):
        assert min(len(differences(points[i], parent)) for parent in points[max(0, i - 15) : i]) == 1


def test_with_a_tournament_of_all_the_parent_is_the_best_of_the_population() -> None:
    study = optuna.create_study(
        sampler=EvolutionSampler(EvolutionConfig(population_size=12, tournament_size=12), seed=0)
    )
    study.optimize(deep_objective, n_trials=40)
    points = [DEEP.tokens(DEEP.architecture(t.params)) for t in study.trials]
    values = [t.value for t in study.trials]
    for i in range(12, 40):
        best = min(values[i - 12 : i])
        parents = [points[j] for j in range(i - 12, i) if values[j] == best]
        assert min(len(differences(points[i], parent)) for parent in parents) == 1


def test_a_population_smaller_than_the_start_evolves_all_the_same() -> None:
    study = optuna.create_study(sampler=EvolutionSampler(EvolutionConfig(population_size=3, tournament_size=2), seed=0))
    study.optimize(deep_objective, n_trials=25)
    points = [DEEP.tokens(DEEP.architecture(t.params)) for t in study.trials]
    assert all(1 in [len(differences(points[i], p)) for p in points[i - 3 : i]] for i in range(10, 25))


def test_nothing_is_evaluated_twice_until_the_space_is_exhausted() -> None:
    study = optuna.create_study(sampler=EvolutionSampler(seed=0))
    study.optimize(objective, n_trials=450)
    points = [tokens(t) for t in study.trials]
    assert len(set(points[1:])) == 449  # the second trial knows of the first only once that has finished
    assert len({tokens(t) for t in study.trials}) == 450


def test_it_goes_on_when_everything_was_seen() -> None:
    study = optuna.create_study(sampler=EvolutionSampler(EvolutionConfig(n_startup_trials=2), seed=0))
    study.optimize(lambda t: t.suggest_categorical("a", [0, 1]) + t.suggest_categorical("b", [0, 1]), n_trials=12)
    assert len({tuple(t.params.values()) for t in study.trials[:5]}) == 4
    assert all(t.state == TrialState.COMPLETE for t in study.trials)


def test_running_trials_are_not_proposed_again() -> None:
    study = optuna.create_study(sampler=EvolutionSampler(seed=0))
    study.optimize(objective, n_trials=20)
    asked = [study.ask() for _ in range(30)]
    points = [SPACE.tokens(SPACE.suggest(t)) for t in asked]
    assert len(set(points) | {tokens(t) for t in study.trials[:20]}) == 50


@pytest.mark.parametrize(("ordered", "least", "most"), [(["x"], 0.75, 1.0), ([], 0.15, 0.45), (None, 0.75, 1.0)])
def test_ordered_parameters_mutate_to_adjacent_choices(ordered: Any, least: float, most: float) -> None:
    adjacent = []
    for seed in range(60):
        config = EvolutionConfig(neighbour_bias=16, n_startup_trials=1)
        sampler = EvolutionSampler(config, seed=seed, ordered=ordered)
        study = optuna.create_study(sampler=sampler)
        study.enqueue_trial({"x": 4})
        study.optimize(lambda t: t.suggest_categorical("x", range(8)), n_trials=2)
        adjacent.append(abs(study.trials[1].params["x"] - 4) == 1)
    assert least <= np.mean(adjacent) <= most


def test_the_factory_passes_on_what_the_space_says() -> None:
    sampler = create_sampler("evolution", SPACE, 0, {"population_size": 30})
    assert isinstance(sampler, EvolutionSampler)
    assert sampler.ordered == frozenset(PARAMETERS)


def test_crossover_mixes_two_members() -> None:
    study = optuna.create_study(sampler=EvolutionSampler(EvolutionConfig(crossover=1.0, tournament_size=1), seed=0))
    study.optimize(objective, n_trials=60)
    points = [tokens(t) for t in study.trials]
    nearest = [min(len(differences(points[i], p)) for p in points[max(0, i - 50) : i]) for i in range(10, 60)]
    assert max(nearest) > 1


def test_resuming_changes_nothing(tmp_path: Any) -> None:
    whole = optuna.create_study(sampler=EvolutionSampler(seed=1))
    whole.optimize(objective, n_trials=30)
    part = optuna.create_study(sampler=EvolutionSampler(seed=1))
    part.optimize(objective, n_trials=15)
    part.sampler = pickle.loads(pickle.dumps(part.sampler))
    part.optimize(objective, n_trials=15)
    assert [t.params for t in part.trials] == [t.params for t in whole.trials]


def test_two_objectives_are_searched() -> None:
    def pair(t: optuna.Trial) -> tuple[float, float]:
        point = SPACE.tokens(SPACE.suggest(t))
        return float(sum(point)), float(sum((x - 1) ** 2 for x in point))

    study = optuna.create_study(directions=["maximize", "minimize"], sampler=EvolutionSampler(seed=0))
    study.optimize(pair, n_trials=100)
    points = np.array([t.values for t in study.trials])
    assert points[50:, 1].mean() < points[:10, 1].mean() or points[50:, 0].mean() > points[:10, 0].mean()
    assert len({tokens(t) for t in study.trials}) == 100


@pytest.mark.parametrize(
    "options",
    [{"population_size": 0}, {"tournament_size": 99}, {"crossover": 2.0}, {"neighbour_bias": 0}, {"tournament": 3}],
)
def test_wrong_options_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(SpecError):
        create_sampler("evolution", SPACE, 0, options)
