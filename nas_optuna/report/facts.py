"""Facts of a study and of its trials for tables, notes and pages; each is read once."""

from __future__ import annotations

import csv
import io
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from functools import cached_property, partial
from itertools import accumulate, pairwise
from typing import Any

from optuna.study import Study
from optuna.trial import FrozenTrial

from nas_optuna.objectives import describe
from nas_optuna.quantities import Quantity, duration, plural
from nas_optuna.report import charts
from nas_optuna.report.columns import Column
from nas_optuna.report.selection import Winners, gain_of, objective_names, winners
from nas_optuna.spec import StudySpec
from nas_optuna.study.optuna_internals import read_once
from nas_optuna.study.results import REFERENCE, TrialRecord, changes, complete_trials, cost_names, ranked, reference_of
from nas_optuna.study.schema import StudyKey, reports_of
from nas_optuna.study.significance import Gain, Measured, remembered_images, standard_error, with_error
from nas_optuna.study.studies import command, maximizes, study_spec

Section = dict[str, Any]
"""The values of one section of a template."""
STATES = ("complete", "pruned", "fail", "running", "waiting", "unreadable")


class StudyFacts:
    """A study for every table, note and page."""

    def __init__(self, study: Study) -> None:
        self.study = read_once(study)
        self.attributes = self.study.user_attrs
        self.trials = self.study.get_trials(deepcopy=False)
        self.complete = complete_trials(self.study)
        self.maximize = maximizes(self.study)
        self.names = objective_names(self.study)
        self.images = remembered_images(self.study)  # that validate; None if unknown

    @cached_property
    def spec(self) -> StudySpec:
        """The study's spec."""
        return study_spec(self.study)

    @property
    def what(self) -> str:
        """A sentence on what is searched, and how."""
        spec = self.spec
        how = f"pruner {spec.pruner.name}, {plural(spec.recipe.epochs, 'epoch')} per trial"
        by_clock = {StudyKey.FIT, StudyKey.WITHIN} & self.attributes.keys()
        how = "trainings of about equal seconds" if by_clock else how
        return f"{spec.goal()} on {spec.data.name}, space {spec.space.name}, sampler {spec.sampler.name}, {how}."

    @cached_property
    def records(self) -> list[TrialRecord]:
        """All trials, best first."""
        return ranked(self.trials, self.maximize)

    @cached_property
    def winners(self) -> Winners | None:
        """The best trial and the cheapest that is as good."""
        return winners(self.study, self.images)

    @cached_property
    def gain(self) -> Gain | None:
        """The gain of the search, if its first objective is accuracy."""
        return gain_of(self.study)

    @property
    def counts(self) -> str:
        """E.g. ``"20 trials: 6 complete, 14 pruned"``."""
        states = Counter(record.state for record in self.records)
        parts = [f"{states[state]:,} {'failed' if state == 'fail' else state}" for state in STATES if states[state]]
        return f"{plural(len(self.records), 'trial')}: {', '.join(parts)}" if parts else "no trials yet"

    def described(self, record: TrialRecord) -> list[tuple[str, object]]:
        """One trial as names and values: number, architecture, figures as in `figures_of`, and chosen settings."""
        named = [("trial", record.number), ("architecture", record.architecture)]
        chosen = [(name, _setting(name, record)) for name in record.settings]
        return [*named, *figures_of(record, self.names, self.images), ("epochs", record.epochs), *chosen]

    def columns(
        self, records: Sequence[TrialRecord], *, kept: int = 1, brief: bool = False, errors: bool = True
    ) -> list[Column]:
        """The columns of a table of trials: number, objectives (the first `kept` stay), epochs, costs, architecture.

        A terminal shows `brief` figures under the names of a spec, a page exact figures under headings for people.
        """

        def objective(place: int, record: TrialRecord) -> str | None:
            texts = objectives_of(record, self.names, self.images, brief=brief, errors=errors)
            return texts[place][1] if place < len(texts) else None

        def cost(quantity: Quantity, record: TrialRecord) -> str | None:
            write = quantity.brief if brief else quantity.number
            return write(record.costs[quantity.name]) if quantity.name in record.costs else None

        headings = self.names if brief else [describe(name).heading for name in self.names]
        costs = [describe(name) for name in cost_names(records, self.names)]
        reference = reference_of(self.trials)
        ranks = (3, *range(8, 99))  # the first cost stays longer than epochs and time do
        return [
            Column("trial", lambda record: record.number, right=True),
            *(
                Column(heading, partial(objective, place), right=True, shortest=15, rank=2 * (place >= kept))
                for place, heading in enumerate(headings)
            ),
            Column("epochs", lambda record: record.epochs or None, right=True, rank=5),
            *(
                Column(name, partial(_setting, name), right=True, rank=4)
                for name in dict.fromkeys(name for record in records for name in record.settings)
            ),
            *(
                Column(each.heading, partial(cost, each), right=True, rank=rank)
                for each, rank in zip(costs, ranks, strict=False)
            ),
            Column(
                "changes to the reference" if reference else "architecture",
                lambda record: changes(record.architecture, reference),
                shortest=28,
            ),
        ]

    def command(self, name: str, *words: str) -> str:
        """A command for this study, for a person to type."""
        return command(self.study, name, "--study", self.study.study_name, *words)


