"""A contract test for each use of a name that Optuna and optuna-dashboard do not promise to keep."""

import ast
import inspect
import os
import re
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from importlib.metadata import version
from pathlib import Path

import optuna
import pytest
from optuna.samplers import GridSampler, PartialFixedSampler
from optuna.storages import BaseStorage, RDBStorage
from optuna.trial import FixedTrial, TrialState
from optuna_dashboard import get_note, save_note
from sqlalchemy import Connection
from sqlalchemy.exc import OperationalError

import nas_optuna
from nas_optuna.errors import StudyError
from nas_optuna.execution.loop import run
from nas_optuna.execution.training_objective import Objective
from nas_optuna.report.dashboard import NOTE_PART, dashboard_note, note_in
from nas_optuna.report.notes import NoteWriter, trial_note
from nas_optuna.study import database, lease, transactions
from nas_optuna.study import optuna_internals as internals
from nas_optuna.study.optuna_internals import study_system_attributes
from nas_optuna.study.storage import open_storage
from nas_optuna.study.transactions import set_study_system_attributes, set_trial_attributes, transaction
from tests.processes import Server
from tests.study import leases

CHECKED = {"optuna": "5.0.0", "optuna-dashboard": "0.21.0"}
"""The releases that these tests were last seen to pass with; newer ones within the bounds of pyproject.toml may too."""
PRIVATE = (
    "optuna.storages._CachedStorage",
    "optuna.storages._rdb.models",
    "RDBStorage._get_trials",
    "RDBStorage._version_manager",
    "_CachedStorage._backend",
    "Study._get_trials",
    "Study._stop_flag",
    "Study._storage",
    "Study._study_id",
    "Study._thread_local",
    "Trial._cached_frozen_trial",
    "Trial._trial_id",
    "BaseDistribution._contains",
    "GridSampler._get_unvisited_grid_ids",
    "PartialFixedSampler._base_sampler",
    "PartialFixedSampler._fixed_params",
    "optuna._hypervolume",
    "optuna.study._multi_objective",
    "optuna.study._multi_objective._get_pareto_front_trials_by_trials",
)
"""What is not public and may change in any release."""
VALUES = {"text": "f16k3s1", "number": 3, "real": 0.1, "none": None, "list": [1, "é"], "dict": {"a": {"b": 1}}}


@pytest.fixture(params=["sqlite", "memory"])
def study(request: pytest.FixtureRequest, tmp_path: Path) -> optuna.Study:
    storage = None if request.param == "memory" else open_storage(f"sqlite:///{tmp_path}/x.db", create=True)
    return optuna.create_study(study_name="s", storage=storage, direction="maximize")


def test_many_at_once_are_as_one_by_one(study: optuna.Study) -> None:
    one_by_one, at_once = study.ask(), study.ask()
    for key, value in VALUES.items():
        one_by_one.set_user_attr(key, value)
    set_trial_attributes(at_once, {"text": "old", "kept": 1})
    set_trial_attributes(at_once, VALUES)
    assert at_once.user_attrs == {"kept": 1, **VALUES} == {"kept": 1, **one_by_one.user_attrs}
    study.tell(at_once, 1.0)
    first, second = study.trials
    assert second.user_attrs == {"kept": 1, **first.user_attrs}
    again = optuna.load_study(study_name="s", storage=study._storage).trials[1]
    assert again.user_attrs == second.user_attrs


def test_a_fixed_trial_takes_them_too() -> None:
    trial = FixedTrial({})
    set_trial_attributes(trial, VALUES)
    assert trial.user_attrs == VALUES


def test_a_study_takes_them(study: optuna.Study) -> None:
    set_study_system_attributes(study, {"a": 1, "b": "x"})
    set_study_system_attributes(study, {"b": "y"})
    found = study._storage.get_study_system_attrs(study._study_id)
    assert (found["a"], found["b"]) == (1, "y")


