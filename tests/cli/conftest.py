import json
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from nas_optuna.cli import main

TINY = {"recipe.epochs": 1, "recipe.input_size": 8, "space.depth": 2, "data.train_limit": 200}


@dataclass(frozen=True)
class Result:
    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)


Command = Callable[..., Result]


def tiny(**more: object) -> list[str]:
    """Options that make every training take a tenth of a second; `more` with ``__`` for a dot."""
    settings = TINY | {key.replace("__", "."): value for key, value in more.items()}
    return [word for key, value in settings.items() for word in ("--set", f"{key}={value}")]


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
