"""Who runs a trial: with a lease from the first moment on, and taken up where nobody can have it any more."""

import gc
import re
import threading
import time
import weakref
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import optuna
import pytest
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import FrozenTrial, TrialState

from nas_optuna.errors import StudyError
from nas_optuna.study import lease, lease_table
from nas_optuna.study.lease import claims
from nas_optuna.study.lease_table import Worker, this_worker
from nas_optuna.study.optuna_internals import database_of
from nas_optuna.study.storage import open_storage
from tests.processes import logs, together
from tests.study import leases


def here() -> Worker:
    worker = Worker.parse(this_worker())
    assert worker is not None
    return worker


GONE = replace(here(), process=999_999_999)
ELSEWHERE = replace(here(), host="elsewhere", boot="b", process=7)


@pytest.fixture
def study(tmp_path: Path) -> optuna.Study:
    return optuna.create_study(study_name="s", storage=open_storage(f"sqlite:///{tmp_path}/x.db", create=True))


@pytest.fixture(params=["journal", "memory"])
def without_leases(request: pytest.FixtureRequest, tmp_path: Path) -> optuna.Study:
    journal = JournalStorage(JournalFileBackend(str(tmp_path / "journal"))) if request.param == "journal" else None
    return optuna.create_study(study_name="s", storage=journal)


def running(study: optuna.Study, owner: object, lasts: float = 300.0) -> int:
    trial = study.ask()
    trial.suggest_int("x", 0, 1)
    if owner is not None:
        leases.give(study, trial._trial_id, owner, lasts)
    return trial.number


def states(study: optuna.Study) -> list[str]:
    return [trial.state.name for trial in study.trials]


@pytest.mark.parametrize("database", ["mysql", "mariadb"])
def test_no_hour_of_a_servers_clock_comes_twice(database: str) -> None:
    """When summer time ends, as local time does."""
    clock = str(lease_table.clock(SimpleNamespace(dialect=SimpleNamespace(name=database))))  # type: ignore[arg-type]
    assert "utc_timestamp(6)" in clock
    assert not re.search(r"sysdate|now|unix_timestamp|curtime|localtime", clock)


def test_trials_of_ended_processes_are_taken_up_and_those_of_nobody_are_named(
    study: optuna.Study, caplog: pytest.LogCaptureFixture
) -> None:
    ended, mine, elsewhere = running(study, GONE), running(study, here()), running(study, ELSEWHERE)
    nobodys = study.ask().number
    theirs = running(study, None)  # a plain objective of somebody else runs it
    assert lease.release_abandoned(study) == [ended]
    assert lease.release_abandoned(study, again=True) == []
    kept = {mine, elsewhere, nobodys, theirs}
    assert {trial.number for trial in study.trials if trial.state == TrialState.RUNNING} == kept
    said = [record.getMessage() for record in caplog.records]
    assert said[0] == f"going on with trial {ended}, whose process has ended, or has not renewed its lease"
    assert f"nas-optuna study release s {nobodys} {theirs} --storage sqlite:///" in said[1]
    assert len(said) == 2, "once"


def test_a_trial_has_its_lease_from_its_first_moment_to_its_release(study: optuna.Study) -> None:
    new = lease.take_new(study)
    assert new is not None
    worker, lasts = leases.of(study, new) or ("", 0.0)
    assert worker == this_worker()
    assert lease_table.seconds() - 5 < lasts < lease_table.seconds() + 5
    assert study.trials[0].datetime_start is not None
    assert lease.state(study, new) == TrialState.RUNNING
    assert lease.release(study, new)
    assert states(study) == ["WAITING"]
    assert leases.of(study, new) is None
    assert not lease.release(study, new), "it waits already"
    assert lease.take_waiting(study) == new
    assert lease.take_waiting(study) is None
    study.tell(0, 1.0)
    assert lease.state(study, new) == TrialState.COMPLETE
    assert not lease.release(study, new)
    assert states(study) == ["COMPLETE"]
    assert lease.state(study, new + 9) is None


def test_a_storage_without_leases_gives_a_trial_to_one_worker(without_leases: optuna.Study) -> None:
    study = without_leases
    study.enqueue_trial({"x": 1})
    taken = lease.take_waiting(study)
    assert taken is not None
    assert lease.take_waiting(study) is None
    assert lease.state(study, taken) == TrialState.RUNNING
    with lease.hold(study, taken) as held:
        held.require(study)
    assert lease.release(study, taken)
    assert lease.state(study, taken) is None
    assert lease.take_waiting(study) == taken
    lease.take_new(study)
    assert lease.release_abandoned(study) == lease.take_unclosed(study) == []
    study.tell(0, 1.0)
    assert lease.state(study, taken) == TrialState.COMPLETE


def test_a_number_that_is_used_again_does_not_bring_a_lease_along(study: optuna.Study) -> None:
    """SQLite gives the numbers of trials of a deleted study again."""
    first = lease.take_new(study)
    assert first is not None
    leases.give(study, first, GONE)
    storage = study._storage
    optuna.delete_study(study_name="s", storage=storage)
    again = optuna.create_study(study_name="s", storage=storage)
    assert lease.take_new(again) == first
    assert lease.state(again, first) == TrialState.RUNNING


@pytest.mark.parametrize("by_optuna", [False, True])
def test_a_lease_that_a_deleted_study_has_left_does_not_end_a_plain_script(
    study: optuna.Study, by_optuna: bool
) -> None:
    storage, trial_id = study._storage, running(study, GONE) + 1
    database = database_of(storage)
    assert database is not None
    optuna.delete_study(study_name="s", storage=str(database.url) if by_optuna else storage)
    again = optuna.create_study(study_name="s", storage=storage)
    assert (leases.of(again, trial_id) is not None) is by_optuna
    trial = again.ask()
    assert trial._trial_id == trial_id
    with lease.hold_trial(trial) as held:
        held.require(again)
    assert states(again) == ["RUNNING"]


