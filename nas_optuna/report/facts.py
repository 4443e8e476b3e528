"""Facts of a study and of its trials, each read once: which trial is best, and figures for tables, notes and pages."""

from __future__ import annotations

import csv
import io
import math
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from itertools import accumulate, pairwise
from pathlib import Path
from typing import Any

from optuna.study import Study
from optuna.trial import FrozenTrial

from nas_optuna.errors import StudyError, printable, shown
from nas_optuna.lazily import lazily
from nas_optuna.metrics import ACCURACIES, selecting_accuracy
from nas_optuna.objectives import describe
from nas_optuna.quantities import Quantity, duration, plural
from nas_optuna.report import charts
from nas_optuna.report.columns import Column
from nas_optuna.spaces import SearchSpace, create_space
from nas_optuna.spec import StudySpec
from nas_optuna.study.optuna_internals import read_once
from nas_optuna.study.results import (
    REFERENCE,
    TrialRecord,
    best_of,
    changes,
    complete_trials,
    cost_names,
    longest_trained,
    ranked,
    reference_of,
)
from nas_optuna.study.schema import StudyKey, TrialKey, attribute, reports_of
from nas_optuna.study.significance import Gain, Measured, error_of, remembered_images, standard_error, with_error
from nas_optuna.study.studies import command, has_spec, maximizes, study_spec
from nas_optuna.study.transactions import metric_names

with lazily():
    from nas_optuna.costs.latency_table import LatencyTable

Section = dict[str, Any]
"""The values of one section of a template."""
STATES = ("complete", "pruned", "fail", "running", "waiting", "unreadable")


@dataclass(frozen=True)
class Winners:
    """The best trial of a study, and those that may be behind it only by chance."""

    best: FrozenTrial  # the best complete trial in the first objective
    error: float | None  # one standard error of its accuracy; None if that is unknown, or another objective is first
    # the complete trials whose accuracies are at most one standard error below the best, the best first; each network
    # once
    tied: tuple[FrozenTrial, ...]
    cheapest: FrozenTrial  # the one of `tied` with the fewest MACs (the one-standard-error rule, Breiman et al. 1984)


