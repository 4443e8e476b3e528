"""Where the benchmark says that a search would have ended is where it ends."""

import sys
from pathlib import Path

import optuna
import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))

import stalled
from tabular import digits

from nas_optuna.execution.stopping import StopWhen, parse_until
from nas_optuna.samplers import create_sampler


def test_it_ends_where_a_study_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stalled, "TRIALS", 40)
    table = digits()
    run = stalled.search(table, "arch", seed=0, until="stalled:3")
    study = optuna.create_study(direction="maximize", sampler=create_sampler("arch", table, 0, {}))
    stop = StopWhen(["accuracy"], [parse_until("stalled:3", ["accuracy"])])
    study.optimize(lambda trial: float(table.final[table.suggest(trial)]), n_trials=40, callbacks=[stop])
    assert run["ends"] == len(study.trials) < 40
    assert run["regret"] == pytest.approx(100 * (float(table.final.max()) - study.best_value))
    assert 0 <= run["lost"] <= run["regret"]
