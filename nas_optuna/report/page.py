"""``nas-optuna report``: a study as one self-contained HTML page.

Each function gives the values of one section of ``templates/report.html.j2``, or None for an empty section.
"""

from __future__ import annotations

import math
import re
import shlex
from collections import Counter
from collections.abc import Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import numpy as np
import optuna
from markupsafe import Markup
from optuna.study import Study, StudyDirection
from optuna.trial import FrozenTrial, TrialState, create_trial

from nas_optuna.errors import NasOptunaError
from nas_optuna.execution.finished_network import kept_network, kept_of
from nas_optuna.execution.retrain import Mistake, find_mistakes, stored_report
from nas_optuna.experiment import Experiment
from nas_optuna.hyperparameters import of_architecture
from nas_optuna.masking import mask_urls
from nas_optuna.metrics import ACCURACIES
from nas_optuna.objectives import describe
from nas_optuna.oneshot.check import kendall
from nas_optuna.quantities import duration
from nas_optuna.report import charts
from nas_optuna.report.charts import Series
from nas_optuna.report.columns import Column, filled
from nas_optuna.report.confusion import CLASS_COLUMNS, Confusion
from nas_optuna.report.drawing import draw_trial
from nas_optuna.report.facts import Section, StudyFacts, curve_of, remarks_of, retrained_figures, staircase, titles_of
from nas_optuna.report.rendering import render
from nas_optuna.spaces import SearchSpace
from nas_optuna.spaces.architecture import text_of
from nas_optuna.spec_text import to_toml
from nas_optuna.study.optuna_internals import url_of
from nas_optuna.study.results import REFERENCE, TrialRecord, cost_names, front_trials, longest_trained, ranked
from nas_optuna.study.schema import StudyKey, TrialKey, attribute
from nas_optuna.study.significance import Measured, error_of
from nas_optuna.study.studies import command
from nas_optuna.study.supernet_result import find_predictor, read_result

SHOWN_CLASSES = 20
"""The most classes that are listed, worst first."""
MANY = 40
"""More curves than this would hide each other, and are drawn thin."""
LEAST_FOR_IMPORTANCE = 10
"""The fewest trials from which importance is estimated."""
LEAST_FOR_CHECK = 5
"""The fewest networks trained alone from which a rank correlation is computed."""


def report(study: Study, data_directory: Path | None = None) -> str:
    """A study as one HTML page that needs neither an internet connection nor scripts."""
    facts = StudyFacts(study)
    test = _test(facts)
    return render(
        "report.html.j2",
        **_heading(facts),
        **_reproduce(facts),
        **_unfinished(facts),
        images=facts.images,
        ranked_by=facts.ranked_by,
        selected_by_cost=facts.selected_by_cost,
        several=len(facts.names) > 1,
        complete=len(facts.complete),
        least_for_importance=LEAST_FOR_IMPORTANCE,
        winner=_winner(facts),
        test=test,
        mistakes=[] if test else _mistakes(facts, data_directory),
        ranking=_ranking(facts),
        progress=_progress(facts),
        tradeoffs=_tradeoffs(facts),
        mattered=what_mattered(facts),
        supernet=supernet_section(facts),
        effort=_effort(facts),
    )


def _heading(facts: StudyFacts) -> Section:
    states = Counter(trial.state for trial in facts.trials)
    reports = facts.attributes.get(StudyKey.RETRAINED, [])
    boxes = [("test accuracy", Measured.on_test(reports[0]).exact)] if reports else []
    boxes.append(("trial" if len(facts.trials) == 1 else "trials", f"{len(facts.trials):,}"))
    boxes += [(state.name.lower(), f"{states[state]:,}") for state in TrialState if states[state]]
    return {"name": facts.study.study_name, "what": facts.what, "boxes": boxes, "objective": _named(facts.names[0])}


def _unfinished(facts: StudyFacts) -> Section:
    """Why there is no winner yet, and the next commands."""
    ends = {TrialState.COMPLETE: "outside the limits", TrialState.PRUNED: "stopped by the pruner"}
    finished = [trial for trial in facts.trials if trial.state.is_finished()]
    causes = Counter(TrialRecord.of(trial).cause or ends.get(trial.state, "failed") for trial in finished)
    retrain = facts.command("retrain") if facts.can_retrain else None
    commands = {"run_command": facts.command("run"), "retrain_command": retrain}
    return {"causes": causes.most_common(5), "pruned": causes["stopped by the pruner"], **commands}


