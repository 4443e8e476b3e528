import logging
import multiprocessing
import os
import pickle
import sys
from collections.abc import Callable
from contextlib import nullcontext, suppress
from pathlib import Path

import optuna
import pytest
import torch
from optuna.trial import FrozenTrial, TrialState, create_trial

from nas_optuna.errors import DeviceLostError, SpecError, StudyError, TrainingError
from nas_optuna.execution.events import Callback, Subject
from nas_optuna.execution.executors import processes
from nas_optuna.execution.executors.contract import Handle, Work
from nas_optuna.execution.executors.pool import (
    MAX_DEATHS,
    Message,
    WorkerPool,
    WorkerSpec,
    WorkerState,
    _Relay,
    run_worker,
)
from nas_optuna.execution.loop import Outcome, StopRequest, TrialBudget, run
from nas_optuna.study import lease, lease_table, optuna_internals
from nas_optuna.study.lease_table import Worker, this_worker
from nas_optuna.study.schema import TrialKey
from nas_optuna.study.storage import open_storage
from tests.execution.small_studies import cheap
from tests.study import leases

pytestmark = pytest.mark.process
GONE = str(Worker("h", *lease_table._surroundings()[1:], 2**22 + 1, "1"))


class Record(Callback):
    def __init__(self) -> None:
        self.seen: list[tuple[str, int | None, bool]] = []
        self.ended: list[tuple[str, float | None]] = []

    def trial_started(self, subject: Subject) -> None:
        self.seen.append((subject.name, subject.worker, subject.study is not None))

    def trial_finished(self, subject: Subject, ended: FrozenTrial | None) -> None:
        self.ended.append((subject.name, None if ended is None else ended.value))


class Pool(WorkerPool):
    """Workers of which nothing runs."""

    def start(self, spec: WorkerSpec, deaths: int = 0) -> WorkerState:
        return WorkerState(spec, f"worker {spec.number} (process 7)", deaths=deaths)

    def begin(self, number: int) -> WorkerState:
        self.workers.append(self.start(WorkerSpec(number, "cpu", 1)))
        return self.workers[-1]

    def serve(self) -> None: ...

    def interrupt(self, worker: WorkerState) -> None: ...

    def end(self) -> None: ...


@pytest.fixture
def pool(tmp_path: Path) -> Pool:
    study = optuna.create_study(storage=open_storage(f"sqlite:///{tmp_path}/s.db", create=True))
    work = Work(study, objective=None)  # type: ignore[arg-type]
    return Pool(work, TrialBudget(trials=2), Record())


@pytest.mark.parametrize("number", [1, 2])
def test_a_sampler_with_one_random_stream_proposes_otherwise_in_every_worker_but_the_first(
    number: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    here, alone = (optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0)) for _ in range(2))
    alone.optimize(cheap, n_trials=9)

    class Here(Handle):
        def work(self, *, interrupted: Callable[[], bool]) -> Work:
            return Work(here, cheap)  # type: ignore[arg-type]

    monkeypatch.setattr("nas_optuna.execution.executors.pool._logging_to", lambda tell: nullcontext())
    allowed = iter([True] * 9 + [False])
    spec = WorkerSpec(number, "cpu", torch.get_num_threads())
    run_worker(Here("", ""), spec, lambda said: next(allowed) if said.kind == "ask" else True, StopRequest())
    assert len(here.trials) == 9
    assert ([t.params for t in here.trials] == [t.params for t in alone.trials]) is (number == 1)


