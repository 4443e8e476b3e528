"""Latency tables: the measured latency of every operation that a space can contain, as a JSON file.

Where these are too many, or cannot be measured alone, a table holds the latency of whole networks, from which that of
others is learned.
"""

from __future__ import annotations

import random
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from functools import partial
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, PrivateAttr, ValidationError

from nas_optuna.costs.latency import Conditions, Latency, fastest, measure_in_rounds
from nas_optuna.costs.latency_model import LatencyModel, operators
from nas_optuna.costs.runtimes import RENAMED
from nas_optuna.errors import ArchitectureError, SpecError, TableError, named
from nas_optuna.files import read_text, write_file
from nas_optuna.spaces import Decomposable, Operation, SearchSpace, Shape, require_operations
from nas_optuna.spaces.architecture import Architecture

if TYPE_CHECKING:
    from torch import nn

SECONDS = 0.015
"""Length of a visit: several short ones are not all disturbed by the same thing."""
MOST_OPERATIONS = 1_000
"""A space with more operations is measured by whole networks."""
WHOLE_NETWORKS = 300
"""So many networks are measured where they stand for the operations."""
_FOLDS = 10
_SAVE_EVERY = 5.0
"""Seconds of measuring that a killed process can lose."""

_Milliseconds = Annotated[float, Field(gt=0, allow_inf_nan=False)]
_Visit = tuple[_Milliseconds, _Milliseconds, _Milliseconds]
_Make = Callable[[], "tuple[nn.Module, Shape]"]


def _current(conditions: object) -> object:
    """Give a runtime of release 0.2 the name it has now."""
    if isinstance(conditions, dict) and (name := RENAMED.get(str(conditions.get("runtime")))):
        return {**conditions, "runtime": name}
    return conditions


class LatencyTable(BaseModel):
    """Latency of each operation under one set of conditions.

    Attributes:
        format: Marks the file, and the version of its layout.
        space: Name of the space whose operations these are.
        conditions: Where and how they were measured.
        date: When measuring began, ISO 8601 in UTC.
        overhead_ms: What a whole network takes beside its operations, as `check` fits it; often negative, since
            timing six operations one by one counts the cost of a call six times.
        entries: `Operation.key` → one ``(lower quartile, median, upper quartile)`` a visit, in milliseconds.
        networks: Architecture → the same for whole networks, where a kit has measured some.
        kit: The kit that has measured it on the device where the networks will run; None for a table of this machine.
    """

    model_config = ConfigDict(extra="forbid")

    format: Literal["nas-optuna latency table 1"] = "nas-optuna latency table 1"
    space: str
    conditions: Annotated[Conditions, BeforeValidator(_current)]
    date: str
    overhead_ms: float = Field(default=0.0, allow_inf_nan=False)
    entries: dict[str, list[_Visit]] = {}
    networks: dict[str, list[_Visit]] = {}
    kit: str | None = None
    _model: LatencyModel | None = PrivateAttr(default=None)

    @classmethod
    def load(cls, path: Path) -> LatencyTable:
        """Read a table.

        Raises:
            TableError: The file is missing, is not a latency table, or is damaged.
        """
        try:
            return cls.model_validate_json(read_text(path))
        except OSError as error:
            raise TableError(f"cannot read latency table {named(path)}: {error.strerror}") from error
        except ValidationError as error:
            problem = error.errors()[0]
            where = named(".".join(map(str, problem["loc"]))) or "the file"
            raise TableError(
                f"{named(path)} is not a sound latency table ({where}: {problem['msg']});"
                " remove it and measure again, with nas-optuna latency measure or the measure.py of a kit"
            ) from None
        except ValueError as error:
            raise TableError(f"cannot read latency table {named(path)}: {error}") from None

    def save(self, path: Path) -> None:
        """Write the table, so that a reader or a crash never meets half of it."""
        write_file(path, self.model_dump_json() + "\n")

    def require(self, conditions: Conditions, path: Path, remedy: str) -> None:
        """Refuse a table that other conditions have measured, unless a kit has measured it for another device.

        Args:
            conditions: The conditions it is to be used under.
            path: Where it is, for the message.
            remedy: What else one can do than measure one for these conditions, for the message.

        Raises:
            TableError: Naming each difference.
        """
        if self.kit:  # it says what the networks' own device needs, which is another than this one on purpose
            return
        mine, wanted = asdict(self.conditions), asdict(conditions)
        differences = [f"{k.replace('_', ' ')} {mine[k]!r}, not {wanted[k]!r}" for k in mine if mine[k] != wanted[k]]
        if differences:
            raise TableError(
                f"latency table {path} was measured with {'; '.join(differences)};"
                f" measure one for these conditions, or {remedy}"
            )

    def require_space(self, space: SearchSpace, path: Path | str) -> None:
        """Refuse a table of another space than this one.

        Raises:
            TableError: Naming both.
        """
        if self.space != space.name:
            raise TableError(
                f"latency table {path} is of space {self.space!r}, not {space.name!r}; choose another file"
            )

    def operation_ms(self, operation: Operation) -> float:
        """Latency of one operation, the median of its fastest visit."""
        if self.whole:
            raise TableError(
                f"the latency table holds whole networks, as the operations of space {self.space!r} are too many or"
                " cannot be measured alone; what needs the latency of one, as a supernet's loss does, cannot use it"
            )
        visits = self.entries.get(operation.key)
        if not visits:
            raise TableError(
                f"the latency table has no entry for {operation.key!r}; it is unfinished or of another space or input"
                " size: run nas-optuna latency measure for this space"
            )
        return fastest(Latency(*visit) for visit in visits).median_ms

    @property
    def whole(self) -> bool:
        """Whether whole networks stand for the operations."""
        return not self.entries and bool(self.networks)

    def network_ms(self) -> dict[str, float]:
        """Latency of each measured network, the median of its fastest visit."""
        return {text: fastest(Latency(*v) for v in visits).median_ms for text, visits in self.networks.items()}

    def architecture_ms(self, space: SearchSpace, architecture: Architecture) -> float:
        """Latency of a network: the sum over its operations and the overhead, or what whole networks tell of it."""
        if self.whole:
            return self._learned(space)(operators(space, architecture))
        made = require_operations(space, "a latency table")
        return max(0.0, self.overhead_ms + sum(map(self.operation_ms, made.operations(architecture))))

    def _learned(self, space: SearchSpace) -> LatencyModel:
        if self._model is None:
            measured = self.network_ms()
            self._model = LatencyModel([self._operators(space, text) for text in measured], list(measured.values()))
        return self._model

    def _operators(self, space: SearchSpace, text: str) -> Mapping[str, float]:
        try:
            return operators(space, space.parse(text))
        except ArchitectureError as error:
            raise TableError(f"the latency table is of another space than {space.name!r}: {error}") from error


