"""The state of a training after each epoch, on disk: written whole or not at all, and never unpickled."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from pickle import UnpicklingError  # what torch raises for a file that it refuses
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from nas_optuna.errors import StudyError


class CheckpointFolder:
    """One training's latest checkpoint, as ``epoch-N/`` inside a folder of its own.

    ``epoch-N/`` holds ``weights.safetensors``, ``state.pt`` (optimiser and scaler, read with ``weights_only=True``)
    and ``progress.json``. It is written under another name, flushed to disk and renamed, so a crash leaves
    the epoch before it; then older ones are removed. Random state needs no file: it is derived from (seed, epoch).

    Args:
        path: The folder; made when the first checkpoint is saved.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def save(self, epoch: int, weights: Mapping[str, Tensor], state: Mapping[str, Any], progress: Any) -> None:
        """Write an epoch's checkpoint and remove the ones before it.

        Args:
            epoch: Epochs finished.
            weights: The network's ``state_dict``.
            state: Nested dicts and lists of tensors and plain values.
            progress: JSON-ready.

        Raises:
            StudyError: It cannot be written, e.g. because the disk is full; the one before it is kept.
        """
        target = self.path / f"epoch-{epoch}"
        partial = self.path / f"partial-{os.getpid()}"
        try:
            _write(partial, weights, state, progress)
        except (OSError, RuntimeError, SafetensorError) as error:
            shutil.rmtree(partial, ignore_errors=True)
            reason = " ".join(str(error).split())[:200]
            raise StudyError(f"cannot keep a checkpoint in {self.path} ({reason}); free some space there") from error
        shutil.rmtree(target, ignore_errors=True)
        partial.rename(target)
        _flush(self.path)
        for old in self.path.iterdir():
            if old != target:
                shutil.rmtree(old, ignore_errors=True)

    def load(self, device: torch.device) -> tuple[dict[str, Tensor], dict[str, Any], Any] | None:
        """The latest complete checkpoint's weights, state and progress, or None where there is none.

        Args:
            device: Where tensors are put.
        """
        if not self.path.is_dir():
            return None
        epochs = (entry for entry in self.path.glob("epoch-*") if entry.name.removeprefix("epoch-").isdigit())
        for folder in sorted(epochs, key=lambda entry: int(entry.name.removeprefix("epoch-")), reverse=True):
            try:
                weights = load_file(folder / "weights.safetensors", device=str(device))
                state = torch.load(folder / "state.pt", map_location=device, weights_only=True)
                progress = json.loads((folder / "progress.json").read_text(encoding="utf-8"))
            except (OSError, RuntimeError, ValueError, SafetensorError, UnpicklingError):
                continue  # damaged by something other than us: the one before it, or a fresh start
            return weights, state, progress
        return None

    def remove(self) -> None:
        """Delete it: the training is over."""
        shutil.rmtree(self.path, ignore_errors=True)


def _write(folder: Path, weights: Mapping[str, Tensor], state: Mapping[str, Any], progress: Any) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    save_file({k: v.detach().cpu().contiguous() for k, v in weights.items()}, folder / "weights.safetensors")
    torch.save(dict(state), folder / "state.pt")
    (folder / "progress.json").write_text(json.dumps(progress), encoding="utf-8")
    for file in (*folder.iterdir(), folder):
        _flush(file)


def _flush(path: Path) -> None:
    """Have the kernel write a file or a folder's entries to disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
