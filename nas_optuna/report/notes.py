"""Notes for optuna-dashboard: each trial with its drawing, and the study's results so far."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from optuna.study import Study
from optuna.trial import FrozenTrial

from nas_optuna.digests import hex_digest
from nas_optuna.errors import NasOptunaError
from nas_optuna.execution.events import Callback, Run, Subject
from nas_optuna.markdown import breakable, code, plain, table
from nas_optuna.quantities import plural
from nas_optuna.report import dashboard
from nas_optuna.report.columns import Column, filled
from nas_optuna.report.confusion import Confusion
from nas_optuna.report.dashboard import dashboard_note, note_in
from nas_optuna.report.drawing import draw_trial
from nas_optuna.report.facts import StudyFacts, figures_of, objective_names, remarks_of, retrained_figures
from nas_optuna.spaces.architecture import text_of
from nas_optuna.study.optuna_internals import trial_id_of
from nas_optuna.study.results import TrialRecord, best_trial, front_trials, ranked
from nas_optuna.study.schema import StudyKey
from nas_optuna.study.significance import Measured, remembered_images
from nas_optuna.study.transactions import chosen_system_attributes, set_study_system_attributes

if TYPE_CHECKING:
    from nas_optuna.execution.retrain import TestReport
    from nas_optuna.spaces import SearchSpace

_GAP = "&emsp;"
"""The end of each cell of a table, as optuna-dashboard leaves no room between columns."""
_RETRAINED = re.compile(r"## Retrained: test accuracy .*\s+!\[Confusion matrix\]\([^)]*\)")
"""What an earlier retraining has added to a trial's note."""
FRONT = 10
"""The most trials of a front that a study's note lists."""


def trial_note(
    trial: FrozenTrial, names: Sequence[str] = ("accuracy",), images: int | None = None, picture: str | None = None
) -> str:
    """Markdown of a finished trial: a sentence, its drawing, its figures with units, its choices."""
    record = TrialRecord.of(trial)
    ended = {"complete": "was trained to the end", "pruned": "was pruned", "fail": "failed"}
    text = f"**{breakable(record.architecture)}** {ended.get(record.state, record.state)}"
    text += f" after {plural(record.epochs, 'epoch')}" if record.epochs and record.state != "complete" else ""
    text += f", which is {plural(record.epochs, 'epoch')}" if record.epochs and record.state == "complete" else ""
    text += "".join(f"; {plain(remark)}" for remark in remarks_of(record))
    parts = [f"{text}."]
    if picture:
        parts.append(f"![The network, drawn: boxes are layers, the bars their shares of MACs]({picture})")
    parts.append(table(["figure", "value"], figures_of(record, names, images), _GAP))
    if trial.params:
        parts.append(architecture_table(trial.params))
    return "\n\n".join(parts)


def architecture_table(params: Mapping[str, Any]) -> str:
    """A Markdown table of a params dict: ``conv1.filters`` is row ``conv1``, column ``filters``."""
    places: dict[str, dict[str, Any]] = {}
    for name, choice in params.items():
        place, _, what = name.partition(".")
        places.setdefault(place, {})[what or "choice"] = text_of(choice)
    columns = list(dict.fromkeys(what for row in places.values() for what in row))
    rows = [[place, *(row.get(what, "") for what in columns)] for place, row in places.items()]
    return table(["", *columns], rows, _GAP)


def study_note(study: Study) -> str:
    """Markdown of a study: its search, its results, and the next step."""
    facts = StudyFacts(study)
    names = facts.names
    parts = [f"A search for neural networks: {plain(facts.what)}", f"{facts.counts}."]
    found = facts.winners
    if found is None:
        parts.append("No trial was trained to the end yet.")
        return "\n\n".join(parts)
    parts.append("## The front" if len(names) > 1 else "## The best")
    ends = {trial.number: trial for trial in (found.best, found.cheapest)}
    shown = ranked(front_trials(facts.study) if len(names) > 1 else ends.values(), facts.maximize)[:FRONT]
    cheapest = found.cheapest.number if len(names) == 1 and len(ends) > 1 else None
    note = Column("note", lambda record: "the cheapest as good" if record.number == cheapest else "", rank=1)
    table_of = filled([*facts.columns(shown), note], shown)
    parts.append(table(table_of["columns"], table_of["rows"], _GAP))
    if facts.gain is not None:
        parts += [f"Best accuracy {facts.gain}.", *facts.gain.remarks()]
    best = trial_id_of(found.best)
    if picture := dashboard.address(study, dashboard.attributes_of(study, best), best, dashboard.DRAWING):
        parts.append(f"![The best network, drawn]({picture})")
    return "\n\n".join([*parts, *_tested(facts)])


