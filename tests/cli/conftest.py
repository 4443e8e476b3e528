import warnings
from pathlib import Path

import pytest

from nas_optuna.cli import main
from tests.helpers import Command, Result, tiny


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty current folder, and no variable that points out of it."""
    folder = tmp_path / "here"
    folder.mkdir()
    monkeypatch.chdir(folder)
    monkeypatch.delenv("NAS_OPTUNA_STORAGE", raising=False)
    monkeypatch.setenv("NAS_OPTUNA_DATA", str(tmp_path / "data"))
    return folder


@pytest.fixture
def command(place: Path, capfd: pytest.CaptureFixture[str]) -> Command:
    """Runs the command line in this process. What a user would see of warnings is an error here."""

    def run(*arguments: object) -> Result:
        capfd.readouterr()
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            for hidden in (DeprecationWarning, PendingDeprecationWarning, ResourceWarning):
                warnings.simplefilter("ignore", hidden)
            code = main([str(argument) for argument in arguments])
        return Result(code, *capfd.readouterr())

    return run


@pytest.fixture
def study(command: Command) -> str:
    """A study ``nas`` of a tiny space with two random trials in it."""
    result = command("run", "--sampler", "random", "--trials", 2, *tiny())
    assert result.code == 0, result.err
    return "nas"
