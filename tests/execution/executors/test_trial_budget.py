from nas_optuna.execution.loop import TrialBudget


def test_as_many_trials_as_were_asked_for_whoever_is_fast() -> None:
    budget = TrialBudget(trials=3)
    assert budget.ask(1)
    assert budget.ask(2)
    for _ in range(2):
        budget.finish(1)
        given = budget.ask(1)
    assert not given, "the second of two is still running"
    budget.finish(2)
    assert not budget.ask(2)
    assert budget.finished == 3
    assert not budget.is_open


def test_the_trial_of_a_dead_worker_is_given_to_the_next() -> None:
    budget = TrialBudget(trials=1)
    assert budget.ask(1)
    assert not budget.ask(2)
    budget.drop(1)
    assert budget.is_open
    assert budget.ask(2)


def test_a_worker_whose_trial_was_taken_by_somebody_else_asks_again() -> None:
    budget = TrialBudget(trials=1)
    assert budget.ask(1)
    assert budget.ask(1)
    budget.finish(1)
    assert not budget.ask(1)


def test_nothing_begins_after_the_end() -> None:
    budget = TrialBudget(timeout=0.0)
    assert not budget.ask(1)
    budget = TrialBudget()
    assert budget.ask(1)
    budget.close()
    assert not budget.ask(1)
    assert not budget.is_open
