"""The state of a training on disk, and the kept weights of finished ones: written atomically, and never unpickled.

Digests, or the reader, show that files are intact, so only the match with the network is checked.
"""

from __future__ import annotations

import errno
import io
import json
import logging
import os
import re
import shutil
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load, save
from torch import Tensor

from nas_optuna.devices import is_out_of_memory
from nas_optuna.digests import hex_digest
from nas_optuna.errors import StudyError, TrainingError, describe_error, reason_of
from nas_optuna.files import flush, write_file
from nas_optuna.training.network import kind_of

_MOMENTS = {"SGD": {"momentum_buffer"}, "Adam": {"step", "exp_avg", "exp_avg_sq"}}
_MOMENTS["AdamW"] = _MOMENTS["Adam"]


def require_tensors(found: Mapping[str, Any], wanted: Mapping[str, Tensor]) -> None:
    """Compare names, shapes and dtypes; values must be finite if the wanted ones are."""
    if missing := sorted(wanted.keys() - found.keys()):
        raise ValueError(f"{missing[0]} is missing")
    if unknown := sorted(found.keys() - wanted.keys()):
        raise ValueError(f"{str(unknown[0])[:80]} is not a part of it")
    for name, like in wanted.items():
        value = found[name]
        if not isinstance(value, Tensor) or value.shape != like.shape or value.dtype != like.dtype:
            raise ValueError(f"{name} is {kind_of(value)}, not {kind_of(like)}")
        if like.device.type == "meta" or not like.is_floating_point():
            continue
        if bool(like.isfinite().all()) and not bool(value.isfinite().all()):
            raise ValueError(f"{name} is not finite")


def require_optimizer_state(state: Mapping[str, Any], optimizer: torch.optim.Optimizer) -> None:
    """Check that an optimiser can continue from a ``state_dict``, which has no entries for weights without moments."""
    groups = [[group["params"] for group in each["param_groups"]] for each in (state, optimizer.state_dict())]
    if groups[0] != groups[1]:
        raise ValueError("the optimiser's state is of other parameters")
    parameters = [parameter.detach() for group in optimizer.param_groups for parameter in group["params"]]
    for index, moments in state["state"].items():
        names = _MOMENTS[type(optimizer).__name__]
        require_tensors(moments, {n: torch.zeros(()) if n == "step" else parameters[index] for n in names})


def load_optimizer_state(state: Mapping[str, Any], optimizer: torch.optim.Optimizer) -> None:
    """Load the moments of a checked state; learning rates, and moments that it lacks, remain the optimiser's own."""
    own = optimizer.state_dict()
    optimizer.load_state_dict({**own, "state": own["state"] | state["state"]})


logger = logging.getLogger(__name__)

_EPOCH = re.compile(r"epoch-([0-9]{1,9})")
_ATTEMPTS = 4
"""How often to write a checkpoint whose folder another process removes because it has ended the same training."""
_STALE_SECONDS = 3600
"""A file that is unfinished after so long belongs to a process that died while writing."""
_DIGEST_LENGTH = 32


class CheckpointUnreadError(TrainingError):
    """Memory had no room for a checkpoint, which may be sound."""


@dataclass(frozen=True)
class Checkpoint:
    """A saved state of a training; tensors are on the host."""

    epoch: int  # epochs finished
    weights: dict[str, Tensor]  # the network's ``state_dict``
    state: dict[str, Any]  # nested dicts and lists of tensors, and plain values
    progress: Any  # any JSON value


