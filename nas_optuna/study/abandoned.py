"""Trials whose process is gone: who notices, and how they come back into the queue; see `nas_optuna.study.lease`."""

from __future__ import annotations

import logging

from optuna.study import Study
from optuna.trial import FrozenTrial, TrialState

from nas_optuna.errors import StudyError
from nas_optuna.study import lease_table
from nas_optuna.study.hints import command
from nas_optuna.study.lease import is_free, set_state
from nas_optuna.study.lease_table import Lease, drop, has_leases, leases_of, take
from nas_optuna.study.optuna_internals import all_trials, read_trial, trial_id_of
from nas_optuna.study.schema import TrialKey
from nas_optuna.study.worker import Worker

logger = logging.getLogger(__name__)


def release_abandoned(study: Study, *, again: bool = False) -> list[int]:
    """Put back every running trial whose process has ended or whose lease has lapsed, and say so."""
    running = all_trials(study, (TrialState.RUNNING,)) if has_leases(study) else []
    leases = leases_of(study) if running else {}
    released, ended, unseen = [], [], []
    for trial in running:
        lease = leases.get(trial_id_of(trial)) or _lease_of_0_2(study, trial)
        worker = Worker.parse(lease.worker) if lease is not None else None
        if lease is not None and is_free(lease):
            if not _put_back(study, trial, leases.get(trial_id_of(trial))):
                continue
            released.append(trial.number)
            if worker is None or worker.is_gone():
                ended.append(str(trial.number))
            else:
                where = f"process {worker.process} on {worker.host}"
                logger.warning("going on with trial %d, whose lease %s has not renewed", trial.number, where)
        elif lease is None and not again and _has_no_lease(study, trial):
            unseen.append(str(trial.number))
    if ended:
        logger.warning("going on with what no process runs any more: trial %s", ", ".join(ended))
    if unseen:
        logger.warning(
            "trial %s runs where this process cannot see it; if its own has ended: %s",
            ", ".join(unseen),
            command(study, "study", "release", study.study_name, *unseen),
        )
    return released


def release_those_of(study: Study, worker: str) -> list[int]:
    """Put back what a worker runs that has certainly ended: whoever started it knows."""
    leases = {trial_id: lease for trial_id, lease in leases_of(study).items() if lease.worker == worker}
    running = all_trials(study, (TrialState.RUNNING,)) if leases else []
    theirs = [trial for trial in running if trial_id_of(trial) in leases]
    return [trial.number for trial in theirs if _put_back(study, trial, leases[trial_id_of(trial)])]


def release_by_hand(study: Study, number: int) -> None:
    """Put back a running trial of which only a person can know that its process is gone: one of another host, say."""
    trial = next((t for t in study.get_trials(deepcopy=False) if t.number == number), None)
    if trial is None:
        raise StudyError(f"study {study.study_name!r} has no trial {number}")
    if trial.state != TrialState.RUNNING:
        raise StudyError(f"trial {number} is {trial.state.name.lower()}, not running; there is nothing to put back")
    row = leases_of(study).get(trial_id_of(trial))
    lease = row or _lease_of_0_2(study, trial)
    worker = Worker.parse(lease.worker) if lease is not None else None
    if worker is not None and worker.is_here() and not worker.is_gone():
        raise StudyError(f"trial {number} is run by process {worker.process} of this machine; end that first")
    if not _put_back(study, trial, row):
        raise StudyError(f"trial {number} was ended or taken up by another process just now; look again")


def take_unclosed(study: Study) -> list[FrozenTrial]:
    """Take the trials that have ended, but whose process did before it had told everybody; `close` them afterwards."""
    free = [(trial_id, lease) for trial_id, lease in leases_of(study).items() if is_free(lease)]
    found = [(read_trial(study, trial_id), lease) for trial_id, lease in free]
    return [t for t, lease in found if t.state.is_finished() and take(study, trial_id_of(t), lease)]


def _has_no_lease(study: Study, trial: FrozenTrial) -> bool:
    """Whether a trial runs still, and still without a lease: it was read before the leases were."""
    found = read_trial(study, trial_id_of(trial))
    return found.state == TrialState.RUNNING and trial_id_of(trial) not in leases_of(study)


def _put_back(study: Study, trial: FrozenTrial, seen: Lease | None) -> bool:
    trial_id = trial_id_of(trial)
    if not take(study, trial_id, seen):
        return False
    put_back = set_state(study, trial_id, TrialState.WAITING)
    drop(study, trial_id)
    return put_back


def _lease_of_0_2(study: Study, trial: FrozenTrial) -> Lease | None:
    """The lease that release 0.2 kept as attributes of a running trial."""
    worker, until = trial.user_attrs.get(TrialKey.WORKER), trial.user_attrs.get(TrialKey.LEASE)
    if worker is None and until is None:
        return None
    return Lease(worker or "", until or 0.0, until is not None and until < lease_table.now(study))
