"""Where the files of studies are: checkpoints, weights, and what optuna-dashboard shows."""

from __future__ import annotations

import os
import re
from pathlib import Path

from nas_optuna.errors import StudyError
from nas_optuna.study.storage import sqlite_file

_A_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+:/")
"""Two letters or more before the colon, so no drive of Windows; and one slash, because a path has no two."""


def files_folder(url: str, given: Path | None = None) -> Path:
    """Where artifacts, weights and checkpoints of a storage's studies are kept.

    Args:
        url: The storage's.
        given: A folder that the user names, else ``NAS_OPTUNA_FILES``; else it is beside a SQLite file, else here.

    Raises:
        StudyError: A URL is named, of a bucket say.
    """
    named = str(given or os.environ.get("NAS_OPTUNA_FILES", ""))
    if _A_URL.match(named):
        raise StudyError(
            f"{'--files' if given else 'NAS_OPTUNA_FILES'} {named.replace(':/', '://', 1).replace('///', '//')} is a"
            " URL, and a checkpoint is a folder that is renamed in one step, which buckets cannot do; name a folder"
            " that the hosts share, such as NFS"
        )
    if named:
        return Path(named)
    database = sqlite_file(url)
    return database.with_name(f"{database.stem}-files") if database else Path("nas-optuna-files")


def usable(folder: Path) -> Path:
    """Return a folder in which files can be kept, or in whose place it can be made.

    Raises:
        StudyError: Neither.
    """
    there = folder.absolute()
    while not os.path.lexists(there):
        there = there.parent
    if not (there.is_dir() and os.access(there, os.W_OK | os.X_OK)):
        raise StudyError(
            f"cannot keep files in {folder}: {there} is no folder that you may write to; NAS_OPTUNA_FILES names another"
        )
    return folder
