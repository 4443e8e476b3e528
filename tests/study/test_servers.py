"""Database servers that go away at the worst moment: nobody loses anything, and nobody sees a traceback."""

from collections.abc import Callable
from contextlib import ExitStack

import optuna
import pytest
from sqlalchemy import text

from nas_optuna.study import lease_table
from nas_optuna.study.storage import open_storage
from tests.execution.small_studies import cheap
from tests.processes import MariaDB, Server

pytestmark = pytest.mark.process


@pytest.fixture(params=["postgresql", "mariadb"])
def server(request: pytest.FixtureRequest) -> Server | MariaDB:
    found: Server | MariaDB = request.getfixturevalue(request.param)
    return found


@pytest.mark.parametrize(
    "ask",
    [lease_table.leases_of, lease_table.now, lambda study: lease_table.take(study, 7, None)],
    ids=["all leases", "the clock", "a lease"],
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
