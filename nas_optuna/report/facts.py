"""What the sections of a report share; each is read once."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from optuna.study import Study
from optuna.trial import FrozenTrial

from nas_optuna.report import charts
from nas_optuna.report.selection import Winners, validation_images, winners
from nas_optuna.study.best import complete_trials
from nas_optuna.study.hints import command
from nas_optuna.study.optuna_internals import read_once
from nas_optuna.study.records import TrialRecord
from nas_optuna.study.schema import TrialKey, attribute
from nas_optuna.study.studies import maximizes, study_spec

Section = dict[str, Any]
"""What a template shows of one section."""


@dataclass
class StudyFacts:
    """A study, as the sections of its report see it."""

    study: Study
    data_directory: Path | None
    files: Path | None = None

    def __post_init__(self) -> None:
        self.study = read_once(self.study)
        self.spec = study_spec(self.study)
        self.attributes = self.study.user_attrs
        self.trials = self.study.get_trials(deepcopy=False)
        self.complete = complete_trials(self.study)
        self.names: list[str] = self.study.metric_names or ["value"]
        self.maximize = maximizes(self.study)

    @cached_property
    def images(self) -> int | None:
        """Number of validation images, where that is known."""
        return validation_images(self.study, self.data_directory)

    @cached_property
    def winners(self) -> Winners | None:
        """The best trial and the cheapest as good."""
        return winners(self.study, self.images)

    @property
    def first(self) -> str:
        """The first objective's name."""
        return self.names[0]

    def command(self, name: str) -> str:
        """How a person goes on with the study."""
        return command(self.study, name, "--study", self.study.study_name)


def titles_of(trials: Sequence[FrozenTrial]) -> list[str]:
    """What a pointer shows at each trial's dot."""
    return [f"trial {t.number}: {TrialRecord.of(t).architecture}" for t in trials]


def best_so_far(complete: Sequence[FrozenTrial], maximize: bool) -> list[charts.Point]:
    """Corners of the step line of the best value, by trial number."""
    points: list[charts.Point] = []
    best = -math.inf if maximize else math.inf
    for trial in complete:
        value = max(best, trial.values[0]) if maximize else min(best, trial.values[0])
        points += [(trial.number, best), (trial.number, value)]
        best = value
    return points


def curve_of(trial: FrozenTrial) -> list[charts.Point]:
    """Epoch and value, of a study of several objectives from what its pruner compares."""
    reports: dict[Any, float] = trial.intermediate_values or attribute(trial, TrialKey.REPORTS, {})
    return sorted((float(epoch), value) for epoch, value in reports.items())
