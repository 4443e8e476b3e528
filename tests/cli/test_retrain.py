"""``retrain``: the test set is looked at once, for what was chosen."""

import json
from pathlib import Path

import optuna
import pytest

from nas_optuna import load_data, load_network
from nas_optuna.cli import main

SMALL = ["--set", "space.depth=2", "--set", "recipe.epochs=2", "--set", "recipe.input_size=8"]


@pytest.fixture
def study(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    assert main(["run", "--sampler", "random", "--trials", "2", *SMALL]) == 0
    return tmp_path


def test_it_reports_test_figures_and_saves_a_network(study: Path, capsys: pytest.CaptureFixture[str]) -> None:
    capsys.readouterr()
    assert main(["retrain", "--seeds", "2", "--json"]) == 0
    printed = capsys.readouterr()
    report = json.loads(printed.out)
    assert (report["images"], report["test_images"]) == (1438, 359)  # training and validation images together
    assert len(report["accuracies"]) == 2
    assert report["mean"] == pytest.approx(sum(report["accuracies"]) / 2)
    assert sum(map(sum, report["confusion"])) == 2 * 359
    hits = sum(row[i] for i, row in enumerate(report["confusion"]))
    assert hits / (2 * 359) == pytest.approx(report["mean"])
    assert "looked at" not in printed.err
    predictions = load_network(report["file"]).predict(load_data("digits").validation.images)
    assert len(predictions) == 288
    assert not list(study.glob("nas-optuna-files/checkpoints/*/retrain-*"))

    assert main(["retrain", "--trial", "0", "--epochs", "1"]) == 0
    printed = capsys.readouterr()
    assert "looked at 1 times before" in printed.err
    assert "confusion" in printed.out


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--trial", "7"], "choose best or a number below 2"),
        (["--seeds", "0"], "--seeds must be at least 1"),
        (["--study", "nsa"], "did you mean 'nas'"),
        (["--out", "nowhere/n.safetensors"], "directory nowhere does not exist"),
        (["--device", "cuda:9"], "cuda:9"),
    ],
)
def test_bad_input_gets_one_line(
    study: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], says: str
) -> None:
    capsys.readouterr()
    assert main(["retrain", *arguments]) == 2
    printed = capsys.readouterr()
    assert says in printed.err
    assert printed.err.count("error:") == 1


def test_repeats_score_by_the_mean_and_report_the_spread(study: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["run", "--study", "r", "--trials", "1", *SMALL, "--set", "recipe.repeats=3"]) == 0
    (trial,) = optuna.load_study(study_name="r", storage="sqlite:///nas-optuna.db").get_trials()
    assert trial.user_attrs["nas_optuna:epochs"] == 6
    assert trial.user_attrs["nas_optuna:spread"] > 0
    assert "±" in capsys.readouterr().out
