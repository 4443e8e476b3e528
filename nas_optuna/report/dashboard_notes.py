"""The attributes in which optuna-dashboard looks for notes, which its interface hides.

Its own ``save_note`` reads the notes of all trials twice, and importing it takes longer than training a small network.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from optuna.trial import FrozenTrial, Trial

from nas_optuna.study.optuna_internals import trial_id_of

NOTE_PART = 2045
"""Characters of a note for each attribute, which optuna-dashboard sets so that any database takes them."""


def dashboard_note(
    text: str, trial: Trial | FrozenTrial | None = None, attributes: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """Return the study's system attributes in which optuna-dashboard looks for a note."""
    known, version, part = attributes or {}, *_note_keys(trial)
    parts = {f"{part}{i}": text[start : start + NOTE_PART] for i, start in enumerate(range(0, len(text), NOTE_PART))}
    stale = {key: "" for key in known if key.startswith(part) and key not in parts}
    return parts | stale | {version: (before if isinstance(before := known.get(version), int) else 0) + 1}


def has_note(attributes: Mapping[str, Any], trial: FrozenTrial) -> bool:
    """Whether a trial has a note among the study's system attributes."""
    return _note_keys(trial)[0] in attributes


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