def _tested(facts: StudyFacts) -> list[str]:
    reports = facts.attributes.get(StudyKey.RETRAINED, [])
    if not (reports or facts.can_retrain):
        return []
    if not reports:
        chosen = f"which chose the {'front' if len(facts.names) > 1 else 'best'}"
        text = f"These are figures of {facts.ranked_by} images, {chosen}: expect slightly worse ones on new images."
        test = f" {code(facts.command('retrain'))} looks at the test images, once."
        return [text if facts.ranked_by == "test" else text + test]
    on = "the images that chose the best" if facts.ranked_by == "test" else "images that chose nothing"
    text = f"Trained anew on all training images, and scored on {on}:"
    return ["## Test", text, table(["figure", "value"], retrained_figures(reports[0]), _GAP)]


class NoteWriter(Callback):
    """Writes the note of the study and of each ended trial, with a drawing if a space and a store are given."""

    def __init__(self, space: SearchSpace | None = None, store: Path | None = None) -> None:
        self._space = space
        self._store = store
        self._names: Sequence[str] = ()
        self._images: int | None = None

    def run_started(self, run: Run) -> None:
        """Read what all notes need; a trial whose process was killed before its note is told again."""
        self._names = objective_names(run.study)
        self._images = remembered_images(run.study)

    def trial_finished(self, subject: Subject, ended: FrozenTrial | None) -> None:
        """Write the note to the study, where the dashboard looks for it."""
        study = subject.study
        if study is None or ended is None:
            return
        self._write(study, ended)
        best = best_trial(study)
        if len(self._names) > 1 or (best is not None and best.number == ended.number):
            write_study_note(study)

    def run_finished(self, run: Run) -> None:
        """Write the study's note with the final numbers."""
        if run.kind == "search":
            write_study_note(run.study)

    def _write(self, study: Study, ended: FrozenTrial) -> None:
        kept = self._drawn(ended)
        picture = dashboard.address(study, kept, trial_id_of(ended), dashboard.DRAWING)
        body = trial_note(ended, self._names, self._images, picture)
        set_study_system_attributes(study, kept | dashboard_note(body, ended))

    def _drawn(self, ended: FrozenTrial) -> dict[str, Any]:
        if self._space is None or self._store is None or not TrialRecord.of(ended).architecture:
            return {}
        try:
            svg = draw_trial(self._space, ended).svg
            return dashboard.keep(self._store, trial_id_of(ended), {dashboard.DRAWING: svg.encode()})
        except (NasOptunaError, OSError):  # the note goes without a drawing
            return {}


def note_retraining(study: Study, trial: FrozenTrial, store: Path, file: Path, report: TestReport) -> None:
    """Add the results of a retraining to its trial's note: network file, confusion matrix, test accuracy."""
    number, matrix = trial_id_of(trial), "confusion-matrix.svg"
    picture = Confusion.of(report).svg().encode()
    dashboard.replace(study, store, number, {file.name: file.read_bytes(), matrix: picture})
    attributes = dashboard.attributes_of(study, number) | dashboard.attributes_of_note(study, trial)
    drawing = dashboard.address(study, attributes, number, dashboard.DRAWING)
    note = note_in(attributes, trial) or trial_note(trial, objective_names(study), remembered_images(study), drawing)
    seeds = len(report.seeds)
    own = f" (mean of {seeds} seeds; the network in {code(file.name)}: {report.accuracies[0]:.4f})" * (seeds > 1)
    section = f"## Retrained: test accuracy {Measured.on_test(report.to_dict()).exact}{own}\n\n"
    section += f"![Confusion matrix]({dashboard.address(study, attributes, number, matrix)})"
    # The rest may be a person's own words.
    body, found = _RETRAINED.subn(lambda _: section, note, count=1)
    set_study_system_attributes(study, dashboard_note(body if found else f"{note}\n\n{section}", trial, attributes))
    write_study_note(study)


def write_study_note(study: Study) -> None:
    """Write the note of a study for the dashboard, unless a person has changed it."""
    if study.user_attrs.get(StudyKey.SPEC) is None:
        return  # a plain Optuna study with our objective
    attributes = dashboard.attributes_of_note(study)
    before = note_in(attributes)
    known = chosen_system_attributes(study, [StudyKey.NOTE])
    if before and known.get(StudyKey.NOTE) != hex_digest(before, 16, "sha256"):
        return
    body = study_note(study)
    note = dashboard_note(body, None, attributes)
    set_study_system_attributes(study, note | {StudyKey.NOTE: hex_digest(body, 16, "sha256")})