class StudyFacts:
    """A study for every command, table, note and page."""

    def __init__(self, study: Study) -> None:
        self.study = read_once(study)
        self.attributes = self.study.user_attrs
        self.trials = self.study.get_trials(deepcopy=False)
        self.complete = complete_trials(self.study)
        self.maximize = maximizes(self.study)
        self.names = objective_names(self.study)
        self.images = remembered_images(self.study)  # that validate; None if unknown

    @cached_property
    def comparable(self) -> list[FrozenTrial]:
        """The complete trials that were trained longest: values of shorter trainings say something else."""
        return longest_trained(self.complete)

    @cached_property
    def spec(self) -> StudySpec:
        """The study's spec."""
        return study_spec(self.study)

    @cached_property
    def space(self) -> SearchSpace:
        """The study's space, made without its images."""
        spec, identity = self.spec.space, self.attributes.get(StudyKey.SPACE)
        if identity is None:
            raise StudyError(f"study {self.study.study_name!r} does not say which images its space is for")
        size, like = identity["input_size"], {name: identity[name] for name in ("in_channels", "classes")}
        return create_space(spec.name, spec.options, **like, input_size=tuple(size) if isinstance(size, list) else size)

    @property
    def what(self) -> str:
        """A sentence on what is searched, and how."""
        spec = self.spec
        images, epochs = f"on {spec.data.name}", f", {plural(spec.recipe.epochs, 'epoch')} per trial"
        by, length = (images, epochs) if spec.trains else (f"by {spec.evaluator.name}", "")
        by_clock = {StudyKey.FIT, StudyKey.WITHIN} & self.attributes.keys()
        how = "trainings of about equal seconds" if by_clock else f"pruner {spec.pruner.name}{length}"
        return f"{spec.goal()} {by}, space {spec.space.name}, sampler {spec.sampler.name}, {how}."

    @property
    def can_retrain(self) -> bool:
        """Whether retrain and export are of use: neither to a study of Optuna alone, nor to an evaluator of its own."""
        return has_spec(self.study) and self.spec.trains

    @property
    def ranked_by(self) -> str:
        """The images that ranked the networks: ``"validation"`` or ``"test"``."""
        return self.spec.data.select_on if self.can_retrain else "validation"

    @property
    def selected_by_cost(self) -> bool:
        """Whether the first objective is a cost: then neither images nor luck selected the winner."""
        return getattr(describe(self.names[0]), "metric", "") is None

    @cached_property
    def reference(self) -> str | None:
        """The architecture of the space's reference; see `reference_of`."""
        return reference_of(self.trials)

    @cached_property
    def records(self) -> list[TrialRecord]:
        """All trials, best first."""
        return ranked(self.trials, self.maximize)

    @cached_property
    def winners(self) -> Winners | None:
        """The best trial and the cheapest that is as good."""
        return self.winners_among()

    def winners_among(self, numbers: Collection[int] | None = None) -> Winners | None:
        """The winners among all trials or those with these numbers; None without a complete trial."""
        trials = longest_trained([t for t in self.complete if numbers is None or t.number in numbers])
        best = best_of(self.study, trials)
        if best is None:
            return None
        error = error_of(best, self.images) if self.names[0] in ACCURACIES else None
        if error is None:
            return Winners(best, None, (best,), best)
        least = best.values[0] - error
        tied = [
            trial
            for trial in trials
            if trial.values[0] >= least and (trial is best or attribute(trial, TrialKey.DUPLICATE_OF) is None)
        ]
        tied.sort(key=lambda trial: (-trial.values[0], trial.number))
        # MACs decide which is cheapest: every trial has them, and they are the same on every device.
        return Winners(best, error, tuple(tied), min(tied, key=lambda t: attribute(t, TrialKey.cost("macs"), math.inf)))

    def require_error(self, found: Winners, remedy: str) -> None:
        """Refuse, with a remedy, to select a network as good as the best if no standard error is known."""
        if found.error is None:
            raise StudyError(
                f"no standard error is known of {self.names[0]} in study {self.study.study_name!r}; {remedy}"
            )

    def no_complete_trial(self) -> StudyError:
        """The error of a command that needs a complete trial."""
        remedy = f"; {self.command('run')} makes some" if has_spec(self.study) else ""
        return StudyError(f"study {self.study.study_name!r} has no complete trial yet{remedy}")

    def choose(self, which: str) -> FrozenTrial:
        """The trial named ``"best"`` or ``"cheapest"`` (at most one standard error below it), or by its number."""
        if which in ("best", "cheapest"):
            if self.winners is None:
                raise self.no_complete_trial()
            if which == "cheapest":
                self.require_error(self.winners, "choose best")
            return self.winners.best if which == "best" else self.winners.cheapest
        # Rows may be removed, so numbers are no places; and Python reads no number of thousands of digits.
        number = int(which) if which.isdecimal() and len(which) < 10 else -1
        trial = next((trial for trial in self.trials if trial.number == number), None)
        if trial is None:
            numbers = f" or a number below {self.trials[-1].number + 1}" if self.trials else ""
            raise StudyError(f"{shown(which)} is no trial of this study; choose best, cheapest{numbers}")
        if not TrialRecord.of(trial).architecture:
            raise StudyError(f"trial {trial.number} has no architecture yet; choose another")
        return trial

    @cached_property
    def gain(self) -> Gain | None:
        """The gain of the search, if its first objective is accuracy."""
        return self.gain_of()

    def gain_of(self, chosen: FrozenTrial | None = None) -> Gain | None:
        """The gain of the best or `chosen` trial; None without one, or if the first objective is no accuracy."""
        images, best = self.images, chosen or best_of(self.study, self.complete)
        if best is None or images is None or self.names[0] not in ACCURACIES:
            return None
        measured, tested = Measured.of_trial(best, images), self.on_test(best.number)
        majority: float | None = self.attributes.get(StudyKey.DATA, {}).get("majority")
        own: dict[str, Any] = self.attributes.get(StudyKey.REFERENCE, {})
        # A trial that chooses settings of the recipe has an identity of its own; its user would have kept the recipe's.
        by_recipe = bool(own and TrialRecord.of(best).settings)
        if by_recipe or own.get("identity", "") == attribute(best, TrialKey.IDENTITY):
            return Gain(measured, Measured.on(images, own["accuracy"], own.get("spread")), majority, tested=tested)
        references = (t for t in self.complete if attribute(t, TrialKey.ORIGIN) == REFERENCE)
        alike = [t for t in references if len(longest_trained([t, best])) == 2]  # a longer training is ahead by that
        reference = best_of(self.study, alike)
        same = reference is not None and reference.params == best.params
        beside = None if reference is None else Measured.of_trial(reference, images)
        return Gain(measured, beside, majority, is_reference=same, tested=tested)

    def on_test(self, trial: int | None) -> Measured | None:
        """The test accuracy of a trial, or of the user's own reference, at the first look; None if not tested."""
        # By trial: another one of the same architecture may have other settings of the recipe.
        reports: list[dict[str, Any]] = self.attributes.get(StudyKey.RETRAINED, [])
        found = (report for report in reports if "trial" in report and report["trial"] == trial)
        return next(map(Measured.on_test, found), None)

    def latencies_by(self, file: Path) -> tuple[dict[int, float], float | None]:
        """Trial number → milliseconds of each complete trial's network by a latency table, and the table's margin."""
        space = self.space
        table = LatencyTable.open(file, space, force=self.spec.latency.force, anyway=None)
        written = {t.number: TrialRecord.of(t).architecture for t in self.complete}
        told = {number: table.architecture_ms(space, space.parse(text)) for number, text in written.items() if text}
        return told, table.margin(space)

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
        reference = self.reference
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


