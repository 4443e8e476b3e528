"""The weights of finished trials, kept on request, so that a network can be exported without training it again."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path

from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from nas_optuna.errors import StudyError, reason_of
from nas_optuna.files import write_file
from nas_optuna.training.checkpoint import CheckpointFolder

KEPT_FOLDER = "kept"
"""Where, inside a study's checkpoint folder, the weights of finished trials are kept."""
_FILE = re.compile(r"trial-([0-9]{1,9})\.safetensors")
_KEY = "nas_optuna_kept"


class KeptWeights:
    """A folder with one file per kept trial: the weights after its last epoch, and what they were trained for.

    Several processes may use it; a file appears whole or not at all.

    Args:
        path: The folder; it is made when the first weights are kept. Inside a study's checkpoint folder it is removed
            with the study.

    Examples:
        >>> import tempfile, torch
        >>> root = Path(tempfile.mkdtemp())
        >>> training = CheckpointFolder(root / "training")
        >>> training.save(1, {"w": torch.ones(2)}, {}, [{"accuracy": 0.5}])
        >>> kept = KeptWeights(root / "kept")
        >>> kept.keep(7, training, {"architecture": "f16k3s1"})
        >>> weights, facts = kept.load(7)
        >>> facts["accuracy"], facts["architecture"], kept.numbers()
        ('0.5', 'f16k3s1', [7])
        >>> kept.forget([7])
        >>> kept.load(7) is None
        True
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def keep(self, number: int, training: CheckpointFolder, facts: Mapping[str, str]) -> None:
        """Keep what a training's last checkpoint holds; call it before the checkpoint is removed."""
        found = training.load()
        if found is None:
            raise StudyError(f"trial {number} has no checkpoint in {training.path}, so its weights cannot be kept")
        results = found.progress[-1] if isinstance(found.progress, list) and found.progress else {}
        said = {key: str(value) for key, value in results.items()} | {"epochs": str(found.epoch)} | dict(facts)
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            write_file(self.path / f"trial-{number}.safetensors", save(dict(found.weights), {_KEY: json.dumps(said)}))
        except OSError as error:
            raise StudyError(
                f"cannot keep weights in {self.path} ({reason_of(error)}); free some space there"
            ) from error

    def load(self, number: int) -> tuple[dict[str, Tensor], dict[str, str]] | None:
        """A trial's weights and facts; None where they were not kept."""
        path = self.path / f"trial-{number}.safetensors"
        if not path.is_file():
            return None
        try:
            with safe_open(path, framework="pt", device="cpu") as file:
                facts = json.loads((file.metadata() or {})[_KEY])
                return {name: file.get_tensor(name) for name in file.keys()}, dict(facts)  # noqa: SIM118 - not a dict
        except (OSError, SafetensorError, KeyError, TypeError, ValueError, RecursionError) as error:
            raise StudyError(
                f"the kept weights {path} are damaged ({reason_of(error)}); nas-optuna retrain makes new ones"
            ) from error

    def numbers(self) -> list[int]:
        """The trials whose weights are kept."""
        with suppress(OSError):
            return sorted(int(match[1]) for match in map(_FILE.fullmatch, os.listdir(self.path)) if match)
        return []

    def forget(self, numbers: Iterable[int]) -> None:
        """Remove some trials' weights, those that are kept."""
        for number in numbers:
            with suppress(OSError):
                (self.path / f"trial-{number}.safetensors").unlink()
