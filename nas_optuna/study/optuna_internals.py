"""Attributes in a database, several at once.

Optuna's storages take them one at a time, each a transaction of three queries. A trial of ours has a dozen, which would
cost more than its parameters do.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import optuna
from optuna.storages import BaseStorage, RDBStorage
from optuna.study import Study
from optuna.trial import BaseTrial


def set_trial_attributes(trial: BaseTrial, values: Mapping[str, Any]) -> None:
    """As ``trial.set_user_attr`` for each of `values`."""
    database = _database(trial.storage) if isinstance(trial, optuna.Trial) else None
    if database is None or not isinstance(trial, optuna.Trial):
        for key, value in values.items():
            trial.set_user_attr(key, value)
        return
    _write(database, "trial_user_attributes", "trial_id", trial._trial_id, values)
    trial._cached_frozen_trial.user_attrs.update(values)


def set_study_system_attributes(study: Study, values: Mapping[str, Any]) -> None:
    """Set the attributes of a study that tools such as optuna-dashboard keep their own things in."""
    database = _database(study._storage)
    if database is None:
        for key, value in values.items():
            study._storage.set_study_system_attr(study._study_id, key, value)
        return
    _write(database, "study_system_attributes", "study_id", study._study_id, values)


def may_have_trial_with(study: Study, key: str, value: Any) -> bool:
    """Whether some trial has this user attribute; True where that is not known without reading all of them."""
    database = _database(study._storage)
    if database is None:
        return True
    from sqlalchemy import column, select, table

    trials = table("trials", column("trial_id"), column("study_id"))
    rows = table("trial_user_attributes", column("trial_id"), column("key"), column("value_json"))
    found = (
        select(rows.c.trial_id)
        .join(trials, trials.c.trial_id == rows.c.trial_id)
        .where(trials.c.study_id == study._study_id, rows.c.key == key, rows.c.value_json == json.dumps(value))
        .limit(1)
    )
    with database.engine.connect() as connection:
        return connection.execute(found).first() is not None


def _database(storage: BaseStorage) -> RDBStorage | None:
    behind_cache = getattr(storage, "_backend", storage)
    return behind_cache if isinstance(behind_cache, RDBStorage) else None


def _write(database: RDBStorage, table: str, owner: str, owner_id: int, values: Mapping[str, Any]) -> None:
    """Rows of one of Optuna's attribute tables, in the place of those with the same keys.

    Opening a storage has compared its schema's version, so that the tables are known.
    """
    from sqlalchemy import column, delete, insert
    from sqlalchemy import table as table_

    rows = table_(table, column(owner), column("key"), column("value_json"))
    written = [{owner: owner_id, "key": key, "value_json": json.dumps(value)} for key, value in values.items()]
    with database.engine.begin() as connection:
        connection.execute(delete(rows).where(rows.c[owner] == owner_id, rows.c.key.in_(list(values))))
        connection.execute(insert(rows), written)