def objective_names(study: Study) -> list[str]:
    """Names of a study's objectives, in order; a study that is not ours may not name them."""
    several = [f"value_{i}" for i in range(len(study.directions))] if len(study.directions) > 1 else ["value"]
    return metric_names(study) or several


def _setting(name: str, record: TrialRecord) -> object:
    """What a trial chose for a setting of the recipe, in four digits."""
    value = record.settings.get(name)
    return f"{value:.4g}" if isinstance(value, float) else value


def accuracy_error(
    record: TrialRecord, name: str, value: float | None, names: Sequence[str], images: int | None
) -> float | None:
    """One standard error of a trial's accuracy of this name; its spread is known of one accuracy only."""
    metrics = [metric for objective in names if (metric := getattr(describe(objective), "metric", None))]
    return standard_error(value, images, record.spread if name == selecting_accuracy(metrics) else None)


def objectives_of(
    record: TrialRecord, names: Sequence[str], images: int | None = None, *, brief: bool = False, errors: bool = True
) -> list[tuple[str, str]]:
    """Names and values of a trial's objectives, an accuracy with its standard error on that many images."""

    def text(name: str, value: float) -> str:
        error = accuracy_error(record, name, value, names, images) if errors else None
        return with_error(name, value, error, brief=brief)

    return [(name, text(name, value)) for name, value in zip(names, record.values, strict=False)]


def figures_of(record: TrialRecord, names: Sequence[str], images: int | None) -> list[tuple[str, str]]:
    """A trial's figures with units for a person."""
    rows = [
        (name, text)
        for name, text in objectives_of(record, names, images)
        if name.partition(":")[0] not in record.costs
    ]
    if record.accuracy is not None and "accuracy" not in names:
        error = accuracy_error(record, "accuracy", record.accuracy, names, images)
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
    rows: list[list[Any]] = [columns, *([record.get(column) for column in columns] for record in records)]
    # A terminal would obey the control characters of somebody else's study.
    printed = ([printable(cell) if isinstance(cell, str) else cell for cell in row] for row in rows)
    csv.writer(text, lineterminator="\n").writerows(printed)
    return text.getvalue()