def test_the_dashboard_finds_each_note(study: optuna.Study, objective: Objective) -> None:
    run(study, objective, trials=2, callbacks=[NoteWriter()])
    for trial in study.trials:
        found = get_note(_of(study, trial))
        assert found == trial_note(trial)
        assert trial.user_attrs["nas_optuna:architecture"] in found


@pytest.mark.parametrize("own", [True, False])
def test_the_dashboard_reads_notes_of_any_length_and_we_read_its_own(own: bool) -> None:
    study = optuna.create_study()
    for text in ("", "short", "x" * NOTE_PART, "long " * NOTE_PART, "short again"):
        if own:
            set_study_system_attributes(study, dashboard_note(text, None, study_system_attributes(study)))
        else:
            save_note(study, text)
        assert get_note(study) == note_in(study_system_attributes(study)) == text


def _of(study: optuna.Study, trial: optuna.trial.FrozenTrial) -> optuna.Trial:
    return optuna.Trial(study, trial._trial_id)


def test_the_releases_that_were_checked_are_not_newer_than_what_is_installed() -> None:
    for package, checked in CHECKED.items():
        installed = version(package)
        assert tuple(map(int, installed.split(".")[:2])) >= tuple(map(int, checked.split(".")[:2]))


def private_names() -> set[str]:
    """What Optuna's classes call by a name that begins with an underscore, instance attributes included."""
    study = optuna.create_study(sampler=GridSampler({"x": [1]}))
    trial = study.ask()
    inside = optuna.distributions.FloatDistribution(0, 1)
    assert internals.contains(inside, 0.5)
    assert not internals.contains(inside, 1.5)
    ended = optuna.create_trial(value=0.0)
    wrapper = PartialFixedSampler({}, study.sampler)
    things = (study, trial, study.sampler, wrapper, study.pruner, study._storage, RDBStorage, ended, inside)
    found = {name for thing in things for name in (*dir(thing), *getattr(thing, "__dict__", {}))}
    return {name for name in found if name.startswith("_") and not name.endswith("__")}


def uses(tree: ast.AST, private: set[str]) -> list[str]:
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("optuna"):
            names = [*(node.module or "").split("."), *(alias.name for alias in node.names)]
            found += [f"import {name}" for name in names if name.startswith("_")]
        if isinstance(node, ast.Attribute) and node.attr in private:
            owner = node.value.id if isinstance(node.value, ast.Name) else ""
            found += [] if owner in ("self", "cls") else [f"{ast.unparse(node)} in line {node.lineno}"]
    return found


def test_nobody_else_uses_a_private_name_of_optuna() -> None:
    package, private = Path(nas_optuna.__file__).parent, private_names()
    assert {"_storage", "_trial_id", "_study_id", "_get_trials", "_contains"} < private
    assert uses(ast.parse("from optuna.study._tell import x; trial._trial_id"), private)
    for file in package.rglob("*.py"):
        if file.name not in ("optuna_internals.py", "database.py"):
            found = uses(ast.parse(file.read_text()), private)
            assert not found, f"{file.relative_to(package)}: {found}"


def test_every_call_of_a_storage_is_tried_again() -> None:
    public = {name for name, _ in inspect.getmembers(BaseStorage, inspect.isfunction) if not name.startswith("_")}
    assert public
    assert all("retried" in vars(database.RetryingStorage)[name].__code__.co_name for name in public)


def test_the_list_of_private_names_is_whole_and_short() -> None:
    source = Path(internals.__file__).read_text() + inspect.getsource(database.Database)
    accesses = uses(ast.parse(source), private_names() | {"_backend", "_CachedStorage"})
    accesses += re.findall(r"super\(\)\.(_[a-z]\w+)\(|def (_get_trials)\(", source)
    assert len(accesses) <= 20, accesses
    listed = {name.rpartition(".")[2] for name in PRIVATE}
    for access in map(str, accesses):
        assert any(name in access for name in listed) or "_rdb" in access, access
    assert len(source.splitlines()) <= 400