def _winner(facts: StudyFacts) -> Section | None:
    found = facts.winners
    if found is None:
        return None
    gain = facts.gain
    drawing, undrawn = Markup(""), ""
    try:
        drawing = Markup(draw_trial(facts.space, found.best).svg)
    except NasOptunaError as error:
        undrawn = str(error)
    width = re.search(r'<svg[^>]* width="(\d+)"', drawing)
    return {
        "figures": facts.described(TrialRecord.of(found.best)),
        "gain": gain if gain and gain.beside else None,
        "cheapest": facts.described(TrialRecord.of(found.cheapest))
        if found.cheapest.number != found.best.number
        else None,
        "error": found.error if len(facts.complete) > 1 else None,
        "drawing": drawing,
        "undrawn": undrawn,
        "wide": width is not None and int(width[1]) >= 500,
    }


def _test(facts: StudyFacts) -> Section | None:
    report = stored_report(facts.attributes)
    if report is None:
        return None
    reports = facts.attributes[StudyKey.RETRAINED]
    matrix = Confusion.of(report)
    classes = matrix.accuracies()
    return {
        "figures": retrained_figures(reports[0]),
        "looks": len(reports),
        "classes": filled(CLASS_COLUMNS, classes[:SHOWN_CLASSES]) if classes else None,
        "all_classes": len(classes),
        "matrix": Markup(matrix.svg() if classes else ""),
        "mistakes": _shown(report.mistakes, report.classes),
    }


def _mistakes(facts: StudyFacts, data_directory: Path | None) -> list[tuple[str, str, str]]:
    """The winner's mistakes, if its weights were kept: class, predicted class, and a small picture."""
    if facts.winners is None:
        return []
    best = facts.winners.best
    if best.number not in kept_of(facts.study, best).numbers():
        return []
    try:
        experiment = Experiment.from_spec(facts.spec, data_directory=data_directory, device="cpu")
        experiment.require_same(facts.study)
        search = experiment.search
        network = kept_network(facts.study, search, best).classifier
    except NasOptunaError:  # whatever is missing, the report goes without these pictures
        return []
    images = search.data.validation
    predicted = network.probabilities(network.resized(images.images)).argmax(1).tolist()
    return _shown(find_mistakes(images, predicted), search.data.train.classes)


def _shown(mistakes: Sequence[Mistake], names: Sequence[str]) -> list[tuple[str, str, str]]:
    return [(names[one.label], names[one.predicted], one.picture) for one in mistakes]


def _ranking(facts: StudyFacts) -> Section | None:
    found = front_trials(facts.study) if len(facts.names) > 1 else facts.complete
    records = ranked(found, facts.maximize)
    if not records or len(facts.complete) == 1:
        return None
    shown = records[:10] + [record for record in records[10:] if record.origin == REFERENCE][:1]
    remarks = Column("note", lambda record: ", ".join(remarks_of(record)), rank=6)
    return {"found": len(records), **filled([*facts.columns(shown), remarks], shown)}


def _progress(facts: StudyFacts) -> Section | None:
    if sum(1 + len(curve_of(trial)) for trial in facts.trials) <= 2:  # charts of one dot each
        return None
    drawn = []
    for name, style, trials in _by_length(facts, "dot faint"):
        errors = [error_of(t, facts.images) or 0.0 for t in trials] if facts.names[0] in ACCURACIES else ()
        drawn.append(Series([(t.number, t.values[0]) for t in trials], style, titles_of(trials), errors, name))
    best = staircase([(t.number, t.values[0]) for t in facts.comparable], maximize=facts.maximize)
    drawn.append(Series(best, "line s0", name="best so far"))
    history = charts.plot(drawn, "trial", _named(facts.names[0]), share=facts.names[0] in ACCURACIES)
    pale: list[list[charts.Point]] = []
    strong: list[list[charts.Point]] = []
    for trial in facts.trials:
        if points := curve_of(trial):
            (strong if trial.state == TrialState.COMPLETE else pale).append(points)
    curves = [Series(points, "pale", name="" if i else "pruned") for i, points in enumerate(pale)]
    many = " many" if len(strong) > MANY else ""
    curves += [Series(points, f"line s0{many}", name="" if i else "complete") for i, points in enumerate(strong)]
    if facts.winners and len(strong) > 1:
        curves.append(Series(curve_of(facts.winners.best), "line s1", name="the winner"))
    compared = _named(facts.names[_reported(facts)])
    sure = [(t.number, entropy) for t in facts.trials if (entropy := attribute(t, TrialKey.ENTROPY)) is not None]
    return {
        "history": history,
        "curves": charts.plot(curves, "epoch", compared, share=compared in ACCURACIES),
        "entropy": charts.plot([Series(sure, "line s0")], "trial", "nats for each choice") if sure else None,
    }


