"""``nas-optuna report``: a study as one self-contained HTML page for somebody who was not there."""

from __future__ import annotations

import csv
import io
import math
import re
import shlex
import warnings
import xml.sax.saxutils as xml
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import optuna
from optuna.study import Study
from optuna.trial import FrozenTrial, TrialState

from nas_optuna.errors import NasOptunaError
from nas_optuna.hyperparameters import of_architecture
from nas_optuna.masking import mask_urls
from nas_optuna.objectives import describe
from nas_optuna.report import charts
from nas_optuna.report.charts import Series
from nas_optuna.report.drawing import draw_trial
from nas_optuna.report.selection import Winners, complete_trials, gain_of, space_of, validation_images, winners
from nas_optuna.spaces import SearchSpace
from nas_optuna.spec_text import to_toml
from nas_optuna.study.hints import command
from nas_optuna.study.optuna_internals import read_once, url_of
from nas_optuna.study.records import TrialRecord, cost_names, count, ranked
from nas_optuna.study.schema import StudyKey, TrialKey, attribute
from nas_optuna.study.standard_errors import accuracy_on_test, standard_error, with_error
from nas_optuna.study.studies import maximizes, study_spec
from nas_optuna.study.trial_queue import REFERENCE

LEAST_FOR_CHECK = 5
"""Networks trained alone below which a rank correlation says nothing."""
LEAST_FOR_IMPORTANCE = 10
"""Complete trials below which a share of importance would be a guess."""
MANY = 40
"""Curves from which on they would hide each other, and are drawn thin."""
AXES = 12
"""Parameters that parallel coordinates have room for."""
_COLOURS = """
:root { --paper: #ffffff; --ink: #1f2430; --faint: #5b6577; --edge: #d5dbe6; --panel: #f5f7fb; --one: #2f6fde;
  --two: #d9622b; --three: #1d8a5a; --four: #8a4fc7; color-scheme: light dark; }
@media (prefers-color-scheme: dark) { :root { --paper: #14171d; --ink: #e7eaf0; --faint: #a3adbd; --edge: #3a4353;
  --panel: #1c2029; --one: #7aa7f5; --two: #f09a6b; --three: #5cc79a; --four: #bd92ea; } }
body { margin: 0 auto; max-width: 1080px; padding: 16px; background: var(--paper); color: var(--ink);
  font: 16px/1.5 system-ui, "Segoe UI", Roboto, sans-serif; }
h1 { font-size: 1.6em; margin: .4em 0; overflow-wrap: anywhere } h2 { font-size: 1.2em; margin: 2em 0 .4em;
  border-bottom: 1px solid var(--edge) } .faint { color: var(--faint) }
code, pre { font-size: .9em; overflow-wrap: anywhere }
pre { background: var(--panel); padding: 10px; overflow-x: auto; border-radius: 6px } .scroll { overflow-x: auto }
.pair { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 380px), 1fr)); gap: 20px }
table { border-collapse: collapse; font-size: .92em } td, th { padding: 3px 10px 3px 0; text-align: left;
  border-bottom: 1px solid var(--edge); vertical-align: top } td.n, th.n { text-align: right; white-space: nowrap }
td.n + td:last-child { min-width: 9em } .drawing { overflow-x: auto; margin: 1em 0 }
.drawing > svg { max-width: max(100%, 600px); height: auto }
 .key { margin-right: 1em; white-space: nowrap } .legend { font-size: .85em; margin: 0 }
.facts { display: flex; flex-wrap: wrap; gap: 10px; margin: 1em 0 } .facts div { background: var(--panel);
  border-radius: 8px; padding: 8px 14px } .facts b { display: block; font-size: 1.25em }
h3 { font-size: 1em; margin: 1em 0 .2em }
""".strip()


@dataclass
class _Facts:
    """What the sections share; each is read once."""

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


