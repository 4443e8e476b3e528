"""Notes for optuna-dashboard: a short one per trial, with its architecture as a table."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from optuna.trial import FrozenTrial

from nas_optuna.execution.events import Callback, Subject
from nas_optuna.study.optuna_internals import dashboard_note, set_study_system_attributes
from nas_optuna.study.records import TrialRecord, count

_PART = re.compile(r"(?P<place>[^.]+)\.(?P<what>.+)")


def trial_note(trial: FrozenTrial) -> str:
    """Markdown of a finished trial: what it was, what it cost, how it ended."""
    record = TrialRecord.of(trial)
    facts = [f"**{record.architecture}**", record.state]
    facts += [count(record.epochs, "epoch")] if record.epochs else []
    facts += [f"{record.macs:,} MACs"] if record.macs is not None else []
    facts += [f"{record.params:,} parameters"] if record.params is not None else []
    facts += [f"{record.latency_ms:.3g} ms"] if record.latency_ms is not None else []
    facts += [f"value of trial {record.duplicate_of}"] if record.duplicate_of is not None else []
    facts += [record.cause] if record.cause else []
    return " · ".join(facts) + "\n\n" + architecture_table(trial.params)


def architecture_table(params: Mapping[str, Any]) -> str:
    """A Markdown table of a params dict: ``conv1.filters`` is row ``conv1``, column ``filters``."""
    table: dict[str, dict[str, Any]] = {}
    for name, choice in params.items():
        match = _PART.fullmatch(name)
        place, what = (match["place"], match["what"]) if match else (name, "choice")
        table.setdefault(place, {})[what] = choice
    columns = list(dict.fromkeys(what for row in table.values() for what in row))
    lines = ["| | " + " | ".join(columns) + " |", "|---" * (len(columns) + 1) + "|"]
    for place, row in table.items():
        lines.append(f"| {place} | " + " | ".join(str(row.get(what, "")) for what in columns) + " |")
    return "\n".join(lines)


class NoteWriter(Callback):
    """Writes the note of each trial when it has ended."""

    def trial_finished(self, subject: Subject, ended: FrozenTrial | None) -> None:
        """Write the note to the study, where the dashboard looks for it."""
        if subject.study is not None and ended is not None:
            set_study_system_attributes(subject.study, dashboard_note(ended, trial_note(ended)))
