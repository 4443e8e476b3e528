"""Where the files of studies are: checkpoints, weights, and artifacts for optuna-dashboard.

A study remembers each folder that was named for its files, so that every command finds them. A path in a database may
be somebody else's, so it is followed only to a folder that was named on this host as well, which a mark in it shows.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nas_optuna.errors import StudyError
from nas_optuna.study.optuna_internals import url_of
from nas_optuna.study.schema import LONGEST, StudyKey
from nas_optuna.study.storage import is_kept, sqlite_file
from nas_optuna.study.studies import checkpoint_folder

if TYPE_CHECKING:
    from optuna.study import Study

MARK = ".nas-optuna"
"""An empty file in each folder that was named on this host."""
_A_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+:/")
"""At least two letters before the colon, so no Windows drive; and one slash, because `Path` merges two."""


def folders(url: str, study: Mapping[str, Any] | None = None, given: Path | None = None) -> list[Path]:
    """Every folder in which files of a study may be; new ones belong in the first."""
    return list(dict.fromkeys([*_named(study or {}, given), _unnamed(url)]))


def used_folders(url: str, study: Mapping[str, Any]) -> list[Path]:
    """The folders that a study's commands have used; one that is only named now may hold another database's files."""
    return [*_remembered(study), _unnamed(url)]


def may_be_of_others(url: str, folder: Path) -> bool:
    """Whether a folder of `used_folders` is that of every server's studies, wherever a command runs in this folder."""
    return sqlite_file(url) is None and folder == _unnamed(url)


def are_named(study: Mapping[str, Any], given: Path | None) -> bool:
    """Whether a folder was named for a study's files, as is done if hosts share it."""
    return bool(_named(study, given))


def holding(url: str, study: Study, pattern: str) -> Path:
    """The folder in which the study's checkpoints and weights match a pattern; the first if none does."""
    found = folders(url, study.user_attrs)
    return next(
        (folder for folder in found if any(checkpoint_folder(folder, study.study_name).glob(pattern))), found[0]
    )


def checkpoints_of(study: Study) -> Path | None:
    """The folder for a study's checkpoints, as its commands have it; None if the study or files cannot be kept."""
    url = url_of(study)
    with suppress(StudyError):
        if url is not None and is_kept(url):
            return checkpoint_folder(usable(folders(url, study.user_attrs)[0]), study.study_name)
    return None


def remember(study: Study, url: str, given: Path | None = None) -> None:
    """Store the folder that is named now with the study, and mark it."""
    folder = _named({}, given)
    if not folder or not is_kept(url):
        return
    path, known = folder[0].absolute(), list(study.user_attrs.get(StudyKey.FILES, []))
    try:
        path.mkdir(parents=True, exist_ok=True)
        if not _is_ours(str(path)):  # an existing mark may be another user's, which this one may not touch
            (path / MARK).touch()
    except OSError as error:
        raise StudyError(f"cannot keep files in {path}: {error.strerror}; NAS_OPTUNA_FILES names another") from error
    if [str(path)] != known[-1:]:
        known = [*(each for each in known if each != str(path)), str(path)]
        while len(json.dumps(known)) > LONGEST:
            known.pop(0)
        study.set_user_attr(StudyKey.FILES, known)


def elsewhere(study: Mapping[str, Any]) -> list[str]:
    """The folders that a study remembers and that are not on this host."""
    return [path for path in study.get(StudyKey.FILES, []) if not _is_ours(path)]


def usable(folder: Path) -> Path:
    """Check that files can be written to a folder, or that it can be created, and return it."""
    there = folder.absolute()
    while not os.path.lexists(there):
        there = there.parent
    if not (there.is_dir() and os.access(there, os.W_OK | os.X_OK)):
        raise StudyError(
            f"cannot keep files in {folder}: {there} is no folder that you may write to; NAS_OPTUNA_FILES names another"
        )
    return folder


def _named(study: Mapping[str, Any], given: Path | None) -> list[Path]:
    named = str(given or os.environ.get("NAS_OPTUNA_FILES", ""))
    if _A_URL.match(named):
        raise StudyError(
            f"{'--files' if given else 'NAS_OPTUNA_FILES'} {named.replace(':/', '://', 1).replace('///', '//')} is a"
            " URL, and a checkpoint is a folder that is renamed in one step, which buckets cannot do; name a folder"
            " that the hosts share, such as NFS"
        )
    return [*([Path(named)] if named else []), *_remembered(study)]


def _remembered(study: Mapping[str, Any]) -> list[Path]:
    return [Path(path) for path in reversed(study.get(StudyKey.FILES, [])) if _is_ours(path)]


def _unnamed(url: str) -> Path:
    database = sqlite_file(url)
    return database.with_name(f"{database.stem}-files") if database else Path("nas-optuna-files")


def _is_ours(path: str) -> bool:
    return os.path.isabs(path) and os.path.isfile(os.path.join(path, MARK))
