"""Studies that remember their spec, and the commands that messages suggest for them."""

from __future__ import annotations

import os
import re
import secrets
import shlex
import shutil
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import optuna
from optuna.study import Study, StudyDirection
from optuna.trial import TrialState

from nas_optuna.data_sets import FOLDER
from nas_optuna.digests import hex_digest
from nas_optuna.errors import StudyError, StudyExists, named, require_kind, unknown
from nas_optuna.lazily import lazily
from nas_optuna.masking import mask_urls
from nas_optuna.objectives import parse_criterion
from nas_optuna.spaces import SearchSpace
from nas_optuna.study.optuna_internals import storage_of, study_id_of, url_of
from nas_optuna.study.schema import FORMAT, StudyKey
from nas_optuna.study.storage import storage_url

with lazily():  # a list of studies needs neither
    from nas_optuna.spec import StudySpec
    from nas_optuna.study import results, transactions

LONGEST_NAME = 512
"""The most characters of a study's name, which every database can keep."""
_PLAIN = re.compile(r"[a-z0-9][a-z0-9_-]{0,63}")
_RESERVED = frozenset({"con", "prn", "aux", "nul", *(f"{port}{i}" for port in ("com", "lpt") for i in range(10))})


def check_name(name: str) -> None:
    """Refuse what cannot be the name of a study."""
    require_kind(name, str, "the study's name", "give words")
    if not (name.strip() and name.isprintable() and len(name) <= LONGEST_NAME):
        raise StudyError(
            f"a study's name has 1 to {LONGEST_NAME} characters that can be printed, no line break; e.g. mine"
        )


def create_study(storage: optuna.storages.BaseStorage, name: str, spec: StudySpec, space: SearchSpace) -> Study:
    """Create an Optuna study that has its spec and its space's identity from the first moment."""
    check_name(name)
    remembered = {StudyKey.FORMAT: FORMAT, StudyKey.SPEC: spec.to_dict(), StudyKey.SPACE: space.identity()}
    remembered |= {StudyKey.UID: secrets.token_hex(8)}
    directions = [parse_criterion(text).direction for text in spec.objectives]
    try:
        transactions.create_whole_study(storage, name, directions, spec.objectives, remembered)
    except optuna.exceptions.DuplicatedStudyError:
        raise StudyExists(f"study {name!r} exists; go on with it, delete it, or choose another name") from None
    return optuna.load_study(study_name=name, storage=storage)


def load_study(storage: optuna.storages.BaseStorage, name: str) -> Study:
    """Load a study by name, whether this package made it or not."""
    try:
        study = optuna.load_study(study_name=name, storage=storage)
        stored = storage.get_study_name_from_id(study_id_of(study))
    except KeyError:
        names = study_names(storage)
        if name in names:
            raise StudyError(
                f"study {name!r} is in the database, but cannot be read, as if that were damaged; restore a copy"
            ) from None
        raise StudyError(unknown("study", name, names)) from None
    if stored != name:  # MySQL and MariaDB compare names without case, accents and spaces at the end
        raise StudyError(
            f"there is no study {name!r}, and its database takes the name for that of study {stored!r}; name that one,"
            " or choose a name that differs in more"
        )
    found = study.user_attrs.get(StudyKey.FORMAT, 1)
    if found > FORMAT:
        raise StudyError(
            f"study {name!r} was made by a newer nas-optuna (format {found}, this one knows {FORMAT});"
            " upgrade with pip install -U nas-optuna"
        )
    return study


def optuna_study(given: Any) -> Study:
    """The Optuna study that is given, or that `nas_optuna.load_study` has opened."""
    found = getattr(given, "study", given)
    if not isinstance(found, Study):
        raise StudyError(f"a {type(given).__name__} is no study; Experiment.create and nas_optuna.load_study give one")
    return found


def study_names(storage: optuna.storages.BaseStorage) -> list[str]:
    """Names of all studies in a storage."""
    return list(transactions.counts(storage))


def has_spec(study: Study) -> bool:
    """Whether the study was made by nas-optuna, whose commands can then continue it."""
    return study.user_attrs.get(StudyKey.SPEC) is not None


def study_spec(study: Study) -> StudySpec:
    """The spec that a study remembers."""
    if not has_spec(study):
        raise StudyError(
            f"study {study.study_name!r} was not made by nas-optuna, so it does not know what its trials train; best"
            " shows what it has, and study create makes one that knows"
        )
    values = study.user_attrs[StudyKey.SPEC]
    if isinstance(values, Mapping):
        values = dict(values)
        if values.get("reference") == "":  # an earlier release took it for none
            values["reference"] = None
        latency = values.get("latency")
        if isinstance(latency, Mapping) and latency.get("table") == "":  # nor did it look for that
            values["latency"] = {**latency, "table": None}
    return StudySpec.from_dict(values, f"the spec of study {study.study_name!r}")


def study_uid(study: Study) -> str:
    """An identifier that distinguishes a study from all others, even from a later one of the same name."""
    # The study's files carry it, because a name can be used again. A study of an earlier release gets one now.
    found = study.user_attrs.get(StudyKey.UID)
    if found is None:
        transactions.change_study(study, lambda known: {StudyKey.UID: known.get(StudyKey.UID) or secrets.token_hex(8)})
        found = study.user_attrs[StudyKey.UID]
    return str(found)


def require_same_space(study: Study, space: SearchSpace) -> None:
    """Refuse to continue a study in a space other than its own."""
    began: Mapping[str, Any] = study.user_attrs.get(StudyKey.SPACE, {})
    for key, value in space.identity().items():
        if began.get(key) != value:
            change = f"{written(began.get(key))} → {written(value)}" if isinstance(value, int) else "differs"
            other = "began with other data" if key in ("in_channels", "classes") else "searches another space"
            raise StudyError(
                f"study {study.study_name!r} {other} ({key} {change});"
                " give the new one a study of its own, under another name (--study NAME)"
            )