def report(study: Study, data_directory: Path | None = None, files: Path | None = None) -> str:
    """A study as one HTML page that needs neither an internet connection nor scripts.

    Args:
        study: A study of ours, in any state: empty, running, or all pruned.
        data_directory: Where data sets are; the number of validation images gives the error bars.
        files: The storage's folder of files, in which a supernet's training leaves its history.

    Raises:
        StudyError: The study was not made by nas-optuna.
    """
    facts = _Facts(study, data_directory, files)
    sections = (_winner, _test, _ranking, _progress, _tradeoffs, _parameters, _supernet, _effort, _reproduce)
    body = "".join(section(facts) for section in sections)
    return document(f"Report of study {study.study_name}", _heading(facts) + body)


def document(title: str, body: str) -> str:
    """A whole page around its body."""
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{_escaped(title)}</title><style>{_COLOURS}\n{charts.STYLE}</style></head><body>{body}</body></html>\n"
    )


def _escaped(value: object) -> str:
    return xml.escape("".join(c for c in str(value) if c.isprintable()), {'"': "&quot;"})


def table(headings: Sequence[str], rows: Iterable[Sequence[object]], numbers: Iterable[int] = ()) -> str:
    """An HTML table; every cell is text, and None is an empty one."""
    right = set(numbers)

    def line(tag: str, cells: Sequence[object]) -> str:
        return "".join(
            f"<{tag}{' class=n' if i in right else ''}>{'' if c is None else _escaped(c)}</{tag}>"
            for i, c in enumerate(cells)
        )

    head = f"<tr>{line('th', headings)}</tr>" if any(headings) else ""
    body = "".join(f"<tr>{line('td', row)}</tr>" for row in rows)
    return f'<div class="scroll"><table>{head}{body}</table></div>'


