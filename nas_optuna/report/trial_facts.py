"""The figures of a trial as every table, note and page shows them: made once, from its record."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Literal, NamedTuple

from nas_optuna.objectives import describe
from nas_optuna.quantities import Quantity, count
from nas_optuna.study.records import TrialRecord, cost_names
from nas_optuna.study.standard_errors import standard_error, with_error

EXACT = "{:,.0f}".format
"""Writes values from 1,000 on with all their digits."""


class FigureColumn(NamedTuple):
    """A column of a table of trials; `of` gives a trial's cell, None where the trial has no such figure."""

    kind: Literal["objective", "effort", "cost"]
    heading: str
    of: Callable[[TrialRecord], object]


def objectives_of(
    record: TrialRecord, names: Sequence[str], images: int | None = None, large: Callable[[float], str] = count
) -> list[tuple[str, str]]:
    """Objectives and their values, an accuracy with its error on so many images; none where the trial has none."""
    error = standard_error(record, images)
    return [(n, with_error(n, v, error, large)) for n, v in zip(names, record.values, strict=False)]


def described_costs(record: TrialRecord, but: Sequence[str] = ()) -> list[tuple[Quantity, float]]:
    """What the network costs, without those costs that are objectives."""
    return [(describe(name), record.costs[name]) for name in cost_names([record], but)]


def figures_of(record: TrialRecord, names: Sequence[str], images: int | None) -> list[tuple[str, str]]:
    """A trial's figures for a person: name and value with its unit."""
    objectives = objectives_of(record, names, images, EXACT)
    rows = [(name, text) for name, text in objectives if name.partition(":")[0] not in record.costs]
    if record.accuracy is not None and "accuracy" not in names:
        rows.append(("accuracy", with_error("accuracy", record.accuracy, standard_error(record, images))))
    rows += [(cost.label or cost.name, cost.text(value)) for cost, value in described_costs(record)]
    rows += [("training time", f"{record.seconds:.1f} s")] if record.seconds else []
    return rows + ([("proposed by", record.origin)] if record.origin else [])


def remarks_of(record: TrialRecord) -> list[str]:
    """What is special about how a trial ended, if anything is."""
    remarks = [f"continues trial {record.continues}"] if record.continues is not None else []
    remarks += [f"as trial {record.duplicate_of}"] if record.duplicate_of is not None else []
    return remarks + ([record.cause] if record.cause else [])


def figure_columns(
    records: Sequence[TrialRecord],
    names: Sequence[str],
    images: int | None = None,
    large: Callable[[float], str] = count,
) -> list[FigureColumn]:
    """The figures that any of the records has, as columns: objectives, epochs, costs that are no objectives."""

    def objective(place: int, record: TrialRecord) -> str | None:
        values = objectives_of(record, names, images, large)
        return values[place][1] if place < len(values) else None

    def cost(quantity: Quantity, record: TrialRecord) -> str | None:
        return quantity.brief(record.costs[quantity.name]) if quantity.name in record.costs else None

    costs = map(describe, cost_names(records, names))
    return [
        *(FigureColumn("objective", name, partial(objective, place)) for place, name in enumerate(names)),
        FigureColumn("effort", "epochs", lambda record: record.epochs or None),
        *(FigureColumn("cost", each.heading, partial(cost, each)) for each in costs),
    ]
