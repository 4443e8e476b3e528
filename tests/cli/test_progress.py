import io
import sys
import time

import optuna
import pytest
from optuna.trial import TrialState, create_trial

from nas_optuna.cli import progress
from nas_optuna.cli.progress import Bars
from nas_optuna.cli.results import print_ranking
from nas_optuna.execution.evaluator import Measurement
from nas_optuna.execution.events import Run, Subject
from nas_optuna.fitting.clock import TimeBudget
from nas_optuna.report.facts import StudyFacts
from nas_optuna.study.results import REFERENCE
from nas_optuna.study.schema import TrialKey


def trial(value: float | None, state: TrialState = TrialState.COMPLETE) -> optuna.trial.FrozenTrial:
    return create_trial(state=state, value=value)


def after(study: optuna.Study, *trials: optuna.trial.FrozenTrial, total: int | None = None) -> str:
    """What is displayed after a run has told of these trials."""
    display = progress.RunDisplay(Bars(disable=True), total)
    display.run_started(Run("search", study, total, steps=1))
    for one in trials:
        study.add_trial(one)
        display.trial_finished(Subject("trial", study=study), study.trials[-1])
    return str(display)


def test_it_counts_and_knows_the_best() -> None:
    study = optuna.create_study(direction="maximize")
    assert after(study) == "no best yet · 0 pruned"
    trials = (trial(None, TrialState.FAIL), trial(0.5), trial(0.7), trial(0.6, TrialState.PRUNED), trial(0.7))
    told = after(study, *trials, total=9)
    assert told.startswith("best 0.7000 (trial 2) · 1 pruned · "), "the first of equals"
    assert told.endswith(" s left")


def test_it_knows_the_best_of_other_workers() -> None:
    study = optuna.create_study(direction="maximize")
    study.add_trial(trial(0.9))
    assert after(study, trial(0.6)) == "best 0.9000 (trial 0) · 0 pruned"


def test_less_is_better_where_a_study_minimises() -> None:
    told = after(optuna.create_study(direction="minimize"), trial(2.0), trial(1.0), trial(3.0))
    assert told == "best 1.0000 (trial 1) · 0 pruned"


def test_a_limit_that_never_ends_is_not_shown() -> None:
    assert str(progress.RunDisplay(Bars(disable=True), 9, float("inf"))) == "no best yet · 0 pruned"


def test_a_small_figure_is_not_shown_as_zero(capsys: pytest.CaptureFixture[str]) -> None:
    study = optuna.create_study(direction="minimize")
    assert after(study, trial(3.21e-5), trial(4e-5)) == "best 3.21e-05 (trial 0) · 0 pruned"
    assert "3.21e-05" in capsys.readouterr().err
    study.set_metric_names(["mse:minimize"])
    print_ranking(StudyFacts(study))
    assert "3.21e-05" in capsys.readouterr().out


def test_with_several_objectives_it_counts_the_front() -> None:
    study = optuna.create_study(directions=["maximize", "minimize"])
    for front, values in enumerate(((0.5, 1.0), (0.6, 2.0)), start=1):
        assert after(study, create_trial(values=values)).startswith(f"{front} on the front")
    assert after(study, create_trial(values=(0.4, 3.0))) == "2 on the front · 0 pruned"


def test_each_worker_has_a_line_in_the_order_of_their_numbers_and_the_totals_are_below() -> None:
    study = optuna.create_study()
    with Bars(disable=True) as shown:
        display = progress.RunDisplay(shown, 4)
        display.run_started(Run("search", study, 4, steps=5))
        for worker, number in ((2, 0), (1, 1), (3, 2)):
            subject = Subject(f"trial {number}", worker=worker)
            display.trial_started(subject)
            display.step_finished(subject, Measurement(worker, {"accuracy": 0.5}, 1.0))
        display.trial_started(Subject("trial 3", worker=1))
        table = shown.make_tasks_table(shown.tasks)
        lines = [str(cell) for cell in table.columns[0].cells]
    assert lines == [
        "worker 1 · trial 3",
        "worker 2 · trial 0",
        "worker 3 · trial 2",
        "trials",
    ]