def test_what_user_code_prints_in_a_worker_shows_no_password_and_ends_nothing_when_nobody_reads(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def printing(*_: object) -> None:
        print("at postgresql://me:secret@host", flush=True)

    read, write = os.pipe()
    with os.fdopen(write, "w") as stream:
        monkeypatch.setattr(sys, "stderr", stream)
        monkeypatch.setattr(sys, "stdout", sys.stdout)  # which the worker replaces
        monkeypatch.setattr(processes, "run_worker", printing)
        for reads in (True, False):
            processes._main(pickle.dumps(None), WorkerSpec(1, "cpu", 1), None)  # type: ignore[arg-type]
            if reads:
                assert os.read(read, 100) == b"at postgresql://me:***@host\n"
                os.close(read)


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (EOFError("no more"), "worker 1 failed: EOFError: no more (test_pool.py:"),
        (ConnectionError("no licence"), "worker 1 failed: ConnectionError: no licence (test_pool.py:"),
        (SystemExit(3), "code of yours ends the process (SystemExit: 3) (test_pool.py:"),
    ],
)
def test_what_user_code_raises_in_a_worker_is_said(
    error: BaseException, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Failing(Handle):
        def work(self, *, interrupted: Callable[[], bool]) -> Work:
            raise error

    monkeypatch.setattr("nas_optuna.execution.executors.pool._logging_to", lambda tell: nullcontext())
    told: list[Message] = []
    spec = WorkerSpec(1, "cpu", torch.get_num_threads())
    run_worker(Failing("", ""), spec, lambda message: bool(told.append(message)), StopRequest())
    (done,) = told
    assert done.kind == "done"
    assert str(done.about).startswith(said)


def test_a_trial_whose_executor_is_gone_waits_and_its_worker_ends(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    study = optuna.create_study(storage=open_storage(f"sqlite:///{tmp_path}/s.db", create=True))
    here, there = multiprocessing.Pipe()

    def objective(trial: optuna.Trial) -> float:
        here.close()
        with suppress(Exception):  # as user code may
            told[0](Message("log", logging.WARNING, ("nobody listens",)))
        return cheap(trial)

    def work(handle: object, spec: WorkerSpec, tell: Callable[[Message], bool], stop: StopRequest) -> None:
        told.append(tell)
        run_worker(Here("", ""), spec, tell, stop)

    class Here(Handle):
        def work(self, *, interrupted: Callable[[], bool]) -> Work:
            return Work(study, objective)  # type: ignore[arg-type]

    told: list[Callable[[Message], bool]] = []
    monkeypatch.setattr("nas_optuna.execution.executors.pool._logging_to", lambda tell: nullcontext())
    monkeypatch.setattr(processes, "run_worker", work)
    monkeypatch.setattr(sys, "stdout", sys.stdout)  # which the worker replaces
    here.send(True)
    processes._main(pickle.dumps(None), WorkerSpec(1, "cpu", torch.get_num_threads()), there)
    assert [trial.state for trial in study.trials] == [TrialState.WAITING]


def began(number: int, worker: int) -> Message:
    return Message("trial_started", Subject(f"trial {number}", worker=worker))


def finished(number: int, worker: int, state: TrialState = TrialState.COMPLETE) -> Message:
    ended = create_trial(state=state, value=0.5 if state == TrialState.COMPLETE else None)
    return Message("trial_finished", Subject(f"trial {number}", worker=worker), (ended,))


def test_callbacks_here_are_told_what_workers_do(pool: Pool) -> None:
    pool.handle(pool.begin(1), began(0, 1))
    told = pool._told
    assert isinstance(told, Record)
    assert told.seen == [("trial 0", 1, True)]


def test_the_trial_of_a_dead_worker_waits_again(pool: Pool, caplog: pytest.LogCaptureFixture) -> None:
    study, worker = pool._study, pool.begin(1)
    trial_id = lease.take_new(study)
    assert pool.handle(worker, Message("ask", this_worker()))
    pool.handle(worker, began(0, 1))
    pool.reap(worker, "was killed by SIGKILL")
    assert study.trials[0].state == TrialState.WAITING
    assert "worker 1 (process 7) was killed by SIGKILL in trial 0; it is started again" in caplog.text
    assert [again.deaths for again in pool.workers] == [1]
    assert lease.take_waiting(study) == trial_id


def test_what_a_worker_finished_before_it_died_is_told_and_counted(pool: Pool) -> None:
    """It is in the database; the worker was killed before it could say so."""
    study, worker = pool._study, pool.begin(1)
    told = pool._told
    assert isinstance(told, Record)
    assert pool.handle(worker, Message("ask", "a worker that is gone"))
    pool.handle(worker, began(0, 1))
    study.tell(study.ask(), 0.5)
    pool.reap(worker, "was killed by SIGKILL")
    assert told.ended == [("trial 0", 0.5)]
    assert pool.budget.finished == 1, "no further trial is run in its place"
    assert study.trials[0].state == TrialState.COMPLETE


def test_what_a_dead_worker_finished_is_told_by_nobody_else(pool: Pool) -> None:
    study, worker = pool._study, pool.begin(1)
    assert pool.handle(worker, Message("ask", GONE))
    pool.handle(worker, began(0, 1))
    leases.give(study, study.ask()._trial_id, GONE)
    study.tell(0, 0.5)
    pool.reap(worker, "was killed by SIGKILL")
    assert pool.budget.finished == 1
    assert lease.take_unclosed(study) == []


def test_a_trial_that_a_worker_has_lost_is_told_by_who_finished_it(pool: Pool) -> None:
    """It was frozen; another worker has finished its trial meanwhile, which it drops."""
    frozen, other = pool.begin(1), pool.begin(2)
    told = pool._told
    assert isinstance(told, Record)
    for worker in (frozen, other):
        assert pool.handle(worker, Message("ask", GONE))
        pool.handle(worker, began(0, worker.spec.number))
    pool._study.tell(pool._study.ask(), 0.5)
    pool.handle(other, finished(0, 2))
    assert pool.handle(frozen, Message("ask", GONE)), "it may begin another one"
    pool.reap(frozen, "was killed by SIGKILL")
    assert told.ended == [("trial 0", 0.5)]
    assert pool.budget.finished == 1


def test_a_trial_that_another_run_has_finished_is_told_and_not_counted(pool: Pool) -> None:
    """A worker tells of what ended just before an earlier run was killed, before it asks for a trial of its own."""
    worker = pool.begin(1)
    told = pool._told
    assert isinstance(told, Record)
    study = pool._study
    leases.give(study, study.ask()._trial_id, GONE)
    study.tell(0, 0.5)

    def tell(message: Message) -> bool:
        return bool(pool.handle(worker, message))

    asked = Message("ask", this_worker())
    run(study, lambda trial: 0.7, may_begin=lambda: tell(asked), callbacks=[_Relay(tell, 1)])
    assert told.ended == [("trial 0", 0.5), ("trial 1", 0.7), ("trial 2", 0.7)]
    assert pool.budget.finished == 2


def die_in_a_trial(pool: Pool, **how: bool) -> None:
    worker = pool.workers[-1] if pool.workers else pool.begin(1)
    taken = lease.take_waiting(pool._study) or lease.take_new(pool._study)
    assert taken is not None
    number = optuna_internals.read_trial(pool._study, taken).number
    pool.handle(worker, Message("ask", this_worker()))
    pool.handle(worker, began(number, 1))
    pool.reap(worker, "was killed by SIGSEGV", **how)


def test_a_trial_that_kills_its_process_three_times_has_failed_and_others_go_on(
    pool: Pool, caplog: pytest.LogCaptureFixture
) -> None:
    for _ in range(3):
        assert pool._study.get_trials(states=[TrialState.FAIL]) == []
        die_in_a_trial(pool)
    (ended,) = pool._study.trials
    assert (ended.state, ended.user_attrs[TrialKey.DEATHS]) == (TrialState.FAIL, [0, 3])
    assert ended.user_attrs[TrialKey.CAUSE] == "its process was killed by SIGSEGV, 3 times"
    told = pool._told
    assert isinstance(told, Record)
    assert told.ended == [("trial 0", None)]
    assert (pool.error, pool.budget.finished, pool.workers[0].deaths) == (None, 1, 1)
    assert caplog.messages[-1] == "worker 1 (process 7) was killed by SIGSEGV in trial 0; it is started again"
    assert lease.take_unclosed(pool._study) == [], "everybody has been told"
    die_in_a_trial(pool)
    die_in_a_trial(pool)
    assert "3 times without a trial that ended well" in str(pool.error), "the next network is not the cause"


def test_a_trial_that_comes_further_each_time_does_not_fail(pool: Pool) -> None:
    for step in range(1, 5):
        die_in_a_trial(pool)
        pool.workers[0].deaths = 0  # as another trial has ended well
        (trial,) = pool._study.trials
        assert (trial.state, trial.user_attrs[TrialKey.DEATHS]) == (TrialState.WAITING, [step - 1, 1])
        reports = dict.fromkeys(map(str, range(1, step + 1)), 0.5)  # of several objectives
        optuna.trial.Trial(pool._study, trial._trial_id).set_user_attr(TrialKey.REPORTS, reports)


def test_deaths_that_are_not_for_the_trial_are_not_counted_with_it(pool: Pool) -> None:
    for asked in (0, 1):
        pool.asked = asked
        for _ in range(2):
            die_in_a_trial(pool, by_trial=bool(asked))
    (trial,) = pool._study.trials
    assert trial.state == TrialState.WAITING
    assert TrialKey.DEATHS not in trial.user_attrs


def test_a_worker_that_dies_again_and_again_ends_the_run(pool: Pool) -> None:
    worker = pool.begin(1)
    for deaths in range(1, MAX_DEATHS):
        pool.reap(worker, "was killed by SIGSEGV")
        (worker,) = pool.workers
        assert worker.deaths == deaths
    pool.budget.ask(1)
    pool.handle(worker, finished(0, 1))
    for _ in range(1, MAX_DEATHS):
        pool.reap(worker, "was killed by SIGSEGV")
        (worker,) = pool.workers
    pool.reap(worker, "was killed by SIGSEGV")
    assert not pool.workers
    assert isinstance(pool.error, StudyError)
    assert "3 times without a trial that ended well" in str(pool.error)


def test_a_worker_that_has_lost_its_device_goes_on_in_a_new_process(
    pool: Pool, caplog: pytest.LogCaptureFixture
) -> None:
    pool.budget.trials = None
    worker, lost = pool.begin(1), DeviceLostError("device cuda:0 computes nothing more")
    pool.handle(worker, finished(0, 1))
    for deaths in range(1, MAX_DEATHS + 1):  # each time the trial fails that the device was lost with
        assert pool.budget.ask(1)
        pool.handle(worker, finished(deaths, 1, TrialState.FAIL))
        pool.handle(worker, Message("done", lost))
        pool.reap(worker, "ended with the exit code 0")
        if deaths < MAX_DEATHS:
            assert pool.error is None
            assert pool.workers[0] is not worker
            (worker,) = pool.workers
            assert (worker.deaths, worker.done) == (deaths, False)
    assert "worker 1 (process 7) has lost its device; it is started again" in caplog.text
    assert not pool.workers
    assert pool.error is lost
    assert pool.budget.finished == 1 + MAX_DEATHS


def test_what_ended_one_worker_ends_the_run(pool: Pool) -> None:
    one, other, third = pool.begin(1), pool.begin(2), pool.begin(3)
    pool.handle(one, Message("done", SpecError("the first")))
    pool.handle(other, Message("done", SpecError("the second")))
    pool.reap(third, "ended")
    assert third not in pool.workers
    assert len(pool.workers) == 2
    assert str(pool.error) == "the first"


def test_the_outcome_is_that_of_all(pool: Pool) -> None:
    for number in (1, 2):
        pool.handle(pool.begin(number), finished(number, number))
        pool.handle(pool.workers[-1], Message("done"))
        pool.reap(pool.workers[-1], "has ended")
    assert pool.run([], 1, StopRequest()) == Outcome(2, False)


def test_a_warning_of_several_workers_is_said_again_after_a_while_and_no_line_of_an_error_is_left_out(
    pool: Pool, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    workers = [pool.begin(1), pool.begin(2)]
    for line in ("Traceback", "  again()", "  again()"):
        pool.handle(workers[0], Message("log", logging.ERROR, (line,)))
    assert caplog.messages == ["Traceback", "  again()", "  again()"]
    for seconds in (100.0, 130.0, 161.0):
        monkeypatch.setattr("nas_optuna.execution.executors.pool.time.monotonic", lambda now=seconds: now)
        for worker in workers:
            pool.handle(worker, Message("log", logging.WARNING, ("the disk is nearly full",)))
    assert caplog.messages[3:] == ["the disk is nearly full"] * 2


@pytest.mark.parametrize("good", [False, True])
def test_a_run_whose_first_trials_fail_alike_in_different_workers_ends(pool: Pool, good: bool) -> None:
    if good:
        pool.handle(pool.begin(1), finished(0, 1))
    for number in (2, 3, 4):
        assert pool.error is None
        pool.handle(pool.begin(number), finished(number, number, TrialState.FAIL))
    assert (str(pool.error) == "the first 3 trials all failed: without a cause") is not good


def test_a_worker_of_several_does_not_end_when_its_first_trials_fail_alike(monkeypatch: pytest.MonkeyPatch) -> None:
    study = optuna.create_study()

    def objective(trial: optuna.Trial) -> float:
        raise TrainingError("too large")

    class Here(Handle):
        def work(self, *, interrupted: Callable[[], bool]) -> Work:
            return Work(study, objective)  # type: ignore[arg-type]

    monkeypatch.setattr("nas_optuna.execution.executors.pool._logging_to", lambda tell: nullcontext())
    spec = WorkerSpec(1, "cpu", torch.get_num_threads(), total=5)
    told: list[Message] = []
    run_worker(Here("", ""), spec, lambda message: not told.append(message), StopRequest())
    assert [trial.state.name for trial in study.trials] == ["FAIL"] * 5
    assert told[-1] == Message("done")