def require_same_spec(study: Study, given: StudySpec) -> None:
    """Refuse a spec that would change what a study's values mean; sampler, pruner, supernet and pins may change."""
    # So may ``latency.force``, since whoever continues elsewhere decides whether to trust the table there. Images may
    # have moved if the study remembers a fingerprint of their content.
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
    """What has changed in a section, in a few words."""
    if not (isinstance(began, dict) and isinstance(now, dict)):
        return f"{written(began)} → {written(now)}"
    keys = [key for key in {**began, **now} if began.get(key) != now.get(key)]
    return ", ".join(f"{named(key)} {written(began.get(key))} → {written(now.get(key))}" for key in keys[:3])


def written(value: Any) -> str:
    """A value of a spec for a person: ``3, 5, 7``, ``true``, ``none``."""
    if value is None or isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float):
        return f"{value:.12g}"
    return named(", ".join(map(written, value)) if isinstance(value, list) else value)


_MAY_CHANGE = frozenset({"sampler", "pruner", "supernet", "fixed", "reference", "among", "keep_paused"})
"""Sections of a spec that decide what is tried, but no value."""


def delete_study(storage: optuna.storages.BaseStorage, name: str, folders: Sequence[Path]) -> None:
    """Delete a study, and its checkpoints and weights in these folders, as far as this user may."""
    if name not in study_names(storage):
        raise StudyError(unknown("study", name, study_names(storage)))
    _remove_files(name, folders)  # first, so that the same command completes what was stopped
    optuna.delete_study(study_name=name, storage=storage)
    _remove_files(name, folders)  # of an epoch that ended meanwhile


def _remove_files(name: str, folders: Sequence[Path]) -> None:
    for files in folders:
        shutil.rmtree(checkpoint_folder(files, name), ignore_errors=True)


def checkpoint_folder(files: Path, study_name: str) -> Path:
    """Where a study's running trials keep their checkpoints."""
    # Folders of release 0.2 and earlier, which had the study's name, are still found.
    parent = files / "checkpoints"
    folder = parent / file_name(study_name)
    is_old = re.fullmatch(r"[A-Za-z0-9_.-]+", study_name) and study_name not in (".", "..")
    if is_old and not folder.exists():
        with suppress(OSError):
            if study_name in os.listdir(parent):  # which distinguishes a from A even if the file system does not
                return parent / study_name
    return folder


def file_name(name: str) -> str:
    """A short file name for any name, safe everywhere; different names give different file names.

    Examples:
        >>> file_name("mine"), file_name("../Mine")
        ('mine', 'mine~409aef89958dfce26200f13d5c697b4a')
    """
    if _PLAIN.fullmatch(name) and name not in _RESERVED:
        return name
    readable = "-".join(re.findall(r"[a-z0-9]+", name.lower()))[:40].strip("-")
    digest = hex_digest(name.encode("utf-8", "surrogatepass"), 32, "sha256")
    return f"{readable or 'study'}~{digest}"


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
    best: float | None  # of the only objective; None if there are several, or no complete trial


def summaries(storage: optuna.storages.BaseStorage) -> list[StudySummary]:
    """A summary of every study in a storage, by name; trials are counted, not read."""
    return [_summary(storage, name, counted) for name, counted in sorted(transactions.counts(storage).items())]


def _best_value(study: Study) -> float | None:
    """The best value of the only objective, among the trials that were trained longest."""
    if not {StudyKey.FIT, StudyKey.WITHIN} & study.user_attrs.keys():
        try:
            found = storage_of(study).get_best_trial(study_id_of(study))  # one query, which reads no other trial
        except ValueError:  # no trial is complete
            return None
        if found.state == TrialState.COMPLETE and results.is_feasible(found):
            return float(found.values[0])
    best = results.best_trial(study)
    return None if best is None else best.values[0]


def _summary(storage: optuna.storages.BaseStorage, name: str, counted: Mapping[str, int]) -> StudySummary:
    best: float | None = None
    try:
        study = optuna.load_study(study_name=name, storage=storage)
        objectives = tuple(transactions.metric_names(study) or [f"value {i}" for i in range(len(study.directions))])
        if len(study.directions) == 1:
            best = _best_value(study)
    except (StudyError, KeyError):  # its rows are damaged, or just deleted; the others are shown all the same
        objectives = ("cannot be read",)
    return StudySummary(
        name=name,
        objectives=objectives,
        trials=sum(counted.values()),
        complete=counted[TrialState.COMPLETE.name],
        pruned=counted[TrialState.PRUNED.name],
        best=best,
    )


_WITH_IMAGES = ("run", "retrain", "export", "report", "study create", "supernet")
"""How the commands of studies begin that read images, and so take ``--data-dir``."""


def command(study: Study | str, *words: str) -> str:
    """A command for a study, or for its storage's URL, quoted for a shell; passwords are masked.

    It finds the data sets where the present command does.

    Examples:
        >>> import optuna
        >>> from nas_optuna.study.storage import open_storage
        >>> study = optuna.create_study(study_name="my own", storage=open_storage("sqlite:///:memory:"))
        >>> command(study, "run", "--study", study.study_name)
        "nas-optuna run --study 'my own' --storage sqlite:///:memory:"
    """
    url = study if isinstance(study, str) else url_of(study)
    elsewhere = ("--storage", mask_urls(url)) if url is not None and url != storage_url() else ()
    folder = FOLDER.get() if " ".join(words).startswith(_WITH_IMAGES) else None
    images = () if folder is None else ("--data-dir", folder)
    return shlex.join(["nas-optuna", *words, *images, *elsewhere])