def test_two_runs_that_see_the_same_dead_worker_put_its_trial_back_once(
    study: optuna.Study, monkeypatch: pytest.MonkeyPatch
) -> None:
    running(study, GONE)
    seen = claims(study)
    assert lease.release_abandoned(study) == [0]
    taken = lease.take_waiting(study)
    assert taken is not None
    monkeypatch.setattr(lease, "claims", lambda study: seen)
    assert lease.release_abandoned(study) == []
    monkeypatch.undo()
    assert lease.state(study, taken) == TrialState.RUNNING


def test_a_lease_that_was_renewed_meanwhile_is_not_taken(study: optuna.Study, monkeypatch: pytest.MonkeyPatch) -> None:
    running(study, ELSEWHERE, lasts=-1.0)
    seen = claims(study)
    leases.give(study, study.trials[0]._trial_id, ELSEWHERE, lasts=60.0)
    monkeypatch.setattr(lease, "claims", lambda study: seen)
    assert lease.release_abandoned(study) == []
    assert states(study) == ["RUNNING"]


def test_a_person_can_put_back_what_another_host_or_nobody_runs(study: optuna.Study) -> None:
    mine = running(study, this_worker())
    for owner in (ELSEWHERE, None, replace(here(), namespace="4026532000")):
        lease.release_by_hand(study, running(study, owner))
        assert study.ask().number == len(study.trials) - 1, "it waited"
    assert states(study) == ["RUNNING"] * 4
    study.tell(2, 1.0)
    for number, problem in ((mine, "end that first"), (2, "no running trial 2"), (9, "no running trial 9")):
        with pytest.raises(StudyError, match=problem):
            lease.release_by_hand(study, number)


def test_a_lapsed_lease_is_taken_over_whoever_has_it(study: optuna.Study, caplog: pytest.LogCaptureFixture) -> None:
    numbers = [running(study, worker, lasts=-1.0) for worker in (ELSEWHERE, here())]
    running(study, ELSEWHERE, lasts=60.0)
    assert lease.release_abandoned(study) == numbers
    assert states(study) == ["WAITING", "WAITING", "RUNNING"]
    assert caplog.messages == ["going on with trial 0, 1, whose process has ended, or has not renewed its lease"]


def test_a_lease_is_renewed_beside_the_training(study: optuna.Study, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NAS_OPTUNA_LEASE", "2")
    trial_id = lease.take_new(study)
    assert trial_id is not None
    with lease.hold(study, trial_id) as held:
        until = time.monotonic() + 2.6
        while time.monotonic() < until:
            time.sleep(0.1)
            assert lease.release_abandoned(study) == []
        held.require(study)
        leases.give(study, trial_id, ELSEWHERE)
        until = time.monotonic() + 10
        while not held.lost and time.monotonic() < until:
            time.sleep(0.02)
        assert held.lost, "the thread found it out"
        with pytest.raises(lease.LostError):
            held.require(study)


@pytest.mark.parametrize("closed", [False, True], ids=["told by Optuna", "closed"])
def test_a_storage_is_freed_after_its_trials_have_run(tmp_path: Path, closed: bool) -> None:
    def run() -> weakref.ref[object]:
        storage = open_storage(f"sqlite:///{tmp_path}/x.db", create=True)
        study = optuna.create_study(study_name="s", storage=storage, load_if_exists=True)
        trial = study.ask()
        with lease.hold_trial(trial):
            trial.suggest_int("x", 0, 1)
        study.tell(trial, 1.0)
        if closed:
            lease.close(study, trial._trial_id)
        return weakref.ref(database_of(storage))

    ended = [run() for _ in range(3)]
    for thread in threading.enumerate():
        if thread.name == "nas-optuna-lease":
            thread.join()
    gc.collect()
    assert [storage() for storage in ended] == [None] * 3


def test_a_trial_that_ended_just_before_its_process_is_told_of_once(study: optuna.Study) -> None:
    ended = [running(study, owner) for owner in (GONE, here(), ELSEWHERE)]
    for number in ended:
        study.tell(number, 1.0)

    def numbers(trials: list[FrozenTrial]) -> list[int]:
        return [trial.number for trial in trials]

    assert numbers(lease.take_unclosed(study)) == [0]
    assert numbers(lease.take_unclosed(study)) == [], "this process has it now"
    lease.close(study, study.trials[0]._trial_id)
    assert leases.of(study, study.trials[0]._trial_id) is None


@pytest.mark.process
def test_no_trial_is_made_above_the_number_that_a_study_may_have(study: optuna.Study, tmp_path: Path) -> None:
    def work(number: int) -> int:
        own = optuna.load_study(study_name="s", storage=open_storage(f"sqlite:///{tmp_path}/x.db"))
        while lease.take_new(own, below=12) is not None:
            pass
        return 0

    assert together(3, work, tmp_path / "log") == [0, 0, 0], logs(tmp_path / "log")
    assert [trial.number for trial in study.trials] == list(range(12))


def test_a_storage_of_optunas_own_class_has_leases_too(tmp_path: Path) -> None:
    study = optuna.create_study(storage=optuna.storages.RDBStorage(f"sqlite:///{tmp_path}/own.db"))
    trial_id = lease.take_new(study)
    assert trial_id is not None
    assert lease.state(study, trial_id) == TrialState.RUNNING