def test_a_database_with_optunas_newest_tables_is_opened_at_once(tmp_path: Path) -> None:
    """And one with any other is left to Optuna, which says what to do."""
    url = f"sqlite:///{tmp_path}/x.db"
    assert RDBStorage(url).get_current_version() == database.SCHEMA
    script = "import sys; from nas_optuna.study.storage import open_storage; open_storage(sys.argv[1]); "
    script += "assert 'alembic' not in sys.modules"
    subprocess.run([sys.executable, "-c", script, url], check=True)
    engine = open_storage(url).database.engine
    with engine.begin() as connection:
        connection.exec_driver_sql("UPDATE alembic_version SET version_num = 'v9.0'")
    with pytest.raises(StudyError, match="a newer Optuna"):
        open_storage(url)


def test_a_study_is_seen_whole(tmp_path: Path) -> None:
    for storage in (open_storage(f"sqlite:///{tmp_path}/x.db", create=True), optuna.storages.InMemoryStorage()):
        transactions.create_whole_study(storage, "s", ["maximize", "minimize"], ["a", "b"], {"k": [1]})
        made = optuna.load_study(study_name="s", storage=storage)
        assert (made.metric_names, made.user_attrs) == (["a", "b"], {"k": [1]})
        assert [d.name for d in made.directions] == ["MAXIMIZE", "MINIMIZE"]
        assert internals.study_user_attributes(made) == {"k": [1]}
        with pytest.raises(optuna.exceptions.DuplicatedStudyError):
            transactions.create_whole_study(storage, "s", ["maximize"], ["a"], {})
        optuna.delete_study(study_name="s", storage=storage)


def test_trials_are_read_as_they_are_now(study: optuna.Study) -> None:
    trial = study.ask()
    assert internals.trial_id_of(trial) == internals.trial_id_of(internals.all_trials(study)[0])
    internals.set_trial_attribute(study, internals.all_trials(study)[0], "a", 1)
    internals.set_trial_system_attribute(study, internals.all_trials(study)[0], "b", 2)
    found = internals.read_trial(study, internals.trial_id_of(trial))
    assert (found.user_attrs, found.system_attrs["b"], found.state) == ({"a": 1}, 2, TrialState.RUNNING)
    assert internals.all_trials(study, [TrialState.COMPLETE]) == []
    assert internals.with_storage(study, internals.storage_of(study)).trials == study.trials


def test_enqueued_choices_are_known(study: optuna.Study) -> None:
    study.enqueue_trial({"x": 1})
    (waiting,) = study.trials
    assert internals.enqueued_params(waiting) == {"x": 1}
    asked, own = study.ask(), study.ask()
    assert internals.is_enqueued(asked)
    assert not internals.is_enqueued(own)


def test_a_sampler_may_stop_a_study_that_is_not_optimized_by_optuna(study: optuna.Study) -> None:
    with internals.stoppable(study) as stopped:
        assert not stopped()
        study.stop()
        assert stopped()
    with pytest.raises(RuntimeError):
        study.stop()


def test_a_view_shows_some_trials_to_optunas_samplers(study: optuna.Study) -> None:
    study.optimize(lambda trial: trial.suggest_float("x", 0, 1), n_trials=4)
    shown: list[int] = []

    def last_two(trials: list[optuna.trial.FrozenTrial]) -> list[optuna.trial.FrozenTrial]:
        shown.append(len(trials))
        return trials[-2:]

    view = internals.showing(study, last_two)
    sampler = optuna.samplers.TPESampler(n_startup_trials=1, seed=0)
    running = study._storage.get_trial(internals.trial_id_of(study.ask()))
    sampler.sample_independent(view, running, "x", optuna.distributions.FloatDistribution(0, 1))
    assert shown
    assert len(view.get_trials(deepcopy=False)) == 2
    assert len(study.trials) == 5


def test_what_a_wrapper_fixes_is_known() -> None:
    own = optuna.samplers.RandomSampler()
    inner = PartialFixedSampler({"x": 1, "y": 2}, own)
    outer = PartialFixedSampler({"x": 3}, inner)
    assert internals.partially_fixed(outer) == {"x": 3, "y": 2}
    assert internals.inner_sampler(outer) is inner
    assert internals.inner_sampler(own) is None


