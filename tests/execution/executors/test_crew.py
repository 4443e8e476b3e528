import logging
from pathlib import Path

import optuna
import pytest
from optuna.trial import TrialState, create_trial

from nas_optuna.errors import NasOptunaError, SpecError, StudyError
from nas_optuna.execution.events import Callback, Subject
from nas_optuna.execution.executors.contract import Budget, Work
from nas_optuna.execution.executors.crew import MOST_DEATHS, Crew, Hand
from nas_optuna.execution.executors.worker import Ended, Ready, Said, Told
from nas_optuna.execution.loop import Outcome
from nas_optuna.study import lease
from nas_optuna.study.storage import open_storage
from nas_optuna.study.worker import this_worker


class Record(Callback):
    def __init__(self) -> None:
        self.seen: list[tuple[str, int | None, bool]] = []

    def trial_started(self, subject: Subject) -> None:
        self.seen.append((subject.name, subject.worker, subject.study is not None))


@pytest.fixture
def crew(tmp_path: Path) -> Crew:
    study = optuna.create_study(storage=open_storage(f"sqlite:///{tmp_path}/s.db", create=True))
    work = Work(study, objective=None)  # type: ignore[arg-type]
    return Crew(work, Budget(trials=2), Record(), lambda: False)


def began(number: int, worker: int) -> Told:
    return Told("trial_started", Subject(f"trial {number}", worker=worker))


def finished(number: int, worker: int) -> Told:
    ended = create_trial(state=TrialState.COMPLETE, value=0.5)
    return Told("trial_finished", Subject(f"trial {number}", worker=worker), (ended,))


def test_callbacks_here_are_told_what_workers_do(crew: Crew) -> None:
    crew.hear(Hand(1, "worker 1"), began(0, 1))
    told = crew._told
    assert isinstance(told, Record)
    assert told.seen == [("trial 0", 1, True)]


def test_the_trial_of_a_dead_worker_waits_again(crew: Crew, caplog: pytest.LogCaptureFixture) -> None:
    study, hand = crew._study, Hand(1, "worker 1 (process 7)")
    trial_id = lease.take_new(study)
    owner = this_worker()
    assert crew.allotment.ask(1)
    crew.hear(hand, Ready(owner))
    crew.hear(hand, began(0, 1))
    assert crew.lose(hand, "was killed by SIGKILL", wanted=False)
    assert study.trials[0].state == TrialState.WAITING
    assert "worker 1 (process 7) was killed by SIGKILL in trial 0; it is started again" in caplog.text
    assert lease.take_waiting(study) == trial_id


def test_a_worker_that_dies_again_and_again_ends_the_run(crew: Crew) -> None:
    hand = Hand(1, "worker 1")
    for _ in range(MOST_DEATHS - 1):
        assert crew.lose(hand, "was killed by SIGSEGV", wanted=False)
    crew.allotment.ask(1)
    crew.hear(hand, finished(0, 1))
    for _ in range(MOST_DEATHS - 1):
        assert crew.lose(hand, "was killed by SIGSEGV", wanted=False), "it has finished a trial since"
    assert not crew.lose(hand, "was killed by SIGSEGV", wanted=False)
    with pytest.raises(StudyError, match="3 times without finishing a trial"):
        crew.outcome(interrupted=False)


def test_what_ended_one_worker_ends_the_run(crew: Crew) -> None:
    one, other = Hand(1, "worker 1"), Hand(2, "worker 2")
    crew.hear(one, Ended(error=SpecError("the first")))
    crew.hear(other, Ended(error=SpecError("the second")))
    assert not crew.lose(Hand(3, "worker 3"), "ended", wanted=False)
    with pytest.raises(NasOptunaError, match="the first"):
        crew.outcome(interrupted=False)


def test_what_all_workers_find_is_said_once(crew: Crew, caplog: pytest.LogCaptureFixture) -> None:
    for number in (1, 2):
        crew.hear(Hand(number, ""), Said(logging.WARNING, "trial 3 runs elsewhere"))
    assert caplog.text.count("trial 3 runs elsewhere") == 1


def test_the_outcome_is_that_of_all(crew: Crew) -> None:
    for number in (1, 2):
        crew.hear(Hand(number, ""), finished(number, number))
        crew.hear(Hand(number, ""), Ended(Outcome(1, False, (number,))))
    assert crew.outcome(interrupted=True) == Outcome(2, True, (1, 2))
