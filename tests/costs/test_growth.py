"""A cost and a metric of somebody else's, each a file and an entry point, are seen wherever ours are."""

import csv
import json
from pathlib import Path

import optuna
import pytest

from nas_optuna.objectives import describe
from nas_optuna.report.dashboard import trial_rows
from nas_optuna.report.notes import trial_note
from nas_optuna.report.page import report
from nas_optuna.study.results import TrialRecord
from nas_optuna.trackers import figures
from tests.helpers import Command, Installed, tiny

PARTS = """
from nas_optuna.costs.cost import Cost
from nas_optuna.metrics import metric


class Channels(Cost):
    name, label, unit, direction = "width", "channels in all", "ch", "maximize"

    def __call__(self, architecture):
        return float(sum(int(v) for k, v in architecture.params.items() if k.endswith("filters")))


class Broken(Cost):
    name, direction = "broken", "sideways"

    def __call__(self, architecture):
        return 1.0


class Seconds(Cost):
    name = "seconds"

    def __call__(self, architecture):
        return 1.0


@metric(direction="minimize", ideal=0.0, worst=1.0, label="share of errors")
def errors(outputs, targets):
    return (outputs.argmax(1) != targets).float().mean()
"""
GROUPS = {
    "nas_optuna.costs": {"width": "parts:Channels", "broken": "parts:Broken", "seconds": "parts:Seconds"},
    "nas_optuna.metrics": {"errors": "parts:errors"},
}


@pytest.fixture
def studied(command: Command, installed: Installed) -> optuna.Study:
    installed(PARTS, GROUPS)
    options = ("--sampler", "random", "--trials", 3, "--objective", "errors", "--objective", "width")
    found = command("run", *options, "--set", "limits.width=20", "--set", "space.filters=[8, 16, 32]", *tiny())
    assert found.code == 0, found.err
    assert "the architecture with the most width, f32" in found.err
    assert "errors" in found.out
    assert "width" in found.out
    return optuna.load_study(study_name="nas", storage="sqlite:///nas-optuna.db")


def test_a_cost_and_a_metric_from_outside_are_seen_everywhere(studied: optuna.Study, command: Command) -> None:
    assert [direction.name for direction in studied.directions] == ["MINIMIZE", "MAXIMIZE"]
    records = [TrialRecord.of(trial) for trial in studied.trials]
    assert all(record.costs["width"] >= 20 for record in records), "a limit is the least of what is maximised"
    best = command("best")
    assert [words for words in map(str.split, best.out.splitlines()) if words[:3] == ["channels", "in", "all"]]
    assert command("best", "--json").json["costs"]["width"] >= 20
    front = command("pareto", "--json").json
    assert front["reference"] == [1.0, 0.0]
    assert max(record["costs"]["width"] for record in front["records"]) == 64

    note = trial_note(studied.trials[0], studied.metric_names or ())
    assert "channels in all" in note
    assert "64 ch" in note
    page = report(studied)
    assert "channels in all (ch)" in page
    assert "share of errors" in page
    assert "nothing with more is better" in page
    seen = figures(studied, studied.trials[0])
    assert (seen["width"], seen["errors"]) == (64.0, records[0].values[0])
    rows = trial_rows([{"key": k, "value": json.dumps(v)} for k, v in studied.trials[0].user_attrs.items()])
    assert {"key": "channels in all (ch)", "value": "64.0"} in rows
    command("study", "export", "nas", "--format", "csv", "--out", "trials.csv")
    with Path("trials.csv").open() as file:
        assert all(float(row["width"]) >= 20 for row in csv.DictReader(file))


def test_a_cost_can_be_taken_the_other_way(command: Command) -> None:
    found = command("run", "--trials", 2, "--sampler", "random", "--objective", "accuracy",
                    "--objective", "maximize:params", "--max-params", "100M", *tiny())  # fmt: skip
    assert found.code == 0, found.err
    study = optuna.load_study(study_name="nas", storage="sqlite:///nas-optuna.db")
    assert [direction.name for direction in study.directions] == ["MAXIMIZE", "MAXIMIZE"]
    assert study.metric_names == ["accuracy", "params:maximize"]
    assert "most params" in found.err
    largest = TrialRecord.of(study.trials[0]).costs["params"]
    assert largest > 0
    assert largest == max(trial.values[1] for trial in study.trials if trial.values)
    again = command("run", "--trials", 1, "--objective", "accuracy", "--objective", "params:maximize")
    assert again.code == 0, "both spellings are one objective"
    assert command("pareto").code == 0


@pytest.mark.parametrize(
    ("objective", "said"),
    [
        ("broken", "cost 'broken' has the direction 'sideways'; write minimize or maximize"),
        ("seconds", "a cost cannot be called 'seconds'"),
        ("accuracy*(width/16)^-0.1", "would reward a smaller width; the exponent must be positive"),
    ],
)
def test_a_cost_that_cannot_be_used_is_refused(
    objective: str, said: str, command: Command, installed: Installed
) -> None:
    installed(PARTS, GROUPS)
    found = command("run", "--trials", 1, "--objective", "accuracy", "--objective", objective, *tiny())
    assert found.code == 2
    assert said in found.err
    assert command("run", "--trials", 1, "--sampler", "random", *tiny()).code == 0, "another study does not mind it"


def test_a_least_that_nothing_reaches_is_refused(command: Command, installed: Installed) -> None:
    installed(PARTS, GROUPS)
    found = command("run", "--trials", 1, "--set", "limits.width=1000", *tiny())
    assert found.code == 2
    assert "no architecture has width of at least 1,000; the largest possible is 96" in found.err
    assert found.err.rstrip().endswith("; lower the limit")


def test_what_is_not_installed_here_is_shown_by_its_name() -> None:
    assert describe("joules_of_somebody").heading == "joules_of_somebody"
    trial = optuna.trial.create_trial(value=0.5, user_attrs={"nas_optuna:joules": 2.5, "nas_optuna:epochs": 3})
    assert TrialRecord.of(trial).costs == {"joules": 2.5}
    assert "| joules" in trial_note(trial)