class CheckpointFolder:
    """One training's two latest checkpoints, as files ``epoch-N`` in its own folder; several processes may write."""

    # A file contains a digest, and then what ``torch.load(…, weights_only=True)`` reads. It gets its name when it is on
    # the disk, so that a crash leaves the previous epoch's. That one is also kept in case the newer one is damaged
    # later. Random state is not saved, because it is derived from (seed, epoch).

    def __init__(self, path: Path) -> None:
        self.path = path
        self.loaded = 0  # the epoch from which a training went on; 0 if it began anew

    def save(self, epoch: int, weights: Mapping[str, Tensor], state: Mapping[str, Any], progress: Any) -> None:
        """Write an epoch's checkpoint, and remove all others except the previous one."""
        file = self.path / f"epoch-{epoch}"
        try:
            content = _packed(weights, state, progress)
            for left in reversed(range(_ATTEMPTS)):
                try:
                    self.path.mkdir(parents=True, exist_ok=True)
                    if file.is_dir():  # of release 0.2
                        shutil.rmtree(file)
                    write_file(file, content)
                    flush(self.path)
                    break
                except FileNotFoundError:  # another process has ended this training and removed the folder
                    if not left:
                        raise
        except (OSError, RuntimeError) as error:
            full = isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)
            remedy = "free some space there" if full else "make it a folder that can be written to"
            raise StudyError(f"cannot keep a checkpoint in {self.path} ({reason_of(error)}); {remedy}") from error
        self._remove_old(epoch)

    def load(self, check: Callable[[Checkpoint], object] = lambda found: None) -> Checkpoint | None:
        """Return the latest intact checkpoint that passes a check, or None if there is none."""
        # A warning names the refused ones, and what is done instead.
        refused: list[str] = []
        for epoch, file in sorted(self._epochs().items(), reverse=True):
            try:
                found = _read(epoch, file)
                check(found)
            except Exception as error:  # the reader of a damaged file may raise anything
                if is_out_of_memory(error):  # of a sound one, which must not be replaced by a training that begins anew
                    problem = f"no memory is left to load the checkpoint of epoch {epoch} in {self.path}; free some"
                    raise CheckpointUnreadError(problem, "oom") from error
                refused.append(f"epoch {epoch}: {describe_error(error).removeprefix('ValueError: ')}")
                continue
            self._warn(refused, f"the training goes on from epoch {epoch}")
            self.loaded = epoch
            return found
        self._warn(refused, "no other is left, so a training begins anew")
        return None

    def remove(self) -> None:
        """Delete the folder when the training is over."""
        shutil.rmtree(self.path, ignore_errors=True)

    def _warn(self, refused: list[str], instead: str) -> None:
        if refused:
            logger.warning("a checkpoint in %s is of no use (%s); %s", self.path, "; ".join(refused), instead)

    def _epochs(self) -> dict[int, Path]:
        with suppress(OSError):
            entries = [(_EPOCH.fullmatch(entry.name), entry) for entry in self.path.iterdir()]
            return {int(match[1]): entry for match, entry in entries if match}
        return {}

    def _remove_old(self, epoch: int) -> None:
        """Remove all but this and the previous one; later ones are damaged, or they would have been continued."""
        epochs = self._epochs()
        before = max((number for number in epochs if number < epoch), default=epoch)
        old = [path for number, path in epochs.items() if number not in (epoch, before)]
        with suppress(OSError):
            unfinished = self.path.glob(".nas-optuna-*")
            old += [path for path in unfinished if time.time() - path.stat().st_mtime > _STALE_SECONDS]
        for path in old:
            shutil.rmtree(path, ignore_errors=True)
            with suppress(OSError):  # usually it is a file
                path.unlink()


def _packed(weights: Mapping[str, Tensor], state: Mapping[str, Any], progress: Any) -> bytes:
    """The content of a checkpoint's file."""
    buffer = io.BytesIO()
    on_host = {name: tensor.detach().cpu().contiguous() for name, tensor in weights.items()}
    torch.save({"weights": on_host, "state": dict(state), "progress": json.dumps(progress)}, buffer)
    return hex_digest(buffer.getvalue(), _DIGEST_LENGTH).encode() + buffer.getvalue()


def _read(epoch: int, file: Path) -> Checkpoint:
    """Read a checkpoint."""
    if file.is_dir():
        return _read_folder(epoch, file)
    content = file.read_bytes()
    digest, data = content[:_DIGEST_LENGTH], content[_DIGEST_LENGTH:]
    if digest != hex_digest(data, _DIGEST_LENGTH).encode():
        raise ValueError("it is damaged")
    found = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
    return Checkpoint(epoch, found["weights"], found["state"], json.loads(found["progress"]))


