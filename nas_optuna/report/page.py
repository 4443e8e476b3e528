"""``nas-optuna report``: a study as one self-contained HTML page for somebody who was not there.

Each function gives what one section of ``templates/report.html.j2`` shows, or nothing where there is nothing to show.
"""

from __future__ import annotations

import csv
import io
import math
import re
import shlex
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import optuna
from markupsafe import Markup
from optuna.study import Study
from optuna.trial import FrozenTrial, TrialState, create_trial

from nas_optuna.errors import NasOptunaError
from nas_optuna.hyperparameters import of_architecture
from nas_optuna.masking import mask_urls
from nas_optuna.objectives import describe
from nas_optuna.report import charts
from nas_optuna.report.charts import Series
from nas_optuna.report.confusion import Confusion
from nas_optuna.report.drawing import draw_trial
from nas_optuna.report.notes import figures_of
from nas_optuna.report.rendering import duration, render
from nas_optuna.report.selection import Winners, complete_trials, gain_of, space_of, validation_images, winners
from nas_optuna.spaces import SearchSpace
from nas_optuna.spec_text import to_toml
from nas_optuna.study.hints import command
from nas_optuna.study.optuna_internals import read_once, url_of
from nas_optuna.study.records import TrialRecord, cost_names, count, ranked
from nas_optuna.study.schema import StudyKey, TrialKey, attribute
from nas_optuna.study.standard_errors import accuracy_on_test, standard_error, with_error
from nas_optuna.study.studies import maximizes, study_spec
from nas_optuna.study.supernet_result import find_predictor, read_result
from nas_optuna.study.trial_queue import REFERENCE

LEAST_FOR_CHECK = 5
"""Networks trained alone below which a rank correlation says nothing."""
LEAST_FOR_IMPORTANCE = 10
"""Trials to compare below which a share of importance would be a guess."""
MANY = 40
"""Curves from which on they would hide each other, and are drawn thin."""
AXES = 12
"""Parameters that parallel coordinates have room for."""

Section = dict[str, Any]


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

    def command(self, name: str) -> str:
        """How a person goes on with the study."""
        return command(self.study, name, "--study", self.study.study_name)


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
    return render(
        "report.html.j2",
        **_heading(facts),
        **_reproduce(facts),
        **_unfinished(facts),
        images=facts.images,
        several=len(facts.names) > 1,
        complete=len(facts.complete),
        least_for_importance=LEAST_FOR_IMPORTANCE,
        winner=_winner(facts),
        test=_test(facts),
        ranking=_ranking(facts),
        progress=_progress(facts),
        tradeoffs=_tradeoffs(facts),
        mattered=_mattered(facts),
        supernet=_supernet(facts),
        effort=_effort(facts),
    )


def _heading(facts: _Facts) -> Section:
    spec, states = facts.spec, Counter(trial.state for trial in facts.trials)
    limits = "".join(f", {_limit(name, limit)}" for name, limit in spec.limits.items())
    what = (
        f"{' and '.join(map(_named, spec.objectives))}{limits} on {spec.data.name}, space {spec.space.name}, sampler"
        f" {spec.sampler.name}, pruner {spec.pruner.name}, {count(spec.recipe.epochs, 'epoch')} per trial."
    )
    boxes = [("trial" if len(facts.trials) == 1 else "trials", len(facts.trials))]
    boxes += [(state.name.lower(), states[state]) for state in TrialState if states[state]]
    return {"name": facts.study.study_name, "what": what, "boxes": boxes, "objective": _named(facts.first)}


def _unfinished(facts: _Facts) -> Section:
    """Why there is no winner yet, and what to type."""
    ends = {TrialState.COMPLETE: "outside the limits", TrialState.PRUNED: "stopped by the pruner"}
    finished = [trial for trial in facts.trials if trial.state.is_finished()]
    causes = Counter(TrialRecord.of(trial).cause or ends.get(trial.state, "failed") for trial in finished)
    commands = {"run_command": facts.command("run"), "retrain_command": facts.command("retrain")}
    return {"causes": causes.most_common(5), "pruned": causes["stopped by the pruner"], **commands}