def _reported(facts: StudyFacts) -> int:
    """The place of the objective that is reported after each epoch: the first that depends on the training."""
    return next((place for place, name in enumerate(facts.names) if getattr(describe(name), "metric", "")), 0)


def _named(objective: str) -> str:
    return describe(objective).heading


def _tradeoffs(facts: StudyFacts) -> Section:
    """The quality against each cost, with the front."""
    plots = []
    by_accuracy = bool(facts.complete) and attribute(facts.complete[0], TrialKey.ACCURACY) is not None
    quality = "accuracy" if by_accuracy else facts.names[0]
    maximize = by_accuracy or facts.maximize
    costs = {trial.number: TrialRecord.of(trial).costs for trial in facts.complete}
    wanted = {name.partition(":")[0]: name for name in facts.names}
    for name in cost_names(map(TrialRecord.of, facts.complete)):
        described = describe(wanted.get(name, name))  # the study may maximise what is a cost elsewhere
        points = {
            trial.number: (costs[trial.number][name], value)
            for trial in facts.complete
            if name in costs[trial.number]
            and (value := attribute(trial, TrialKey.ACCURACY) if by_accuracy else trial.values[0]) is not None
        }
        if len(points) < 2:
            continue
        long = [points[trial.number] for trial in facts.comparable if trial.number in points]
        front = staircase(sorted(long, key=lambda point: described.sign * point[0]), maximize=maximize)
        better = "with more" if described.maximize else "cheaper"
        drawn = [Series(front, "line s1", name=f"front: nothing {better} is better")]
        for said, style, trials in _by_length(facts, "dot s0"):
            shown = [trial for trial in trials if trial.number in points]
            drawn.append(Series([points[trial.number] for trial in shown], style, titles_of(shown), name=said))
        log = all(cost > 0 for cost, _ in points.values())
        label = f"{described.heading}, logarithmic scale" if log else described.heading
        plots.append(charts.plot(drawn, label, quality, log_x=log, share=quality in ACCURACIES))
    return {"charts": plots, "quality": quality}


def _by_length(facts: StudyFacts, style: str) -> list[tuple[str, str, list[FrozenTrial]]]:
    """Name, style and trials of the dots: those that can be compared, and before them shorter ones of a clock."""
    long = {trial.number for trial in facts.comparable}
    shorter = [trial for trial in facts.complete if trial.number not in long]
    dots = [("complete trial", style, facts.comparable)]
    return [("trained shorter", "dot pale", shorter), *dots] if shorter else dots


def _effort(facts: StudyFacts) -> Section:
    spent: Counter[str] = Counter()
    for trial in facts.trials:
        spent[attribute(trial, TrialKey.DEVICE, "unknown device")] += attribute(trial, TrialKey.SECONDS, 0.0)
    return {
        "rows": [(device, duration(seconds)) for device, seconds in spent.items() if seconds],
        "begun": min((t.datetime_start for t in facts.trials if t.datetime_start), default=None),
        "ended": max((t.datetime_complete for t in facts.trials if t.datetime_complete), default=None),
    }


def _reproduce(facts: StudyFacts) -> Section:
    name, url = facts.study.study_name, url_of(facts.study)
    place = ("--storage", mask_urls(url)) if url else ()
    again = ["run", "--study", f"{name}-again", "--spec", "study.toml", "--trials", str(max(len(facts.trials), 1))]
    if seconds := facts.attributes.get(StudyKey.WITHIN, {}).get("within"):
        again[-2:] = ["--within", f"{seconds:.10g}s"]
    if seconds := facts.attributes.get(StudyKey.FIT, {}).get("within"):
        again = ["fit", facts.spec.data.name, *again[3:5], "--within", f"{seconds:.10g}s", "--out", f"{name}-again"]
    stored = [("best", "--study", name, *place)]
    stored += [("retrain", "--study", name, "--seeds", "3", *place)] * facts.can_retrain
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


