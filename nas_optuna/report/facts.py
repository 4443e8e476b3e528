"""The facts of a study that tables, notes and pages share; each is read once."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from optuna.study import Study
from optuna.trial import FrozenTrial

from nas_optuna.objectives import describe
from nas_optuna.quantities import plural
from nas_optuna.report import charts
from nas_optuna.report.selection import Winners, gain_of, remembered_images, validation_images, winners
from nas_optuna.report.trial_facts import figures_of
from nas_optuna.spec import StudySpec
from nas_optuna.study.best import complete_trials
from nas_optuna.study.gain import Gain
from nas_optuna.study.hints import command
from nas_optuna.study.optuna_internals import read_once
from nas_optuna.study.records import TrialRecord, ranked
from nas_optuna.study.schema import StudyKey, TrialKey, attribute
from nas_optuna.study.studies import maximizes, study_spec

Section = dict[str, Any]
"""What a template shows of one section."""


@dataclass
class StudyFacts:
    """A study as every table, note and page sees it.

    Attributes:
        study: The study; all its trials are read once.
        data_directory: Where data sets are.
        files: The folder of the study's files.
        may_load: Load the images where the study does not remember how many of them validate.
    """

    study: Study
    data_directory: Path | None = None
    files: Path | None = None
    may_load: bool = False

    def __post_init__(self) -> None:
        self.study = read_once(self.study)
        self.attributes = self.study.user_attrs
        self.trials = self.study.get_trials(deepcopy=False)
        self.complete = complete_trials(self.study)
        self.maximize = maximizes(self.study)
        several = len(self.study.directions) > 1
        numbered = [f"value {i}" for i in range(len(self.study.directions))]
        self.names: list[str] = self.study.metric_names or (numbered if several else ["value"])

    @cached_property
    def spec(self) -> StudySpec:
        """The study's spec."""
        return study_spec(self.study)

    @property
    def what(self) -> str:
        """What is searched, and how."""
        spec = self.spec
        wanted = " and ".join(describe(name).heading for name in spec.objectives)
        limits = "".join(f", {_limit(name, limit)}" for name, limit in spec.limits.items())
        how = f"pruner {spec.pruner.name}, {plural(spec.recipe.epochs, 'epoch')} per trial"
        by_clock = {StudyKey.FIT, StudyKey.WITHIN} & self.attributes.keys()
        how = "trainings of about equal seconds" if by_clock else how
        return f"{wanted}{limits} on {spec.data.name}, space {spec.space.name}, sampler {spec.sampler.name}, {how}."

    @cached_property
    def records(self) -> list[TrialRecord]:
        """All trials, best first."""
        return ranked(self.trials, self.maximize)

    @cached_property
    def images(self) -> int | None:
        """Number of validation images, where that is known."""
        return validation_images(self.study, self.data_directory) if self.may_load else remembered_images(self.study)

    @cached_property
    def winners(self) -> Winners | None:
        """The best trial and the cheapest as good."""
        return winners(self.study, self.images)

    @cached_property
    def gain(self) -> Gain | None:
        """What the search has brought, where its first objective is accuracy."""
        return gain_of(self.study)

    def figures(self, trial: FrozenTrial) -> list[tuple[str, str]]:
        """A trial's figures for a person: name and value with its unit."""
        return figures_of(TrialRecord.of(trial), self.names, self.images)

    @property
    def first(self) -> str:
        """The first objective's name."""
        return self.names[0]

    def command(self, name: str) -> str:
        """How a person goes on with the study."""
        return command(self.study, name, "--study", self.study.study_name)


def _limit(name: str, limit: float) -> str:
    cost = describe(name)
    return f"{cost.heading} at {'least' if cost.maximize else 'most'} {cost.number(limit)}"


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
