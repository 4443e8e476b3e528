"""Studies that remember their spec."""

from __future__ import annotations

import shutil
import warnings
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import optuna
from optuna.study import Study, StudyDirection
from optuna.trial import TrialState

from nas_optuna.errors import StudyError, unknown
from nas_optuna.objectives import parse_criterion
from nas_optuna.spaces import SearchSpace
from nas_optuna.study.schema import FORMAT, StudyKey

if TYPE_CHECKING:  # a list of studies does not need to know what a spec holds
    from nas_optuna.spec import StudySpec


def create_study(storage: optuna.storages.BaseStorage, name: str, spec: StudySpec, space: SearchSpace) -> Study:
    """Create an Optuna study that holds its spec and its space's identity.

    Args:
        storage: Where.
        name: A name that is still free there.
        spec: What the study remembers.
        space: The spec's space.

    Raises:
        StudyError: The name is taken.
    """
    if name in study_names(storage):
        raise StudyError(f"study {name!r} exists; run continues it, study delete removes it")
    directions = [parse_criterion(text).direction for text in spec.objectives]
    study = optuna.create_study(study_name=name, storage=storage, directions=directions)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        study.set_metric_names(list(spec.objectives))
    study.set_user_attr(StudyKey.FORMAT, FORMAT)
    study.set_user_attr(StudyKey.SPEC, spec.to_dict())
    study.set_user_attr(StudyKey.SPACE, space.identity())
    return study


def load_study(storage: optuna.storages.BaseStorage, name: str) -> Study:
    """Load a study by name, ours or any other.

    Raises:
        StudyError: Nobody has that name (the nearest is named), or it was made by a newer version.
    """
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
    return [study.study_name for study in storage.get_all_studies()]


def study_spec(study: Study) -> StudySpec:
    """The spec that a study remembers.

    Raises:
        StudyError: It is an Optuna study of another kind.
    """
    values = study.user_attrs.get(StudyKey.SPEC)
    if values is None:
        raise StudyError(f"study {study.study_name!r} was not made by nas-optuna; study create makes one")
    from nas_optuna.spec import StudySpec

    return StudySpec.from_dict(values, f"the spec of study {study.study_name!r}")


def require_same_space(study: Study, space: SearchSpace) -> None:
    """Refuse to continue a study in another space than it began with.

    Raises:
        StudyError: Naming what differs.
    """
    began: Mapping[str, Any] = study.user_attrs.get(StudyKey.SPACE, {})
    for key, value in space.identity().items():
        if began.get(key) != value:
            raise StudyError(
                f"study {study.study_name!r} searches another space ({key} differs);"
                " give the new one a study of its own: --study NAME"
            )


def require_same_spec(study: Study, given: StudySpec) -> None:
    """Refuse a spec that would give a study's values another meaning; sampler, pruner, supernet and pins may change.

    So may ``latency.force``: whoever goes on elsewhere decides there whether to believe the table. Images may lie at
    another place, where the study remembers a fingerprint of their content.

    Raises:
        StudyError: Naming the section that differs.
    """
    began, now = study_spec(study).to_dict(), given.to_dict()
    began["latency"]["force"] = now["latency"]["force"]
    if StudyKey.DATA in study.user_attrs:
        began["data"]["name"] = now["data"]["name"]
    for section, value in now.items():
        if section not in ("sampler", "pruner", "supernet", "fixed") and began[section] != value:
            raise StudyError(
                f"study {study.study_name!r} was made with another {section!r}, so its values could not be compared;"
                " give the new spec a study of its own: --study NAME"
            )


def delete_study(storage: optuna.storages.BaseStorage, name: str, files: Path) -> None:
    """Remove a study and the checkpoints of its trials.

    Raises:
        StudyError: Nobody has that name.
    """
    if name not in study_names(storage):
        raise StudyError(unknown("study", name, study_names(storage)))
    optuna.delete_study(study_name=name, storage=storage)
    shutil.rmtree(checkpoint_folder(files, name), ignore_errors=True)


def checkpoint_folder(files: Path, study_name: str) -> Path:
    """Where a study's running trials keep their checkpoints."""
    return files / "checkpoints" / file_name(study_name)


def file_name(study_name: str) -> str:
    """A study's name as part of a file's name: what could be a path or a command is written as numbers."""
    return "".join(c if c.isalnum() or c in "-_." else f"%{ord(c):x}" for c in study_name)


def maximizes(study: Study) -> bool:
    """Whether the first objective is to be maximised."""
    return study.directions[0] == StudyDirection.MAXIMIZE


@dataclass(frozen=True)
class StudySummary:
    """A study as a row of a table.

    Attributes:
        name: Its name.
        objectives: Names of what it optimises.
        trials: Number of trials in any state.
        complete: Trials trained to the end.
        pruned: Trials stopped early.
        best: The best value of the only objective; None where there are several, or no complete trial.
    """

    name: str
    objectives: tuple[str, ...]
    trials: int
    complete: int
    pruned: int
    best: float | None

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        return asdict(self)


def summaries(storage: optuna.storages.BaseStorage) -> list[StudySummary]:
    """A summary of every study in a storage, by name."""
    return [_summary(optuna.load_study(study_name=name, storage=storage)) for name in sorted(study_names(storage))]


def _summary(study: Study) -> StudySummary:
    trials = study.get_trials(deepcopy=False)
    states = [trial.state for trial in trials]
    complete = states.count(TrialState.COMPLETE)
    single = len(study.directions) == 1
    names = study.metric_names or [f"value {i}" for i in range(len(study.directions))]
    return StudySummary(
        name=study.study_name,
        objectives=tuple(names),
        trials=len(trials),
        complete=complete,
        pruned=states.count(TrialState.PRUNED),
        best=study.best_value if single and complete else None,
    )
