"""Who runs a trial: told apart everywhere, dead only where that is certain, marked from the first moment on."""

import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import optuna
import pytest
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import TrialState

from nas_optuna.errors import StudyError
from nas_optuna.study import lease
from nas_optuna.study.lease import Standing, Worker
from nas_optuna.study.schema import TrialKey
from nas_optuna.study.storage import open_storage


@pytest.fixture(params=["sqlite", "journal", "memory"])
def study(request: pytest.FixtureRequest, tmp_path: Path) -> optuna.Study:
    storage = {
        "sqlite": lambda: open_storage(f"sqlite:///{tmp_path}/x.db", create=True),
        "journal": lambda: JournalStorage(JournalFileBackend(str(tmp_path / "journal"))),
        "memory": lambda: None,
    }[request.param]()
    return optuna.create_study(study_name="s", storage=storage)


def here() -> Worker:
    worker = Worker.parse(lease.this_worker())
    assert worker is not None
    return worker


def running(study: optuna.Study, owner: object) -> int:
    trial = study.ask()
    if owner is not None:
        trial.set_user_attr(TrialKey.WORKER, str(owner))
    return trial.number


def states(study: optuna.Study) -> list[str]:
    return [trial.state.name for trial in study.trials]


def test_a_worker_is_read_as_it_was_written() -> None:
    assert str(here()) == lease.this_worker()
    assert here().process == os.getpid()
    assert Worker.parse("host/boot/12/345") == Worker("host", "-", "boot", "-", 12, "345")
    for text in (None, 3, "", "somebody", "a/b/c/d", "a/b/c/d/e/f", "a/b/c/d/1/f/g"):
        assert Worker.parse(text) is None


def test_what_cannot_be_known_dead_is_alive() -> None:
    me = here()
    first = replace(me, namespace="4026531836")
    alive = {
        "this very process": me,
        "another PID namespace of this boot": replace(me, namespace="4026532000", process=999_999_999),
        "another host of the same name": replace(me, boot="another", machine="another", process=999_999_999),
        "another host with a copied machine id and another name": replace(first, boot="another", host="another"),
        "a container with a copied machine id": replace(me, boot="another", namespace="4026532000"),
        "another host by an earlier release": Worker.parse(f"{me.host}/another/999999999/1"),
        "nothing known of either": Worker("-", "-", "another", "-", 999_999_999, "1"),
    }
    for who, worker in alive.items():
        assert worker is not None
        assert not worker.is_gone(), who
    dead = {
        "ended": replace(me, process=999_999_999),
        "its number was given to this one": replace(me, started="1"),
        "ended, by an earlier release": Worker.parse(f"{me.host}/{me.boot}/999999999/1"),
    }
    for who, worker in dead.items():
        assert worker is not None
        assert worker.is_gone(), who


def test_a_machine_that_booted_anew_runs_nothing_of_before(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lease, "_surroundings", lambda: ("host", "machine", "boot", "4026531836"))
    before = replace(here(), boot="earlier")
    assert before.is_gone()
    assert not replace(before, namespace="4026532000").is_gone()
    assert not replace(before, machine="-").is_gone()


def test_a_process_that_nobody_has_waited_for_is_dead() -> None:
    process = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    started = lease._start_time(process.pid)
    assert started
    worker = replace(here(), process=process.pid, started=started)
    assert not worker.is_gone()
    process.send_signal(signal.SIGKILL)
    os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
    assert worker.is_gone(), "a zombie"
    process.wait()
    assert worker.is_gone()


def test_a_fork_is_another_worker() -> None:
    reading, writing = os.pipe()
    child = os.fork()
    if not child:
        os.write(writing, lease.this_worker().encode())
        os._exit(0)
    os.waitpid(child, 0)
    text = os.read(reading, 1000).decode()
    assert text != lease.this_worker()
    worker = Worker.parse(text)
    assert worker is not None
    assert worker.process == child


