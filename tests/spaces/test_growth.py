"""A space of somebody else's, one function and an entry point, is seen wherever ours are."""

import json
from pathlib import Path

import optuna
import pytest

from nas_optuna.report.notes import trial_note
from nas_optuna.report.page import report
from nas_optuna.study.results import TrialRecord
from tests.helpers import Command, Installed, tiny

PARTS = """
import torch.nn as nn
import nas_optuna as nas


@nas.space(version=1)
def hourglass(c, task):
    width = c.choice("width", [4, 8])
    return nn.Sequential(
        nn.Conv2d(task.channels, width, 3, padding=1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
        nn.Linear(width, task.classes),
    )
"""


@pytest.mark.filterwarnings("ignore")
def test_a_space_from_outside(command: Command, installed: Installed) -> None:
    installed(PARTS, {"nas_optuna.spaces": {"hourglass": "parts:hourglass"}})
    assert "hourglass" in command("list", "spaces").out
    options = ("--sampler", "random", "--trials", 2, "--set", "space.name=hourglass", "--track", "tensorboard:logs")
    settings = [word for word in tiny() if word not in ("--set", "space.depth=2")]
    found = command("run", *options, *(word for setting in settings for word in ("--set", setting)))
    assert found.code == 0, found.err
    assert "space hourglass (2 architectures)" in found.err
    assert "width=" in command("best", "--json").json["architecture"]
    study = optuna.load_study(study_name="nas", storage="sqlite:///nas-optuna.db")
    records = [TrialRecord.of(trial) for trial in study.trials]
    assert {record.costs["params"] for record in records} <= {10 * 4 + 5 * 10, 10 * 8 + 9 * 10}
    assert records[0].architecture in trial_note(study.trials[0], study.metric_names or ())
    assert "hourglass" in report(study)
    assert any(Path("logs").rglob("events*"))
    assert json.loads(command("study", "show", "nas", "--json").out)["spec"]["space"]["name"] == "hourglass"
