"""Many processes on one study: real forks that start together, share a database, and are killed."""

from __future__ import annotations

import os
import re
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import optuna
import pytest
from optuna.trial import TrialState

from nas_optuna.cli import main
from nas_optuna.errors import ArchitectureError, Gone, StudyError, TrainingError
from nas_optuna.execution.loop import StopRequest, interruptible, run
from nas_optuna.samplers import create_sampler
from nas_optuna.spaces.conv import ConvSpace
from nas_optuna.spec import StudySpec
from nas_optuna.study import lease
from nas_optuna.study.schema import TrialKey
from nas_optuna.study.storage import open_storage
from nas_optuna.study.studies import create_study
from tests.execution.small_studies import cheap, opened, url
from tests.helpers import tiny
from tests.processes import Work, kill_after, logs, together
from tests.study import leases

pytestmark = pytest.mark.process


# --- one queue --------------------------------------------------------------------------------------------------------


def test_each_waiting_trial_is_taken_by_one_worker(tmp_path: Path) -> None:
    study = opened(tmp_path)
    for number in range(24):
        study.enqueue_trial({"x": number % 4}, user_attrs={"n": number})
    seen = tmp_path / "seen"

    def work(number: int) -> int:
        def objective(trial: optuna.Trial) -> float:
            with seen.open("a") as file:
                file.write(f"{trial.number}\n")
            return cheap(trial)

        return 0 if run(opened(tmp_path), objective, trials=3).trials == 3 else 1

    assert together(8, work, tmp_path / "log") == [0] * 8, logs(tmp_path / "log")
    assert Counter(seen.read_text().split()) == Counter(map(str, range(24)))
    assert [trial.state.name for trial in opened(tmp_path).trials] == ["COMPLETE"] * 24


# --- killed -----------------------------------------------------------------------------------------------------------


def killed(folder: Path, after: int) -> Work:
    """Run trials of which every other one is interrupted, and die before the statement of that number."""

    def work(_: int) -> int:
        study, stop = opened(folder), StopRequest()
        kill_after(after)

        def objective(trial: optuna.Trial) -> float:
            stop.asked = trial.number % 2 == 1
            if stop():
                raise KeyboardInterrupt  # so that it is put back
            return cheap(trial)

        run(study, objective, trials=2, stop=stop)
        return 0

    return work


@pytest.mark.parametrize("queue", [False, True])
def test_whenever_a_worker_is_killed_nothing_stays_running(tmp_path: Path, queue: bool) -> None:
    """Killed before each of its statements in turn: between taking and marking, telling, putting back."""
    kills = 0
    for after in range(0, 42, 3):
        work = killed(tmp_path, after)
        if queue:
            opened(tmp_path).enqueue_trial({"x": 1})
        kills += together(1, work) == [-signal.SIGKILL]
        study = opened(tmp_path)
        run(study, cheap, trials=1)
        assert TrialState.RUNNING not in {trial.state for trial in study.trials}, after
    assert kills >= 8


# --- taken away -------------------------------------------------------------------------------------------------------


