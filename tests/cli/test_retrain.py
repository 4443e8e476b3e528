"""``retrain``: the test set is looked at once, for what was chosen."""

import errno
import json
import os
import re
import shlex
from pathlib import Path

import optuna
import pytest

from nas_optuna import load_data, load_network
from nas_optuna.cli import main
from nas_optuna.cli.networks import print_confusions
from nas_optuna.execution.retrain import TestReport
from tests.helpers import Command, tiny

SMALL = ["--set", "space.depth=2", "--set", "recipe.epochs=2", "--set", "recipe.input_size=8"]


def test_it_reports_test_figures_and_saves_a_network(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["run", "--sampler", "random", "--trials", "2", *SMALL]) == 0
    capsys.readouterr()
    assert main(["retrain", "--seeds", "2", "--json"]) == 0
    printed = capsys.readouterr()
    report = json.loads(printed.out)
    assert (report["images"], report["test_images"]) == (1438, 359)  # training and validation images together
    assert len(report["accuracies"]) == 2
    assert 0 < report["standard_error"] < 0.05
    assert report["mean"] == pytest.approx(sum(report["accuracies"]) / 2)
    for confusion, accuracy in zip(report["confusions"], report["accuracies"], strict=True):
        assert sum(map(sum, confusion)) == 359, "seeds are not summed"
        assert sum(row[i] for i, row in enumerate(confusion)) / 359 == pytest.approx(accuracy)
    assert "looked at" not in printed.err
    predictions = load_network(report["file"]).predict(load_data("digits").validation.images)
    assert len(predictions) == 288
    assert not list(place.glob("nas-optuna-files/checkpoints/*/retrain-*"))

    assert main(["retrain", "--trial", "0", "--epochs", "1"]) == 0
    printed = capsys.readouterr()
    assert "looked at 1 time before" in printed.err
    assert "test accuracy of each class" in printed.out
    assert re.search(r"test accuracy +0\.\d{4} ± 0\.\d{4}", printed.out)


def test_what_cannot_be_saved_need_not_be_trained_again(
    place: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    assert main(["run", "--sampler", "random", "--trials", "1", *SMALL]) == 0
    with monkeypatch.context() as patched:
        patched.setattr("nas_optuna.cli.networks.save_network", full)
        assert main(["retrain"]) == 2
    assert "No space left" in capsys.readouterr().err
    monkeypatch.setattr("nas_optuna.training.TrainStep.__call__", full)
    monkeypatch.setattr("shutil.copyfileobj", full)  # of files for the dashboard
    assert main(["retrain"]) == 0
    said = capsys.readouterr().err
    assert "optuna-dashboard does not show this retraining: its files cannot be kept in nas-optuna-files" in said
    assert "looked at" not in said
    assert not list(place.glob("nas-optuna-files/checkpoints/*/retrain-*"))


def report_of(classes: int, seeds: int) -> TestReport:
    """Every class is recognised in 8 of 10 images; the rest are taken for the next class."""
    matrix = {(i, i): 8 for i in range(classes)} | {(i, (i + 1) % classes): 2 for i in range(classes)}
    half = classes // 2
    matrix = {pair: count for pair, count in matrix.items() if pair[0] != half} | {(half, 0): 10}
    return TestReport(
        architecture="a",
        recipe="r",
        device="cpu",
        images=1,
        test_images=10 * classes,
        seeds=tuple(range(seeds)),
        accuracies=(0.8,) * seeds,
        classes=tuple(f"class [{i}] of this set" for i in range(classes)),
        confusions=(matrix,) * seeds,
        seconds=1.0,
    )


@pytest.mark.parametrize("width", ["40", "80", None])
def test_the_worst_classes_are_listed_with_what_they_were_taken_for(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, width: str | None
) -> None:
    monkeypatch.delenv("COLUMNS", raising=False)
    if width is not None:
        monkeypatch.setenv("COLUMNS", width)
    print_confusions(report_of(classes=100, seeds=3))
    lines = capsys.readouterr().out.splitlines()
    assert " ".join(" ".join(lines).split()).startswith("test accuracy of each class, the worst 10 of 100")
    assert len(lines) < 40, "not a line per class"
    if width is None:
        assert lines[3].split("  ")[0] == "class [50] of this set"
        assert "0.0000" in lines[3]
        assert lines[3].endswith("class [0] of this set 100.0%")
        assert "0.8000" in lines[4]
        assert lines[4].split()[-1] == "20.0%"
        assert lines[0].endswith("mean of 3 seeds")
    print_confusions(report_of(classes=2, seeds=1))
    assert capsys.readouterr().out.splitlines()[0] == "test accuracy of each class"


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--trial", "7"], "choose best, cheapest or a number below 2"),
        (["--seeds", "0"], "--seeds"),
        (["--study", "nsa"], "did you mean 'nas'"),
        (["--out", "nowhere/n.safetensors"], "directory nowhere does not exist"),
        (["--device", "cuda:9"], "cuda:9"),
    ],
)
def test_bad_input_gets_one_line(command: Command, study: str, arguments: list[str], says: str) -> None:
    result = command("retrain", *arguments)
    assert result.code == 2
    assert says in result.err
    assert result.err.count("error:") == 1


def test_repeats_score_by_the_mean_and_report_the_spread(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["run", "--study", "r", "--trials", "1", *tiny(recipe__epochs=2, recipe__repeats=3)]) == 0
    (trial,) = optuna.load_study(study_name="r", storage="sqlite:///nas-optuna.db").get_trials()
    assert trial.user_attrs["nas_optuna:epochs"] == 6
    assert trial.user_attrs["nas_optuna:spread"] > 0
    assert "±" in capsys.readouterr().out


INTERRUPTS = """
import os, pathlib, signal
from nas_optuna import Callback

class Once(Callback):
    def step_finished(self, subject, measurement):
        if not pathlib.Path("done").exists():
            pathlib.Path("done").touch()
            os.kill(os.getpid(), signal.SIGINT)
"""


@pytest.mark.parametrize("words", [("retrain", "--epochs", "3"), ("supernet", "train", "--set", "supernet.epochs=2")])
def test_after_ctrl_c_the_line_to_continue_ends_the_training(command: Command, words: tuple[str, ...]) -> None:
    assert command("run", "--sampler", "random", "--trials", 1, *tiny()).code == 0
    Path("once.py").write_text(INTERRUPTS)
    stopped = command(*words, "--track", "once.py:Once")
    assert stopped.code == 130, stopped.err
    said, _, again = stopped.err.splitlines()[-1].partition("; nothing is lost. Continue: nas-optuna ")
    assert said.startswith("stopped"), stopped.err
    assert shlex.split(again) == [*words, "--track", "once.py:Once"]
    assert command(*shlex.split(again)).code == 0
