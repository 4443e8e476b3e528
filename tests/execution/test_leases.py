"""The objective and its lease: marked under a plain ``study.optimize`` too, and stopped where the lease is gone."""

import os
import signal
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import optuna
import pytest
from optuna.trial import FrozenTrial, TrialState
from optuna_dashboard import get_note

from nas_optuna import Objective
from nas_optuna.errors import StudyError
from nas_optuna.execution.evaluator import Measurement
from nas_optuna.execution.events import Callback, Callbacks, Subject
from nas_optuna.execution.loop import run
from nas_optuna.report.notes import NoteWriter
from nas_optuna.study import lease, lease_table
from nas_optuna.study.database import RetryingStorage
from nas_optuna.study.lease_table import Worker, this_worker
from nas_optuna.study.schema import TrialKey
from nas_optuna.study.storage import open_storage
from tests.processes import logs, together
from tests.study import leases


class AtTheFirstEpoch(Callback):
    """Do something after the first epoch of the first trial."""

    def __init__(self, act: Callable[[optuna.Trial], None]) -> None:
        self._act = act

    def step_finished(self, subject: Subject, measurement: Measurement) -> None:
        assert isinstance(subject.trial, optuna.Trial)
        if measurement.step == 1 and subject.trial.number == 0:
            self._act(subject.trial)


def elsewhere() -> str:
    worker = Worker.parse(this_worker())
    assert worker is not None
    return str(replace(worker, host="elsewhere", boot="b"))


def take_away(trial: optuna.Trial) -> None:
    """Act as another worker that took the trial up."""
    leases.give(trial.study, trial._trial_id, elsewhere())


def end(trial: optuna.Trial) -> None:
    """End a trial as ``optuna tell`` does, in a process that knows nothing of leases."""
    database = trial.study._storage
    assert isinstance(database, RetryingStorage)
    optuna.load_study(study_name="s", storage=database.database.url).tell(trial.number, state=TrialState.FAIL)


@pytest.fixture
def study(tmp_path: Path) -> optuna.Study:
    storage = open_storage(f"sqlite:///{tmp_path}/s.db", create=True)
    return optuna.create_study(study_name="s", direction="maximize", storage=storage)


def test_a_plain_script_whose_trial_somebody_ended_stops_and_changes_nothing(
    study: optuna.Study, objective: Objective
) -> None:
    objective.callbacks = Callbacks([AtTheFirstEpoch(end)])
    with pytest.raises(lease.LostError, match=r"another process took the trial up, .* or has ended it"):
        study.optimize(objective, n_trials=3)
    assert [(trial.state, trial.intermediate_values) for trial in study.trials] == [(TrialState.FAIL, {})]


@pytest.mark.parametrize("plain", [False, True])
def test_a_plain_script_that_lost_its_trial_stops_and_records_nothing(
    study: optuna.Study, objective: Objective, tmp_path: Path, plain: bool
) -> None:
    objective.callbacks = Callbacks([AtTheFirstEpoch(take_away)])
    storage = f"sqlite:///{tmp_path}/s.db" if plain else study._storage
    script = optuna.load_study(study_name="s", storage=storage)
    with pytest.raises(lease.LostError, match="another process took the trial up"):
        script.optimize(objective, n_trials=3)
    (trial,) = study.trials
    assert trial.state == TrialState.RUNNING
    assert (leases.of(study, trial._trial_id) or ("",))[0] == elsewhere()
    assert not trial.intermediate_values
    assert TrialKey.EPOCHS not in trial.user_attrs


def test_a_worker_that_lost_its_trial_drops_it_and_goes_on(
    study: optuna.Study, objective: Objective, caplog: pytest.LogCaptureFixture
) -> None:
    objective.callbacks = Callbacks([AtTheFirstEpoch(take_away)])
    assert run(study, objective, trials=1).trials == 1
    first, second = study.trials
    assert first.state == TrialState.RUNNING
    assert not first.intermediate_values
    assert TrialKey.EPOCHS not in first.user_attrs
    assert second.state == TrialState.COMPLETE
    assert "trial 0 was put back or deleted by somebody else; its result is dropped" in caplog.messages


