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
from nas_optuna.training.checkpoint import KEPT_FOLDER, KeptWeights

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


class PausedTrainings:
    """The state of stopped trainings, with which a later trial of the same architecture can continue."""

    # A training is moved by one rename: only one worker gets it, and a kill leaves it in one place.

    def __init__(self, path: Path, most_bytes: int) -> None:
        self.path = path
        self._most_bytes = most_bytes
        self.removed: list[int] = []  # numbers of trials whose training was removed to make room

    def keep(self, key: str, folder: Path, paused: Paused) -> bool:
        """Keep the folder of a stopped training; False if there is nothing to keep, or no room."""
        if not self._most_bytes or not folder.is_dir() or not any(folder.iterdir()):
            return False
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            write_file(folder / _FACTS, json.dumps(asdict(paused)))
            shutil.rmtree(self.path / key, ignore_errors=True)  # of an earlier trial of the same training
            folder.rename(self.path / key)
        except OSError:
            return False
        self._make_room()
        return (self.path / key).is_dir()

    def take(self, key: str, folder: Path) -> None:
        """Move a kept training to the folder of the trial that continues it, unless that folder exists."""
        if not folder.exists():
            with suppress(OSError):
                folder.parent.mkdir(parents=True, exist_ok=True)
                (self.path / key).rename(folder)

    def _make_room(self) -> None:
        kept = {entry: facts for entry in sorted(self.path.glob("*")) if (facts := read_paused(entry)) is not None}
        sizes = {entry: _size(entry) for entry in kept}
        total = sum(sizes.values())
        for entry, facts in sorted(kept.items(), key=lambda item: item[1].gain):
            if total <= self._most_bytes:
                return
            shutil.rmtree(entry, ignore_errors=True)
            self.removed.append(facts.trial)
            total -= sizes[entry]


def _size(folder: Path) -> int:
    """Bytes of a folder's files, which another worker may move away meanwhile."""
    with suppress(OSError):
        return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
    return 0


def read_paused(folder: Path) -> Paused | None:
    """The stopped training in a folder; None if there is none."""
    with suppress(OSError, ValueError, TypeError, KeyError):
        found = json.loads((folder / _FACTS).read_text(encoding="utf-8"))
        return Paused(int(found["trial"]), int(found["steps"]), float(found["gain"]))
    return None


@dataclass
class TrainingFolder:
    """The folder of one trial's training state, and its progress."""

    path: Path | None  # None if nothing is kept
    continued: Paused | None = None  # the stopped training that it continues
    steps: int = 0
    gain: float = 0.0  # its last value, the higher the better

    @property
    def replayed(self) -> int:
        """Steps that were trained and judged in an earlier trial."""
        return self.continued.steps if self.continued else 0


def has_state(trial: BaseTrial, root: Path | None, key: str) -> bool:
    """Whether a training can continue from a stopped one, or from this trial's state before a kill."""
    return root is not None and ((root / PAUSED_FOLDER / key).is_dir() or _own(trial, root, key).is_dir())


def _own(trial: BaseTrial, root: Path, key: str) -> Path:
    return root / f"trial-{trial.number}-{key}"


@contextmanager
def training_folder(trial: BaseTrial, root: Path | None, key: str, most_bytes: int) -> Iterator[TrainingFolder]:
    """A folder for this trial, architecture and settings only."""
    # A pruned training moves to `PausedTrainings`, as its trial's `TrialKey.PAUSED` says. An interrupted one stays, and
    # its trial continues there. All others are removed.
    if root is None:
        yield TrainingFolder(None)
        return
    paused = PausedTrainings(root / PAUSED_FOLDER, most_bytes)
    path = _own(trial, root, key)
    paused.take(key, path)
    folder = TrainingFolder(path, read_paused(path))
    if folder.continued is not None and folder.continued.trial == trial.number:
        folder.continued = None  # killed after it had stopped, but before that was recorded: it is judged again
    if folder.continued is not None:
        trial.set_user_attr(TrialKey.CONTINUES, folder.continued.trial)
    try:
        yield folder
    except optuna.TrialPruned:
        facts = Paused(trial.number, folder.steps, folder.gain)
        if folder.steps and paused.keep(key, path, facts):
            trial.set_user_attr(TrialKey.PAUSED, folder.steps)
        if paused.removed:  # those trials have ended and cannot record it
            trial.set_user_attr(TrialKey.REMOVED, paused.removed)
        shutil.rmtree(path, ignore_errors=True)
        raise
    except TrainingError:
        shutil.rmtree(path, ignore_errors=True)
        raise
    shutil.rmtree(path, ignore_errors=True)


class KeepBest(Callback):
    """Deletes the kept weights of finished trials that are not among the study's best."""

    def __init__(self, checkpoints: Path) -> None:
        self._kept = KeptWeights(checkpoints / KEPT_FOLDER)

    def trial_finished(self, subject: Subject, ended: FrozenTrial | None) -> None:
        """Delete what is no longer among the best, except for running trials of other workers."""
        study = subject.study
        if study is None:
            return
        trials = study.get_trials(deepcopy=False)
        best = {trial.number for trial in best_trials(study)}
        finished = {trial.number for trial in trials if trial.state.is_finished()}
        self._kept.forget([number for number in self._kept.numbers() if number in finished - best])
