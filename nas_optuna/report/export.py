"""All trials of a study as text."""

from __future__ import annotations

import csv
import io
import json
from typing import Any

from optuna.study import Study

from nas_optuna.report.selection import objective_names
from nas_optuna.study.results import TrialRecord


def rows(study: Study) -> list[dict[str, Any]]:
    """One flat dict a trial: its record, one key for each objective, one for each parameter."""
    names = objective_names(study)
    result = []
    for trial in study.get_trials(deepcopy=False):
        record = TrialRecord.of(trial).to_dict()
        values, costs = record.pop("values"), record.pop("costs")
        record |= costs | dict(zip(names, values, strict=False)) | {f"param.{k}": v for k, v in trial.params.items()}
        result.append(record)
    return result


def to_json(study: Study) -> str:
    """A JSON array."""
    return json.dumps(rows(study), indent=2, ensure_ascii=False) + "\n"


def to_csv(study: Study) -> str:
    """CSV with a heading; a field that a trial lacks is empty."""
    records = rows(study)
    columns = list(dict.fromkeys(key for record in records for key in record))
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows(records)
    return text.getvalue()


FORMATS = {"csv": to_csv, "json": to_json}