def _winner(facts: _Facts) -> Section | None:
    found = facts.winners
    if found is None:
        return None
    gain = gain_of(facts.study)
    drawing, undrawn = Markup(""), ""
    try:
        drawing = Markup(draw_trial(space_of(facts.study), found.best).svg)
    except NasOptunaError as error:
        undrawn = str(error)
    width = re.search(r'<svg[^>]* width="(\d+)"', drawing)
    return {
        "figures": _figures(facts, found.best),
        "gain": gain if gain and gain.beside else None,
        "cheapest": _figures(facts, found.cheapest) if found.cheapest.number != found.best.number else None,
        "error": found.error,
        "drawing": drawing,
        "undrawn": undrawn,
        "wide": width is not None and int(width[1]) >= 500,
    }


def _figures(facts: _Facts, trial: FrozenTrial) -> list[tuple[str, object]]:
    record = TrialRecord.of(trial)
    shown = figures_of(trial, facts.names, facts.images)
    rows: list[tuple[str, object]] = [("trial", record.number), ("architecture", record.architecture), *shown]
    return [*rows, ("epochs", record.epochs)]


def _test(facts: _Facts) -> Section | None:
    reports: list[dict[str, Any]] = facts.attributes.get(StudyKey.RETRAINED, [])
    if not reports:
        return None
    from nas_optuna.execution.retrain import confusion, mistakes

    first, seeds = reports[0], len(reports[0]["seeds"])
    rows = [
        ("trial", first.get("trial")),
        ("architecture", first["architecture"]),
        ("test accuracy" if seeds == 1 else f"mean test accuracy of {seeds} seeds", accuracy_on_test(first)),
        ("standard deviation over seeds", None if first["spread"] is None else f"{first['spread']:.4f}"),
        ("seeds", seeds),
        ("images", f"{first['images']:,} for training, {first['test_images']:,} for test"),
        ("device", first["device"]),
    ]
    known = confusion(facts.attributes)
    matrix = Confusion(*known, seeds=seeds) if known else None
    classes, names = (matrix.accuracies(), matrix.classes) if matrix else ([], ())
    return {
        "figures": [row for row in rows if row[1] is not None],
        "looks": len(reports),
        "classes": [(name, f"{accuracy:.4f}", images, taken) for name, accuracy, images, taken in classes],
        "matrix": Markup(matrix.svg() if matrix else ""),
        "mistakes": [(names[one.label], names[one.predicted], one.picture) for one in mistakes(facts.attributes)],
    }


def _ranking(facts: _Facts) -> Section | None:
    found = facts.study.best_trials if len(facts.names) > 1 and facts.complete else facts.complete
    records = ranked(found, facts.maximize)
    if not records or len(facts.complete) == 1:
        return None
    shown = records[:10] + [record for record in records[10:] if record.origin == REFERENCE][:1]
    costs = {name: describe(name) for name in cost_names(shown, facts.names)}
    errors = {r.number: standard_error(r, facts.images) for r in shown}
    rows = [
        (
            r.number,
            *(with_error(n, v, errors[r.number]) for n, v in zip(facts.names, r.values, strict=True)),
            r.epochs,
            *(cost.brief(r.costs[name]) if name in r.costs else "" for name, cost in costs.items()),
            f"{r.architecture} (reference)" if r.origin == REFERENCE else r.architecture,
        )
        for r in shown
    ]  # fmt: skip
    headings = [cost.heading for cost in costs.values()]
    columns = ["trial", *map(_named, facts.names), "epochs", *headings, "architecture"]
    return {"found": len(records), "columns": columns, "rows": rows}


def _progress(facts: _Facts) -> Section | None:
    if not facts.trials:
        return None
    dots = [(t.number, t.values[0]) for t in facts.complete]
    best = best_so_far(facts.complete, facts.maximize)
    errors: Sequence[float] = ()
    if facts.first == "accuracy":
        errors = [standard_error(TrialRecord.of(t), facts.images) or 0.0 for t in facts.complete]
    drawn = [
        Series(dots, "dot faint", _titles(facts.complete), errors, "complete trial"),
        Series(best, "line s0", name="best so far"),
    ]
    history = charts.plot(drawn, "trial", _named(facts.first))
    pale: list[list[charts.Point]] = []
    strong: list[list[charts.Point]] = []
    for trial in facts.trials:
        if points := _curve(trial):
            (strong if trial.state == TrialState.COMPLETE else pale).append(points)
    curves = [Series(points, "pale", name="" if i else "pruned") for i, points in enumerate(pale)]
    many = " many" if len(strong) > MANY else ""
    curves += [Series(points, f"line s0{many}", name="" if i else "complete") for i, points in enumerate(strong)]
    if facts.winners and len(strong) > 1:
        curves.append(Series(_curve(facts.winners.best), "line s1", name="the winner"))
    compared = _named(facts.first) if len(facts.names) == 1 else "what trials are pruned by"
    return {"history": history, "curves": charts.plot(curves, "epoch", compared)}


