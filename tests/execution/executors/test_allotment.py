from nas_optuna.execution.executors.allotment import Allotment
from nas_optuna.execution.executors.contract import Budget


def test_as_many_trials_as_were_asked_for_whoever_is_fast() -> None:
    allotment = Allotment(Budget(trials=3))
    assert allotment.ask(1)
    assert allotment.ask(2)
    for _ in range(2):
        allotment.finish(1)
        given = allotment.ask(1)
    assert not given, "the second of two is still running"
    allotment.finish(2)
    assert not allotment.ask(2)
    assert allotment.finished == 3
    assert not allotment.is_open


def test_the_trial_of_a_dead_worker_is_given_to_the_next() -> None:
    allotment = Allotment(Budget(trials=1))
    assert allotment.ask(1)
    assert not allotment.ask(2)
    allotment.drop(1)
    assert allotment.is_open
    assert allotment.ask(2)


def test_a_worker_whose_trial_was_taken_by_somebody_else_asks_again() -> None:
    allotment = Allotment(Budget(trials=1))
    assert allotment.ask(1)
    assert allotment.ask(1)
    allotment.finish(1)
    assert not allotment.ask(1)


def test_nothing_begins_after_the_end() -> None:
    allotment = Allotment(Budget(timeout=0.0))
    assert not allotment.ask(1)
    allotment = Allotment(Budget())
    assert allotment.ask(1)
    allotment.close()
    assert not allotment.ask(1)
    assert not allotment.is_open
