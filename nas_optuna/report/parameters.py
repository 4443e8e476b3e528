"""Which parameters mattered in a study, and what its best trials chose."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import optuna
from optuna.trial import FrozenTrial, create_trial

from nas_optuna.report import charts
from nas_optuna.report.facts import Section, StudyFacts, curve_of

LEAST_FOR_IMPORTANCE = 10
"""Trials to compare below which a share of importance would be a guess."""
AXES = 12
"""Parameters that parallel coordinates have room for."""


def what_mattered(facts: StudyFacts) -> Section | None:
    """Importances and parallel coordinates; None where there are too few trials to compare."""
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


def _compared(facts: StudyFacts) -> tuple[int | None, dict[int, float]]:
    """Values that compare trials, by number: final, or of the last epoch that enough have reached."""
    # A pruner leaves few complete trials in a short search, and what it has stopped tells something, too.
    if len(facts.complete) >= LEAST_FOR_IMPORTANCE:
        return None, {trial.number: trial.values[0] for trial in facts.complete}
    by_epoch: dict[int, dict[int, float]] = {}
    for trial in facts.trials:
        for epoch, value in curve_of(trial) if trial.params else []:
            by_epoch.setdefault(int(epoch), {})[trial.number] = value
    enough = [epoch for epoch, values in by_epoch.items() if len(values) >= LEAST_FOR_IMPORTANCE]
    return (max(enough), by_epoch[max(enough)]) if enough else (None, {})


def _importances(facts: StudyFacts, trials: Sequence[FrozenTrial], values: Mapping[int, float]) -> dict[str, float]:
    """Optuna's estimate, from a study in memory in which these trials end with these values."""
    storage = optuna.storages.InMemoryStorage()
    storage.create_new_study([facts.study.directions[0]], "compared")
    compared = optuna.load_study(study_name="compared", storage=storage)
    compared.add_trials(
        create_trial(params=t.params, distributions=t.distributions, value=values[t.number]) for t in trials
    )
    return optuna.importance.get_param_importances(compared)


def _parallel(
    facts: StudyFacts, trials: Sequence[FrozenTrial], values: Mapping[int, float], shares: Mapping[str, float]
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
