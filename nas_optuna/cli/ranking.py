"""The ranked table of a study's trials."""

from __future__ import annotations

from typing import TYPE_CHECKING

from nas_optuna.cli.printing import count, print_table, seconds

if TYPE_CHECKING:
    from optuna.study import Study

    from nas_optuna.study.records import TrialRecord


def print_ranking(study: Study, limit: int | None = None) -> None:
    """Print the trials of a study, best first, numbers sorted as numbers.

    Args:
        study: Any study of ours.
        limit: Print only this many.
    """
    from nas_optuna.study.records import ranked
    from nas_optuna.study.studies import maximizes

    records = ranked(study.get_trials(deepcopy=False), maximizes(study))
    names = study.metric_names or [f"value {i}" for i in range(len(study.directions))]
    columns = ("rank", "trial", "state", *names, "epochs", "time", "MACs", "params", "architecture", "note")
    rows = [
        (
            rank,
            record.number,
            record.state,
            *(_value(record, i) for i in range(len(names))),
            record.epochs or None,
            seconds(record.seconds) if record.seconds else None,
            count(record.macs),
            count(record.params),
            record.architecture,
            _note(record),
        )
        for rank, record in enumerate(records[:limit], start=1)
    ]
    print_table(f"study {study.study_name}", columns, rows, right=(0, 1, *range(3, 7 + len(names))))


def _value(record: TrialRecord, objective: int) -> str | None:
    if objective >= len(record.values):
        return None
    spread = f" ± {record.spread:.4f}" if objective == 0 and record.spread is not None else ""
    return f"{record.values[objective]:.4f}{spread}"


def _note(record: TrialRecord) -> str:
    notes = [f"as trial {record.duplicate_of}"] if record.duplicate_of is not None else []
    notes += [record.cause] if record.cause else []
    return ", ".join(notes)
