"""Several studies side by side: their results, and how soon they found them."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from operator import itemgetter
from typing import Any

from optuna.study import Study

from nas_optuna.digests import hex_digest
from nas_optuna.errors import StudyError
from nas_optuna.metrics import ACCURACIES
from nas_optuna.objectives import describe
from nas_optuna.quantities import duration
from nas_optuna.report import charts
from nas_optuna.report.charts import Series
from nas_optuna.report.columns import Column, filled
from nas_optuna.report.facts import StudyFacts, staircase
from nas_optuna.report.rendering import render
from nas_optuna.study.schema import StudyKey, TrialKey, attribute
from nas_optuna.study.significance import with_error
from nas_optuna.study.studies import study_spec, written


def columns_for(objective: str, *, brief: bool = False) -> list[Column]:
    """The columns of a table of summaries."""

    def best(row: Mapping[str, Any]) -> str | None:
        return None if row["best"] is None else with_error(objective, row["best"], row["error"], brief=brief)

    return [
        Column("study", itemgetter("study")),
        Column(describe(objective).heading, best, right=True),
        Column("complete", itemgetter("complete"), right=True, rank=1),
        Column("trials", itemgetter("trials"), right=True),
        Column("time", lambda row: duration(row["seconds"]), right=True, rank=2),
        Column("sampler", itemgetter("sampler"), rank=3),
        Column("pruner", itemgetter("pruner"), rank=5),
        Column("architecture", itemgetter("architecture"), shortest=20, rank=4),
    ]


def summary_of(study: Study) -> dict[str, Any]:
    """What one study found: a row of the table, and of JSON."""
    facts = StudyFacts(study)
    found, spec = facts.winners, facts.spec
    return {
        "study": study.study_name,
        "sampler": spec.sampler.name,
        "pruner": spec.pruner.name,
        "trials": len(facts.trials),
        "complete": len(facts.complete),
        "seconds": sum(attribute(trial, TrialKey.SECONDS, 0.0) for trial in facts.trials),
        "best": found.best.values[0] if found else None,
        "error": found.error if found else None,
        "architecture": attribute(found.best, TrialKey.ARCHITECTURE, "") if found else "",
    }


def require_comparable(studies: Sequence[Study]) -> str:
    """The first objective that all studies share."""
    names = {study_spec(study).objectives[0] for study in studies}
    if len(names) > 1:
        raise StudyError(f"the studies optimise different things ({', '.join(sorted(names))}) and cannot be compared")
    return names.pop()


def differences(studies: Sequence[Study]) -> tuple[str, ...]:
    """What differs between studies beside sampler and pruner, a line each; it may explain different values."""
    found: dict[str, dict[tuple[str, str], list[str]]] = {}  # values that are written alike may differ
    for study in studies:
        for name, value in _what_decides(study).items():
            found.setdefault(name, {}).setdefault((written(value), repr(value)), []).append(study.study_name)
    return tuple(
        f"{name}: " + "; ".join(f"{value} in {', '.join(names)}" for (value, _), names in by_value.items())
        for name, by_value in found.items()
        if len(by_value) > 1 or sum(map(len, by_value.values())) < len(studies)
    )


def _what_decides(study: Study) -> dict[str, Any]:
    """Everything that decides what a study can find, by name, without sampler and pruner."""
    spec, data = study_spec(study), study.user_attrs.get(StudyKey.DATA, {})
    sections = {name: value for name, value in spec.to_dict().items() if name not in _OF_THE_SEARCH}
    found: dict[str, Any] = {"images": _images(spec.data.name, data)}
    for name, value in sections.items():
        begin = "searched " if name == "search" else f"{name}."
        found |= {begin + key: item for key, item in value.items()} if isinstance(value, dict) else {name: value}
    del found["data.name"]
    if ":" in spec.space.name:  # the code may have changed under the same name
        described = json.dumps(study.user_attrs.get(StudyKey.SPACE), sort_keys=True)
        found["space.name"] = f"{spec.space.name} ({hex_digest(described, 6)})"
    by_clock = any(attribute(trial, TrialKey.SHARE) is not None for trial in study.get_trials(deepcopy=False))
    return found | {"trained": "for seconds" if by_clock else "for epochs"}


_OF_THE_SEARCH = frozenset({"sampler", "pruner", "supernet", "keep_paused"})
"""Sections of a spec that a comparison is about."""


def _images(name: str, data: Mapping[str, Any]) -> str:
    """Name, numbers and digest of the images: the digest tells them apart, the others are for people."""
    if "fingerprint" not in data:
        return name
    counts = f"{data.get('training', '?')} + {data.get('validation', '?')}"
    return f"{name} ({counts}, {data['fingerprint'][:6]})"


def comparison_page(studies: Sequence[Study], summaries: Sequence[Mapping[str, Any]]) -> str:
    """One HTML page: the table, and the best value by trials and by seconds of training."""
    name = require_comparable(studies)
    heading = describe(name).heading
    by_trials, by_seconds = [], []
    for i, facts in enumerate(map(StudyFacts, studies)):
        spent, total = {}, 0.0
        for trial in facts.trials:
            total += attribute(trial, TrialKey.SECONDS, 0.0)
            spent[trial.number] = total
        steps = staircase([(t.number, t.values[0]) for t in facts.comparable], maximize=facts.maximize)
        # Four colours and four patterns of dashes: sixteen lines that differ, the first four in both.
        style, title = f"line s{i % 4} d{(i + i // 4) % 4}", facts.study.study_name
        by_trials.append(Series(steps, style, name=title))
        by_seconds.append(Series([(spent[int(n)], value) for n, value in steps], style, name=title))
    return render(
        "comparison.html.j2",
        **filled(columns_for(name), summaries),
        differences=differences(studies),
        by_trials=charts.plot(by_trials, "trial", heading, share=name in ACCURACIES),
        by_seconds=charts.plot(by_seconds, "seconds of training, all trials", heading, share=name in ACCURACIES),
    )