def _titles(trials: Sequence[FrozenTrial]) -> list[str]:
    return [f"trial {t.number}: {TrialRecord.of(t).architecture}" for t in trials]


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


def _tradeoffs(facts: _Facts) -> Section:
    """The quality against each cost, with the front."""
    plots = []
    by_accuracy = bool(facts.complete) and attribute(facts.complete[0], TrialKey.ACCURACY) is not None
    quality = "accuracy" if by_accuracy else facts.first
    sign = 1.0 if by_accuracy or facts.maximize else -1.0
    costs = {trial.number: TrialRecord.of(trial).costs for trial in facts.complete}
    for name in cost_names(map(TrialRecord.of, facts.complete)):
        described = describe(name)
        points = [
            (costs[trial.number][name], value, trial)
            for trial in facts.complete
            if name in costs[trial.number]
            and (value := attribute(trial, TrialKey.ACCURACY) if by_accuracy else trial.values[0]) is not None
        ]
        if len(points) < 2:
            continue
        front: list[charts.Point] = []
        top = -math.inf
        for cost, value, _ in sorted(points, key=lambda p: (described.sign * p[0], -sign * p[1])):
            if sign * value > top:
                front += [(cost, front[-1][1]), (cost, value)] if front else [(cost, value)]
                top = sign * value
        titles = _titles([trial for _, _, trial in points])
        dots = Series([(c, v) for c, v, _ in points], "dot s0", titles, name="complete trial")
        better = "with more" if described.maximize else "cheaper"
        line = Series(front, "line s1", name=f"front: nothing {better} is better")
        log = all(cost > 0 for cost, _, _ in points)
        label = f"{described.heading}, logarithmic scale" if log else described.heading
        plots.append(charts.plot([line, dots], label, quality, log_x=log))
    return {"charts": plots, "quality": quality}


def _mattered(facts: _Facts) -> Section | None:
    epoch, values = _compared(facts)
    if len(values) < LEAST_FOR_IMPORTANCE:
        return None
    trials = [trial for trial in facts.trials if trial.number in values]
    shares: Mapping[str, float] = {}
    error = ""
    try:
        shares = _importances(facts, trials, values)
    except (ValueError, RuntimeError) as problem:
        error = str(problem)
    bars = charts.bars(list(shares.items())[:16], "importance of each parameter") if shares else None
    found = {"epoch": epoch, "trials": len(values), "bars": bars, "error": error, "axes": AXES}
    return found | _parallel(facts, trials, values, shares)


def _compared(facts: _Facts) -> tuple[int | None, dict[int, float]]:
    """Values by which trials are compared, by number: final ones, or those at the last epoch that enough have reached.

    A pruner leaves few complete trials in a short search, and what it has stopped tells something, too.
    """
    if len(facts.complete) >= LEAST_FOR_IMPORTANCE:
        return None, {trial.number: trial.values[0] for trial in facts.complete}
    by_epoch: dict[int, dict[int, float]] = {}
    for trial in facts.trials:
        for epoch, value in _curve(trial) if trial.params else []:
            by_epoch.setdefault(int(epoch), {})[trial.number] = value
    enough = [epoch for epoch, values in by_epoch.items() if len(values) >= LEAST_FOR_IMPORTANCE]
    return (max(enough), by_epoch[max(enough)]) if enough else (None, {})


def _importances(facts: _Facts, trials: Sequence[FrozenTrial], values: Mapping[int, float]) -> dict[str, float]:
    """Optuna's estimate, from a study in memory in which these trials end with these values."""
    storage = optuna.storages.InMemoryStorage()
    storage.create_new_study([facts.study.directions[0]], "compared")
    compared = optuna.load_study(study_name="compared", storage=storage)
    compared.add_trials(
        create_trial(params=t.params, distributions=t.distributions, value=values[t.number]) for t in trials
    )
    return optuna.importance.get_param_importances(compared)


