"""Consent to import code that a stored study names.

A study's spec can name code: a data set, space, sampler, pruner, evaluator or metric as ``package.module:name`` or
``file.py:name``. Whoever gives such a spec on the command line means it. A spec that comes out of a database may be
somebody else's, so that its code is imported only after a yes, which is remembered per study and per code.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from nas_optuna.digests import hex_digest
from nas_optuna.errors import StudyError
from nas_optuna.files import read_json, write_file


def require_trust(storage: str, study: str, code: Sequence[str], *, yes: bool = False) -> None:
    """Refuse a stored study that names code to which nobody on this machine has agreed."""
    if not code:
        return
    if storage and _key(storage, study, code) in read_json(_path(), list):
        return
    if not yes:
        raise StudyError(
            f"study {study!r} names code that would be imported and run: {', '.join(code)[:200]}; if you trust it,"
            " say so once (--trust; in Python trust=True)"
        )
    remember(storage, study, code)


def remember(storage: str, study: str, code: Sequence[str]) -> None:
    """Remember that a study may import this code; without a URL, or a folder for it, somebody is asked each time."""
    if not (storage and code):
        return
    path = _path()
    keys = {*map(str, read_json(path, list)), _key(storage, study, code)}
    with suppress(OSError):  # e.g. in a container, whose user has no home
        path.parent.mkdir(parents=True, exist_ok=True)
        write_file(path, json.dumps(sorted(keys)))


def _key(storage: str, study: str, code: Sequence[str]) -> str:
    from nas_optuna.study.storage import sqlite_file

    file = sqlite_file(storage)
    place = str(file.resolve()) if file is not None else storage
    # Where a file or module is found depends on the current folder.
    return hex_digest(json.dumps([place, study, sorted(code), str(Path.cwd())]), 64, "sha256")


def _path() -> Path:
    from platformdirs import user_state_path

    return user_state_path("nas-optuna") / "trusted.json"
