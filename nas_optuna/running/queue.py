"""Architectures from a file, to be tried first."""

from __future__ import annotations

import json
from pathlib import Path

from nas_optuna.architecture import Architecture
from nas_optuna.errors import ArchitectureError
from nas_optuna.spaces import SearchSpace


def read_architectures(path: Path, space: SearchSpace) -> list[Architecture]:
    """Read a file of architectures.

    Args:
        path: A JSON params dict, an architecture string (as JSON or as it is), or a JSON list of these.
        space: What they must be points of.

    Raises:
        ArchitectureError: The file cannot be read, or an entry is not a point of the space (it is named).
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ArchitectureError(f"cannot read {path}: {getattr(error, 'strerror', None) or 'not text'}") from error
    try:
        entries = json.loads(text)
    except ValueError:
        entries = text.split()
    if not isinstance(entries, list):
        entries = [entries]
    if not entries:
        raise ArchitectureError(f'{path} holds no architecture; write for example {{"conv1.filters": 16, …}}')
    return [_architecture(entry, space, f"{path}, entry {i}") for i, entry in enumerate(entries, start=1)]


def _architecture(entry: object, space: SearchSpace, place: str) -> Architecture:
    try:
        if isinstance(entry, str):
            return space.parse(entry)
        if isinstance(entry, dict):
            return space.architecture(entry)
    except ArchitectureError as error:
        raise ArchitectureError(f"{place}: {error}") from None
    raise ArchitectureError(f"{place}: {entry!r} is neither a params dict nor an architecture string")