def duration(seconds: float) -> str:
    """``"8.1 s"``, ``"3 min 20 s"``, ``"2 h 5 min"``."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    return f"{whole // 60} min {whole % 60} s" if whole < 3600 else f"{whole // 3600} h {whole % 3600 // 60} min"


def _heading(facts: _Facts) -> str:
    spec, states = facts.spec, Counter(trial.state for trial in facts.trials)
    limits = "".join(f", {_limit(name, limit)}" for name, limit in spec.limits.items())
    what = (
        f"{' and '.join(map(_named, spec.objectives))}{limits} on {spec.data.name}, space {spec.space.name}, sampler"
        f" {spec.sampler.name}, pruner {spec.pruner.name}, {count(spec.recipe.epochs, 'epoch')} per trial."
    )
    boxes = [("trial" if len(facts.trials) == 1 else "trials", len(facts.trials))]
    boxes += [(state.name.lower(), states[state]) for state in TrialState if states[state]]
    cells = "".join(f"<div><b>{number:,}</b>{_escaped(name)}</div>" for name, number in boxes)
    return (
        f"<h1>{_escaped(facts.study.study_name)}</h1><p>A search for neural networks: {_escaped(what)}</p>"
        f'<div class="facts">{cells}</div>'
    )


def _winner(facts: _Facts) -> str:
    found = facts.winners
    if found is None:
        return _no_winner(facts)
    best, several = found.best, len(facts.names) > 1
    text = f"<h2>The winner{f' in {_escaped(_named(facts.first))}' if several else ''}</h2>"
    images = "" if facts.images is None else f"{facts.images:,} "
    text += f'<div class="pair"><div>{_facts_of(facts, best)}{_gain(facts)}'
    text += f'<p class="faint">These figures are of the {images}validation images, which selected the winner: the best'
    text += " of many is partly luck, so expect a little less on new images. ± is one standard error.</p>"
    if found.cheapest.number != best.number:
        text += "<h3>The cheapest that is as good</h3><p>Its accuracy is within one standard error of the winner's:</p>"
        text += _facts_of(facts, found.cheapest)
    elif found.error is not None:
        text += "<p>No trial with fewer MACs is within one standard error of it.</p>"
    drawing = f'<div class="drawing">{_drawing(facts, best)}</div>'
    width = re.search(r'<svg[^>]* width="(\d+)"', drawing)
    beside = width is None or int(width[1]) < 500  # a chain of layers; branches need the page's whole width
    return f"{text}</div>{drawing}</div>" if beside else f"{text}</div></div>{drawing}"


def _gain(facts: _Facts) -> str:
    """What the search brought over the reference and over the largest class."""
    gain = gain_of(facts.study)
    if gain is None or not gain.beside:
        return ""
    remarks = "".join(f"<p><strong>{_escaped(remark)}</strong></p>" for remark in gain.remarks())
    return f"<p>{_escaped(facts.first.capitalize())} {_escaped(gain)}.</p>{remarks}"


def _no_winner(facts: _Facts) -> str:
    typed = command(facts.study, "run", "--study", facts.study.study_name)
    text = "<h2>The winner</h2><p>No trial inside the limits was trained to the end yet, so that there is no winner."
    ends = {TrialState.COMPLETE: "outside the limits", TrialState.PRUNED: "stopped by the pruner"}
    finished = [trial for trial in facts.trials if trial.state.is_finished()]
    causes = Counter(TrialRecord.of(trial).cause or ends.get(trial.state, "failed") for trial in finished)
    text += "".join(f" {count(number, 'trial')}: {_escaped(cause)}." for cause, number in causes.most_common(5))
    text += f" <code>{_escaped(typed)}</code> goes on"
    pruned = causes["stopped by the pruner"]
    return f"{text}{'; <code>--pruner none</code> lets every trial end' if pruned else ''}.</p>"


def _facts_of(facts: _Facts, trial: FrozenTrial) -> str:
    record = TrialRecord.of(trial)
    error = standard_error(record, facts.images)
    rows: list[tuple[str, object]] = [("trial", record.number), ("architecture", record.architecture)]
    for name, value in zip(facts.names, record.values, strict=True):
        rows.append((_named(name), with_error(name, value, error)))
    if record.accuracy is not None and "accuracy" not in facts.names:
        rows.append(("accuracy", with_error("accuracy", record.accuracy, error)))
    costs = {name: describe(name) for name in cost_names([record], facts.names)}
    rows += [(cost.heading, cost.brief(record.costs[name])) for name, cost in costs.items()]
    rows += [("epochs", record.epochs), ("training time", duration(record.seconds))]
    return table(("", ""), rows)


def _drawing(facts: _Facts, trial: FrozenTrial) -> str:
    try:
        return draw_trial(space_of(facts.study), trial).svg
    except NasOptunaError as error:
        return f'<p class="faint">The network is not drawn: {_escaped(error)}</p>'


def _test(facts: _Facts) -> str:
    reports: list[dict[str, Any]] = facts.attributes.get(StudyKey.RETRAINED, [])
    if not reports and facts.winners is None:
        return ""
    if not reports:
        typed = command(facts.study, "retrain", "--study", facts.study.study_name)
        return (
            f"<h2>Test</h2><p>The test images were not looked at yet. <code>{_escaped(typed)}</code> trains the winner"
            " on all training images and reports its test accuracy, once.</p>"
        )
    first, seeds = reports[0], len(reports[0]["seeds"])
    rows = [
        ("trial", first.get("trial")),
        ("architecture", first["architecture"]),
        ("test accuracy" if seeds == 1 else f"mean test accuracy of {seeds} seeds", accuracy_on_test(first)),
        ("standard deviation over seeds", None if first["spread"] is None else f"{first['spread']:.4f}"),
        ("seeds", len(first["seeds"])),
        ("images", f"{first['images']:,} for training, {first['test_images']:,} for test"),
        ("device", first["device"]),
    ]
    text = "<h2>Test</h2><p>Trained anew on training and validation images together, and scored on images that chose"
    text += f" nothing:</p>{table(('', ''), [row for row in rows if row[1] is not None])}"
    text += _confusion(facts)
    if len(reports) > 1:
        text += f"<p>The test images were looked at {len(reports)} times in all; only the first look is shown, because"
        text += " whoever chooses among several would make the figure too good.</p>"
    return text


def _confusion(facts: _Facts) -> str:
    from nas_optuna.execution.retrain import confusion
    from nas_optuna.report.confusion import Confusion

    found = confusion(facts.attributes)
    if found is None:
        return ""
    reports: list[dict[str, Any]] = facts.attributes.get(StudyKey.RETRAINED, [])
    matrix = Confusion(*found, seeds=len(reports[0]["seeds"]))
    rows = [(name, f"{accuracy:.4f}", images, taken) for name, accuracy, images, taken in matrix.accuracies()]
    worst = table(("true class", "accuracy", "images", "most often mistaken for"), rows[:20], (1, 2))
    some = f"The worst 20 of {len(rows)} classes" if len(rows) > 20 else "Each class, worst first"
    return (
        f'<h3>Which class is taken for which</h3><div class="pair"><div><p>{some}:</p>{worst}</div>'
        f'<div class="scroll">{matrix.svg()}</div></div>'
    )


def _ranking(facts: _Facts) -> str:
    several = len(facts.names) > 1
    found = facts.study.best_trials if several and facts.complete else facts.complete
    records = ranked(found, facts.maximize)
    if not records or len(facts.complete) == 1:
        return ""
    heading = f"The best {min(10, len(records))}"
    if several:
        heading = f"The front: {count(len(records), 'trial')} that no other beats in every objective"
        heading += ", the first 10" if len(records) > 10 else ""
    records = records[:10]
    costs = {name: describe(name) for name in cost_names(records, facts.names)}
    errors = {r.number: standard_error(r, facts.images) for r in records}
    rows = [
        (
            r.number,
            *(with_error(n, v, errors[r.number]) for n, v in zip(facts.names, r.values, strict=True)),
            r.epochs,
            *(cost.brief(r.costs[name]) if name in r.costs else "" for name, cost in costs.items()),
            f"{r.architecture} (reference)" if r.origin == REFERENCE else r.architecture,
        )
        for r in records
    ]  # fmt: skip
    headings = [cost.heading for cost in costs.values()]
    columns = ("trial", *map(_named, facts.names), "epochs", *headings, "architecture")
    return f"<h2>{heading}</h2>" + table(columns, rows, range(len(columns) - 1))


def _progress(facts: _Facts) -> str:
    if not facts.trials:
        return ""
    dots = [(t.number, t.values[0]) for t in facts.complete]
    best = best_so_far(facts.complete, facts.maximize)
    errors: Sequence[float] = ()
    if facts.first == "accuracy":
        errors = [standard_error(TrialRecord.of(t), facts.images) or 0.0 for t in facts.complete]
    titles = [f"trial {t.number}: {TrialRecord.of(t).architecture}" for t in facts.complete]
    history = charts.plot(
        [
            Series(dots, "dot faint", titles, errors, "complete trial"),
            Series(best, "line s0", name="best so far"),
        ],
        "trial",
        _named(facts.first),
    )
    pale: list[list[charts.Point]] = []
    strong: list[list[charts.Point]] = []
    for trial in facts.trials:
        points = _curve(trial)
        if points:
            (strong if trial.state == TrialState.COMPLETE else pale).append(points)
    curves = [Series(points, "pale", name="" if i else "pruned") for i, points in enumerate(pale)]
    many = " many" if len(strong) > MANY else ""
    curves += [Series(points, f"line s0{many}", name="" if i else "complete") for i, points in enumerate(strong)]
    if facts.winners and len(strong) > 1:
        curves.append(Series(_curve(facts.winners.best), "line s1", name="the winner"))
    learning = charts.plot(
        curves, "epoch", _named(facts.first) if len(facts.names) == 1 else "what trials are pruned by"
    )
    return (
        f'<h2>How it went</h2><div class="pair"><div><h3>Best so far</h3>{history}</div>'
        f"<div><h3>Learning curves</h3>{learning}</div></div>"
    )


def _named(objective: str) -> str:
    return describe(objective).heading


def _limit(name: str, limit: float) -> str:
    cost = describe(name)
    return f"{cost.heading} at {'least' if cost.maximize else 'most'} {cost.number(limit)}"


def best_so_far(complete: Sequence[FrozenTrial], maximize: bool) -> list[charts.Point]:
    """Corners of the step line of the best value, by trial number."""
    points: list[charts.Point] = []
    best = -math.inf if maximize else math.inf
    for trial in complete:
        value = max(best, trial.values[0]) if maximize else min(best, trial.values[0])
        points += [(trial.number, best), (trial.number, value)]
        best = value
    return points


def _curve(trial: FrozenTrial) -> list[charts.Point]:
    """Epoch and value, of a study of several objectives from what its pruner compares."""
    reports: dict[Any, float] = trial.intermediate_values or attribute(trial, TrialKey.REPORTS, {})
    return sorted((float(epoch), value) for epoch, value in reports.items())


def _tradeoffs(facts: _Facts) -> str:
    plots = []
    costs = {trial.number: TrialRecord.of(trial).costs for trial in facts.complete}
    for name in cost_names(map(TrialRecord.of, facts.complete)):
        described = describe(name)
        points = [
            (costs[trial.number][name], value, trial)
            for trial in facts.complete
            if name in costs[trial.number] and (value := _quality(facts, trial)) is not None
        ]
        if len(points) < 2:
            continue
        sign = 1.0 if _quality_name(facts) == "accuracy" or facts.maximize else -1.0
        front: list[charts.Point] = []
        top = -math.inf
        for cost, value, _ in sorted(points, key=lambda p: (described.sign * p[0], -sign * p[1])):
            if sign * value > top:
                front += [(cost, front[-1][1]), (cost, value)] if front else [(cost, value)]
                top = sign * value
        titles = [f"trial {t.number}: {TrialRecord.of(t).architecture}" for _, _, t in points]
        dots = Series([(c, v) for c, v, _ in points], "dot s0", titles, name="complete trial")
        line = Series(
            front, "line s1", name=f"front: nothing {'with more' if described.maximize else 'cheaper'} is better"
        )
        log = all(cost > 0 for cost, _, _ in points)
        label = f"{described.heading}, logarithmic scale" if log else described.heading
        chart = charts.plot([line, dots], label, _quality_name(facts), log_x=log)
        plots.append(f"<div>{chart}</div>")
    if not plots:
        return ""
    return (
        f'<h2>{_escaped(_quality_name(facts)).capitalize()} against cost</h2><div class="pair">{"".join(plots)}</div>'
    )


def _quality_name(facts: _Facts) -> str:
    return "accuracy" if facts.complete and attribute(facts.complete[0], TrialKey.ACCURACY) is not None else facts.first


def _quality(facts: _Facts, trial: FrozenTrial) -> float | None:
    value: float | None = attribute(trial, TrialKey.ACCURACY)
    return value if _quality_name(facts) == "accuracy" else trial.values[0]


def _parameters(facts: _Facts) -> str:
    complete, text = facts.complete, "<h2>What mattered</h2>"
    if len(complete) < LEAST_FOR_IMPORTANCE:
        return (
            f"{text}<p>How much each parameter mattered is shown from {LEAST_FOR_IMPORTANCE} complete trials on; this"
            f" study has {len(complete)}. Fewer would give guesses.</p>"
        )
    shares: Mapping[str, float] = {}
    try:
        shares = _importances(facts)
        text += charts.bars(list(shares.items())[:16], "importance of each parameter")
        text += (
            '<p class="faint">How much each parameter decides whether a trial is among the best in'
            f" {_escaped(facts.first)}: Optuna's estimate from {len(complete)} complete trials;"
            " pruned trials are not counted.</p>"
        )
    except (ValueError, RuntimeError) as error:
        text += f"<p>Importance cannot be estimated: {_escaped(error)}</p>"
    return text + _parallel(facts, shares)


def _importances(facts: _Facts) -> dict[str, float]:
    if len(facts.names) == 1:
        return optuna.importance.get_param_importances(facts.study)
    sign = -1.0 if facts.maximize else 1.0
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # that it explains what makes a target low: so it shall
        return optuna.importance.get_param_importances(facts.study, target=lambda trial: sign * trial.values[0])


def _parallel(facts: _Facts, shares: Mapping[str, float]) -> str:
    complete = [t for t in facts.complete if t.params]
    names = [n for n in complete[0].params if all(n in t.params for t in complete)] if complete else []
    most = sorted(names, key=lambda name: -shares.get(name, 0.0))[:AXES]
    axes = []
    for name in (name for name in names if name in most):
        seen = {repr(t.params[name]): t.params[name] for t in complete}
        numeric = all(isinstance(v, int | float) and not isinstance(v, bool) for v in seen.values())
        axes.append((name, sorted(seen, key=(lambda text, seen=seen: seen[text]) if numeric else None)))
    if len(axes) < 2:
        return ""
    values = [t.values[0] for t in complete]
    low, high = min(values), max(values)
    rows = []
    for trial in sorted(complete, key=lambda t: t.values[0], reverse=facts.maximize)[:200]:
        good = (trial.values[0] - low) / (high - low) if high > low else 1.0
        places = [choices.index(repr(trial.params[name])) for name, choices in axes]
        rows.append((places, good if facts.maximize else 1 - good))
    chart = charts.parallel(axes, rows, "parallel coordinates of complete trials")
    some = "" if len(names) <= AXES else f" in the {AXES} parameters that mattered most"
    return (
        f"<h3>Choices of the best {len(rows)}{some}: the stronger a line, the better</h3>"
        f'<div class="scroll">{chart}</div>'
    )


def _supernet(facts: _Facts) -> str:
    from nas_optuna.errors import StudyError
    from nas_optuna.study.supernet_result import read_result

    try:
        result = read_result(facts.study)
        space = space_of(facts.study)
    except (StudyError, NasOptunaError):
        return ""
    rows = [
        (
            name,
            ", ".join(f"{c}: {p:.0%}" for c, p in zip(space.parameters[name].choices, shares, strict=True)),
        )
        for name, shares in result.probabilities().items()
        if name in space.parameters
    ]
    return (
        f"<h2>Supernet</h2><p>Its argmax is <code>{_escaped(result.argmax)}</code>."
        f" What it would choose:</p>"
        f"{table(('parameter', 'probability of each choice'), rows)}"
        f'<div class="pair">{_alphas_over_time(facts, result.artifact)}{_supernet_check(facts, space)}</div>'
    )


def _alphas_over_time(facts: _Facts, artifact: str) -> str:
    """The entropy of each parameter's alphas over the epochs, from the file that the training left behind.

    Empty where the strategy trained none.
    """
    if facts.files is None or not artifact:
        return ""
    try:
        text = (facts.files / "artifacts" / artifact).read_text(encoding="utf-8")
    except (OSError, UnicodeError):
        return ""
    entropies: dict[str, list[charts.Point]] = {}
    for row in csv.DictReader(io.StringIO(text)):
        sums: dict[str, float] = {}
        for column, cell in row.items():
            if "=" in column:
                p, name = float(cell), column.partition("=")[0]
                sums[name] = sums.get(name, 0.0) - (p * math.log(p) if p > 0 else 0.0)
        for name, entropy in sums.items():
            entropies.setdefault(name, []).append((float(row["number"]), entropy))
    if not entropies:
        return ""
    series = [
        Series(points, f"line s{i % 4}", name=name if len(entropies) <= 12 else "")
        for i, (name, points) in enumerate(entropies.items())
    ]
    chart = charts.plot(series, "epoch of the supernet", "entropy of the alphas (nats)")
    return (
        f"<div><h3>How decided it became</h3>{chart}"
        '<p class="faint">One line per parameter: high where all choices are as likely, 0 where one is certain.'
        "</p></div>"
    )


def _supernet_check(facts: _Facts, space: SearchSpace) -> str:
    """What the supernet says of each network that was trained alone, against its accuracy."""
    from scipy.stats import kendalltau

    from nas_optuna.study.supernet_result import find_predictor

    scorer = find_predictor(facts.study, {name: p.choices for name, p in space.parameters.items()})
    trained = [t for t in facts.complete if attribute(t, TrialKey.ACCURACY) is not None]
    if scorer is None or len(trained) < LEAST_FOR_CHECK:
        return (
            f"<div><h3>Whether to believe it</h3><p>That is shown when {LEAST_FOR_CHECK} networks were trained alone"
            " in a study whose supernet has a score; <code>nas-optuna supernet check</code> trains them.</p></div>"
        )
    scores = scorer([space.architecture(of_architecture(t.params)).params for t in trained])
    accuracies = [float(attribute(t, TrialKey.ACCURACY)) for t in trained]
    tau = float(kendalltau(scores, accuracies).statistic)
    titles = [f"trial {t.number}: {TrialRecord.of(t).architecture}" for t in trained]
    dots = Series(list(zip(scores, accuracies, strict=True)), "dot s0", titles)
    return (
        f"<div><h3>Whether to believe it</h3>{charts.plot([dots], 'score by the supernet', 'accuracy, trained alone')}"
        f'<p class="faint">Kendall\'s τ {tau:.2f} over {len(trained)} networks; 1 is the same order, 0 is chance.'
        " <code>nas-optuna supernet check</code> puts size alone beside it.</p></div>"
    )


def _effort(facts: _Facts) -> str:
    if not facts.trials:
        return ""
    spent: Counter[str] = Counter()
    for trial in facts.trials:
        spent[attribute(trial, TrialKey.DEVICE, "unknown device")] += attribute(trial, TrialKey.SECONDS, 0.0)
    rows = [(device, duration(seconds)) for device, seconds in spent.items() if seconds]
    begun = [t.datetime_start for t in facts.trials if t.datetime_start]
    ended = [t.datetime_complete for t in facts.trials if t.datetime_complete]
    when = f"<p>From {min(begun):%Y-%m-%d %H:%M} to {max(ended):%Y-%m-%d %H:%M}.</p>" if begun and ended else ""
    return f"<h2>Time spent</h2>{when}{table(('device', 'training time'), rows)}" if rows else ""


def _reproduce(facts: _Facts) -> str:
    name, url = facts.study.study_name, url_of(facts.study)
    place = ("--storage", mask_urls(url)) if url else ()
    again = f"{name}-again", "--spec", "study.toml", "--trials", str(max(len(facts.trials), 1))
    commands = [("best", "--study", name, *place), ("retrain", "--study", name, "--seeds", "3", *place)]
    commands = commands if facts.complete else []
    shown = "\n".join(_escaped(shlex.join(["nas-optuna", *words])) for words in [*commands, ("run", "--study", *again)])
    versions = ", ".join(
        f"{package} {found}" for package in ("nas-optuna", "optuna", "torch") if (found := _version(package))
    )
    lines = "\n".join(_escaped(line) for line in to_toml(facts.spec.to_dict()).splitlines())
    how = "From the stored study, and anew from its spec" if commands else "Anew from its spec"
    return (
        f"<h2>How to reproduce it</h2><p>{how}, saved as <code>study.toml</code>:</p><pre>{shown}</pre>"
        f"<details><summary>The study's spec, study.toml</summary><pre>{lines}</pre></details>"
        f'<p class="faint">This page was written with {_escaped(versions)}.</p>'
    )


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