def test_trials_of_ended_processes_and_of_nobody_are_taken_up_and_said(
    study: optuna.Study, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    me = here()
    ended = running(study, replace(me, process=999_999_999))
    mine = running(study, me)
    elsewhere = running(study, replace(me, boot="another", machine="another"))
    nobodys = running(study, None)
    theirs = study.ask()
    theirs.suggest_int("x", 0, 1)  # a plain objective of somebody else runs it
    cleared = study.ask()  # an earlier release died while it put it back
    cleared.suggest_int("x", 0, 1)
    cleared.set_user_attr(TrialKey.WORKER, None)
    monkeypatch.setenv("NAS_OPTUNA_LEASE", "0.2")
    assert lease.release_abandoned(study) == [ended, cleared.number]
    assert lease.release_abandoned(study) == [], "nobody's has been seen for a moment only"
    time.sleep(0.3)
    assert lease.release_abandoned(study) == [nobodys]
    kept = {mine, elsewhere, theirs.number}
    assert {trial.number for trial in study.trials if trial.state == TrialState.RUNNING} == kept
    said = [record.getMessage() for record in caplog.records]
    assert said[0] == f"going on with what no process runs any more: trial {ended}, {cleared.number}"
    assert f"nas-optuna study release s {elsewhere} {theirs.number}" in said[1]
    assert ("--storage sqlite:///" in said[1]) == isinstance(study._storage, optuna.storages._CachedStorage)
    assert lease.release_abandoned(study) == []


def test_a_trial_of_format_1_is_taken_up(tmp_path: Path) -> None:
    study = optuna.create_study(storage=open_storage(f"sqlite:///{tmp_path}/x.db", create=True))
    trial = study.ask()
    trial.set_user_attr("worker", f"{here().host}/{here().boot}/999999999/1")
    assert lease.release_abandoned(study) == [0]
    taken = lease.take_waiting(study)
    assert taken is not None
    assert lease.standing(study, taken) == Standing.HELD
    assert "worker" not in study.trials[0].user_attrs


def test_a_trial_is_marked_from_its_first_moment_to_its_release(study: optuna.Study) -> None:
    new = lease.take_new(study)
    lasts = study.trials[0].user_attrs[TrialKey.LEASE] - time.time()
    assert lease.SECONDS - 5 < lasts < lease.SECONDS + 5
    assert study.trials[0].user_attrs[TrialKey.WORKER] == lease.this_worker()
    assert study.trials[0].datetime_start is not None
    assert lease.standing(study, new) == Standing.HELD
    assert lease.release(study, new)
    assert states(study) == ["WAITING"]
    assert study.trials[0].user_attrs.get(TrialKey.WORKER) is None
    assert not lease.release(study, new), "it waits already"
    assert lease.take_waiting(study) == new
    assert lease.take_waiting(study) is None
    study.trials[0]
    study.tell(0, 1.0)
    assert lease.standing(study, new) == Standing.TOLD
    assert not lease.release(study, new)
    assert states(study) == ["COMPLETE"]


def test_whoever_saw_an_earlier_owner_releases_nothing(study: optuna.Study, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two runs begin at once: the second saw the dead owner before the first took the trial up."""
    dead = replace(here(), process=999_999_999)
    running(study, dead)
    seen = lease.optuna_internals.all_trials(study, (TrialState.RUNNING,))
    assert lease.release_abandoned(study) == [0]
    taken = lease.take_waiting(study)
    assert taken is not None
    monkeypatch.setattr(lease.optuna_internals, "all_trials", lambda study, states: seen)
    if not isinstance(study._storage, optuna.storages.InMemoryStorage):  # which shows the trial itself, not a copy
        assert seen[0].user_attrs[TrialKey.WORKER] == str(dead)
    assert lease.release_abandoned(study) == []
    assert lease.standing(study, taken) == Standing.HELD


def test_a_person_can_put_back_what_another_host_or_nobody_runs(study: optuna.Study) -> None:
    mine = running(study, lease.this_worker())
    for owner in ("elsewhere/boot/1/1", None, replace(here(), namespace="4026532000")):
        lease.release_by_hand(study, running(study, owner))
        assert study.ask().number == len(study.trials) - 1, "it waited"
    assert states(study) == ["RUNNING"] * 4
    study.tell(2, 1.0)
    for number, problem in ((mine, "end that first"), (2, "complete, not running"), (9, "no trial 9")):
        with pytest.raises(StudyError, match=problem):
            lease.release_by_hand(study, number)


def test_a_lapsed_lease_is_taken_over_whoever_has_it(study: optuna.Study, caplog: pytest.LogCaptureFixture) -> None:
    me = here()
    hosts = {"elsewhere": replace(me, host="elsewhere", machine="m", boot="b", process=7), "here": me}
    numbers = [running(study, worker) for worker in hosts.values()]
    held = running(study, hosts["elsewhere"])
    for trial in study.get_trials(deepcopy=False):
        lasts = time.time() + (60 if trial.number == held else -1)
        study._storage.set_trial_user_attr(trial._trial_id, TrialKey.LEASE, lasts)
    assert lease.release_abandoned(study) == numbers
    assert states(study) == ["WAITING", "WAITING", "RUNNING"]
    assert caplog.messages == [
        "going on with trial 0, whose lease process 7 on elsewhere has not renewed",
        f"going on with trial 1, whose lease process {me.process} on {me.host} has not renewed",
    ]
    taken = lease.take_waiting(study)
    assert taken is not None
    assert study.trials[0].user_attrs[TrialKey.LEASE] > time.time() + lease.SECONDS - 10


def test_a_lease_that_was_renewed_meanwhile_is_not_taken(study: optuna.Study, monkeypatch: pytest.MonkeyPatch) -> None:
    number = running(study, replace(here(), host="elsewhere", machine="m", boot="b"))
    trial = study.get_trials(deepcopy=False)[number]
    study._storage.set_trial_user_attr(trial._trial_id, TrialKey.LEASE, time.time() - 1)
    seen = [study._storage.get_trial(trial._trial_id)]
    study._storage.set_trial_user_attr(trial._trial_id, TrialKey.LEASE, time.time() + 60)
    monkeypatch.setattr(lease.optuna_internals, "all_trials", lambda study, states: seen)
    assert lease.release_abandoned(study) == []
    assert states(study) == ["RUNNING"]


def test_a_lease_is_renewed_beside_the_training(study: optuna.Study, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NAS_OPTUNA_LEASE", "0.5")
    trial_id = lease.take_new(study)
    with lease.hold(study, trial_id) as held:
        until = time.monotonic() + 1.2
        while time.monotonic() < until:
            time.sleep(0.1)
            assert lease.release_abandoned(study) == []
        held.renew(at_once=True)
        study._storage.set_trial_user_attr(trial_id, TrialKey.WORKER, "elsewhere/m/b/n/1/1")
        until = time.monotonic() + 10
        while not held.lost and time.monotonic() < until:
            time.sleep(0.02)
        assert held.lost, "the thread found it out"
        with pytest.raises(lease.LostError):
            held.renew()