def test_a_trial_that_is_released_and_finished_elsewhere_is_dropped(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    def objective(trial: optuna.Trial) -> float:
        if trial.number == 0 and not (tmp_path / "once").exists():
            (tmp_path / "once").touch()
            other = opened(tmp_path)
            assert lease.release(other, trial._trial_id)
            if how != "waiting":
                taken = lease.take_waiting(other)
                assert taken is not None
                leases.give(other, taken, "elsewhere/m/b/n/1/1")
            if how == "finished":
                theirs = optuna.load_study(study_name=other.study_name, storage=f"sqlite:///{tmp_path}/s.db")
                theirs.tell(0, 3.0)
        return cheap(trial)

    for how in ("waiting", "taken", "finished"):
        (tmp_path / "once").unlink(missing_ok=True)
        (tmp_path / "s.db").unlink(missing_ok=True)
        caplog.clear()
        study = opened(tmp_path)
        assert run(study, objective, trials=1).trials == 1
        said = [record.getMessage() for record in caplog.records]
        assert said == ["trial 0 was put back or deleted by somebody else; its result is dropped"]
        expected = {"waiting": ["COMPLETE"], "taken": ["RUNNING", "COMPLETE"], "finished": ["COMPLETE"] * 2}[how]
        assert [trial.state.name for trial in study.trials] == expected
        if how == "finished":
            assert study.trials[0].value == 3.0


@pytest.mark.parametrize("when", ["before", "during", "report"])
def test_a_study_that_is_deleted_ends_the_run_with_a_line(tmp_path: Path, when: str) -> None:
    study = opened(tmp_path)

    def objective(trial: optuna.Trial) -> float:
        if when != "before":
            optuna.delete_study(study_name="s", storage=url(tmp_path))
        if when == "report":
            trial.report(1.0, 1)
        return cheap(trial) if when == "before" else 1.0

    if when == "before":
        optuna.delete_study(study_name="s", storage=url(tmp_path))
    with pytest.raises(Gone, match="study 's' was deleted while this run worked on it") as caught:
        run(study, objective, trials=3)
    assert caught.value.exit_code == 1


@pytest.mark.parametrize("last", [False, True], ids=["before a trial", "before its end"])
def test_a_study_that_is_made_anew_under_a_run_is_left_alone(tmp_path: Path, last: bool) -> None:
    """SQLite gives the id of the deleted study again, and those of its trials."""
    storage, runs = open_storage(url(tmp_path), create=True), []

    def made() -> optuna.Study:
        return create_study(storage, "s", StudySpec(), ConvSpace(depth=1))

    def objective(trial: optuna.Trial) -> float:
        runs.append(trial.number)
        optuna.delete_study(study_name="s", storage=url(tmp_path))
        again = made()
        for _ in range(last):
            again.ask()
        return 1.0

    with pytest.raises(Gone, match="study 's' was deleted while this run worked on it, and another is there"):
        run(made(), objective, trials=3)
    assert runs == [0]
    found = optuna.load_study(study_name="s", storage=open_storage(url(tmp_path))).trials
    assert [trial.state.name for trial in found] == ["RUNNING"] * last


@pytest.mark.parametrize("how", ["deleted", "replaced"])
def test_a_database_that_is_deleted_ends_the_run_with_a_line(tmp_path: Path, how: str) -> None:
    study = opened(tmp_path)

    def objective(trial: optuna.Trial) -> float:
        if trial.number == 1:
            (tmp_path / "s.db").rename(tmp_path / "elsewhere.db")
            if how == "replaced":
                open_storage(url(tmp_path), create=True)
        return cheap(trial)

    with pytest.raises(Gone, match=r"s\.db was deleted or replaced"):
        run(study, objective, trials=3)
    assert (tmp_path / "s.db").exists() == (how == "replaced"), "no empty one in its place"


def test_the_command_line_says_so_and_exits_with_1(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)

    def delete() -> None:
        while not (tmp_path / "nas-optuna-files" / "checkpoints" / "nas").exists():
            time.sleep(0.005)
        (tmp_path / "nas-optuna.db").unlink()

    thread = threading.Thread(target=delete)
    thread.start()
    code = main(["run", "--trials", "5", *tiny(recipe__epochs=3)])
    thread.join()
    out, err = capfd.readouterr()
    assert (code, out) == (1, "")
    assert err.splitlines()[-1].startswith("error: the database ")
    assert "Traceback" not in err


# --- failing ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("error", "cause"),
    [
        (ArchitectureError("'x' = 9 is outside"), "'x' = 9 is outside"),
        (ValueError("'9' is not\none of"), "ValueError: '9' is not one of (test_workers.py:N)"),
        (TrainingError("it does not fit", "oom"), None),
    ],
)
def test_an_architecture_that_fails_in_the_queue_fails_alone(tmp_path: Path, error: Exception, cause: str) -> None:
    study = opened(tmp_path)
    study.enqueue_trial({"x": 1})

    def objective(trial: optuna.Trial) -> float:
        if trial.number == 0:
            raise error
        return cheap(trial)

    assert run(study, objective, trials=3).trials == 3
    assert [trial.state.name for trial in study.trials] == ["FAIL", "COMPLETE", "COMPLETE"]
    found = study.trials[0].user_attrs.get(TrialKey.CAUSE)
    assert (found and re.sub(r":\d+\)$", ":N)", found)) == cause


def test_a_value_that_is_no_choice_of_the_space_fails_alone(tmp_path: Path) -> None:
    study = opened(tmp_path)
    study.enqueue_trial({"x": "9"})
    run(study, cheap, trials=2)
    assert [trial.state.name for trial in study.trials] == ["FAIL", "COMPLETE"]
    assert "9" in study.trials[0].user_attrs[TrialKey.CAUSE]


def test_three_that_fail_alike_at_the_beginning_end_the_run(tmp_path: Path) -> None:
    def fail(different: bool) -> Callable[[optuna.Trial], float]:
        def objective(trial: optuna.Trial) -> float:
            cause = f"wrong {trial.number if different else ''}"
            trial.set_user_attr(TrialKey.CAUSE, cause)
            raise TrainingError(cause, cause)

        return objective

    study = opened(tmp_path)
    assert run(study, fail(True), trials=5).trials == 5
    with pytest.raises(StudyError, match="the first 3 trials all failed: wrong"):
        run(study, fail(False), trials=5)
    assert len(study.trials) == 8


