"""Studies that remember their spec, and the commands that a message tells a person to type for one."""

from __future__ import annotations

import os
import re
import secrets
import shlex
import shutil
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import optuna
from optuna.study import Study, StudyDirection
from optuna.trial import TrialState

from nas_optuna.digests import hex_digest
from nas_optuna.errors import StudyError, StudyExists, named, unknown
from nas_optuna.masking import mask_urls
from nas_optuna.objectives import parse_criterion
from nas_optuna.spaces import SearchSpace
from nas_optuna.study.optuna_internals import storage_of, study_id_of, url_of
from nas_optuna.study.schema import FORMAT, StudyKey
from nas_optuna.study.storage import storage_url

if TYPE_CHECKING:  # a list of studies does not need to know what a spec holds
    from nas_optuna.spec import StudySpec

LONGEST_NAME = 512
"""Characters of a study's name that every database keeps."""
_PLAIN = re.compile(r"[a-z0-9][a-z0-9_-]{0,63}")
_RESERVED = frozenset({"con", "prn", "aux", "nul", *(f"{port}{i}" for port in ("com", "lpt") for i in range(10))})


def check_name(name: str) -> None:
    """Refuse what cannot be the name of a study."""
    if not name.strip():
        raise StudyError("a study's name must not be empty; e.g. mine")
    if len(name) > LONGEST_NAME:
        raise StudyError(f"a study's name has at most {LONGEST_NAME} characters, this one {len(name):,}")
    if not name.isprintable():
        raise StudyError("a study's name holds only characters that can be printed, no line break or control character")


def create_study(storage: optuna.storages.BaseStorage, name: str, spec: StudySpec, space: SearchSpace) -> Study:
    """Create an Optuna study that holds its spec and its space's identity from its first moment on."""
    from nas_optuna.study.transactions import create_whole_study

    check_name(name)
    remembered = {StudyKey.FORMAT: FORMAT, StudyKey.SPEC: spec.to_dict(), StudyKey.SPACE: space.identity()}
    remembered |= {StudyKey.UID: _new_uid()}
    directions = [parse_criterion(text).direction for text in spec.objectives]
    try:
        create_whole_study(storage, name, directions, spec.objectives, remembered)
    except optuna.exceptions.DuplicatedStudyError:
        raise StudyExists(f"study {name!r} exists; go on with it, delete it, or choose another name") from None
    return optuna.load_study(study_name=name, storage=storage)


def load_study(storage: optuna.storages.BaseStorage, name: str) -> Study:
    """Load a study by name, ours or any other."""
    try:
        study = optuna.load_study(study_name=name, storage=storage)
    except KeyError:
        raise StudyError(unknown("study", name, study_names(storage))) from None
    found = study.user_attrs.get(StudyKey.FORMAT, 1)
    if found > FORMAT:
        raise StudyError(
            f"study {name!r} was made by a newer nas-optuna (format {found}, this one knows {FORMAT});"
            " upgrade with pip install -U nas-optuna"
        )
    return study


def study_names(storage: optuna.storages.BaseStorage) -> list[str]:
    """Names of all studies in a storage."""
    from nas_optuna.study.transactions import counts

    return list(counts(storage))


def has_spec(study: Study) -> bool:
    """Whether the study was made by nas-optuna, so that its commands can go on with it."""
    return study.user_attrs.get(StudyKey.SPEC) is not None


def study_spec(study: Study) -> StudySpec:
    """The spec that a study remembers."""
    if not has_spec(study):
        raise StudyError(f"study {study.study_name!r} was not made by nas-optuna; study create makes one")
    from nas_optuna.spec import StudySpec

    return StudySpec.from_dict(study.user_attrs[StudyKey.SPEC], f"the spec of study {study.study_name!r}")


def study_uid(study: Study) -> str:
    """What tells a study from every other one, also from a later one of its name."""
    # Files that belong to a study carry it, because names are given anew. A study of an earlier release gets one now.
    found = study.user_attrs.get(StudyKey.UID)
    if found is None:
        from nas_optuna.study.transactions import change_study

        change_study(study, lambda known: {StudyKey.UID: known.get(StudyKey.UID) or _new_uid()})
        found = study.user_attrs[StudyKey.UID]
    return str(found)


def _new_uid() -> str:
    return secrets.token_hex(8)


def require_same_space(study: Study, space: SearchSpace) -> None:
    """Refuse to continue a study in another space than it began with."""
    began: Mapping[str, Any] = study.user_attrs.get(StudyKey.SPACE, {})
    for key, value in space.identity().items():
        if began.get(key) != value:
            raise StudyError(
                f"study {study.study_name!r} searches another space ({key} differs);"
                " give the new one a study of its own, under another name (--study NAME)"
            )


def require_same_spec(study: Study, given: StudySpec) -> None:
    """Refuse a spec that would give a study's values another meaning; sampler, pruner, supernet and pins may change."""
    # So may ``latency.force``: whoever goes on elsewhere decides there whether to believe the table. Images may lie at
    # another place, where the study remembers a fingerprint of their content.
    began, now = study_spec(study).to_dict(), given.to_dict()
    began["latency"]["force"] = now["latency"]["force"]
    if StudyKey.DATA in study.user_attrs:
        began["data"]["name"] = now["data"]["name"]
    differ = [part for part in now if part not in _MAY_CHANGE and began[part] != now[part]]
    if differ:
        changes = "; ".join(f"{part!r} ({_changes(began[part], now[part])})" for part in differ)
        raise StudyError(
            f"study {study.study_name!r} was made with another {changes}, so its values could not be compared;"
            " give the new spec a study of its own, under another name (--study NAME)"
        )


