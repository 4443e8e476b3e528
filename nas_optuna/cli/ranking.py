"""The ranked table of a study's trials."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING

from nas_optuna.cli.printing import Column, count, print_table, say, seconds, write
from nas_optuna.cli.tables import panel

if TYPE_CHECKING:
    from optuna.study import Study

    from nas_optuna.study.records import TrialRecord

SHOWN = 10
"""Trials that are listed without ``--all``."""
_STATES = ("complete", "pruned", "fail", "running", "waiting", "unreadable")


def print_ranking(study: Study, *, everything: bool = False) -> None:
    """Print the best trials of a study, best first, and how many there are in each state.

    Args:
        study: Any study.
        everything: Print all trials.
    """
    from nas_optuna.objectives import describe
    from nas_optuna.report.selection import remembered_images, winners
    from nas_optuna.study.optuna_internals import read_once
    from nas_optuna.study.records import cost_names, ranked
    from nas_optuna.study.studies import maximizes

    study = read_once(study)
    records = ranked(study.get_trials(deepcopy=False), maximizes(study))
    listed = records if everything else records[:SHOWN]
    names = study.metric_names or [f"value {i}" for i in range(len(study.directions))]
    images = remembered_images(study)
    found = winners(study, images)
    tied = found.numbers if found and len(found.tied) > 1 else frozenset()
    costs = [describe(name) for name in cost_names(listed, names)]
    unfinished = any(record.state != "complete" for record in listed)
    columns = (
        Column("rank", right=True, rank=5),
        Column("trial", right=True),
        Column("state", rank=4),
        *(Column(name, right=True, rank=0 if i == 0 else 2, shortest=15) for i, name in enumerate(names)),
        Column("epochs", right=True, rank=5),
        Column("time", right=True, rank=99),
        *(Column(c.heading, right=True, rank=7 + i if i else 3) for i, c in enumerate(costs)),
        Column("architecture", shortest=28),
        Column("note", shortest=16, rank=6),
    )
    rows = [
        (
            rank,
            record.number,
            record.state if unfinished else None,
            *values_of(record, names, images),
            record.epochs or None,
            seconds(record.seconds) if record.seconds else None,
            *(cost.brief(record.costs[cost.name]) if cost.name in record.costs else None for cost in costs),
            record.architecture,
            _note(record, tied=record.number in tied),
        )
        for rank, record in enumerate(listed, start=1)
    ]
    print_table(f"study {study.study_name}", columns, rows)
    write(f"{_counts(records)}{_more(listed, records)}\n")
    if tied:
        write(f"tied{' in accuracy' if len(names) > 1 else ''}: {len(tied)} trials within 1 standard error\n")
    write("\n")


def print_winner(study: Study) -> None:
    """Print the best trial of a study of one objective in a frame, so that it is still seen when a table is long."""
    from nas_optuna.metrics import ACCURACIES
    from nas_optuna.objectives import describe
    from nas_optuna.report.selection import gain_of, remembered_images
    from nas_optuna.study.best import best_trial
    from nas_optuna.study.records import TrialRecord, cost_names
    from nas_optuna.study.records import count as counted

    found = best_trial(study) if len(study.directions) == 1 else None
    if found is None:
        return
    record, name = TrialRecord.of(found), (study.metric_names or ["value"])[0]
    images = remembered_images(study) if name in ACCURACIES else None
    of_images = f" on {images:,} validation images" if images else ""
    costs = [describe(cost).brief_text(record.costs[cost]) for cost in cost_names([record], [name])]
    facts = [*costs, counted(record.epochs, "epoch")]
    gain = gain_of(study)
    panel(
        f"best: trial {record.number}",
        [
            f"{name} {values_of(record, [name], images)[0]}{of_images}",
            *([gain.beside] if gain and gain.beside else []),
            record.architecture,
            " · ".join(facts),
        ],
    )
    for remark in gain.remarks() if gain else ():
        say(remark)


def values_of(record: TrialRecord, names: Sequence[str], images: int | None) -> list[str | None]:
    """Each objective's value as text, an accuracy with its standard error; None where the trial has no values.

    Args:
        record: The trial.
        names: Of the objectives.
        images: Number of validation images, where it is known.
    """
    from nas_optuna.study.standard_errors import standard_error, with_error

    error = standard_error(record, images)
    values = record.values or (None,) * len(names)
    return [None if v is None else with_error(n, v, error, count) for n, v in zip(names, values, strict=False)]


def _note(record: TrialRecord, *, tied: bool) -> str:
    from nas_optuna.study.trial_queue import REFERENCE

    notes = [REFERENCE] if record.origin == REFERENCE else []
    notes += ["tied"] if tied else []
    notes += [f"continues trial {record.continues}"] if record.continues is not None else []
    notes += [f"as trial {record.duplicate_of}"] if record.duplicate_of is not None else []
    notes += [record.cause] if record.cause else []
    return ", ".join(notes)


def _counts(records: Sequence[TrialRecord]) -> str:
    """E.g. ``"20 trials: 6 complete, 14 pruned"``."""
    from nas_optuna.study.records import count as counted

    if not records:
        return "no trials yet"
    states = Counter(record.state for record in records)
    parts = [f"{states[state]:,} {'failed' if state == 'fail' else state}" for state in _STATES if states[state]]
    return f"{counted(len(records), 'trial')}: {', '.join(parts)}"


def _more(listed: Sequence[TrialRecord], records: Sequence[TrialRecord]) -> str:
    return "" if len(listed) == len(records) else f"; the best {len(listed)} are listed, --all lists all"
