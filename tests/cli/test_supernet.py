"""The supernet commands, on the real thing: digits, two small blocks, seconds of training."""

import json
import os
import random
import re
import shlex
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import optuna
import pytest
import torch

from nas_optuna.cli import main
from nas_optuna.costs.latency_table import LatencyTable
from nas_optuna.costs.runtimes import Conditions
from nas_optuna.errors import Interrupted
from nas_optuna.oneshot.score import FEATURES, SIZES
from nas_optuna.oneshot.training import SupernetTraining
from nas_optuna.spaces.macro import MacroSpace
from nas_optuna.study.files import remember

SPEC = """
[data]
name = "digits"
train_limit = 300
[space]
name = "block"
depth = 2
candidates = ["k3_f16", "k3_f24", "skip"]
[recipe]
epochs = 1
input_size = 8
[sampler]
name = "random"
[pruner]
name = "none"
"""
STRATEGIES = {
    "darts": "[supernet]\nepochs = 3\nwarmup_epochs = 1\nalpha_learning_rate = 0.05\n",
    "fair": "[supernet]\nepochs = 3\nevaluations = 20\n",
}
STORAGE = "sqlite:///nas-optuna.db"


@pytest.fixture(scope="module", params=STRATEGIES)
def strategy(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def trained_once(strategy: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the spec ``tiny.toml`` and the trained supernet of a study ``s``."""
    folder = tmp_path_factory.mktemp(strategy)
    (folder / "tiny.toml").write_text(SPEC + STRATEGIES[strategy])
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        assert main(["supernet", "train", "--study", "s", "--spec", "tiny.toml"]) == 0
    return folder


@pytest.fixture
def folder(strategy: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A current folder with the spec ``tiny.toml``, of each strategy in turn."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "tiny.toml").write_text(SPEC + STRATEGIES[strategy])
    return tmp_path


@pytest.fixture
def trained(folder: Path, trained_once: Path) -> Path:
    """A current folder with ``tiny.toml`` and a study ``s`` that has a trained supernet, of each strategy in turn."""
    shutil.copytree(trained_once, folder, dirs_exist_ok=True)
    return folder


def stopped(*arguments: object) -> None:
    raise Interrupted


def study(name: str = "s") -> optuna.Study:
    return optuna.load_study(study_name=name, storage=STORAGE)


def test_train_export_and_fixed_run_are_one_study(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["run", "--study", "s", "--spec", "tiny.toml", "--trials", "2"]) == 0
    capsys.readouterr()
    assert main(["supernet", "train", "--study", "s", "--json"]) == 0
    out, err = capsys.readouterr()
    trained = json.loads(out)
    assert len(trained["history"]) == 3
    assert trained["alphas"]["block1"] != [0.0, 0.0, 0.0]
    fair = trained["strategy"] == "fair"
    assert ("  entropy " in err) == (not fair), "nothing is said of alphas while none train"
    assert all((epoch["alphas"] is None) == fair for epoch in trained["history"])
    assert re.search(r"\(3 epochs of \d+ steps\) cost [\d.]+ stand-alone trainings", err), "before it begins"
    if fair:
        assert re.search(r"15 steps\) cost [\d.]+ stand-alone .*, scoring 9 architectures about [\d.]+,", err)
        assert "short trainings about 2.0" in err
    best = trained["best" if fair else "argmax"]
    attributes = study().user_attrs
    assert main(["supernet", "train", "--study", "s"]) == 0
    assert study().user_attrs == attributes, "a training that has ended is not stored anew"
    assert attributes["nas_optuna:supernet"]["argmax"] == trained["argmax"]

    capsys.readouterr()
    assert main(["supernet", "export", "--study", "s"]) == 0
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == "wrote s-fixed.json"
    assert "--fixed s-fixed.json" in lines[-1], "the next step"
    params = json.loads(Path("s-fixed.json").read_text())
    assert optuna.trial.FixedTrial(params).suggest_categorical("block1", ["k3_f16", "k3_f24", "skip"])
    assert main(["run", "--study", "s", "--fixed", "s-fixed.json"]) == 0
    trials = study().trials
    assert [t.user_attrs["nas_optuna:origin"] for t in trials][2:] == ["supernet"]
    assert trials[2].params == params
    assert trials[2].user_attrs["nas_optuna:architecture"] == best
    assert "-".join(params.values()) == best
    assert main(["supernet", "export", "--study", "s"]) == 0
    assert len(study().trials) == 3, "what has been trained does not wait for another training"


def test_export_lists_the_most_probable(trained: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["supernet", "export", "--study", "s", "--top", "4", "--out", "top.json", "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    summary = study().user_attrs["nas_optuna:supernet"]
    if summary["strategy"] == "darts":
        assert [row["probability"] for row in rows] == sorted((row["probability"] for row in rows), reverse=True)
        assert {row["by"] for row in rows} == {"alphas"}
    else:
        assert rows[0] | {"probability": 0, "params": {}} == {
            "architecture": summary["best"],
            "by": "score",
            "probability": 0,
            "params": {},
        }
    assert summary["argmax"] in [row["architecture"] for row in rows]
    assert len({row["architecture"] for row in rows}) == 4
    assert json.loads(Path("top.json").read_text()) == [row["params"] for row in rows]
    assert main(["supernet", "export", "--study", "s", "--top", "4"]) == 0
    assert len(study().trials) == 4, "an export that is repeated queues nothing twice"
    capsys.readouterr()
    assert main(["supernet", "export", "--study", "s", "--top", "4", "--out", "-"]) == 0
    printed = capsys.readouterr()
    assert json.loads(printed.out) == [row["params"] for row in rows]
    assert "--fixed" not in printed.err, "there is no file"


def test_the_report_shows_whether_to_believe_the_supernet(trained: Path) -> None:
    assert main(["run", "--study", "s", "--trials", "5"]) == 0
    assert main(["report", "--study", "s"]) == 0
    page = Path("report.html").read_text(encoding="utf-8").partition("<h2>Supernet</h2>")[2].partition("<h2>")[0]
    believed = page.partition("Whether to believe it")[2]
    assert "<code>nas-optuna supernet check --study s</code>" in believed
    if study().user_attrs["nas_optuna:supernet"]["strategy"] == "fair":
        assert believed.count('<circle class="dot s0"') == 5
        assert re.search(r"Kendall's τ -?[01]\.\d\d over 5 networks", believed)
    else:
        assert "a study whose supernet has a score" in believed


def test_warm_start_and_prior_sampler(trained: Path, capsys: pytest.CaptureFixture[str]) -> None:
    warm = ["--sampler", "tpe", "--warm-start", "supernet", "--warm-trials", "2"]
    assert main(["run", "--study", "s", "--trials", "3", *warm]) == 0
    origins = [t.user_attrs["nas_optuna:origin"] for t in study().trials]
    assert origins[:2] == ["supernet warm start"] * 2
    assert origins[2] != "supernet warm start"
    summary = study().user_attrs["nas_optuna:supernet"]
    assert study().trials[0].user_attrs["nas_optuna:architecture"] == (summary["best"] or summary["argmax"])
    assert main(["run", "--study", "s", "--trials", "1", *warm]) == 0
    told = "the supernet has proposed its 2 trials already; --warm-trials 7 lets it propose 5 more"
    assert told in capsys.readouterr().err
    assert main(["run", "--study", "s", "--trials", "1", "--sampler", "supernet"]) == 0


def test_check_compares_with_own_trainings(trained: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["supernet", "check", "--study", "s", "--architectures", "4", "--json"]) == 0
    verdict = json.loads(capsys.readouterr().out)
    assert verdict["architectures"] == 4
    fair = study().user_attrs["nas_optuna:supernet"]["strategy"] == "fair"
    assert [chosen["by"] for chosen in verdict["chosen"]] == (["score", "alphas"] if fair else ["alphas"])
    assert all(1 <= chosen["rank"] <= 5 for chosen in verdict["chosen"])
    assert [row["name"] for row in verdict["rows"]] == [*FEATURES, "all sizes", "score"]
    for row in verdict["rows"]:
        assert -1 <= row["kendall"]["lower"] <= row["kendall"]["value"] <= row["kendall"]["upper"] <= 1
    count = len(study().trials)
    remember(study(), STORAGE, trained / "named-later")
    assert main(["supernet", "check", "--study", "s", "--architectures", "4"]) == 0, (
        "the weights are found where they were"
    )
    assert len(study().trials) == count, "what is trained is not trained again"
    assert "Kendall" in capsys.readouterr().out


def test_a_table_of_whole_networks_is_in_nobodys_way_unless_it_is_to_be_in_the_loss(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    space, here = MacroSpace(stages=1, depths=(1,), input_size=8), Conditions.here(torch.device("cpu"))
    networks = {str(each): [(1.0, 1.0, 1.0)] for each in space.sample_distinct(10, random.Random(0))}
    LatencyTable(space="macro", conditions=here, date="", networks=networks).save(Path("table.json"))
    macro = '[data]\nname = "digits"\ntrain_limit = 300\n[space]\nname = "macro"\nstages = 1\ndepths = [1]\n'
    Path("tiny.toml").write_text(macro)
    settings = ("recipe.input_size=8", "latency.table=table.json", "latency.force=true")
    train = ["supernet", "train", "--study", "s", "--spec", "tiny.toml", "--budget", "0"]
    train += [word for setting in settings for word in ("--set", setting)]
    monkeypatch.setattr(SupernetTraining, "train", stopped)
    assert main(train) == 130
    assert "costs from MACs" in capsys.readouterr().err
    assert main([*train, "--latency-weight", "1"]) == 2
    assert "the latency table holds whole networks" in capsys.readouterr().err


def test_a_budget_of_nothing_ranks_by_sizes_and_short_trainings(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """What is found serves export, prior, warm start, report and check, as that of shared weights does."""
    monkeypatch.chdir(tmp_path)
    Path("tiny.toml").write_text(SPEC.replace("epochs = 1", "epochs = 4").replace('"k3_f24", "skip"', '"k5_f16"'))
    train = ["supernet", "train", "--study", "s", "--spec", "tiny.toml", "--budget", "0"]
    assert main([*train, "--json"]) == 0
    out, err = capsys.readouterr()
    trained = json.loads(out)
    assert "without shared weights" in err
    assert re.search(r"^\d+ short trainings about [\d.]+ stand-alone trainings$", err, re.MULTILINE)
    assert (trained["epochs"], trained["history"], trained["shared_accuracy"]) == (0, [], None)
    assert trained["score_short_trainings"] >= 3
    assert trained["price"] <= 5
    assert not {"shared accuracy", "shared loss"} & set(trained["score"])
    attributes = study().user_attrs
    assert main(train) == 0
    assert study().user_attrs == attributes, "nothing is trained anew"
    assert "trained already" in capsys.readouterr().err
    assert main([*train, "--restart"]) == 0
    assert "short training 1," in capsys.readouterr().err, "everything is trained anew"
    assert main(["supernet", "export", "--study", "s", "--top", "2"]) == 0
    warm = ["--trials", "3", "--warm-start", "supernet", "--warm-trials", "2"]
    assert main(["run", "--study", "s", "--sampler", "arch", *warm]) == 0
    assert study().trials[0].user_attrs["nas_optuna:architecture"] == trained["best"]
    assert main(["run", "--study", "s", "--trials", "1", "--sampler", "supernet"]) == 0
    assert main(["report", "--study", "s"]) == 0
    capsys.readouterr()
    assert main(["supernet", "check", "--study", "s", "--architectures", "3", "--json"]) == 0
    verdict = json.loads(capsys.readouterr().out)
    assert [row["name"] for row in verdict["rows"]] == [*FEATURES[SIZES], "score"]


def test_what_continues_a_training_that_began_anew_does_not_begin_anew_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("tiny.toml").write_text(SPEC)
    train = ["supernet", "train", "--study", "s", "--spec", "tiny.toml", "--budget", "0"]
    train += ["--set", "supernet.short_trainings=0"]
    assert main(train) == 0
    trained = study().user_attrs["nas_optuna:supernet"]
    capsys.readouterr()
    with monkeypatch.context() as patch:
        patch.setattr(SupernetTraining, "train", stopped)
        assert main([*train, "--restart"]) == 130
    again = shlex.split(capsys.readouterr().err.partition("Continue: nas-optuna ")[2])
    assert again[:2] == ["supernet", "train"]
    assert "--restart" not in again
    assert study().user_attrs["nas_optuna:supernet"] == trained | {"identity": ""}, "it serves until there is another"
    assert main(again) == 0
    assert "trained already" not in capsys.readouterr().err
    assert study().user_attrs["nas_optuna:supernet"]["identity"] == trained["identity"]
    assert main(again) == 0
    assert "trained already" in capsys.readouterr().err


KILLS = """
import os, signal
from nas_optuna import Callback

class Kill(Callback):
    def step_finished(self, subject, measurement):
        if (subject.name, measurement.step) == ("{name}", {step}):
            os.kill(os.getpid(), signal.SIGKILL)
"""


def killed_at(name: str, step: int, *arguments: str) -> None:
    """Run a command that kills itself after that step of that training."""
    Path("kill.py").write_text(KILLS.format(name=name, step=step))
    command = [sys.executable, "-m", "nas_optuna", *arguments, "--track", "kill.py:Kill"]
    process = subprocess.run(command, capture_output=True, text=True, env=os.environ | {"OMP_NUM_THREADS": "1"})
    assert process.returncode == -signal.SIGKILL, process.stderr


@pytest.mark.process
@pytest.mark.parametrize("budget", [(), ("--budget", "0")], ids=["shared weights", "without"])
def test_training_resumes_after_a_kill_in_a_short_training(
    budget: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("tiny.toml").write_text(SPEC.replace("epochs = 1", "epochs = 3") + STRATEGIES["fair"] * (not budget))
    train = ["supernet", "train", "--spec", "tiny.toml", *budget, "--study"]
    assert main([*train, "whole"]) == 0
    killed_at("short training 2", 1, *train, "killed")
    assert "nas_optuna:supernet" not in study("killed").user_attrs
    assert main([*train, "killed"]) == 0
    whole, killed = study("whole").user_attrs, study("killed").user_attrs
    for key in ("alphas", "score", "starts", "teachers"):
        assert killed[f"nas_optuna:supernet:{key}:0"] == whole[f"nas_optuna:supernet:{key}:0"]


@pytest.mark.process
def test_training_resumes_after_a_kill(folder: Path) -> None:
    """The killed and resumed search ends with the alphas of an undisturbed one."""
    train = ["supernet", "train", "--spec", "tiny.toml", "--epochs", "8", "--study"]
    assert main([*train, "whole"]) == 0
    killed_at("supernet", 3, *train, "killed")
    assert "nas_optuna:supernet" not in study("killed").user_attrs
    assert main([*train, "killed"]) == 0
    whole, killed = study("whole").user_attrs, study("killed").user_attrs
    assert killed["nas_optuna:supernet:alphas:0"] == whole["nas_optuna:supernet:alphas:0"]
    assert killed["nas_optuna:supernet"]["epochs"] == 8


def test_an_explosion_is_one_line_and_keeps_the_last_good_epoch(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    wild = ["--set", "supernet.learning_rate=1e6", "--set", "supernet.clip=0", "--set", "supernet.schedule=constant"]
    assert main(["supernet", "train", "--study", "s", "--spec", "tiny.toml", *wild]) == 2
    err = capsys.readouterr().err
    assert "Traceback" not in err
    assert "learning_rate" in err.splitlines()[-1]