def _parallel(
    facts: _Facts, trials: Sequence[FrozenTrial], values: Mapping[int, float], shares: Mapping[str, float]
) -> Section:
    """Parallel coordinates of the trials that are compared."""
    names = [n for n in trials[0].params if all(n in t.params for t in trials)]
    most = sorted(names, key=lambda name: -shares.get(name, 0.0))[:AXES]
    axes = []
    for name in (name for name in names if name in most):
        seen = {repr(t.params[name]): t.params[name] for t in trials}
        numeric = all(isinstance(v, int | float) and not isinstance(v, bool) for v in seen.values())
        axes.append((name, sorted(seen, key=(lambda text, seen=seen: seen[text]) if numeric else None)))
    if len(axes) < 2:
        return {"parallel": None}
    low, high = min(values.values()), max(values.values())
    rows = []
    for trial in sorted(trials, key=lambda t: values[t.number], reverse=facts.maximize)[:200]:
        good = (values[trial.number] - low) / (high - low) if high > low else 1.0
        places = [choices.index(repr(trial.params[name])) for name, choices in axes]
        rows.append((places, good if facts.maximize else 1 - good))
    chart = charts.parallel(axes, rows, "parallel coordinates of trials")
    return {"parallel": chart, "lines": len(rows), "left_out": len(names) > AXES}


def _supernet(facts: _Facts) -> Section | None:
    try:
        result = read_result(facts.study)
        space = space_of(facts.study)
    except NasOptunaError:
        return None
    choices = [
        (name, ", ".join(f"{c}: {p:.0%}" for c, p in zip(space.parameters[name].choices, shares, strict=True)))
        for name, shares in result.probabilities().items()
        if name in space.parameters
    ]
    found = {"argmax": result.argmax, "choices": choices, "least": LEAST_FOR_CHECK}
    return found | {"entropies": _entropies(facts, result.artifact)} | _supernet_check(facts, space)


def _entropies(facts: _Facts, artifact: str) -> Markup | None:
    """The entropy of each parameter's alphas over the epochs, from the file that the training left behind.

    None where the strategy trained none.
    """
    if facts.files is None or not artifact:
        return None
    try:
        text = (facts.files / "artifacts" / artifact).read_text(encoding="utf-8")
    except (OSError, UnicodeError):
        return None
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
        return None
    series = [
        Series(points, f"line s{i % 4}", name=name if len(entropies) <= 12 else "")
        for i, (name, points) in enumerate(entropies.items())
    ]
    return charts.plot(series, "epoch of the supernet", "entropy of the alphas (nats)")


def _supernet_check(facts: _Facts, space: SearchSpace) -> Section:
    """What the supernet says of each network that was trained alone, against its accuracy."""
    from scipy.stats import kendalltau

    scorer = find_predictor(facts.study, {name: p.choices for name, p in space.parameters.items()})
    trained = [t for t in facts.complete if attribute(t, TrialKey.ACCURACY) is not None]
    if scorer is None or len(trained) < LEAST_FOR_CHECK:
        return {"check": None}
    scores = scorer([space.architecture(of_architecture(t.params)).params for t in trained])
    accuracies = [float(attribute(t, TrialKey.ACCURACY)) for t in trained]
    dots = Series(list(zip(scores, accuracies, strict=True)), "dot s0", _titles(trained))
    chart = charts.plot([dots], "score by the supernet", "accuracy, trained alone")
    return {"check": chart, "tau": float(kendalltau(scores, accuracies).statistic), "trained": len(trained)}


def _effort(facts: _Facts) -> Section:
    spent: Counter[str] = Counter()
    for trial in facts.trials:
        spent[attribute(trial, TrialKey.DEVICE, "unknown device")] += attribute(trial, TrialKey.SECONDS, 0.0)
    return {
        "rows": [(device, duration(seconds)) for device, seconds in spent.items() if seconds],
        "begun": min((t.datetime_start for t in facts.trials if t.datetime_start), default=None),
        "ended": max((t.datetime_complete for t in facts.trials if t.datetime_complete), default=None),
    }


def _reproduce(facts: _Facts) -> Section:
    name, url = facts.study.study_name, url_of(facts.study)
    place = ("--storage", mask_urls(url)) if url else ()
    again = ("run", "--study", f"{name}-again", "--spec", "study.toml", "--trials", str(max(len(facts.trials), 1)))
    stored = [("best", "--study", name, *place), ("retrain", "--study", name, "--seeds", "3", *place)]
    commands = [*stored, again] if facts.complete else [again]
    packages = ("nas-optuna", "optuna", "torch")
    return {
        "commands": [shlex.join(["nas-optuna", *words]) for words in commands],
        "spec": to_toml(facts.spec.to_dict()).splitlines(),
        "versions": ", ".join(f"{package} {found}" for package in packages if (found := _version(package))),
    }


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
