"""Tables of a study's trials."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING

from nas_optuna.cli.printing import Column, print_table, say, write
from nas_optuna.cli.tables import panel
from nas_optuna.quantities import duration

if TYPE_CHECKING:
    from optuna.study import Study

    from nas_optuna.study.records import TrialRecord

SHOWN = 10
"""Trials that are listed without ``--all``."""
_STATES = ("complete", "pruned", "fail", "running", "waiting", "unreadable")


def print_ranking(study: Study, *, everything: bool = False) -> None:
    """Print the best trials of a study, or all, best first, and how many there are in each state."""
    from nas_optuna.report.facts import StudyFacts

    facts = StudyFacts(study)
    records, names, found = facts.records, facts.names, facts.winners
    listed = records if everything else records[:SHOWN]
    tied = found.numbers if found and len(found.tied) > 1 else frozenset()
    places = {record.number: place for place, record in enumerate(listed, start=1)}
    unfinished = any(record.state != "complete" for record in listed)
    columns = [
        Column("rank", lambda record: places[record.number], right=True, rank=5),
        Column("trial", lambda record: record.number, right=True),
        Column("state", lambda record: record.state if unfinished else None, rank=4),
        *record_columns(listed, names, facts.images),
        Column("architecture", lambda record: record.architecture, shortest=28),
        Column("note", lambda record: _note(record, tied=record.number in tied), shortest=16, rank=6),
    ]
    print_table(f"study {study.study_name}", columns, listed)
    more = "" if len(listed) == len(records) else f"; the best {len(listed)} are listed, --all lists all"
    write(f"{_counts(records)}{more}\n")
    if tied:
        write(f"tied{' in accuracy' if len(names) > 1 else ''}: {len(tied)} trials within 1 standard error\n")
    write("\n")


def record_columns(
    records: Sequence[TrialRecord], names: Sequence[str], images: int | None = None, *, kept: int = 1, time: bool = True
) -> list[Column]:
    """The columns of trials' figures, of whose objectives the first `kept` are never left out."""
    from nas_optuna.report.trial_facts import figure_columns

    spent = Column("time", lambda r: duration(r.seconds) if r.seconds else None, right=True, rank=99)
    found: list[Column] = []
    ranks = {"objective": [0] * kept + [2] * len(names), "effort": [5], "cost": [3, *range(8, 99)]}
    for column in figure_columns(records, names, images):
        rank = ranks[column.kind].pop(0)
        shortest = 15 if column.kind == "objective" else None
        found.append(Column(column.heading, column.of, right=True, rank=rank, shortest=shortest))
        found += [spent] if column.kind == "effort" and time else []
    return found


def print_winner(study: Study) -> None:
    """Print the best trial of a study of one objective in a frame, so that it is still seen when a table is long."""
    from nas_optuna.metrics import ACCURACIES
    from nas_optuna.report.facts import StudyFacts
    from nas_optuna.report.trial_facts import described_costs, objectives_of
    from nas_optuna.study.best import best_trial
    from nas_optuna.study.records import TrialRecord
    from nas_optuna.study.records import count as counted

    facts = StudyFacts(study)
    found = best_trial(facts.study) if len(facts.names) == 1 else None
    if found is None:
        return
    record, name, gain = TrialRecord.of(found), facts.first, facts.gain
    images = facts.images if name in ACCURACIES else None
    of_images = f" on {images:,} validation images" if images else ""
    costs = [cost.brief_text(value) for cost, value in described_costs(record, [name])]
    panel(
        f"best: trial {record.number}",
        [
            f"{name} {objectives_of(record, [name], images)[0][1]}{of_images}",
            *([gain.beside] if gain and gain.beside else []),
            record.architecture,
            " · ".join([*costs, counted(record.epochs, "epoch")]),
        ],
    )
    for remark in gain.remarks() if gain else ():
        say(remark)


def _note(record: TrialRecord, *, tied: bool) -> str:
    from nas_optuna.report.trial_facts import remarks_of
    from nas_optuna.study.trial_queue import REFERENCE

    return ", ".join([*[REFERENCE] * (record.origin == REFERENCE), *["tied"] * tied, *remarks_of(record)])


def _counts(records: Sequence[TrialRecord]) -> str:
    """E.g. ``"20 trials: 6 complete, 14 pruned"``."""
    from nas_optuna.study.records import count as counted

    if not records:
        return "no trials yet"
    states = Counter(record.state for record in records)
    parts = [f"{states[state]:,} {'failed' if state == 'fail' else state}" for state in _STATES if states[state]]
    return f"{counted(len(records), 'trial')}: {', '.join(parts)}"
