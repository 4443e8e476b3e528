import time

import numpy as np
import optuna
import pytest
from optuna.trial import TrialState, create_trial

from nas_optuna.samplers import create_sampler
from nas_optuna.samplers.optuna_builtin import GP_TRIALS, GPSampler
from nas_optuna.spaces.conv import ConvSpace

optuna.logging.set_verbosity(optuna.logging.ERROR)
SPACE = ConvSpace(depth=2)


def study_of(trials: int, direction: str) -> optuna.Study:
    study = optuna.create_study(direction=direction, sampler=create_sampler("gp", SPACE, 0, {}))
    distributions, rng = SPACE.distributions(), np.random.default_rng(0)
    for _ in range(trials):
        params = {name: d.choices[rng.integers(len(d.choices))] for name, d in distributions.items()}
        study.add_trial(create_trial(params=params, distributions=distributions, value=rng.normal()))
    return study


@pytest.mark.parametrize("direction", ["maximize", "minimize"])
def test_optunas_process_sees_the_best_and_the_latest(direction: str, monkeypatch: pytest.MonkeyPatch) -> None:
    study, seen = study_of(3 * GP_TRIALS, direction), []

    def sample_relative(self: object, study: optuna.Study, *_: object) -> None:
        seen.extend(study.get_trials(deepcopy=False))

    study.ask()
    monkeypatch.setattr(optuna.samplers.GPSampler, "sample_relative", sample_relative)
    GPSampler().sample_relative(study, study.trials[-1], {})
    complete = [t for t in seen if t.state == TrialState.COMPLETE]
    assert GP_TRIALS // 2 < len(complete) <= GP_TRIALS
    assert len(seen) == len(complete) + 1
    assert study.best_trial.number in {t.number for t in complete}
    assert complete[-1].number == 3 * GP_TRIALS - 1
    assert len(study.trials) == 3 * GP_TRIALS + 1


def test_three_thousand_trials_do_not_stop_optunas_process() -> None:
    study = study_of(3000, "maximize")
    SPACE.suggest(study.ask())
    started = time.process_time()
    SPACE.suggest(study.ask())
    assert time.process_time() - started < 5  # ten minutes when it is fitted to all of them


@pytest.mark.parametrize("objectives", [1, 2])
def test_optunas_process_takes_the_study_that_hyperband_shows_it(objectives: int) -> None:
    sampler = create_sampler("gp", SPACE, 0, {"n_startup_trials": 2})
    pruner = optuna.pruners.HyperbandPruner(1, 4)
    study = optuna.create_study(directions=["minimize"] * objectives, sampler=sampler, pruner=pruner)
    study.optimize(lambda trial: [float(sum(SPACE.tokens(SPACE.suggest(trial))))] * objectives, n_trials=5)
    assert len({tuple(trial.params.values()) for trial in study.trials}) == 5