def _read_folder(epoch: int, folder: Path) -> Checkpoint:
    """Read a checkpoint of release 0.2: its parts as files, with a list of their digests."""
    digests = json.loads((folder / "digests.json").read_bytes())
    parts = {name: (folder / name).read_bytes() for name in ("weights.safetensors", "state.pt", "progress.json")}
    for name, data in parts.items():
        if digests[name] != hex_digest(data, _DIGEST_LENGTH):
            raise ValueError(f"{name} is damaged")
    weights, state, progress = parts.values()
    found = torch.load(io.BytesIO(state), map_location="cpu", weights_only=True)
    return Checkpoint(epoch, load(weights), found, json.loads(progress))


KEPT_FOLDER = "kept"
"""The folder of finished trials' weights within a study's checkpoint folder."""
_FILE = re.compile(r"trial-([0-9]{1,9})\.safetensors")
_KEY = "nas_optuna_kept"


class KeptWeights:
    """A folder with a file for each kept trial: the weights after its last epoch, and facts; processes may share it."""

    def __init__(self, checkpoints: Path) -> None:
        self.path = checkpoints / KEPT_FOLDER

    def keep(self, number: int | str, training: CheckpointFolder, facts: Mapping[str, str]) -> None:
        """Keep the weights of a training's last checkpoint under a trial's number or a name."""
        try:
            found = training.load()
        except CheckpointUnreadError as error:  # the training itself has ended well
            logger.warning("the weights of trial %s are not kept: %s", number, error)
            return
        if found is None:
            raise StudyError(f"trial {number} has no checkpoint in {training.path}, so its weights cannot be kept")
        results = found.progress[-1] if isinstance(found.progress, list) and found.progress else {}
        said = {key: str(value) for key, value in results.items()} | {"epochs": str(found.epoch)} | dict(facts)
        weights = {name: weight.clone() for name, weight in found.weights.items()}  # tied layers share one tensor
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            write_file(self.path / f"trial-{number}.safetensors", save(weights, {_KEY: json.dumps(said)}))
        except OSError as error:
            raise StudyError(
                f"cannot keep weights in {self.path} ({reason_of(error)}); free some space there"
            ) from error

    def load(self, number: int | str) -> tuple[dict[str, Tensor], dict[str, str]] | None:
        """The weights and facts of a trial; None if they were not kept, a `StudyError` if they are damaged."""
        path = self.path / f"trial-{number}.safetensors"
        if not path.is_file():
            return None
        try:
            with safe_open(path, framework="pt", device="cpu") as file:
                facts = json.loads((file.metadata() or {})[_KEY])
                return {name: file.get_tensor(name) for name in file.keys()}, dict(facts)  # noqa: SIM118 - not a dict
        except (OSError, SafetensorError, KeyError, TypeError, ValueError, RecursionError) as error:
            raise StudyError(f"the kept weights {path} are damaged ({reason_of(error)})") from error

    def study_of(self, number: int) -> str | None:
        """The study whose trial the kept weights are of; None if that is not known."""
        path, wrong = self.path / f"trial-{number}.safetensors", (KeyError, TypeError, ValueError, RecursionError)
        with suppress(OSError, SafetensorError, *wrong), safe_open(path, framework="pt") as file:
            return str(json.loads((file.metadata() or {})[_KEY])["study_uid"])
        return None

    def numbers(self) -> list[int]:
        """Numbers of the trials whose weights are kept."""
        with suppress(OSError):
            return sorted(int(match[1]) for match in map(_FILE.fullmatch, os.listdir(self.path)) if match)
        return []

    def forget(self, numbers: Iterable[int]) -> None:
        """Remove the weights of these trials, if they are kept."""
        for number in numbers:
            with suppress(OSError):
                (self.path / f"trial-{number}.safetensors").unlink()
