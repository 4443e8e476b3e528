"""Workers that are real processes: their trials, their deaths, and the two kinds of Ctrl-C."""

from __future__ import annotations

import json
import os
import re
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import closing, suppress
from pathlib import Path

import optuna
import pytest

from nas_optuna.errors import SpecError
from nas_optuna.execution.executors.contract import WorkerOptions
from tests.helpers import Command, tiny

pytestmark = pytest.mark.process

CODE = "import sys; from nas_optuna.cli import main; sys.exit(main(sys.argv[1:]))"
LONG = tiny(recipe__epochs=40, data__train_limit=1000)


def start(*arguments: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", CODE, "run", "--sampler", "random", "--pruner", "none", *arguments]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True)


def study() -> optuna.Study:
    return optuna.load_study(study_name="nas", storage="sqlite:///nas-optuna.db")


def wait_for(what: Callable[[], bool], seconds: float = 120.0) -> None:
    deadline = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < deadline
        time.sleep(0.1)


def running() -> int:
    """How many running trials have reported an epoch. Asked of SQLite, because it is asked often."""
    if not Path("nas-optuna.db").exists():
        return 0
    question = (
        "SELECT count(DISTINCT trial_id) FROM trials JOIN trial_intermediate_values USING (trial_id) "
        "WHERE state = 'RUNNING'"
    )
    database = sqlite3.connect("file:nas-optuna.db?mode=ro", uri=True)
    with closing(database), suppress(sqlite3.OperationalError):  # its tables may not be made yet
        return int(database.execute(question).fetchone()[0])
    return 0


def children(process: int, of: str = "multiprocessing.forkserver") -> list[int]:
    """The workers, which are copies of a process that the command has started."""
    found = []
    for entry in Path("/proc").iterdir():
        try:
            parent = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
            words = (entry / "cmdline").read_text()
        except (OSError, ValueError, IndexError):
            continue
        if parent == process and of in words:
            found.append(int(entry.name))
    return [worker for server in found for worker in children(server, "")] if of else found


def is_there(process: int) -> bool:
    return Path(f"/proc/{process}").exists()


def test_two_workers_bring_the_values_of_one(command: Command) -> None:
    options = ("--sampler", "random", "--pruner", "none", "--trials", 5, "--threads", 1, *tiny(recipe__epochs=2))
    together = command("run", *options, "--workers", 2, "--json")
    assert together.code == 0, together.err
    assert "2 workers with 1 CPU thread each: 2 on cpu" in together.err
    assert len(re.findall(r"^trial +\d", together.err, re.MULTILINE)) == 5, "a plain line for each"
    alone = command("run", *options, "--study", "alone", "--json")
    assert alone.code == 0, alone.err
    key = lambda trial: trial["number"]  # noqa: E731
    for one, other in zip(sorted(together.json, key=key), sorted(alone.json, key=key), strict=True):
        assert (one["number"], one["architecture"], one["values"]) == (
            other["number"],
            other["architecture"],
            other["values"],
        )
    notes = [name for name in study()._storage.get_study_system_attrs(study()._study_id) if "note" in name]
    assert len(notes) >= 5, "callbacks of the parent are told of every trial"


@pytest.mark.slow
def test_a_worker_that_is_killed_is_started_again(place: Path) -> None:
    process = start("--workers", "2", "--trials", "3", "--threads", "1", "--json", *LONG)
    wait_for(lambda: running() == 2)
    os.kill(children(process.pid)[0], signal.SIGKILL)
    out, err = process.communicate(timeout=200)
    assert process.returncode == 0, err
    assert re.search(r"worker \d \(process \d+\) was killed by SIGKILL in trial \d; it is started again", err)
    assert "Traceback" not in err
    assert sorted(trial["number"] for trial in json.loads(out)) == [0, 1, 2]
    assert [trial.state.name for trial in study().trials] == ["COMPLETE"] * 3
    assert {attribute for trial in study().trials for attribute in [trial.user_attrs["nas_optuna:epochs"]]} == {40}


@pytest.mark.parametrize("times", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_ctrl_c_ends_all_workers_and_loses_nothing(place: Path, times: int) -> None:
    process = start("--workers", "2", "--trials", "4", "--threads", "1", *LONG)
    wait_for(lambda: running() == 2)
    workers = children(process.pid)
    assert len(workers) == 2
    for _ in range(times):
        os.killpg(process.pid, signal.SIGINT)  # as a terminal does
        time.sleep(0.05)
    _, err = process.communicate()
    assert process.returncode == 130, err
    assert "Traceback" not in err
    assert "stopped; nothing is lost. Continue: nas-optuna run" in err
    wait_for(lambda: not any(map(is_there, workers)))
    kept = study().get_trials(deepcopy=False)
    assert {trial.state.name for trial in kept} <= {"WAITING", "COMPLETE"}
    waiting = [trial for trial in kept if trial.state.name == "WAITING"]
    assert waiting
    assert all(trial.intermediate_values for trial in waiting), "their epochs are kept"


@pytest.mark.slow
def test_workers_end_when_their_parent_is_killed(place: Path) -> None:
    process = start("--workers", "2", "--trials", "4", "--threads", "1", *LONG)
    wait_for(lambda: running() == 2)
    workers = children(process.pid)
    process.kill()
    process.communicate()
    wait_for(lambda: not any(map(is_there, workers)))
    assert not running()


def test_what_ends_a_worker_is_one_line(command: Command) -> None:
    assert command("study", "create", "nas", *tiny()).code == 0
    result = command("run", "--workers", 2, "--device", "cpu", "--storage", "sqlite://", *tiny())
    assert (result.code, len(result.err.strip().splitlines()[-1:])) == (2, 1)
    assert "workers need a study that other processes can open" in result.err


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--workers", "many"], "--workers needs a number or auto, got 'many'"),
        (["--workers", "00"], "workers must be at least 1"),
        (["--workers", "1", "--devices", "cpu,cpu"], "devices names 2, and workers = 1 would leave some of them idle"),
        (["--devices", "cpu,cpu", "--device", "cpu"], "give one of them"),
        (["--devices", "cpu,,cpu"], "unknown device"),
        (["--workers", "2", "--per-device", "2"], "give one of them"),
        (["--devices", "cpu,cuda:7"], "device 'cuda:7' is not on this machine"),
        (["--total", "0"], "'--total': it must be at least 1"),
    ],
)
def test_options_that_cannot_be_honoured(command: Command, options: list[str], said: str) -> None:
    result = command("run", *options, *tiny())
    assert result.code == 2
    assert said in result.err.strip().splitlines()[-1]
    assert "Traceback" not in result.err
    assert not list(Path.cwd().iterdir()), "nothing was written before"


@pytest.mark.parametrize("number", [0, -1])
def test_fewer_than_one_worker_is_refused_in_python_too(number: int) -> None:
    for options in ({"workers": number}, {"per_device": number}):
        with pytest.raises(SpecError, match=f"{min(options)} must be at least 1"):
            WorkerOptions(**options)


def test_one_worker_is_this_process_however_it_is_written(command: Command) -> None:
    result = command("run", "--workers", "01", "--trials", 1, *tiny())
    assert result.code == 0, result.err
    assert "training on" in result.err
