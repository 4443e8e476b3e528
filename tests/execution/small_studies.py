"""Small studies: in a SQLite file, which many processes open and run, and in Python."""

from __future__ import annotations

import sqlite3
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

import optuna

from nas_optuna.errors import StudyError
from nas_optuna.execution.loop import run
from nas_optuna.experiment import Experiment
from nas_optuna.spaces.conv import ConvSpace
from nas_optuna.spec import StudySpec
from nas_optuna.study.storage import open_storage
from nas_optuna.study.studies import create_study, study_spec
from tests.processes import Work


def cheap(trial: optuna.Trial) -> float:
    return float(trial.suggest_categorical("x", [0, 1, 2, 3]))


def url(folder: Path) -> str:
    return f"sqlite:///{folder}/s.db"


def opened(folder: Path, *, sampler: optuna.samplers.BaseSampler | None = None) -> optuna.Study:
    storage = open_storage(url(folder), create=True)
    chosen = sampler or optuna.samplers.RandomSampler(seed=0)
    return optuna.create_study(
        study_name="s", storage=storage, direction="maximize", load_if_exists=True, sampler=chosen
    )


def integrity(file: Path) -> str:
    with closing(sqlite3.connect(file)) as connection:
        return str(connection.execute("PRAGMA integrity_check").fetchone()[0])


def created(address: str) -> Work:
    """Open a storage that is not there, and make the study or join it; 0 where it is whole."""

    def work(number: int) -> int:
        storage = open_storage(address, create=True)
        with suppress(StudyError):
            create_study(storage, "s", StudySpec(), ConvSpace(depth=1))
        study = optuna.load_study(study_name="s", storage=storage)
        assert study_spec(study) == StudySpec()
        return 0 if run(study, cheap, trials=2).trials == 2 else 1

    return work


def experiment(**values: Any) -> Experiment:
    recipe = {"epochs": 2, "input_size": 8}
    space = {"name": "conv", "depth": 1}
    spec = {"space": space, "recipe": recipe, "data": {"name": "digits", "train_limit": 100}, **values}
    return Experiment.from_spec(StudySpec.from_dict({"sampler": "random", "pruner": "none", **spec}), device="cpu")
