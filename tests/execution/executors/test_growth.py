"""An executor of somebody else's is one class: from an entry point or a file, with options of its own."""

from pathlib import Path

import optuna
import pytest

from tests.helpers import Command, Installed, tiny

PARTS = """
from nas_optuna.execution.executors.contract import Executor
from nas_optuna.execution.executors.local import LocalExecutor


class Queue(Executor):
    def __init__(self, options, *, partition="short", nodes=1):
        super().__init__(options)
        self.what = f"{nodes} nodes of {partition}, {self.options.workers} workers"

    def prepare(self, objective):
        return [f"queued on {self.what}"]

    def run(self, work, budget, *, stop, told):
        return LocalExecutor().run(work, budget, stop=stop, told=told)
"""


@pytest.mark.parametrize("name", ["queue", "parts:Queue", "parts.py:Queue"])
def test_an_executor_from_outside(name: str, command: Command, installed: Installed) -> None:
    installed(PARTS, {"nas_optuna.executors": {"queue": "parts:Queue"}})
    Path("parts.py").write_text(PARTS)
    options = ("--executor", name, "--executor-option", "partition=long", "--executor-option", "nodes=3")
    found = command("run", "--sampler", "random", "--trials", 2, "--workers", 8, *options, *tiny())
    assert found.code == 0, found.err
    assert "queued on 3 nodes of long, 8 workers" in found.err
    assert command("best", "--json").json["state"] == "complete"
    study = optuna.load_study(study_name="nas", storage="sqlite:///nas-optuna.db")
    notes = [key for key in study._storage.get_study_system_attrs(study._study_id) if "note" in key]
    assert len(notes) >= 2, "each trial's note is written as everywhere"
    assert command("report", "--out", "page.html").code == 0
    wrong = command("run", "--trials", 1, "--executor", name, "--executor-option", "partitoin=long")
    assert wrong.code == 2
    assert "did you mean 'partition'" in wrong.err
