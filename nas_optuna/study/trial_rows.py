"""Reading trials from Optuna's tables: many at once, and each of them even if some of its rows are damaged.

Optuna reads trials as SQLAlchemy objects, which takes several times as long for thousands of them, and one damaged row
makes the whole study unreadable.
"""

from __future__ import annotations

import json
import math
from collections import defaultdict
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from functools import lru_cache
from operator import index
from typing import Any

from optuna.distributions import BaseDistribution, CategoricalDistribution, json_to_distribution
from optuna.trial import FrozenTrial, TrialState
from sqlalchemy import ColumnElement, Connection, Table, func, literal_column, select

from nas_optuna.errors import describe_error, printable, shortened, shown
from nas_optuna.quantities import LARGEST
from nas_optuna.study.optuna_internals import tables
from nas_optuna.study.schema import TrialKey, flaw_of_trial

Row = Sequence[Any]
_TRIAL = ("trial_id", "number", "state", "datetime_start", "datetime_complete")
_PARTS = {
    "trial_values": ("objective", "value", "value_type"),
    "trial_params": ("param_name", "param_value", "distribution_json", "param_id"),
    "trial_user_attributes": ("key", "value_json"),
    "trial_system_attributes": ("key", "value_json"),
    "trial_intermediate_values": ("step", "intermediate_value", "intermediate_value_type"),
}
"""Table → the columns that are read from it."""
_NOT_FINITE = {"INF_POS": math.inf, "INF_NEG": -math.inf, "NAN": math.nan}
_SHOWN = 120


class Unreadable(Exception):  # noqa: N818 - a property of rows
    """A row that neither Optuna nor this package would write."""


def read_trials(connection: Connection, which: ColumnElement[bool]) -> list[FrozenTrial]:
    """Read trials, in the order in which they were made."""
    trials, directions = tables()["trials"], tables()["study_directions"]
    objectives = select(func.count()).where(directions.c.study_id == trials.c.study_id).scalar_subquery()
    query = select(*_columns(trials, _TRIAL), objectives).select_from(trials)
    rows = connection.execute(query.where(which).order_by(trials.c.trial_id)).all()
    if not rows:
        return []
    parts = [_parts(connection, tables()[name], columns, which) for name, columns in _PARTS.items()]
    return [_trial(row, [part.get(row[0], ()) for part in parts]) for row in rows]


def _columns(table: Table, names: Iterable[str]) -> list[ColumnElement[Any]]:
    """Columns as the driver gives them: where SQLAlchemy converts, one altered row would fail the whole query."""
    return [literal_column(f"{table.name}.{name}") for name in names]


def _parts(
    connection: Connection, table: Table, columns: Sequence[str], which: ColumnElement[bool]
) -> dict[int, list[Row]]:
    trials = tables()["trials"]
    query = select(table.c.trial_id, *_columns(table, columns)).join(trials, trials.c.trial_id == table.c.trial_id)
    found: dict[int, list[Row]] = defaultdict(list)
    for trial_id, *values in connection.execute(query.where(which)):
        found[trial_id].append(values)
    return found


def attributes_of(rows: Iterable[Row]) -> dict[str, Any]:
    """Attributes from rows of keys and JSON."""
    found = {}
    for key, text in rows:
        if not isinstance(key, str):
            raise Unreadable("the name of an attribute is not text")
        try:
            found[key] = json.loads(text)
        except (ValueError, TypeError, RecursionError):
            raise Unreadable(f"{key} is not JSON") from None
    return found


def _trial(row: Row, parts: Sequence[Sequence[Row]]) -> FrozenTrial:
    trial_id, number, *_ = row
    try:
        return _readable(row, parts)
    except Unreadable as error:
        why = str(error)
    except Exception as error:  # Python and Optuna may raise anything for unforeseen values
        why = describe_error(error)
    why = shortened(printable(why), _SHOWN)
    return FrozenTrial(
        number=number if isinstance(number, int) else trial_id,
        state=TrialState.FAIL,
        value=None,
        datetime_start=None,
        datetime_complete=None,
        params={},
        distributions={},
        user_attrs={TrialKey.UNREADABLE: why, TrialKey.CAUSE: f"its rows cannot be read: {why}"},
        system_attrs={},
        intermediate_values={},
        trial_id=trial_id,
    )


def _readable(row: Row, parts: Sequence[Sequence[Row]]) -> FrozenTrial:
    trial_id, number, state, start, complete, objectives = row
    values, params, user, system, steps = parts
    attributes, of_optuna = attributes_of(user), attributes_of(system)
    if (flaw := flaw_of_trial(attributes, of_optuna)) is not None:
        raise Unreadable(flaw)
    known, places = TrialState[state], sorted(place for place, *_ in values)
    if places != list(range(objectives)) and (places or known == TrialState.COMPLETE):
        raise Unreadable(f"it has {len(places)} of {objectives} values")
    if not all(isinstance(name, str) for name, *_ in params):
        raise Unreadable("the name of a parameter is not text")
    distributions = {name: _distribution(text) for name, _, text, _ in sorted(params, key=lambda p: p[3])}
    chosen = {name: value for name, value, *_ in params}
    return FrozenTrial(
        number=index(number),
        state=known,
        value=None,
        values=[_number(value, kind) for _, value, kind in sorted(values, key=lambda v: v[0])] or None,
        datetime_start=_time(start),
        datetime_complete=_time(complete),
        params={name: _choice(distribution, chosen[name]) for name, distribution in distributions.items()},
        distributions=distributions,
        user_attrs=attributes,
        system_attrs=of_optuna,
        intermediate_values={index(step): _number(value, kind) for step, value, kind in steps},
        trial_id=trial_id,
    )


def _time(found: Any) -> datetime | None:
    """Optuna stores UTC without a time zone, and shows local time."""
    moment = datetime.fromisoformat(found) if isinstance(found, str) else found
    return None if moment is None else moment.replace(tzinfo=UTC).astimezone().replace(tzinfo=None)


def _number(value: Any, kind: Any = None) -> float:
    if kind in _NOT_FINITE:
        return _NOT_FINITE[kind]
    if not isinstance(value, int | float) or not abs(value) < LARGEST:
        raise Unreadable(f"a value is {shown(value)}")
    return float(value)


_distribution = lru_cache(maxsize=1000)(json_to_distribution)


def _choice(distribution: BaseDistribution, value: Any) -> Any:
    if isinstance(distribution, CategoricalDistribution) and value not in range(len(distribution.choices)):
        raise Unreadable(f"a choice is {shown(value)}")
    return distribution.to_external_repr(_number(value))
