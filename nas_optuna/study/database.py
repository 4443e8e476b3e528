"""Optuna's storage in a database, with leases, and read whatever somebody has written into it."""

from __future__ import annotations

from collections.abc import Container, Sequence
from datetime import UTC, datetime
from typing import Any, cast

from optuna.exceptions import UpdateFinishedTrialError
from optuna.storages import RDBStorage
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState
from sqlalchemy import create_engine, delete, func, insert, select, text, update
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.orm import scoped_session, sessionmaker

from nas_optuna.errors import StudyError
from nas_optuna.study.optuna_internals import METRIC_NAMES, models, tables, trial_id_of
from nas_optuna.study.schema import flaw_of_study
from nas_optuna.study.trial_rows import Unreadable, attributes_of, read_trials

SCHEMA = "v3.2.0.a"
"""The version of the tables of Optuna 5.0; those of any other are left to Optuna to judge."""
_MOST_VARIABLES = 500


class Database(RDBStorage):
    """Optuna's storage in a database, with leases, and read whatever somebody has written into it."""

    def __init__(self, url: str, engine_kwargs: dict[str, Any]) -> None:
        if not self._opened_at_once(url, engine_kwargs):
            super().__init__(url.replace("{", "{{").replace("}", "}}"), engine_kwargs)  # Optuna formats it

    def _opened_at_once(self, url: str, engine_kwargs: dict[str, Any]) -> bool:
        """Open a database that has this Optuna's tables, without its migrations, which take 0.1 s to import."""
        try:
            engine = create_engine(url, **engine_kwargs)
            with engine.connect() as connection:
                found = connection.execute(text("SELECT version_num FROM alembic_version")).scalars().all()
        except (SQLAlchemyError, ImportError, OSError, ValueError):  # Optuna says what is wrong, or makes the tables
            return False
        if found != [SCHEMA]:
            engine.dispose()
            return False
        self.url, self.engine, self.engine_kwargs, self.skip_compatibility_check = url, engine, engine_kwargs, False
        self.heartbeat_interval = self.grace_period = None
        self.heartbeat_stale_trial_callback = self.failed_trial_callback = None
        self.scoped_session = scoped_session(sessionmaker(bind=engine))
        self._version_manager = cast(Any, None)
        return True

    def _get_trials(
        self,
        study_id: int,
        states: Container[TrialState] | None,
        included_trial_ids: set[int],
        trial_id_greater_than: int,
    ) -> list[FrozenTrial]:
        trials = tables()["trials"]
        which = trials.c.trial_id > trial_id_greater_than
        if included_trial_ids:
            which |= trials.c.trial_id.in_(sorted(included_trial_ids)[:_MOST_VARIABLES])
        if len(included_trial_ids) > _MOST_VARIABLES:
            which = trials.c.trial_id >= min(included_trial_ids)
        found = self._read(study_id, (trials.c.study_id == study_id) & which)
        wanted = [t for t in found if trial_id_of(t) in included_trial_ids or trial_id_of(t) > trial_id_greater_than]
        return [trial for trial in wanted if states is None or trial.state in states]

    def get_trial(self, trial_id: int) -> FrozenTrial:
        """Read a trial."""
        trials = tables()["trials"]
        with self.engine.connect() as connection:
            study_id = connection.execute(select(trials.c.study_id).where(trials.c.trial_id == trial_id)).scalar()
        found = [] if study_id is None else self._read(study_id, trials.c.trial_id == trial_id)
        if not found:
            raise KeyError(f"no trial has the id {trial_id}")
        return found[0]

    def _read(self, study_id: int, which: Any) -> list[FrozenTrial]:
        directions = tables()["study_directions"]
        count = select(func.count()).select_from(directions).where(directions.c.study_id == study_id)
        with self.engine.connect() as connection:
            objectives = connection.execute(count).scalar_one()
            if not objectives:
                raise KeyError(f"no study has the id {study_id}")
            return read_trials(connection, tables(), which, objectives)

    def set_trial_state_values(self, trial_id: int, state: TrialState, values: Sequence[float] | None = None) -> bool:
        """Write a trial's end only where this process's lease stands, and let one worker take a waiting trial."""
        # Optuna reads the state and then writes it, between which another process may do so.
        from nas_optuna.study.lease import is_held, require_held

        if state != TrialState.RUNNING and not (state.is_finished() and is_held(self, trial_id)):
            return super().set_trial_state_values(trial_id, state, values)
        trials, model = tables()["trials"], models().TrialValueModel
        before = TrialState.WAITING if state == TrialState.RUNNING else TrialState.RUNNING
        moment = {"datetime_start" if state == TrialState.RUNNING else "datetime_complete": _utc()}
        stored = [model.value_to_stored_repr(value) for value in values or ()]
        with self.engine.begin() as connection:
            if state != TrialState.RUNNING:
                require_held(self, connection, trial_id)
            change = update(trials).where(trials.c.trial_id == trial_id, trials.c.state == before)
            if connection.execute(change.values(state=state, **moment)).rowcount != 1:
                if state == TrialState.RUNNING:
                    return False
                raise UpdateFinishedTrialError(f"trial {trial_id} has ended, or was put back")
            rows = [
                {"trial_id": trial_id, "objective": i, "value": value, "value_type": kind}
                for i, (value, kind) in enumerate(stored)
            ]
            if rows:
                connection.execute(insert(model.__table__), rows)
        return True

    def delete_study(self, study_id: int) -> None:
        """Delete a study whatever its rows are; Optuna would read each of them first."""
        known = tables()
        trials = select(known["trials"].c.trial_id).where(known["trials"].c.study_id == study_id)
        with self.engine.begin() as connection:
            for name, table in known.items():
                if name.startswith("trial_"):
                    connection.execute(delete(table).where(table.c.trial_id.in_(trials)))
            for name in ("trials", "study_directions", "study_user_attributes", "study_system_attributes"):
                connection.execute(delete(known[name]).where(known[name].c.study_id == study_id))
        super().delete_study(study_id)

    def get_study_user_attrs(self, study_id: int) -> dict[str, Any]:
        """Read and check what a study remembers."""
        found = self._attributes_of_study(study_id, "study_user_attributes")
        if (flaw := flaw_of_study(found)) is not None:
            raise self._damaged(study_id, flaw)
        return found

    def get_study_system_attrs(self, study_id: int) -> dict[str, Any]:
        """Read what tools keep with a study."""
        found = self._attributes_of_study(study_id, "study_system_attributes")
        names = found.get(METRIC_NAMES, [])
        if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
            raise self._damaged(study_id, f"{METRIC_NAMES} is not a list of texts")
        return found

    def get_study_directions(self, study_id: int) -> list[StudyDirection]:
        """Read which way is better in each objective."""
        try:
            found = super().get_study_directions(study_id)
        except LookupError as error:
            if isinstance(error, KeyError):
                raise
            raise self._damaged(study_id, "a direction is neither minimize nor maximize") from None
        if not found:
            raise self._damaged(study_id, "it has no direction")
        return found

    def _attributes_of_study(self, study_id: int, name: str) -> dict[str, Any]:
        table, studies = tables()[name], tables()["studies"]
        with self.engine.connect() as connection:
            rows = connection.execute(select(table.c.key, table.c.value_json).where(table.c.study_id == study_id)).all()
            if not rows and connection.execute(select(studies).where(studies.c.study_id == study_id)).first() is None:
                raise KeyError(f"no study has the id {study_id}")
        try:
            return attributes_of(rows)
        except Unreadable as error:
            raise self._damaged(study_id, str(error)) from None

    def _damaged(self, study_id: int, flaw: str) -> StudyError:
        name = self.get_study_name_from_id(study_id)
        return StudyError(f"study {name!r} cannot be read: {flaw}; restore a copy of the database, or delete the study")


def _utc() -> datetime:
    """The time as Optuna keeps it: of UTC, without saying so."""
    return datetime.now(UTC).replace(tzinfo=None)
