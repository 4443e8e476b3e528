import json
from pathlib import Path

import optuna
import pytest
import torch

from nas_optuna.cli import main

TINY = [
    *("--set", "data.train_limit=300", "--set", "recipe.epochs=3", "--set", "space.depth=2"),
    *("--set", "space.filters=[4, 16]", "--set", "recipe.input_size=8"),
]


@pytest.fixture
def storage(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path}/studies.db"


def call(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    code = main(list(arguments))
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def load(storage: str) -> optuna.Study:
    return optuna.load_study(study_name="costs", storage=storage)


def test_a_run_with_two_objectives_prints_its_front(storage: str, capsys: pytest.CaptureFixture[str]) -> None:
    at = ["--study", "costs", "--storage", storage]
    code, out, err = call(
        capsys,
        *(
            "run",
            *at,
            "--objective",
            "accuracy",
            "--objective",
            "macs",
            "--sampler",
            "random",
            "--pruner",
            "asha",
            "--trials",
            "14",
            *TINY,
        ),
    )
    assert code == 0
    assert "front of study costs" in out
    assert "hypervolume" in err
    study = load(storage)
    assert [d.name for d in study.directions] == ["MAXIMIZE", "MINIMIZE"]
    assert study.metric_names == ["accuracy", "macs"]
    states = [t.state.name for t in study.trials]
    assert states.count("PRUNED") > 0
    assert all(t.values is None for t in study.trials if t.state.name == "PRUNED")
    cheapest = study.trials[0]
    assert cheapest.user_attrs["nas_optuna:origin"] == "cheapest"
    assert cheapest.number in {t.number for t in study.best_trials}
    assert cheapest.user_attrs["nas_optuna:macs"] == min(t.user_attrs["nas_optuna:macs"] for t in study.trials)

    code, out, _ = call(capsys, "pareto", *at, "--json")
    front = json.loads(out)
    assert code == 0
    assert {r["number"] for r in front["records"]} == {t.number for t in study.best_trials}
    assert 0 < front["hypervolume"] < 1
    assert front["reference"] == [0.0, max(t.user_attrs["nas_optuna:macs"] for t in study.trials)]

    wide = json.loads(call(capsys, "pareto", *at, "--reference", "macs=1e9", "--json")[1])
    assert wide["reference"] == [0.0, 1e9]
    assert wide["hypervolume"] > front["hypervolume"]
    for reference, message in (("mac=3", "unknown objective 'mac'"), ("macs", "NAME=VALUE"), ("macs=0", "no room")):
        code, _, err = call(capsys, "pareto", *at, "--reference", reference)
        assert code == 2
        assert message in err

    code, _, err = call(capsys, "best", *at)
    assert code == 0
    assert "best in accuracy alone" in err


def test_a_fixed_architecture_is_trained_and_no_cheapest_one(
    storage: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    fixed = tmp_path / "fixed.json"
    fixed.write_text('"f16k3s1-f4k3s1"')
    objectives = ["--objective", "accuracy", "--objective", "macs", "--sampler", "random", *TINY]
    assert call(capsys, "run", "--study", "costs", "--storage", storage, "--fixed", str(fixed), *objectives)[0] == 0
    assert [t.user_attrs["nas_optuna:architecture"] for t in load(storage).trials] == ["f16k3s1-f4k3s1"]


def test_nothing_above_a_limit_is_trained(storage: str, capsys: pytest.CaptureFixture[str]) -> None:
    code, _, err = call(
        capsys,
        *(
            "run",
            "--study",
            "costs",
            "--storage",
            storage,
            "--max-macs",
            "20k",
            "--trials",
            "6",
            "--sampler",
            "random",
            "--json",
            *TINY,
        ),
    )
    assert code == 0
    assert "inside the limits: 6 of" in err
    trials = load(storage).trials
    assert all(t.user_attrs["nas_optuna:macs"] <= 20_000 and t.constraints["macs"] <= 0 for t in trials)
    assert sum(t.user_attrs["nas_optuna:proposals"] for t in trials) > 6


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--objective", "acuracy"], "unknown objective 'acuracy'; did you mean 'accuracy'"),
        (["--objective", "accuracy", "--objective", "accuracy:minimize"], "has one direction, maximize"),
        (["--max-macs", "10"], "no architecture has macs of at most 10; the smallest possible is "),
        (["--max-params", "lots"], "'lots' is not a positive amount"),
        (["--objective", "accuracy", "--latency-table", "absent.json"], "cannot read latency table absent.json"),
    ],
)
@pytest.mark.parametrize("command", [["run", "--study", "costs"], ["study", "create", "costs"]])
def test_bad_input_is_one_line_and_leaves_no_study(
    command: list[str], options: list[str], message: str, storage: str, capsys: pytest.CaptureFixture[str]
) -> None:
    code, out, err = call(capsys, *command, "--storage", storage, *options, *TINY)
    errors = [line for line in err.splitlines() if not line.startswith("no --spec")]
    assert (code, out, len(errors)) == (2, "", 1)
    assert message in errors[0]
    assert not Path(storage.removeprefix("sqlite:///")).exists()


def test_a_study_keeps_its_limits(storage: str, capsys: pytest.CaptureFixture[str]) -> None:
    at = ["run", "--study", "costs", "--storage", storage, "--trials", "1"]
    assert call(capsys, *at, "--max-macs", "20k", *TINY)[0] == 0
    assert call(capsys, *at)[0] == 0
    code, _, err = call(capsys, *at, "--max-macs", "30k")
    assert code == 2
    assert "made with another 'limits'" in err


def test_a_study_goes_on_elsewhere_when_its_table_is_believed(
    storage: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    table = tmp_path / "table.json"
    space = ["--set", "depth=2", "--set", "filters=[4, 16]", "--input-size", "8"]
    assert call(capsys, "latency", "measure", "--device", "cpu", "--out", str(table), "--rounds", "1", *space)[0] == 0
    at = ["run", "--study", "costs", "--storage", storage, "--trials", "1", "--device", "cpu"]
    objectives = ["--objective", "accuracy", "--objective", "latency_ms", "--latency-table", str(table)]
    assert call(capsys, *at, *objectives, *TINY)[0] == 0
    table.write_text(table.read_text().replace(torch.__version__, "0.1"))
    code, _, err = call(capsys, *at)
    assert code == 2
    remedy = err.strip().rpartition(": ")[2]
    assert call(capsys, *at, *remedy.split())[0] == 0
    assert [t.state.name for t in load(storage).trials] == ["COMPLETE"] * 2