def _setting(name: str, record: TrialRecord) -> object:
    """What a trial chose for a setting of the recipe, in four digits."""
    value = record.settings.get(name)
    return f"{value:.4g}" if isinstance(value, float) else value


def objectives_of(
    record: TrialRecord, names: Sequence[str], images: int | None = None, *, brief: bool = False, errors: bool = True
) -> list[tuple[str, str]]:
    """Names and values of a trial's objectives, an accuracy with its standard error on that many images."""
    return [
        (name, with_error(name, value, standard_error(value, images, record.spread) if errors else None, brief=brief))
        for name, value in zip(names, record.values, strict=False)
    ]


def figures_of(record: TrialRecord, names: Sequence[str], images: int | None) -> list[tuple[str, str]]:
    """A trial's figures with units for a person."""
    rows = [
        (name, text)
        for name, text in objectives_of(record, names, images)
        if name.partition(":")[0] not in record.costs
    ]
    if record.accuracy is not None and "accuracy" not in names:
        error = standard_error(record.accuracy, images, record.spread)
        rows.append(("accuracy", with_error("accuracy", record.accuracy, error)))
    costs = [describe(name) for name in cost_names([record])]
    rows += [(cost.label or cost.name, cost.text(record.costs[cost.name])) for cost in costs]
    rows += [("training time", f"{record.seconds:.1f} s")] if record.seconds else []
    return rows + ([("proposed by", record.origin)] if record.origin else [])


def remarks_of(record: TrialRecord) -> list[str]:
    """Remarks on where a trial came from and how it ended, if there are any."""
    remarks = [REFERENCE] if record.origin == REFERENCE else []
    remarks += [f"continues trial {record.continues}"] if record.continues is not None else []
    remarks += [f"as trial {record.duplicate_of}"] if record.duplicate_of is not None else []
    return remarks + ([record.cause] if record.cause else [])


def retrained_figures(report: Mapping[str, Any]) -> list[tuple[str, object]]:
    """The results of a retraining that a study remembers, as names and values."""
    seeds, many, spread = report["seeds"], len(report["seeds"]) > 1, report.get("spread")
    # Only what the test accuracy needs is certain to be there (`study.schema`).
    each = zip(seeds, report.get("accuracies", ()), strict=False) if many else ()
    trained = f"{report['images']:,} for training, " if "images" in report else ""
    rows = [
        ("trial", report.get("trial")),
        ("architecture", report["architecture"]),
        (f"mean test accuracy of {len(seeds)} seeds" if many else "test accuracy", Measured.on_test(report).exact),
        *((f"seed {seed}", f"{accuracy:.4f}") for seed, accuracy in each),
        ("standard deviation over seeds", f"{spread:.4f}" if many and spread is not None else None),
        ("images", f"{trained}{report['test_images']:,} for test"),
        ("time", duration(report["seconds"]) if "seconds" in report else None),
        ("device", report.get("device")),
    ]
    return [row for row in rows if row[1] is not None]


def titles_of(trials: Sequence[FrozenTrial]) -> list[str]:
    """Tooltips of trials in a chart."""
    return [f"trial {t.number}: {TrialRecord.of(t).architecture}" for t in trials]


def staircase(points: Sequence[charts.Point], *, maximize: bool) -> list[charts.Point]:
    """Corners of the step line of the best value so far; the first is infinite, which no chart draws."""
    start, better = (-math.inf, max) if maximize else (math.inf, min)
    bests = accumulate((value for _, value in points), better, initial=start)
    return [(x, best) for (x, _), step in zip(points, pairwise(bests), strict=True) for best in step]


def curve_of(trial: FrozenTrial) -> list[charts.Point]:
    """The points of a trial's learning curve."""
    return sorted((float(epoch), value) for epoch, value in reports_of(trial).items())


def rows(study: Study) -> list[dict[str, Any]]:
    """One flat dict per trial: its record, and a key for each objective, cost and parameter."""
    names = objective_names(study)
    result = []
    for trial in study.get_trials(deepcopy=False):
        record = TrialRecord.of(trial).to_dict()
        values, costs, _ = record.pop("values"), record.pop("costs"), record.pop("settings")
        record |= costs | dict(zip(names, values, strict=False)) | {f"param.{k}": v for k, v in trial.params.items()}
        result.append(record)
    return result


def to_csv(records: Sequence[Mapping[str, Any]]) -> str:
    """CSV with a heading; a field that a trial lacks is empty."""
    columns = list(dict.fromkeys(key for record in records for key in record))
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows(records)
    return text.getvalue()