@pytest.mark.parametrize("late", [False, True])
def test_a_worker_whose_trial_somebody_ended_goes_on(
    study: optuna.Study, objective: Objective, caplog: pytest.LogCaptureFixture, late: bool
) -> None:
    def ended_late(trial: optuna.Trial) -> float | tuple[float, ...]:
        value = objective(trial)
        if trial.number == 0:
            end(trial)
        return value

    if not late:
        objective.callbacks = Callbacks([AtTheFirstEpoch(end)])
    seen: list[int] = []
    note = [lambda study, trial: seen.append(trial.number)]
    assert run(study, ended_late if late else objective, trials=2, callbacks=note).trials == 2
    assert [trial.state for trial in study.trials] == [TrialState.FAIL, TrialState.COMPLETE]
    assert study.trials[0].values is None
    assert len(study.trials[0].intermediate_values) == (2 if late else 0)
    assert seen == [0, 1]
    assert leases.of(study, study.trials[0]._trial_id) is None
    assert "trial 0 was ended by somebody else; its result is dropped" in caplog.messages


@pytest.mark.parametrize("enqueued", [False, True])
def test_a_function_whose_trial_somebody_ended_does_not_end_the_run(study: optuna.Study, enqueued: bool) -> None:
    def report(trial: optuna.Trial) -> float:
        if trial.number == 0:
            end(trial)
            trial.report(1.0, 0)
        return 1.0

    if enqueued:
        study.enqueue_trial({})
    assert run(study, report, trials=2).trials == 2
    assert [trial.state for trial in study.trials] == [TrialState.FAIL, TrialState.COMPLETE]


def test_a_trial_that_another_runs_is_not_begun(study: optuna.Study, objective: Objective) -> None:
    trial = study.ask()
    again = optuna.Trial(study, trial._trial_id)
    leases.give(study, trial._trial_id, elsewhere())
    with pytest.raises(lease.LostError, match="another process or thread runs trial 0"):
        objective(again)
    assert study.trials[0].params == {}


def test_one_process_may_call_the_objective_twice_for_a_trial(study: optuna.Study, objective: Objective) -> None:
    trial = study.ask()
    assert objective(trial) == objective(trial)


def test_a_lease_is_a_number_of_seconds(monkeypatch: pytest.MonkeyPatch) -> None:
    assert lease_table.seconds() == lease_table.SECONDS
    monkeypatch.setenv("NAS_OPTUNA_LEASE", "2.5")
    assert lease_table.seconds() == 2.5
    for text in ("0", "-1", "soon", "nan", "inf"):
        monkeypatch.setenv("NAS_OPTUNA_LEASE", text)
        with pytest.raises(StudyError, match="NAS_OPTUNA_LEASE must be a number of seconds above 0"):
            lease_table.seconds()


class KilledHere(Callback):
    """Die between a trial's end and what others want to do about it."""

    def trial_finished(self, subject: Subject, ended: FrozenTrial | None) -> None:
        os.kill(os.getpid(), signal.SIGKILL)


@pytest.mark.process
def test_a_worker_that_is_killed_after_its_result_leaves_the_note_to_the_next(
    study: optuna.Study, objective: Objective, tmp_path: Path
) -> None:
    def work(_: int) -> int:
        own = optuna.load_study(study_name="s", storage=open_storage(f"sqlite:///{tmp_path}/s.db"))
        run(own, lambda trial: 0.5, trials=1, callbacks=[KilledHere(), NoteWriter()])
        return 0

    assert together(1, work, tmp_path / "log") == [-signal.SIGKILL], logs(tmp_path / "log")
    (ended,) = study.trials
    assert ended.state == TrialState.COMPLETE
    assert get_note(optuna.Trial(study, ended._trial_id)) == ""
    seen: list[int] = []
    run(study, objective, trials=1, callbacks=[NoteWriter(), lambda study, trial: seen.append(trial.number)])
    assert seen == [0, 1]
    assert "trained to the end" in get_note(optuna.Trial(study, ended._trial_id))
    run(study, objective, trials=1, callbacks=[lambda study, trial: seen.append(trial.number)])
    assert seen == [0, 1, 2], "told once"
