"""What a study's supernet prefers, and whether to believe it."""

from __future__ import annotations

import csv
import io
import math

from markupsafe import Markup

from nas_optuna.errors import NasOptunaError
from nas_optuna.hyperparameters import of_architecture
from nas_optuna.report import charts
from nas_optuna.report.charts import Series
from nas_optuna.report.facts import Section, StudyFacts, titles_of
from nas_optuna.report.selection import space_of
from nas_optuna.spaces import SearchSpace
from nas_optuna.study.schema import TrialKey, attribute
from nas_optuna.study.supernet_result import find_predictor, read_result

LEAST_FOR_CHECK = 5
"""Networks trained alone below which a rank correlation says nothing."""


def supernet_section(facts: StudyFacts) -> Section | None:
    """Argmax, probabilities, entropies and rank correlation; None where no supernet was trained."""
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


def _entropies(facts: StudyFacts, artifact: str) -> Markup | None:
    """The entropy of each parameter's alphas over the epochs, from the file that the training left behind."""
    # None where the strategy trained none.
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


def _supernet_check(facts: StudyFacts, space: SearchSpace) -> Section:
    """What the supernet says of each network that was trained alone, against its accuracy."""
    from scipy.stats import kendalltau

    scorer = find_predictor(facts.study, {name: p.choices for name, p in space.parameters.items()})
    trained = [t for t in facts.complete if attribute(t, TrialKey.ACCURACY) is not None]
    if scorer is None or len(trained) < LEAST_FOR_CHECK:
        return {"check": None}
    scores = scorer([space.architecture(of_architecture(t.params)).params for t in trained])
    accuracies = [float(attribute(t, TrialKey.ACCURACY)) for t in trained]
    dots = Series(list(zip(scores, accuracies, strict=True)), "dot s0", titles_of(trained))
    chart = charts.plot([dots], "score by the supernet", "accuracy, trained alone")
    return {"check": chart, "tau": float(kendalltau(scores, accuracies).statistic), "trained": len(trained)}
