"""The files of trials: their state while they run, stopped trainings that may continue, and the best's weights."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Annotated

import optuna
from annotated_types import Ge
from optuna.trial import BaseTrial, FrozenTrial
from pydantic import TypeAdapter

from nas_optuna.errors import TrainingError
from nas_optuna.execution.events import Callback, Subject
from nas_optuna.files import write_file
from nas_optuna.study.results import best_trials
from nas_optuna.study.schema import TrialKey
from nas_optuna.study.studies import study_uid
from nas_optuna.training.checkpoint import CheckpointUnreadError, KeptWeights

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
    study: str = ""  # its `study_uid`; earlier releases did not say it
    size: Annotated[int, Ge(0)] = 0  # bytes of its files when it was put aside; earlier releases did not say it

    def is_of(self, study: str) -> bool:
        """Whether a trial of this study may continue it: another of the same name may have used the folder, too."""
        return self.study in ("", study)


def keep(kept: Path, folder: Path, paused: Paused) -> bool:
    """Move the folder of a stopped training to `kept`; False if it is empty, or cannot be moved."""
    # By one rename: only one worker gets the training later, and a kill leaves it in one place.
    with suppress(OSError):
        if any(folder.iterdir()):
            kept.parent.mkdir(parents=True, exist_ok=True)
            write_file(folder / _FACTS, json.dumps(asdict(replace(paused, size=_size(folder)))))
            shutil.rmtree(kept, ignore_errors=True)  # of an earlier trial of the same training
            folder.rename(kept)
            return True
    return False


def take(kept: Path, folder: Path, study: str) -> None:
    """Move a kept training of a study to the folder of the trial that continues it, unless that folder exists."""
    if not folder.exists() and _is_of(kept, study):
        with suppress(OSError):
            folder.parent.mkdir(parents=True, exist_ok=True)
            kept.rename(folder)


def make_room(root: Path, most_bytes: int, study: str) -> list[int]:
    """Remove kept trainings if they are too large, first of other studies; return the study's trials that lost one."""
    found = {entry: paused for entry in root.glob("*") if (paused := read_paused(entry))}
    sizes = {entry: paused.size or _size(entry) for entry, paused in found.items()}
    removed, total = [], sum(sizes.values())
    for entry, paused in sorted(found.items(), key=lambda item: (item[1].is_of(study), item[1].gain, item[0])):
        if total <= most_bytes:
            break
        shutil.rmtree(entry, ignore_errors=True)
        if paused.is_of(study):
            removed.append(paused.trial)
        total -= sizes[entry]
    return removed


def _size(folder: Path) -> int:
    """Bytes of a folder's files, which another worker may move away meanwhile."""
    with suppress(OSError):
        return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
    return 0


def read_paused(folder: Path) -> Paused | None:
    """The stopped training in a folder; None if there is none."""
    with suppress(OSError, ValueError):  # another host's file may hold anything
        return TypeAdapter(Paused).validate_python(json.loads((folder / _FACTS).read_text(encoding="utf-8")))
    return None


def is_only_of(checkpoints: Path, study: str | None, *, otherwise: bool) -> bool:
    """Whether a checkpoint folder is a study's by its kept weights and stopped trainings; `otherwise` if none says."""
    kept, paused = KeptWeights(checkpoints), map(read_paused, checkpoints.glob(f"{PAUSED_FOLDER}/*"))
    said = {*map(kept.study_of, kept.numbers()), *(each.study for each in paused if each)} - {None, ""}
    if not said:
        return otherwise or not any(path.is_file() for path in checkpoints.rglob("*"))
    return said == {study}


def _is_of(folder: Path, study: str) -> bool:
    """Whether a folder is there, and no stopped training of another study."""
    return folder.is_dir() and ((paused := read_paused(folder)) is None or paused.is_of(study))


@dataclass
class TrainingFolder:
    """The folder of one trial's training state, and its progress."""

    path: Path | None  # None if nothing is kept
    replayed: int = 0  # steps that were trained and judged in an earlier trial
    steps: int = 0
    gain: float = 0.0  # its last value, the higher the better


def has_state(trial: BaseTrial, root: Path | None, key: str) -> bool:
    """Whether a training can continue from a stopped one, or from this trial's state before a kill."""
    if root is None:
        return False
    study = study_uid(trial.study) if isinstance(trial, optuna.Trial) else ""  # a FixedTrial or FrozenTrial has none
    return any(_is_of(place, study) for place in (root / PAUSED_FOLDER / key, _own(trial, root, key)))


def forget(trial: BaseTrial, root: Path | None, key: str) -> None:
    """Remove this trial's state from before a kill, since its training does not go on."""
    if root is not None:
        shutil.rmtree(_own(trial, root, key), ignore_errors=True)


def _own(trial: BaseTrial, root: Path, key: str) -> Path:
    return root / f"trial-{trial.number}-{key}"


@contextmanager
def training_folder(trial: BaseTrial, root: Path | None, key: str, most_bytes: int) -> Iterator[TrainingFolder]:
    """A folder for this trial, architecture and settings only."""
    # A pruned training is kept aside, as its trial's `TrialKey.PAUSED` says; so is one that memory had no room to load,
    # for the next trial of its network. An interrupted one stays, and its trial continues there. Others are removed.
    # A FixedTrial or FrozenTrial is no trial of a study, whose number is that of one or 0: it must not touch that one's
    # files.
    if root is None or not isinstance(trial, optuna.Trial):
        yield TrainingFolder(None)
        return
    kept, path, study = root / PAUSED_FOLDER / key, _own(trial, root, key), study_uid(trial.study)
    if not _is_of(path, study):
        shutil.rmtree(path, ignore_errors=True)
    take(kept, path, study)
    folder, earlier = TrainingFolder(path), read_paused(path)
    # If it is of this trial, that was killed before its stop was recorded: it is judged again.
    if earlier is not None and earlier.trial != trial.number:
        folder.replayed = earlier.steps
        trial.set_user_attr(TrialKey.CONTINUES, earlier.trial)
    try:
        yield folder
    except optuna.TrialPruned:
        facts = Paused(trial.number, folder.steps, folder.gain, study)
        if folder.steps and most_bytes and keep(kept, path, facts):
            if removed := make_room(kept.parent, most_bytes, study):  # those trials have ended and cannot record it
                trial.set_user_attr(TrialKey.REMOVED, removed)
            if kept.is_dir():
                trial.set_user_attr(TrialKey.PAUSED, folder.steps)
        shutil.rmtree(path, ignore_errors=True)
        raise
    except TrainingError as error:
        waits = earlier or Paused(trial.number, folder.steps, folder.gain, study)
        if not (isinstance(error, CheckpointUnreadError) and most_bytes and keep(kept, path, waits)):
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
