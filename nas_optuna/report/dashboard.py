"""Notes and files that optuna-dashboard shows: the attributes in which it looks for them, and the store of the files.

Its own ``save_note`` reads the notes of all trials twice, and importing it takes longer than training a small network.
"""

from __future__ import annotations

import io
import json
import mimetypes
import re
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, BinaryIO

from optuna.artifacts import FileSystemArtifactStore
from optuna.artifacts.exceptions import ArtifactNotFound
from optuna.study import Study
from optuna.trial import FrozenTrial, Trial

from nas_optuna.study.optuna_internals import study_id_of, study_system_attributes, trial_id_of
from nas_optuna.study.transactions import remove_study_system_attributes, set_study_system_attributes

_PREFIX = "dashboard:artifacts:"
"""Where optuna-dashboard looks, among a study's attributes, for a trial's files, also when the trial has ended."""
_OF_STUDY = "artifacts:"
"""Where Optuna's ``upload_artifact`` keeps a study's own files, such as the history of a supernet."""
_FIGURES = [f"dashboard:plot_data:{name}:" for name in ("front", "curves", "supernet-alphas", "controller-entropy")]
"""Where figures of earlier releases begin, which nothing brings up to date any more."""
_COLOUR_OF_FIGURES = "#7d8797"
"""What tells these figures from a user's own of the same name."""
DRAWING = "drawing.svg"
NOTE_PART = 2045
"""Characters of a note for each attribute, which optuna-dashboard sets so that any database takes them."""
_NAME = re.compile(r"[0-9a-f-]{36}")
"""What a stored file may be called: a UUID, so that no name from a database leads out of the store's folder."""


class ArtifactFolders(FileSystemArtifactStore):
    """The artifact store of a storage whose studies keep files in several folders; new ones are put into its own."""

    def __init__(self, own: Path, others: Callable[[], Iterable[Path]]) -> None:
        super().__init__(own)
        self._others = others

    def open_reader(self, artifact_id: str) -> BinaryIO:
        """See `optuna.artifacts.FileSystemArtifactStore`."""
        with suppress(ArtifactNotFound):
            return super().open_reader(artifact_id)
        return self._elsewhere(artifact_id).open_reader(artifact_id)

    def remove(self, artifact_id: str) -> None:
        """See `optuna.artifacts.FileSystemArtifactStore`."""
        try:
            super().remove(artifact_id)
        except ArtifactNotFound:
            self._elsewhere(artifact_id).remove(artifact_id)

    def _elsewhere(self, artifact_id: str) -> FileSystemArtifactStore:
        for folder in self._others() if _NAME.fullmatch(artifact_id) else ():
            if (folder / artifact_id).is_file():
                return FileSystemArtifactStore(folder)
        raise ArtifactNotFound("not found")


def keep(store: Path, trial_id: int, files: Mapping[str, bytes]) -> dict[str, Any]:
    """Write files to the artifact store."""
    store.mkdir(parents=True, exist_ok=True)
    writer = FileSystemArtifactStore(store)
    attributes = {}
    for name, content in files.items():
        number = str(uuid.uuid4())
        writer.write(number, io.BytesIO(content))
        kind = mimetypes.guess_type(name)[0] or "application/octet-stream"
        facts = {"artifact_id": number, "filename": name, "mimetype": kind, "encoding": None}
        attributes[f"{_PREFIX}{trial_id}:{number}"] = json.dumps(facts)
    return attributes


def replace(study: Study, store: Path, trial_id: int, files: Mapping[str, bytes]) -> None:
    """Keep files in place of earlier ones of the same name."""
    before = {
        key: None for key, facts in _kept(study_system_attributes(study), trial_id) if facts.get("filename") in files
    }
    for name in _names(before):
        (store / name).unlink(missing_ok=True)
    gone = dict.fromkeys(before, "null")  # what optuna-dashboard writes for an artifact that was deleted
    set_study_system_attributes(study, gone | keep(store, trial_id, files))


def address(study: Study, attributes: Mapping[str, Any], trial_id: int, name: str) -> str | None:
    """Where optuna-dashboard serves a trial's file, for a link in a note; None where there is no such file."""
    for _, facts in _kept(attributes, trial_id):
        if facts.get("filename") == name:
            return f"/artifacts/{study_id_of(study)}/{trial_id}/{facts.get('artifact_id')}"
    return None


def of_study(study: Study) -> list[str]:
    """The names, within the store, of all files that belong to a study or its trials."""
    return _names(key for key in study_system_attributes(study) if key.startswith((_PREFIX, _OF_STUDY)))


def remove_figures(study: Study, attributes: Mapping[str, Any]) -> None:
    """Remove the figures that earlier releases kept in a study, and that would stay as they were then."""
    for start in _FIGURES:
        parts = sorted((key for key in attributes if key.startswith(start)), key=lambda key: (len(key), key))
        if _COLOUR_OF_FIGURES in "".join(str(attributes[key]) for key in parts):
            remove_study_system_attributes(study, parts)


def _names(keys: Iterable[str]) -> list[str]:
    return [name for key in keys if _NAME.fullmatch(name := key.rpartition(":")[2])]


def _kept(attributes: Mapping[str, Any], trial_id: int) -> Iterator[tuple[str, dict[str, Any]]]:
    for key, value in attributes.items():
        if key.startswith(f"{_PREFIX}{trial_id}:") and (facts := _facts(value)):
            yield key, facts


def _facts(value: Any) -> dict[str, Any]:
    """What optuna-dashboard keeps of an artifact; nothing where somebody has altered that."""
    try:
        found = json.loads(value)
    except (TypeError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def dashboard_note(
    text: str, trial: Trial | FrozenTrial | None = None, attributes: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """Return the study's system attributes in which optuna-dashboard looks for a note."""
    known, version, part = attributes or {}, *_note_keys(trial)
    parts = {f"{part}{i}": text[start : start + NOTE_PART] for i, start in enumerate(range(0, len(text), NOTE_PART))}
    stale = {key: "" for key in known if key.startswith(part) and key not in parts}
    return parts | stale | {version: (before if isinstance(before := known.get(version), int) else 0) + 1}


def note_in(attributes: Mapping[str, Any]) -> str:
    """Return the note of a study that optuna-dashboard keeps among the study's system attributes."""
    version, part = _note_keys(None)
    if version not in attributes:
        return ""
    return "".join(
        str(attributes.get(f"{part}{i}", "")) for i in range(sum(key.startswith(part) for key in attributes))
    )


def _note_keys(trial: Trial | FrozenTrial | None) -> tuple[str, str]:
    """The key of a note's version, and what the keys of its parts begin with."""
    of = "" if trial is None else f"{trial_id_of(trial)}:"
    return f"dashboard:{of}note_ver", f"dashboard:{of}note_str:"
