"""The files of trials: their state while they run, stopped trainings that may continue, and the best's weights."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path

import optuna
from optuna.trial import BaseTrial, FrozenTrial

from nas_optuna.errors import TrainingError
from nas_optuna.execution.events import Callback, Subject
from nas_optuna.files import write_file
from nas_optuna.study.results import best_trials
from nas_optuna.study.schema import TrialKey
from nas_optuna.training.checkpoint import KeptWeights

PAUSED_FOLDER = "paused"
"""The folder of stopped trainings within a study's checkpoint folder."""
DEFAULT_KEPT_BYTES = 10**9
_FACTS = "paused.json"


@dataclass(frozen=True)
class Paused:
    """A stopped training: its trial, the steps done, and its last value."""

    trial: int
    steps: int
    gain: float  # the higher the better


def keep(kept: Path, folder: Path, paused: Paused) -> bool:
    """Move the folder of a stopped training to `kept`; False if it is empty, or cannot be moved."""
    # By one rename: only one worker gets the training later, and a kill leaves it in one place.
    with suppress(OSError):
        if any(folder.iterdir()):
            kept.parent.mkdir(parents=True, exist_ok=True)
            write_file(folder / _FACTS, json.dumps(asdict(paused)))
            shutil.rmtree(kept, ignore_errors=True)  # of an earlier trial of the same training
            folder.rename(kept)
            return True
    return False


def take(kept: Path, folder: Path) -> None:
    """Move a kept training to the folder of the trial that continues it, unless that folder exists."""
    if not folder.exists():
        with suppress(OSError):
            folder.parent.mkdir(parents=True, exist_ok=True)
            kept.rename(folder)


def make_room(root: Path, most_bytes: int) -> list[int]:
    """Remove the least promising of the kept trainings if they are too large; return the numbers of their trials."""
    found = [(paused.gain, entry, paused.trial) for entry in root.glob("*") if (paused := read_paused(entry))]
    sizes = {entry: _size(entry) for _, entry, _ in found}
    removed, total = [], sum(sizes.values())
    for _, entry, trial in sorted(found):
        if total <= most_bytes:
            break
        shutil.rmtree(entry, ignore_errors=True)
        removed.append(trial)
        total -= sizes[entry]
    return removed


def _size(folder: Path) -> int:
    """Bytes of a folder's files, which another worker may move away meanwhile."""
    with suppress(OSError):
        return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
    return 0


def read_paused(folder: Path) -> Paused | None:
    """The stopped training in a folder; None if there is none."""
    with suppress(OSError, ValueError, TypeError):
        return Paused(**json.loads((folder / _FACTS).read_text(encoding="utf-8")))
    return None


@dataclass
class TrainingFolder:
    """The folder of one trial's training state, and its progress."""

    path: Path | None  # None if nothing is kept
    replayed: int = 0  # steps that were trained and judged in an earlier trial
    steps: int = 0
    gain: float = 0.0  # its last value, the higher the better


def has_state(trial: BaseTrial, root: Path | None, key: str) -> bool:
    """Whether a training can continue from a stopped one, or from this trial's state before a kill."""
    return root is not None and ((root / PAUSED_FOLDER / key).is_dir() or _own(trial, root, key).is_dir())


def forget(trial: BaseTrial, root: Path | None, key: str) -> None:
    """Remove this trial's state from before a kill, since its training does not go on."""
    if root is not None:
        shutil.rmtree(_own(trial, root, key), ignore_errors=True)


def _own(trial: BaseTrial, root: Path, key: str) -> Path:
    return root / f"trial-{trial.number}-{key}"


@contextmanager
def training_folder(trial: BaseTrial, root: Path | None, key: str, most_bytes: int) -> Iterator[TrainingFolder]:
    """A folder for this trial, architecture and settings only."""
    # A pruned training is kept aside, as its trial's `TrialKey.PAUSED` says. An interrupted one stays, and its trial
    # continues there. All others are removed.
    if root is None:
        yield TrainingFolder(None)
        return
    kept, path = root / PAUSED_FOLDER / key, _own(trial, root, key)
    take(kept, path)
    folder, earlier = TrainingFolder(path), read_paused(path)
    # If it is of this trial, that was killed before its stop was recorded: it is judged again.
    if earlier is not None and earlier.trial != trial.number:
        folder.replayed = earlier.steps
        trial.set_user_attr(TrialKey.CONTINUES, earlier.trial)
    try:
        yield folder
    except optuna.TrialPruned:
        facts = Paused(trial.number, folder.steps, folder.gain)
        if folder.steps and most_bytes and keep(kept, path, facts):
            if removed := make_room(kept.parent, most_bytes):  # those trials have ended and cannot record it
                trial.set_user_attr(TrialKey.REMOVED, removed)
            if kept.is_dir():
                trial.set_user_attr(TrialKey.PAUSED, folder.steps)
        shutil.rmtree(path, ignore_errors=True)
        raise
    except TrainingError:
        shutil.rmtree(path, ignore_errors=True)
        raise
    shutil.rmtree(path, ignore_errors=True)


class KeepBest(Callback):
    """Deletes the kept weights of finished trials that are not among the study's best."""

    def __init__(self, checkpoints: Path) -> None:
        self._kept = KeptWeights(checkpoints)

    def trial_finished(self, subject: Subject, ended: FrozenTrial | None) -> None:
        """Delete what is no longer among the best, except for running trials of other workers."""
        study = subject.study
        if study is None:
            return
        trials = study.get_trials(deepcopy=False)
        best = {trial.number for trial in best_trials(study)}
        finished = {trial.number for trial in trials if trial.state.is_finished()}
        self._kept.forget([number for number in self._kept.numbers() if number in finished - best])