def _changes(began: Any, now: Any) -> str:
    """The settings of a section that have changed, in a few words."""
    if not (isinstance(began, dict) and isinstance(now, dict)):
        return f"{_written(began)} → {_written(now)}"
    keys = [key for key in {**began, **now} if began.get(key) != now.get(key)]
    return ", ".join(f"{named(key)} {_written(began.get(key))} → {_written(now.get(key))}" for key in keys[:3])


def _written(value: Any) -> str:
    return "none" if value is None else named(", ".join(map(str, value)) if isinstance(value, list) else value)


_MAY_CHANGE = frozenset({"sampler", "pruner", "supernet", "fixed", "reference", "among", "keep_paused"})
"""Sections of a spec that decide what is tried, and no value."""


def delete_study(storage: optuna.storages.BaseStorage, name: str, folders: Iterable[Path]) -> None:
    """Remove a study, and its checkpoints and weights from folders of files."""
    if name not in study_names(storage):
        raise StudyError(unknown("study", name, study_names(storage)))
    optuna.delete_study(study_name=name, storage=storage)
    for files in folders:
        _remove_child(files / "checkpoints", checkpoint_folder(files, name))


def checkpoint_folder(files: Path, study_name: str) -> Path:
    """Where a study's running trials keep their checkpoints."""
    # Folders of release 0.2 and before, which were called after the study, are still found.
    parent = files / "checkpoints"
    folder = parent / file_name(study_name)
    is_old = re.fullmatch(r"[A-Za-z0-9_.-]+", study_name) and study_name not in (".", "..")
    if is_old and not folder.exists():
        with suppress(OSError):
            if study_name in os.listdir(parent):  # which tells a from A, where the file system may not
                return parent / study_name
    return folder


def file_name(name: str) -> str:
    """Turn any name into a short file name that is safe everywhere; different names give different ones.

    Examples:
        >>> file_name("mine"), file_name("../Mine")
        ('mine', 'mine~409aef89958dfce26200f13d5c697b4a')
    """
    if _PLAIN.fullmatch(name) and name not in _RESERVED:
        return name
    readable = "-".join(re.findall(r"[a-z0-9]+", name.lower()))[:40].strip("-")
    digest = hex_digest(name.encode("utf-8", "surrogatepass"), 32, "sha256")
    return f"{readable or 'study'}~{digest}"


def _remove_child(parent: Path, folder: Path) -> None:
    """Remove a folder that lies directly in another, and nothing else."""
    if folder.is_symlink() or not folder.exists():
        return
    if folder.resolve().parent != parent.resolve():
        raise StudyError(f"{folder} is not in {parent}; it is left alone")
    shutil.rmtree(folder, ignore_errors=True)


def maximizes(study: Study) -> bool:
    """Whether the first objective is to be maximised."""
    return study.directions[0] == StudyDirection.MAXIMIZE


@dataclass(frozen=True)
class StudySummary:
    """A study as a row of a table."""

    name: str
    objectives: tuple[str, ...]
    trials: int  # in any state
    complete: int
    pruned: int
    best: float | None  # of the only objective; None where there are several, or no complete trial

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        return asdict(self)


def summaries(storage: optuna.storages.BaseStorage) -> list[StudySummary]:
    """A summary of every study in a storage, by name; trials are counted rather than read."""
    from nas_optuna.study.transactions import counts

    return [_summary(storage, name, counted) for name, counted in sorted(counts(storage).items())]


def _best_value(study: Study) -> float | None:
    """The best value of the only objective; where a higher one may be of a shorter training, that does not count."""
    from nas_optuna.study.results import best_trial, is_feasible

    if not {StudyKey.FIT, StudyKey.WITHIN} & study.user_attrs.keys():
        try:
            found = storage_of(study).get_best_trial(study_id_of(study))  # a database finds it, and reads no other
        except ValueError:  # there is none
            return None
        if found.state == TrialState.COMPLETE and is_feasible(found):
            return float(found.values[0])
    best = best_trial(study)
    return None if best is None else best.values[0]


def _summary(storage: optuna.storages.BaseStorage, name: str, counted: Mapping[str, int]) -> StudySummary:
    best: float | None = None
    try:
        study = optuna.load_study(study_name=name, storage=storage)
        objectives = tuple(study.metric_names or [f"value {i}" for i in range(len(study.directions))])
        if len(study.directions) == 1:
            best = _best_value(study)
    except StudyError:  # somebody has altered its rows; the others are shown all the same
        objectives = ("cannot be read",)
    return StudySummary(
        name=name,
        objectives=objectives,
        trials=sum(counted.values()),
        complete=counted[TrialState.COMPLETE.name],
        pruned=counted[TrialState.PRUNED.name],
        best=best,
    )


def command(study: Study | str, *words: str) -> str:
    """A command for a study, or for the URL of its storage, as a shell needs it; passwords are masked.

    Examples:
        >>> import optuna
        >>> from nas_optuna.study.storage import open_storage
        >>> study = optuna.create_study(study_name="my own", storage=open_storage("sqlite:///:memory:"))
        >>> command(study, "run", "--study", study.study_name)
        "nas-optuna run --study 'my own' --storage sqlite:///:memory:"
    """
    url = study if isinstance(study, str) else url_of(study)
    elsewhere = ("--storage", mask_urls(url)) if url is not None and url != storage_url() else ()
    return shlex.join(["nas-optuna", *words, *elsewhere])
