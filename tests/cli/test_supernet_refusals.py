"""What the supernet commands refuse is one line, before anything is trained."""

import shutil
from pathlib import Path

import pytest

from nas_optuna.cli import main
from tests.cli.test_supernet import SPEC, STRATEGIES, study

DARTS = ("--strategy", "darts", "--set", "supernet.warmup_epochs=1")


@pytest.fixture(scope="module")
def untrained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a study ``s`` without a supernet."""
    folder = tmp_path_factory.mktemp("untrained")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        (folder / "tiny.toml").write_text(SPEC + STRATEGIES["darts"])
        assert main(["study", "create", "s", "--spec", "tiny.toml"]) == 0
    return folder


def test_a_check_refuses_a_study_whose_trials_choose_another_recipe_before_it_trains(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("tiny.toml").write_text(SPEC + '[search]\nlearning_rate = "1e-2..1e-1:log"\n')
    assert main(["study", "create", "s", "--spec", "tiny.toml"]) == 0
    capsys.readouterr()
    assert main(["supernet", "check", "--study", "s"]) == 2
    refused = "whose own recipe.learning_rate no trial of study 's' may choose; check in a study of its own without"
    assert refused in capsys.readouterr().err
    assert not study().trials


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["supernet", "export", "--study", "s"], "nas-optuna supernet train --study s"),
        (["supernet", "check", "--study", "s"], "nas-optuna supernet train --study s"),
        (["run", "--study", "s", "--sampler", "supernet"], "nas-optuna supernet train --study s"),
        (["run", "--study", "s", "--warm-start", "supernet"], "nas-optuna supernet train --study s"),
        (["run", "--study", "s", "--warm-start", "supernt"], "'supernt' is not one of 'supernet'"),
        (["run", "--study", "s", "--warm-trials", "2"], "--warm-start"),
        (["run", "--study", "s", "--fixed", "none.json"], "none.json"),
        (["run", "--study", "s", "--fixed", "none.json", "--trials", "2"], "--fixed"),
        (["supernet", "train", "--study", "s", "--mode", "mixed"], "mode is mixture"),
        (["supernet", "train", "--study", "s", "--strategy", "drats"], "did you mean 'darts'"),
        (["supernet", "train", "--study", "s", "--strategy", "fair", "--set", "supernet.order=2"], "darts or gumbel"),
        (["supernet", "train", "--study", "s", "--strategy", "fair", "--set", "supernet.epochs=0"], "supernet"),
        (["supernet", "train", "--study", "s", *DARTS, "--epochs", "1"], "warmup_epochs"),
        (["supernet", "train", "--study", "s", *DARTS, "--set", "supernet.temperature=1"], "supernet.temperature"),
        (["supernet", "train", "--study", "s", *DARTS, "--budget", "0"], "supernet.budget belongs to strategy fair"),
        (["supernet", "train", "--study", "s", "--set", "supernet.epoch=1"], "did you mean 'epochs'"),
        (["supernet", "train", "--study", "s", "--latency-table", "none.json"], "none.json"),
    ],
)
def test_bad_input_is_one_line(
    untrained: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    message: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("tiny.toml").write_text(SPEC + STRATEGIES["darts"])
    if "train" in arguments:  # which would create the study
        assert main([*arguments, "--spec", "tiny.toml"]) == 2
        assert not Path("nas-optuna.db").exists(), "it was refused before that"
    shutil.copytree(untrained, tmp_path, dirs_exist_ok=True)
    capsys.readouterr()
    assert main(arguments) == 2
    err = capsys.readouterr().err.strip().splitlines()
    assert message in err[-1]
    assert err[-1].startswith("error: ")
    assert not study().trials
