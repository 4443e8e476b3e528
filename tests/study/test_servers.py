"""Database servers that go away at the worst moment: nobody loses anything, and nobody sees a traceback."""

from collections.abc import Callable
from contextlib import ExitStack

import optuna
import pytest
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError

from nas_optuna.study import lease
from nas_optuna.study.database import is_away
from nas_optuna.study.storage import open_storage
from nas_optuna.study.transactions import set_trial_attributes
from tests.execution.small_studies import cheap
from tests.helpers import Command, tiny
from tests.processes import MariaDB, Server

pytestmark = pytest.mark.process


@pytest.fixture(params=["postgresql", "mariadb"])
def server(request: pytest.FixtureRequest) -> Server | MariaDB:
    found: Server | MariaDB = request.getfixturevalue(request.param)
    return found


@pytest.mark.parametrize(
    "ask",
    [lease.claims, lambda study: [lease.state(study, 7)]],
    ids=["all leases", "a lease"],
)
def test_a_worker_whose_first_question_of_leases_meets_no_server_waits(
    server: Server | MariaDB, ask: Callable[[optuna.Study], object]
) -> None:
    storage = open_storage(server.fresh(), create=True, with_retry=True)
    study = optuna.create_study(study_name="s", storage=storage)
    with ExitStack() as away:
        away.enter_context(server.away())

        def let_it_come_back() -> bool:
            away.close()
            return False

        storage.give_up = let_it_come_back  # which a call asks as soon as it waits
        assert ask(study) is not None


def test_a_server_that_goes_before_a_connection_is_given_back_is_no_traceback(
    server: Server | MariaDB, caplog: pytest.LogCaptureFixture
) -> None:
    storage = open_storage(server.fresh(), create=True, with_retry=True)
    study = optuna.create_study(study_name="s", storage=storage)
    connection = storage.database.engine.connect()
    connection.execute(text("SELECT 1"))
    connection.commit()
    with server.away():
        connection.close()
    assert not [record for record in caplog.records if record.exc_info]
    with storage.database.engine.connect() as connection:
        connection.execute(text("UPDATE studies SET study_name = 'half done'"))
    study.optimize(cheap, n_trials=1)
    assert [found.study_name for found in storage.get_all_studies()] == ["s"]


def test_a_process_that_stands_still_within_a_transaction_keeps_its_rows_no_longer_than_a_lease(
    server: Server | MariaDB, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NAS_OPTUNA_LEASE", "1")
    url = server.fresh()
    still, other = (open_storage(url, create=True, with_retry=True) for _ in range(2))
    optuna.create_study(study_name="s", storage=still)
    rename = text("UPDATE studies SET study_name = 'half done'")
    with still.database.engine.connect() as connection:
        connection.execute(rename)
        with other.database.engine.begin() as taken:
            taken.execute(rename)  # it waits, else for ever
        with pytest.raises(DBAPIError) as lost:
            connection.execute(rename)
        assert is_away(lost.value)
        connection.invalidate()


def test_nothing_is_written_in_pieces(postgresql: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """A process that freezes between two of them would keep its locks for ever."""
    import psycopg

    def refuse(*_: object) -> None:
        raise AssertionError("psycopg sends the rows of this call in pieces")

    monkeypatch.setattr(psycopg.Cursor, "executemany", refuse)
    storage = open_storage(postgresql.fresh(), create=True, with_retry=True)
    study = optuna.create_study(study_name="s", storage=storage, directions=["maximize", "minimize"])
    trial = study.ask()
    set_trial_attributes(trial, {"one": 1, "two": 2, "three": 3}, {1: 0.5, 2: 0.6})
    study.tell(trial, (1.0, 2.0))
    (ended,) = study.trials
    assert (ended.values, ended.user_attrs) == ([1.0, 2.0], {"one": 1, "two": 2, "three": 3})


def test_a_database_that_lacks_the_letters_of_a_name_says_how_to_make_one_that_has_them(
    command: Command, mariadb: MariaDB
) -> None:
    made = command("study", "create", "🙂", *tiny(), "--storage", mariadb.fresh())
    assert (made.code, len(made.err.splitlines())) == (2, 1)
    assert made.err.strip().endswith("use others, or make one with CHARACTER SET utf8mb4")
