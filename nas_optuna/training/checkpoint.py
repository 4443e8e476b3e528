"""The state of a training after each epoch, on disk: written whole or not at all, and never unpickled."""

from __future__ import annotations

import errno
import io
import json
import logging
import os
import re
import secrets
import shutil
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from nas_optuna.digests import hex_digest
from nas_optuna.errors import StudyError, reason_of
from nas_optuna.files import flush
from nas_optuna.training.failure import describe

logger = logging.getLogger(__name__)

_WEIGHTS, _STATE, _PROGRESS, _DIGESTS = "weights.safetensors", "state.pt", "progress.json", "digests.json"
_EPOCH = re.compile(r"epoch-([0-9]{1,9})")
_ATTEMPTS = 4
"""How often a checkpoint is begun while others, who end the same training, remove its folder."""
_UNFINISHED = re.compile(r"(partial|replaced)-.*")
_STALE_SECONDS = 3600
"""A folder that is still unfinished after so long is of a process that died while it wrote."""


@dataclass(frozen=True)
class Checkpoint:
    """What was kept of a training.

    Attributes:
        epoch: Epochs finished.
        weights: The network's ``state_dict``, on the host.
        state: Nested dicts and lists of tensors, on the host, and plain values.
        progress: What was JSON.
    """

    epoch: int
    weights: dict[str, Tensor]
    state: dict[str, Any]
    progress: Any


class CheckpointFolder:
    """One training's two latest checkpoints, as ``epoch-N/`` inside a folder of its own.

    ``epoch-N/`` holds ``weights.safetensors``, ``state.pt`` (optimiser and scaler, read with ``weights_only=True``),
    ``progress.json`` and the other files' digests. It is written under another name, flushed to disk and renamed, so
    that a crash leaves the epoch before it. That one is kept too, for the case that the newer one is damaged later.
    Random state needs no file: it is derived from (seed, epoch).

    Several processes may write to one folder, which happens where two of them train the same trial.

    Examples:
        >>> import tempfile
        >>> folder = CheckpointFolder(Path(tempfile.mkdtemp()) / "training")
        >>> folder.save(1, {"w": torch.ones(2)}, {"optimizer": {}}, [0.5])
        >>> folder.load().progress
        [0.5]
        >>> folder.remove()
        >>> folder.load() is None
        True
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def save(self, epoch: int, weights: Mapping[str, Tensor], state: Mapping[str, Any], progress: Any) -> None:
        """Write an epoch's checkpoint and remove all but it and the one before it."""
        try:
            files = _files(weights, state, progress)
            for left in reversed(range(_ATTEMPTS)):
                try:
                    self._write(epoch, files)
                    break
                except FileNotFoundError:  # another process has ended this training and removed the folder meanwhile
                    if not left:
                        raise
        except (OSError, RuntimeError, SafetensorError) as error:
            full = isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)
            remedy = "free some space there" if full else "make it a folder that can be written to"
            raise StudyError(f"cannot keep a checkpoint in {self.path} ({reason_of(error)}); {remedy}") from error
        self._remove_old(epoch)

    def load(self, check: Callable[[Checkpoint], object] = lambda found: None) -> Checkpoint | None:
        """Return the latest checkpoint that is whole and passes a check, or None where there is none."""
        # What is refused is said in one line of warning, with what is done instead.
        refused: list[str] = []
        for epoch, folder in sorted(self._epochs().items(), reverse=True):
            try:
                found = _read(epoch, folder)
                check(found)
            except Exception as error:  # files that are damaged can make their readers raise anything
                refused.append(f"epoch {epoch}: {describe(error).removeprefix('ValueError: ')}")
                continue
            self._warn(refused, f"the training goes on from epoch {epoch}")
            return found
        self._warn(refused, "the training begins anew")
        return None

    def remove(self) -> None:
        """Delete the folder: the training is over."""
        shutil.rmtree(self.path, ignore_errors=True)

    def _warn(self, refused: list[str], instead: str) -> None:
        if refused:
            logger.warning("a checkpoint in %s is of no use (%s); %s", self.path, "; ".join(refused), instead)

    def _epochs(self) -> dict[int, Path]:
        with suppress(OSError):
            entries = [(_EPOCH.fullmatch(entry.name), entry) for entry in self.path.iterdir()]
            return {int(match[1]): entry for match, entry in entries if match}
        return {}

    def _write(self, epoch: int, files: Mapping[str, bytes]) -> None:
        # Not the process's number alone: threads and hosts share folders too.
        partial = self.path / f"partial-{os.getpid()}-{secrets.token_hex(4)}"
        try:
            partial.mkdir(parents=True)
            for name, data in files.items():
                (partial / name).write_bytes(data)
                flush(partial / name)
            flush(partial)
            self._publish(partial, self.path / f"epoch-{epoch}")
        except BaseException:
            shutil.rmtree(partial, ignore_errors=True)
            raise
        flush(self.path)

    def _publish(self, partial: Path, target: Path) -> None:
        """Rename, in place of an earlier one of the same epoch; whoever comes last of several processes stays."""
        for _ in range(100):
            try:
                partial.rename(target)
            except OSError as error:
                if error.errno not in (errno.ENOTEMPTY, errno.EEXIST, errno.ENOTDIR):
                    raise
            else:
                return
            earlier = self.path / f"replaced-{os.getpid()}-{secrets.token_hex(4)}"
            with suppress(FileNotFoundError):  # another process was faster
                target.rename(earlier)
            _remove(earlier)
        raise OSError(errno.EBUSY, f"{target} is being replaced all the time")

    def _remove_old(self, epoch: int) -> None:
        """Later ones are damaged, or the training would have gone on from them."""
        epochs = self._epochs()
        before = max((number for number in epochs if number < epoch), default=epoch)
        for number, folder in epochs.items():
            if number not in (epoch, before):
                _remove(folder)
        with suppress(OSError):
            for entry in self.path.iterdir():
                if _UNFINISHED.fullmatch(entry.name) and time.time() - entry.stat().st_mtime > _STALE_SECONDS:
                    _remove(entry)


def _files(weights: Mapping[str, Tensor], state: Mapping[str, Any], progress: Any) -> dict[str, bytes]:
    """The files of a checkpoint by name."""
    buffer = io.BytesIO()
    torch.save(dict(state), buffer)
    files = {
        _WEIGHTS: save({name: tensor.detach().cpu().contiguous() for name, tensor in weights.items()}),
        _STATE: buffer.getvalue(),
        _PROGRESS: json.dumps(progress).encode(),
    }
    return files | {_DIGESTS: json.dumps({name: hex_digest(data, 32) for name, data in files.items()}).encode()}


def _read(epoch: int, folder: Path) -> Checkpoint:
    """Read a checkpoint."""
    digests = json.loads((folder / _DIGESTS).read_bytes())
    files = {name: (folder / name).read_bytes() for name in (_WEIGHTS, _STATE, _PROGRESS)}
    for name, data in files.items():
        if digests[name] != hex_digest(data, 32):
            raise ValueError(f"{name} is damaged")
    state = torch.load(io.BytesIO(files[_STATE]), map_location="cpu", weights_only=True)
    return Checkpoint(epoch, load(files[_WEIGHTS]), state, json.loads(files[_PROGRESS]))


def _remove(path: Path) -> None:
    shutil.rmtree(path, ignore_errors=True)
    with suppress(OSError):  # a file in the place of a folder
        path.unlink()