def test_a_grid_that_is_exhausted_says_so(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    space = ConvSpace(depth=1, filters=(4, 8), kernels=(3,), strides=(1, 2), input_size=8)
    study = opened(tmp_path, sampler=create_sampler("grid", space, 0, {}))

    def objective(trial: optuna.Trial) -> float:
        space.suggest(trial)
        return 1.0

    for ran in (4, 0):
        caplog.clear()
        assert run(study, objective, trials=9).trials == ran
        assert caplog.messages == [f"every architecture that may be proposed has been tried; trials in this run: {ran}"]
    study.enqueue_trial(dict(space.parse("f4k3s1").params))
    assert run(study, objective, trials=9).trials == 1, "the queue goes on"


# --- signals ----------------------------------------------------------------------------------------------------------


class Thinking(optuna.samplers.RandomSampler):
    """A sampler that takes a long time, in Python."""

    def sample_independent(self, *arguments: object, **more: object) -> object:
        Path("thinking").touch()
        for _ in range(3000):
            time.sleep(0.01)
        raise AssertionError("it was not stopped")


def training(stop: StopRequest) -> Callable[[optuna.Trial], float]:
    def objective(trial: optuna.Trial) -> float:
        stop()
        Path("training").touch()
        for _ in range(3000):  # a long step
            time.sleep(0.01)
        raise AssertionError("it was not stopped")

    return objective


@pytest.mark.parametrize(
    ("what", "signals"),
    [
        ("thinking", [signal.SIGTERM]),
        ("thinking", [signal.SIGINT]),
        ("thinking", [signal.SIGHUP]),
        ("training", [signal.SIGINT, signal.SIGINT]),
        ("training", [signal.SIGTERM, signal.SIGTERM]),
        ("training", [signal.SIGINT] * 5),
    ],
)
def test_signals_close_together_leave_the_trial_waiting(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, what: str, signals: list[signal.Signals]
) -> None:
    monkeypatch.chdir(tmp_path)

    def work(_: int) -> int:
        signal.signal(signal.SIGHUP, signal.SIG_DFL)  # also if the tests run under nohup
        stop = StopRequest()
        study = opened(tmp_path, sampler=Thinking() if what == "thinking" else None)
        with interruptible(stop):
            outcome = run(study, cheap if what == "thinking" else training(stop), trials=2, stop=stop)
        return 0 if outcome.interrupted and outcome.trials == 0 else 1

    def send() -> None:
        while not Path(what).exists():
            time.sleep(0.005)
        children = Path(f"/proc/self/task/{threading.main_thread().native_id}/children").read_text().split()
        for number in signals:
            os.kill(int(children[-1]), number)
            time.sleep(0.002)
        with suppress(ProcessLookupError):
            for _ in range(100):  # until it has ended
                time.sleep(0.01)
                os.kill(int(children[-1]), 0)
            os.kill(int(children[-1]), signals[-1])  # on a busy machine the system may have made one signal of two

    opened(tmp_path)
    thread = threading.Thread(target=send)
    thread.start()
    assert together(1, work, tmp_path / "log") == [0], logs(tmp_path / "log")
    thread.join()
    assert [trial.state.name for trial in opened(tmp_path).trials] == ["WAITING"]
    assert "Traceback" not in logs(tmp_path / "log")


def test_a_terminal_that_is_closed_does_not_insist_and_an_own_use_of_its_signal_stays() -> None:
    heard: list[int] = []
    before = signal.signal(signal.SIGHUP, lambda number, _: heard.append(number))
    try:
        for handler, asked in ((signal.getsignal(signal.SIGHUP), False), (signal.SIG_DFL, True)):
            signal.signal(signal.SIGHUP, handler)
            stop = StopRequest()
            with interruptible(stop), stop.guarding():
                for _ in range(2):
                    signal.raise_signal(signal.SIGHUP)
            assert (stop.asked, stop.insisted) == (asked, False)
    finally:
        signal.signal(signal.SIGHUP, before)
    assert heard == [signal.SIGHUP] * 2


# --- how many ---------------------------------------------------------------------------------------------------------


def test_the_study_has_its_total_whoever_makes_the_trials(tmp_path: Path) -> None:
    opened(tmp_path).enqueue_trial({"x": 3})

    def work(number: int) -> int:
        run(opened(tmp_path), cheap, total=9)
        return 0

    for _ in range(2):  # there is nothing to do the second time
        assert together(6, work, tmp_path / "log") == [0] * 6, logs(tmp_path / "log")
        trials = opened(tmp_path).trials
        assert [trial.state.name for trial in trials] == ["COMPLETE"] * 9
        assert [trial.number for trial in trials] == list(range(9))


def test_what_waits_beyond_the_total_goes_on_waiting(tmp_path: Path) -> None:
    study = opened(tmp_path)
    for x in range(4):
        study.enqueue_trial({"x": x})
    assert run(study, cheap, total=2).trials == 2
    assert run(study, cheap, total=2).trials == 0
    assert [trial.state.name for trial in study.trials] == ["COMPLETE"] * 2 + ["WAITING"] * 2
    assert run(study, cheap, total=5).trials == 3


def test_a_total_counts_in_any_storage() -> None:
    study = optuna.create_study()
    run(study, cheap, total=2)
    run(study, cheap, total=3)
    assert len(study.trials) == 3
