import math

import optuna
import pytest

from nas_optuna.report.figures import ENTROPY_GRAPH, entropy_figure, save_entropy
from nas_optuna.samplers.controller import ControllerSampler


def objective(trial: optuna.Trial) -> float:
    return float(trial.suggest_categorical("a", [0, 1, 2]) + trial.suggest_categorical("b", [0, 1, 2]))


def test_entropy_falls_and_reaches_the_dashboard() -> None:
    study = optuna.create_study(sampler=ControllerSampler(seed=0))
    study.optimize(objective, n_trials=80)
    figure = entropy_figure(study)
    assert figure is not None
    numbers, entropies = figure.data[0].x, figure.data[0].y
    assert numbers == tuple(range(1, 80))  # the first trial knows of no parameters yet
    assert entropies[0] == pytest.approx(math.log(3), rel=0.02)
    assert entropies[-1] < 0.7 * entropies[0]
    for _ in range(2):
        save_entropy(study)
    saved = [name for name in study._storage.get_study_system_attrs(study._study_id) if ENTROPY_GRAPH in name]
    assert len(saved) >= 1


def test_a_study_without_a_controller_has_no_such_figure() -> None:
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    study.optimize(objective, n_trials=3)
    assert entropy_figure(study) is None
    save_entropy(study)
    assert study._storage.get_study_system_attrs(study._study_id) == {}