def test_a_terminal_shows_the_line_that_a_user_named_as_text(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = io.StringIO()
    monkeypatch.setattr(terminal, "isatty", lambda: True)
    monkeypatch.setattr(sys, "stderr", terminal)
    monkeypatch.setenv("TERM", "xterm")
    with progress.bars(time_left=True) as shown:
        shown.show("supernet", 3, 7, "[red]f16\x1bk3[/red]")
    assert not shown.disable
    assert "3/7" in terminal.getvalue()
    assert "[red]f16\ufffdk3[/red]" in terminal.getvalue()
    for name, value in (("TERM", "dumb"), ("TTY_COMPATIBLE", "0")):
        monkeypatch.setenv(name, value)
        with progress.bars() as shown:
            assert shown.disable, "lines are printed instead"


@pytest.mark.parametrize(("columns", "bar"), [("80", 24), ("40", 6)])
def test_a_narrow_terminal_has_room_for_the_best(monkeypatch: pytest.MonkeyPatch, columns: str, bar: int) -> None:
    terminal = io.StringIO()
    monkeypatch.setattr(terminal, "isatty", lambda: True)
    monkeypatch.setattr(sys, "stderr", terminal)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", columns)
    with progress.bars() as shown:
        shown.show("trials", 3, 9, "best 0.9700 (trial 2) · 1 pruned")
    line = next(line for line in terminal.getvalue().split("\r") if "trials" in line)
    assert "best 0.9700" in line
    assert sum(line.count(part) for part in "━╸╺") == bar


@pytest.mark.parametrize("ended", [False, True])
def test_a_first_epoch_that_takes_long_is_told(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, ended: bool
) -> None:
    monkeypatch.setattr(progress, "PATIENCE", 0.05)
    display, subject = progress.RunDisplay(Bars(disable=True), 4), Subject("trial 0")
    display.trial_started(subject)
    if ended:
        display.step_finished(subject, Measurement(1, {"accuracy": 0.5}, 0.0))
    time.sleep(0.2)
    assert capsys.readouterr().err.count("trial 0 has trained for") == (not ended)
    display.trial_started(subject)
    time.sleep(0.2)
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(("live", "told"), [(False, ["[2 min 40 s]", "[4 min 05 s]"]), (True, [])])
def test_a_long_training_of_a_fit_says_something_every_minute(
    capsys: pytest.CaptureFixture[str], live: bool, told: list[str]
) -> None:
    budget = TimeBudget(600.0)
    display = progress.FitDisplay(budget, Bars(disable=not live))
    for seconds in (50.0, 110.0, 20.0, 65.0):
        budget.spent += seconds
        display.step_finished(Subject("seed 0"), Measurement(1, {"train_loss": 0.5}, seconds))
    lines = capsys.readouterr().err.splitlines()
    assert [line.partition(" seed 0 · train loss 0.5000 · ")[0] for line in lines] == told
    assert all(line.endswith(" left") for line in lines)


def test_networks_are_shown_by_what_they_change_in_the_reference(capsys: pytest.CaptureFixture[str]) -> None:
    study, common = optuna.create_study(direction="maximize"), "activation=relu,head=average,stage1.depth="
    display = progress.RunDisplay(Bars(disable=True), 3)
    fitting = progress.FitDisplay(TimeBudget(60.0), Bars(disable=True))
    run = Run("search", study, 3, steps=1)
    display.run_started(run)
    fitting.run_started(run)
    for number, origin in enumerate((REFERENCE, "sampler", "sampler")):
        known = {TrialKey.ARCHITECTURE: f"{common}{number}", TrialKey.ORIGIN: origin}
        study.add_trial(create_trial(value=0.5, user_attrs=known))
        for shown in (display, fitting):
            shown.trial_finished(Subject(f"trial {number}"), study.trials[number])
    lines = capsys.readouterr().err.splitlines()
    assert [f"{common}0" in line for line in lines] == [True] * 2 + [False] * 4, "the reference is said in full"
    assert all(f"  stage1.depth={1 + place // 2}  " in line for place, line in enumerate(lines[2:]))
    print_ranking(StudyFacts(study))
    table = capsys.readouterr().out
    assert [text in table for text in ("changes to the reference", "the reference  ", common)] == [True, True, False]
