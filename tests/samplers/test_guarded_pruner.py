"""The default pruner keeps enough to compare, also in a second search of the same study, and stops the rest."""

import math

import numpy as np
import optuna
import pytest
from optuna.trial import TrialState

from nas_optuna.errors import SpecError
from nas_optuna.pruners import create_pruner
from nas_optuna.samplers.curve_pruner import GuardedPruner

optuna.logging.set_verbosity(optuna.logging.ERROR)
EPOCHS = 10


def curves(seed: int, trials: int) -> list[list[float]]:
    rng = np.random.default_rng(seed)
    ends, rates = rng.normal(0.9, 0.05, trials), rng.uniform(0.3, 1.0, trials)
    noise = rng.normal(0, 0.005, (trials, EPOCHS))
    steps = np.arange(1, EPOCHS + 1)
    values: list[list[float]] = (ends[:, None] * (1 - np.exp(-rates[:, None] * steps)) + noise).tolist()
    return values


def replay(study: optuna.Study, curves: list[list[float]], sign: float = 1.0) -> tuple[int, int, float]:
    """Complete trials, epochs spent, and points lost against the best of all."""
    complete, spent, best = 0, 0, -math.inf
    for curve in curves:
        trial = study.ask()
        for epoch, value in enumerate(curve, start=1):
            spent += 1
            trial.report(sign * value, epoch)
            if epoch < len(curve) and trial.should_prune():
                study.tell(trial, state=TrialState.PRUNED)
                break
        else:
            study.tell(trial, sign * curve[-1])
            complete, best = complete + 1, max(best, curve[-1])
    return complete, spent, 100 * (max(curve[-1] for curve in curves) - best)


@pytest.mark.parametrize("direction", ["maximize", "minimize"])
def test_two_searches_in_one_study_keep_five_of_twenty_for_half_the_epochs(direction: str) -> None:
    sign, losses = 1.0 if direction == "maximize" else -1.0, []
    for seed in range(5):
        study = optuna.create_study(direction=direction, pruner=create_pruner("guarded", EPOCHS, {}))
        for half in range(2):
            complete, spent, lost = replay(study, curves(2 * seed + half, 20), sign)
            assert complete >= 5
            assert spent <= 0.6 * 20 * EPOCHS
            losses.append(lost)
    assert np.median(losses) <= 0.1


def test_a_better_first_search_does_not_stop_all_of_the_second() -> None:
    study = optuna.create_study(direction="maximize", pruner=GuardedPruner(EPOCHS))
    replay(study, curves(0, 20))
    worse = [[0.8 * value for value in curve] for curve in curves(1, 20)]
    assert replay(study, worse)[0] >= 5
    halving = optuna.create_study(direction="maximize", pruner=create_pruner("asha", EPOCHS, {}))
    replay(halving, curves(0, 20))
    assert replay(halving, worse)[0] == 0


def test_nothing_is_stopped_after_the_first_epoch_of_many_nor_at_the_last() -> None:
    study = optuna.create_study(direction="maximize", pruner=GuardedPruner(EPOCHS))
    for curve in curves(0, 5):
        replay(study, [curve])
    trial = study.ask()
    stopped = []
    for epoch in range(1, EPOCHS + 1):
        trial.report(0.0, epoch)
        stopped.append(trial.should_prune())
    assert [epoch for epoch, stop in enumerate(stopped, start=1) if stop] == [2, 5]


def test_a_value_that_is_no_number_is_stopped() -> None:
    study = optuna.create_study(direction="maximize", pruner=GuardedPruner(EPOCHS))
    replay(study, curves(0, 3))
    trial = study.ask()
    trial.report(math.nan, 2)
    assert trial.should_prune()


@pytest.mark.parametrize("options", [{"keep": 1.5}, {"guarantee": -0.1}, {"n_startup_trials": 0}, {"window": 1}])
def test_options_out_of_range_are_refused_in_one_line(options: dict[str, float]) -> None:
    with pytest.raises(SpecError, match=next(iter(options))):
        create_pruner("guarded", EPOCHS, options)