def test_a_worker_that_lost_its_trial_records_nothing(tmp_path: Path) -> None:
    storage = open_storage(f"sqlite:///{tmp_path}/x.db", create=True)
    study = optuna.create_study(directions=["maximize", "minimize"], storage=storage)
    for value in (1.0, float("inf"), -0.5):
        trial_id = lease.take_new(study)
        assert trial_id is not None
        kept = optuna.Trial(study, trial_id)
        with lease.hold(study, trial_id):
            set_trial_attributes(kept, {"a": 1})
        study.tell(kept, [value, 2.0])
        assert study.trials[-1].values == [value, 2.0]
        duration = study.trials[-1].duration
        assert duration is not None
        assert 0 <= duration.total_seconds() < 60
        assert study.trials[-1].user_attrs == {"a": 1}
    lost = lease.take_new(study)
    assert lost is not None
    trial = optuna.Trial(study, lost)
    with lease.hold(study, lost):
        leases.give(study, lost, "elsewhere/b/n/1/1")
        with pytest.raises(optuna.exceptions.UpdateFinishedTrialError, match="another runs it"):
            set_trial_attributes(trial, {"a": 1})
        with pytest.raises(optuna.exceptions.UpdateFinishedTrialError, match="another runs it"):
            study.tell(trial, [1.0, 2.0])
    assert (study.trials[-1].state.name, study.trials[-1].user_attrs) == ("RUNNING", {})


def test_times_are_optunas(tmp_path: Path) -> None:
    """Where a host's clock shows another time than that of Greenwich, trials are not hours long."""
    script = """
import optuna, sys
from nas_optuna.study import lease
from nas_optuna.study.storage import open_storage
study = optuna.create_study(storage=open_storage(sys.argv[1], create=True))
study.enqueue_trial({})
for take in (lease.take_waiting, lease.take_new):
    number = take(study)
    with lease.hold(study, number):
        study.tell(optuna.Trial(study, number), 1.0)
found = study.trials + optuna.load_study(study_name=study.study_name, storage=sys.argv[1]).trials
for trial in found:
    for moment in (trial.datetime_start, trial.datetime_complete):
        assert abs(moment.timestamp() - __import__("time").time()) < 60, moment
"""
    environment = os.environ | {"TZ": "Asia/Tokyo"}
    subprocess.run([sys.executable, "-c", script, f"sqlite:///{tmp_path}/x.db"], env=environment, check=True)


@pytest.mark.process
def test_a_transaction_that_the_server_has_undone_is_repeated(postgresql: Server) -> None:
    """Each of two takes what the other one wants next, which a server ends by undoing one of them."""
    storage, began, met = open_storage(postgresql.fresh()), [0, 0], threading.Barrier(2)
    ids = [storage.create_new_study([optuna.study.StudyDirection.MAXIMIZE], name) for name in "ab"]

    def rename(number: int) -> None:
        def work() -> None:
            began[number] += 1
            with storage.database.engine.begin() as connection:
                for place, study_id in enumerate(ids if number else reversed(ids)):
                    sql = f"UPDATE studies SET study_name = study_name || '{number}' WHERE study_id = {study_id}"
                    connection.exec_driver_sql(sql)
                    if not place and began[number] == 1:
                        met.wait(10)

        storage.with_retry(work)

    with ThreadPoolExecutor() as pool:
        list(pool.map(rename, range(2)))
    assert sum(began) == 3
    assert sorted(study.study_name for study in storage.get_all_studies()) in (["a01", "b01"], ["a10", "b10"])


def test_a_transaction_beside_others_is_repeated_in_a_plain_storage_too() -> None:
    storage, asked = RDBStorage("sqlite:///:memory:"), []

    def work(connection: Connection) -> int:
        asked.append(connection)
        if len(asked) == 1:
            raise OperationalError("INSERT", {}, Exception("Deadlock found when trying to get lock"))
        return 7

    assert (transaction(storage, work), len(asked)) == (7, 2)
