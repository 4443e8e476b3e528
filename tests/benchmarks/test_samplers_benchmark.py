"""The tables and the comparison of samplers, small."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import optuna
import pytest

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
sys.path.insert(0, str(BENCHMARKS))

import samplers as comparison  # noqa: E402
from tabular import Table, TabularObjective, digits, synthetic  # noqa: E402


@pytest.fixture(scope="module", params=["digits", "synthetic"])
def table(request: pytest.FixtureRequest) -> Table:
    return digits() if request.param == "digits" else synthetic(layers=2)


def test_tables_are_complete(table: Table) -> None:
    sizes = tuple(len(p.choices) for p in table.parameters.values())
    assert table.accuracy.shape == table.seconds.shape == (*sizes, 3, 5)
    assert table.size == np.prod(sizes)
    assert ((table.accuracy > 0) & (table.accuracy <= 1)).all()
    assert (table.seconds > 0).all()
    assert table.final.max() > 0.9


def test_the_objective_replays_curves_and_obeys_the_pruner(table: Table) -> None:
    study = optuna.create_study(
        direction="maximize",
        sampler=optuna.samplers.RandomSampler(seed=0),
        pruner=optuna.pruners.MedianPruner(n_startup_trials=3),
    )
    study.optimize(TabularObjective(table), n_trials=40)
    for trial in study.trials:
        place = table.suggest(optuna.trial.FixedTrial(trial.params))
        curve = table.accuracy[place].mean(0)
        for epoch, value in trial.intermediate_values.items():
            assert value == pytest.approx(curve[epoch - 1], rel=1e-6)
        epochs = len(trial.intermediate_values)
        assert trial.user_attrs["nas_optuna:seconds"] == pytest.approx(
            table.seconds[place].sum(0)[:epochs].sum(), rel=1e-5
        )
    states = [t.state.name for t in study.trials]
    assert states.count("PRUNED") > 5
    assert study.best_value == pytest.approx(max(t.values[0] for t in study.trials if t.values))


def test_one_seed_is_one_training() -> None:
    table = digits()
    study = optuna.create_study(direction="maximize", sampler=optuna.samplers.RandomSampler(seed=0))
    study.optimize(TabularObjective(table, seed=2), n_trials=5)
    for trial in study.trials:
        place = table.suggest(optuna.trial.FixedTrial(trial.params))
        assert trial.value == pytest.approx(table.accuracy[place][2, -1])


def test_the_synthetic_table_has_interactions() -> None:
    final = np.log(synthetic(layers=2).final)
    effects = sum(final.mean(axis=tuple(j for j in range(4) if j != i), keepdims=True) for i in range(4))
    left = final - (effects - 3 * final.mean())
    assert left.std() > 0.3 * final.std()


@pytest.mark.parametrize("workers", [1, 4])
def test_a_simulated_search(workers: int) -> None:
    table = synthetic(layers=2)
    regrets, times = comparison.simulate(table, "random", seed=0, workers=workers, trials=30)
    assert len(regrets) == len(times) == 30
    assert regrets == sorted(regrets, reverse=True)
    assert 0 <= regrets[-1] < 30
    assert all(0 < time < 1000 for time in times)


def test_what_a_proposal_costs_is_that_of_the_latest_ten() -> None:
    times = [1000.0] * 90 + [float(n) for n in range(10)]
    assert comparison.at_timed(times) == {"100": 4.5}


def test_failing_trainings_are_no_results() -> None:
    table = synthetic(layers=2)
    regrets, _ = comparison.simulate(table, "controller,failures='worst'", 0, 1, 30, fail_below=0.99)
    assert regrets == [pytest.approx(100 * table.final.max())] * 30


def test_the_script_resumes_and_prints_json(tmp_path: Path) -> None:
    command = [sys.executable, str(BENCHMARKS / "samplers.py"), "--tables", "digits", "--samplers", "random"]
    command += ["evolution", "--workers", "1", "--seeds", "3", "--trials", "50", "--json"]
    command += ["--results", str(tmp_path / "runs.jsonl"), "--plot", str(tmp_path / "plot.html")]
    rows = [json.loads(subprocess.run(command, check=True, capture_output=True).stdout) for _ in range(2)]
    assert rows[0] == rows[1]
    assert [row["sampler"] for row in rows[0]] == ["random", "evolution"]
    assert list(rows[0][0]["regret"]) == ["10", "25", "50"]
    assert len((tmp_path / "runs.jsonl").read_text().splitlines()) == 6
    assert "evolution" in (tmp_path / "plot.html").read_text()