def what_mattered(facts: StudyFacts) -> Section | None:
    """The importance of each parameter; None if there are too few trials to compare."""
    place, epoch, values = _compared(facts)
    if len(values) < LEAST_FOR_IMPORTANCE:
        return None
    trials = [trial for trial in facts.trials if trial.number in values]
    shares: Mapping[str, float] = {}
    objective, error = _named(facts.names[place]), ""
    if len(set(filter(math.isfinite, values.values()))) < 2:  # Optuna would call all parameters equally important
        error = f"all {len(values)} trials have the same {objective}."
        if len(set(values.values())) > 1:
            error = f"no two of {len(values)} trials have finite values of {objective} that differ."
    else:
        try:
            shares = _importances(facts.study.directions[place], trials, values)
        except (ValueError, RuntimeError) as problem:
            error = str(problem)
    bars = charts.bars(list(shares.items())[:16], "importance of each parameter") if shares else None
    return {"objective": objective, "epoch": epoch, "trials": len(values), "bars": bars, "error": error}


def _compared(facts: StudyFacts) -> tuple[int, int | None, dict[int, float]]:
    """The objective's place, the epoch, and each trial's value: the final one, or that of the last epoch of enough."""
    shorter = facts.complete
    while len(shorter) >= LEAST_FOR_IMPORTANCE:
        values = {trial.number: trial.values[0] for trial in longest_trained(shorter)}
        if len(values) >= LEAST_FOR_IMPORTANCE:
            return 0, None, values
        shorter = [trial for trial in shorter if trial.number not in values]
    # A pruner leaves few complete trials in a short search, and those that it stopped tell something, too; with a
    # clock, an epoch is another part of each training.
    by_epoch: dict[int, dict[int, float]] = {}
    for trial in facts.trials:
        by_clock = attribute(trial, TrialKey.RUNG) is not None
        for epoch, value in curve_of(trial) if trial.params and not by_clock else []:
            by_epoch.setdefault(int(epoch), {})[trial.number] = value
    enough = [epoch for epoch, values in by_epoch.items() if len(values) >= LEAST_FOR_IMPORTANCE]
    return (_reported(facts), max(enough), by_epoch[max(enough)]) if enough else (0, None, {})


def _importances(
    direction: StudyDirection, trials: Sequence[FrozenTrial], values: Mapping[int, float]
) -> dict[str, float]:
    """Optuna's estimate, from a study in memory whose trials have these values."""
    storage, said = optuna.storages.InMemoryStorage(), optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.WARNING)  # it says that there is a new study
    storage.create_new_study([direction], "compared")
    optuna.logging.set_verbosity(said)
    compared = optuna.load_study(study_name="compared", storage=storage)
    compared.add_trials(
        create_trial(params=t.params, distributions=t.distributions, value=values[t.number]) for t in trials
    )
    return optuna.importance.get_param_importances(compared)


def supernet_section(facts: StudyFacts) -> Section | None:
    """Argmax, probabilities and rank correlation; None if no supernet was trained."""
    try:
        result = read_result(facts.study)
        space = facts.space
    except NasOptunaError:
        return None
    choices = [
        (name, ", ".join(f"{text_of(c)}: {p:.0%}" for c, p in zip(space.parameters[name].choices, shares, strict=True)))
        for name, shares in result.probabilities().items()
        if name in space.parameters
        and len(space.parameters[name].choices) == len(shares)  # code may have changed since
    ]
    typed = command(facts.study, "supernet", "check", "--study", facts.study.study_name)
    found = {"argmax": result.argmax, "choices": choices, "least": LEAST_FOR_CHECK, "command": typed}
    return found | _supernet_check(facts, space)


def _supernet_check(facts: StudyFacts, space: SearchSpace) -> Section:
    """The supernet's score of each network that was trained alone, against its accuracy."""
    scorer = find_predictor(facts.study, {name: p.choices for name, p in space.parameters.items()})
    trained = [t for t in facts.comparable if attribute(t, TrialKey.ACCURACY) is not None]
    if scorer is None or len(trained) < LEAST_FOR_CHECK:
        return {"check": None}
    scores = scorer([space.architecture(of_architecture(t.params)).params for t in trained])
    accuracies = [float(attribute(t, TrialKey.ACCURACY)) for t in trained]
    dots = Series(list(zip(scores, accuracies, strict=True)), "dot s0", titles_of(trained))
    chart = charts.plot([dots], "score by the supernet", "accuracy, trained alone", share=True)
    return {"check": chart, "tau": float(kendall(np.asarray(scores), np.asarray(accuracies))), "trained": len(trained)}
