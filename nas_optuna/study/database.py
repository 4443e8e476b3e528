"""Optuna's storage in a database, with leases, and read whatever somebody has written into it."""

from __future__ import annotations

import json
from collections.abc import Container, Sequence
from datetime import UTC, datetime
from typing import Any, cast

import optuna
from optuna.storages import RDBStorage
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState

from nas_optuna.errors import StudyError
from nas_optuna.study.optuna_internals import METRIC_NAMES, models, tables, trial_id_of
from nas_optuna.study.schema import flaw_of_study

SCHEMA = "v3.2.0.a"
"""The version of the tables of Optuna 5.0; those of any other are left to Optuna to judge."""
_MOST_VARIABLES = 500


class FullError(Exception):
    """The study has as many trials as it may have."""


class Database(RDBStorage):
    """Optuna's storage in a database, with leases, and read whatever somebody has written into it."""

    def __init__(self, url: str, engine_kwargs: dict[str, Any]) -> None:
        self.lease_of_new: tuple[str, float] | None = None
        """Worker and seconds of the lease that a new trial is made with."""
        self.below: int | None = None
        """A new trial is made only if its number is below this."""
        self.held: dict[int, str] = {}
        """Trial → the worker whose lease must stand when this process writes to the trial."""
        if not self._opened_at_once(url, engine_kwargs):
            super().__init__(url.replace("{", "{{").replace("}", "}}"), engine_kwargs)  # Optuna formats it

    def _opened_at_once(self, url: str, engine_kwargs: dict[str, Any]) -> bool:
        """Open a database that has this Optuna's tables, without its migrations, which take 0.1 s to import."""
        from sqlalchemy import create_engine, text
        from sqlalchemy.exc import SQLAlchemyError
        from sqlalchemy.orm import scoped_session, sessionmaker

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

    def __getstate__(self) -> dict[Any, Any]:
        return super().__getstate__() | {"held": {}}

    def _get_prepared_new_trial(self, study_id: int, template_trial: FrozenTrial | None, session: Any) -> Any:
        """Within the transaction that gives a trial its number, take it back where that is too large."""
        from nas_optuna.study import lease_table

        trial = super()._get_prepared_new_trial(study_id, template_trial, session)
        if self.below is not None and trial.number >= self.below:
            raise FullError
        if self.lease_of_new is not None:
            worker, lasts = self.lease_of_new
            lease_table.give(session.connection(), int(trial.trial_id), worker, lasts)
        return trial

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
        from sqlalchemy import select

        trials = tables()["trials"]
        with self.engine.connect() as connection:
            study_id = connection.execute(select(trials.c.study_id).where(trials.c.trial_id == trial_id)).scalar()
        found = [] if study_id is None else self._read(study_id, trials.c.trial_id == trial_id)
        if not found:
            raise KeyError(f"no trial has the id {trial_id}")
        return found[0]

    def _read(self, study_id: int, which: Any) -> list[FrozenTrial]:
        from sqlalchemy import func, select

        from nas_optuna.study.trial_rows import read_trials

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
        if state != TrialState.RUNNING and not (state.is_finished() and trial_id in self.held):
            return super().set_trial_state_values(trial_id, state, values)
        from sqlalchemy import insert, update

        trials, model = tables()["trials"], models().TrialValueModel
        before = TrialState.WAITING if state == TrialState.RUNNING else TrialState.RUNNING
        moment = {"datetime_start" if state == TrialState.RUNNING else "datetime_complete": _utc()}
        stored = [model.value_to_stored_repr(value) for value in values or ()]
        with self.engine.begin() as connection:
            if state != TrialState.RUNNING:
                self.require_held(connection, trial_id)
            change = update(trials).where(trials.c.trial_id == trial_id, trials.c.state == before)
            if connection.execute(change.values(state=state, **moment)).rowcount != 1:
                if state == TrialState.RUNNING:
                    return False
                raise _lost(trial_id)
            rows = [
                {"trial_id": trial_id, "objective": i, "value": value, "value_type": kind}
                for i, (value, kind) in enumerate(stored)
            ]
            if rows:
                connection.execute(insert(model.__table__), rows)
        return True

    def require_held(self, connection: Any, trial_id: int) -> None:
        """Refuse to write to a trial of which this process knows that it had it, and has it no more."""
        from nas_optuna.study import lease_table

        worker = self.held.get(trial_id)
        if worker is not None and not lease_table.touch(connection, trial_id, worker):
            raise _lost(trial_id)

    def delete_study(self, study_id: int) -> None:
        """Delete a study whatever its rows are; Optuna would read each of them first."""
        from sqlalchemy import delete, select

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
        from sqlalchemy import select

        table, studies = tables()[name], tables()["studies"]
        with self.engine.connect() as connection:
            rows = connection.execute(select(table.c.key, table.c.value_json).where(table.c.study_id == study_id)).all()
            if not rows and connection.execute(select(studies).where(studies.c.study_id == study_id)).first() is None:
                raise KeyError(f"no study has the id {study_id}")
        found = {}
        for key, text in rows:
            if not isinstance(key, str):
                raise self._damaged(study_id, "the name of an attribute is not text")
            try:
                found[key] = json.loads(text)
            except (ValueError, TypeError, RecursionError):
                raise self._damaged(study_id, f"{key} is not JSON") from None
        return found

    def _damaged(self, study_id: int, flaw: str) -> StudyError:
        name = self.get_study_name_from_id(study_id)
        return StudyError(f"study {name!r} cannot be read: {flaw}; restore a copy of the database, or delete the study")


def _lost(trial_id: int) -> Exception:
    return optuna.exceptions.UpdateFinishedTrialError(f"trial {trial_id} has ended, was put back, or another runs it")


def _utc() -> datetime:
    """The time as Optuna keeps it: of UTC, without saying so."""
    return datetime.now(UTC).replace(tzinfo=None)