def measurable_operations(space: SearchSpace, runtime: str) -> list[Operation]:
    """Every operation that a space can contain; none where they are too many to measure, or cannot stand alone."""
    # What is left of a function's network without its chosen layers has gaps. A runtime that compiles graphs leaves out
    # what leads into a gap.
    if not isinstance(space, Decomposable) or (runtime != "torch" and not space.sequential):
        return []
    try:
        found = list(islice(space.reachable_operations(), MOST_OPERATIONS + 1))
    except SpecError:  # of a function whose choices are too many
        return []
    return found if len(found) <= MOST_OPERATIONS else []


def measure_table(
    space: SearchSpace,
    conditions: Conditions,
    path: Path,
    *,
    rounds: int,
    seconds: float = SECONDS,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> LatencyTable:
    """Measure every operation that a space can contain, or what an earlier call has left over."""
    # The table is saved as it grows and when it is interrupted.
    if path.exists():
        table = LatencyTable.load(path)
        table.require(conditions, path, "continue it under its own")
        table.require_space(space, path)
    else:
        table = LatencyTable(space=space.name, conditions=conditions, date=datetime.now(UTC).isoformat("T", "seconds"))
    modules, found = _parts(space, table)
    visits = {key: len(found.get(key, ())) for key in modules}
    done, total = sum(min(n, rounds) for n in visits.values()), rounds * len(modules)
    progress(done, total)
    saved = time.monotonic()
    try:
        for key, latency in measure_in_rounds(modules, conditions, rounds=rounds, seconds=seconds, done=visits):
            found.setdefault(key, []).append((latency.lower_ms, latency.median_ms, latency.upper_ms))
            progress(done := done + 1, total)
            if time.monotonic() - saved > _SAVE_EVERY:
                table.save(path)
                saved = time.monotonic()
    finally:
        table.save(path)
    return table


def _parts(space: SearchSpace, table: LatencyTable) -> tuple[dict[str, _Make], dict[str, list[_Visit]]]:
    """What is to be measured of a space, and where a table keeps it."""
    operations = measurable_operations(space, table.conditions.runtime)
    if operations:
        made = require_operations(space, "a latency table")
        return {operation.key: partial(_build, made, operation) for operation in operations}, table.entries
    drawn = space.sample_distinct(WHOLE_NETWORKS, random.Random(0))
    return {str(architecture): partial(_network, space, architecture) for architecture in drawn}, table.networks


@dataclass(frozen=True)
class Check:
    """How well a table tells the latency of whole networks.

    Attributes:
        measured_ms: Each network's latency, measured on the spot.
        table_ms: The table's sum for it, without overhead.
        overhead_ms: The constant that makes the median error of the sums zero.
        error: Median relative error of the sums, and of the sums with the overhead that the other networks
            have (leave one out).
        spearman: Rank correlation of the two; the overhead does not change it.
    """

    measured_ms: tuple[float, ...]
    table_ms: tuple[float, ...]
    overhead_ms: float
    error: tuple[float, float]
    spearman: float

    @property
    def overhead_helps(self) -> bool:
        """Whether the overhead lowers the error on networks that it was not fitted to."""
        return self.error[1] < self.error[0]


def check_table(
    table: LatencyTable,
    space: SearchSpace,
    *,
    networks: int = 30,
    rounds: int = 5,
    seconds: float = 0.1,
    seed: int = 0,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Check:
    """Compare a table's sums with whole networks."""
    # These are the networks that the table's kit has measured, or random ones measured on the spot under its
    # conditions.
    if table.whole:
        return _check_learned(table, space)
    made = require_operations(space, "a latency table")
    architectures = {str(a): a for a in map(space.parse, table.networks)} or {
        str(a): a for a in space.sample_distinct(networks, random.Random(seed))
    }
    sums = {
        text: sum(map(table.operation_ms, made.operations(architecture)))
        for text, architecture in architectures.items()
    }
    if table.networks:
        latencies = table.network_ms()
        return compare([latencies[text] for text in sums], list(sums.values()))
    visits: dict[str, list[Latency]] = {text: [] for text in sums}
    modules = {text: partial(_network, space, architecture) for text, architecture in architectures.items()}
    total = rounds * len(architectures)
    progress(0, total)
    measured = measure_in_rounds(modules, table.conditions, rounds=rounds, seconds=seconds, seed=seed)
    for done, (text, latency) in enumerate(measured, start=1):
        visits[text].append(latency)
        progress(done, total)
    return compare([fastest(found).median_ms for found in visits.values()], list(sums.values()))


def _check_learned(table: LatencyTable, space: SearchSpace) -> Check:
    """Each network is told from the others, a tenth of them at a time."""
    latencies = list(table.network_ms().values())
    counted = [table._operators(space, text) for text in table.networks]
    told = [0.0] * len(counted)
    for fold in range(_FOLDS):
        others = [i for i in range(len(counted)) if i % _FOLDS != fold]
        model = LatencyModel([counted[i] for i in others], [latencies[i] for i in others])
        for i in range(fold, len(counted), _FOLDS):
            told[i] = model(counted[i])
    return compare(latencies, told)


def compare(measured_ms: Sequence[float], table_ms: Sequence[float]) -> Check:
    """The figures of a `Check` from both latencies of each network."""
    from scipy.stats import spearmanr

    def error(predicted: Sequence[float]) -> float:
        return statistics.median(abs(p - m) / m for p, m in zip(predicted, measured_ms, strict=True))

    gaps = [m - t for m, t in zip(measured_ms, table_ms, strict=True)]
    others = [statistics.median(gaps[:i] + gaps[i + 1 :]) for i in range(len(gaps))]
    return Check(
        measured_ms=tuple(measured_ms),
        table_ms=tuple(table_ms),
        overhead_ms=statistics.median(gaps),
        error=(error(table_ms), error([t + o for t, o in zip(table_ms, others, strict=True)])),
        spearman=float(spearmanr(measured_ms, table_ms).statistic),
    )


def _build(space: Decomposable, operation: Operation) -> tuple[nn.Module, Shape]:
    from nas_optuna.randomness import seeded

    with seeded(0):
        return space.build_operation(operation), operation.input_shape


def _network(space: SearchSpace, architecture: Architecture) -> tuple[nn.Module, Shape]:
    from nas_optuna.randomness import seeded

    with seeded(0):
        return space.build(architecture), space.input_shape
