"""Leases as other workers would have them."""

import time
from typing import Any

import optuna
from sqlalchemy import Connection, delete, insert, select

from nas_optuna.study.lease import has_leases
from nas_optuna.study.lease_table import LEASES
from nas_optuna.study.optuna_internals import storage_of
from nas_optuna.study.transactions import transaction


def give(study: optuna.Study, trial_id: int, worker: object, lasts: float = 300.0) -> None:
    """Let a worker have a trial for so many seconds from now on, whoever has it."""
    has_leases(study)

    def change(connection: Connection) -> None:
        connection.execute(delete(LEASES).where(LEASES.c.trial_id == trial_id))
        row = {"trial_id": trial_id, "worker": str(worker), "until": time.time() + lasts}
        connection.execute(insert(LEASES).values(row))

    transaction(storage_of(study), change)


def of(study: optuna.Study, trial_id: int) -> tuple[str, float] | None:
    """The worker that has a trial, and for how many seconds from now on; None where nobody has it."""
    found: Any = transaction(
        storage_of(study), lambda c: c.execute(select(LEASES).where(LEASES.c.trial_id == trial_id)).first()
    )
    return None if found is None else (found.worker, found.until - time.time())
