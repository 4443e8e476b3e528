"""Latency tables: the measured latency of every operation that a space can contain, as a JSON file.

If these are too many or cannot be measured alone, a table holds the latency of whole networks instead, from which that
of others is learned.
"""

from __future__ import annotations

import math
import statistics
from contextlib import suppress
from dataclasses import asdict, replace
from itertools import islice
from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, PrivateAttr, ValidationError

from nas_optuna.costs.latency_model import LatencyModel, operators
from nas_optuna.costs.runtimes import RENAMED, RUNTIMES, Conditions, make_runtime
from nas_optuna.costs.timing import TABLE_FORMAT, fastest, slow_looks
from nas_optuna.errors import ArchitectureError, NasOptunaError, SpecError, TableError, named, reason_of, unknown
from nas_optuna.files import read_text, write_file
from nas_optuna.spaces import Decomposable, Operation, SearchSpace, require_operations
from nas_optuna.spaces.architecture import Architecture

MOST_OPERATIONS = 1_000
"""A space with more operations is measured by whole networks."""
LEAST_NETWORKS = 10
"""The fewest whole networks from which others are learned; a smaller space is measured completely."""
_COVERED = 0.95
"""The share of networks whose error a table's margin covers."""
_FACTOR = 3.0
"""Operations and whole networks that differ by more than this factor are of different devices or units."""
MEASURE = "measure one with nas-optuna latency measure, or the measure.py of a kit"
"""The remedy for an unusable table."""
_FASTEST_MS, _SLOWEST_MS = 1e-4, 600_000.0
"""No runtime answers a call within 100 ns, and nobody waits ten minutes for one."""


def _possible(visit: tuple[float, float, float]) -> tuple[float, float, float]:
    """Refuse values that cannot be the quartiles of a call's milliseconds."""
    lower, median, upper = visit
    if not _FASTEST_MS <= lower <= median <= upper <= _SLOWEST_MS:  # NaN is not either
        raise ValueError(f"{lower:.4g}, {median:.4g}, {upper:.4g} cannot be the milliseconds of a call (quartiles)")
    return visit


def _known(conditions: Conditions) -> Conditions:
    """Refuse conditions that no known runtime supports."""
    name = RENAMED.get(conditions.runtime, conditions.runtime)
    if name not in RUNTIMES:  # a table must not name code to import
        raise ValueError(unknown("runtime", name, RUNTIMES.names()))
    try:
        make_runtime(name).require(conditions.device, conditions.precision)
    except NasOptunaError as error:
        raise ValueError(str(error)) from error
    return replace(conditions, runtime=name)


_Visit = Annotated[tuple[float, float, float], AfterValidator(_possible)]
_Visits = Annotated[list[_Visit], Field(min_length=1)]


class LatencyTable(BaseModel):
    """Latency of each operation under one set of conditions."""

    model_config = ConfigDict(extra="forbid")

    # marks the file, and the version of its layout
    format: str = Field(default=TABLE_FORMAT, pattern=f"^{TABLE_FORMAT}$")
    space: str  # name of the space whose operations these are
    conditions: Annotated[Conditions, AfterValidator(_known)]
    date: str  # when measuring began, ISO 8601 in UTC
    # the time of a whole network beside its operations; often negative, since timing six operations one by one counts
    # the overhead of a call six times
    overhead_ms: float = Field(default=0.0, allow_inf_nan=False)
    # `Operation.key` → one ``(lower quartile, median, upper quartile)`` per visit, in milliseconds
    entries: dict[str, _Visits] = {}
    # architecture → the same for whole networks; beside operations they show how far these can be trusted
    networks: dict[str, _Visits] = {}
    # the same for one operation that a kit visits regularly, to detect throttling
    looks: list[_Visit] = []
    # the kit that has measured it on the device where the networks will run; None for a table of this machine
    kit: str | None = Field(default=None, min_length=1)
    _known: dict[Architecture, float] | None = PrivateAttr(default=None)
    _model: LatencyModel | None = PrivateAttr(default=None)

    @classmethod
    def load(cls, path: Path) -> LatencyTable:
        """Read a table; a `TableError` if the file is missing, damaged, or no latency table."""
        try:
            return cls.model_validate_json(read_text(path), strict=True)
        except OSError as error:
            raise TableError(f"cannot read latency table {named(path)}: {error.strerror}") from error
        except ValidationError as error:
            first = error.errors()[0]
            where = f"{named('.'.join(map(str, first['loc'])))}: " if first["loc"] else ""
            problem = where + first["msg"].removeprefix("Value error, ")
        except ValueError as error:  # no text
            problem = reason_of(error)
        raise TableError(f"{named(path)} is not a sound latency table ({problem}); {MEASURE}")

    @classmethod
    def open(
        cls,
        path: Path | str,
        space: SearchSpace,
        *,
        force: bool = False,
        anyway: str | None = "--set latency.force=true",
    ) -> LatencyTable:
        """Read a table that covers every network of a space, or raise a `TableError`."""
        # `force` accepts it even if the device was throttled or busy; `anyway` is the option for that.
        table = cls.load(Path(path))
        table.require_space(space, path)
        slow = slow_looks(table.looks)
        if slow and not force:
            raise TableError(
                f"latency table {named(path)} was measured while the device was throttled or busy ({slow} of"
                f" {len(table.looks)} looks); let it cool or idle and run measure.py --again there"
                + (f", or use it as it is: {anyway}" if anyway else "")
            )
        table._require_complete(space, path)
        return table

    def save(self, path: Path) -> None:
        """Write the table atomically."""
        write_file(path, self.model_dump_json() + "\n")

    def require(self, conditions: Conditions, path: Path, remedy: str) -> None:
        """Refuse a table measured under other conditions; the remedy is the alternative to measuring anew."""
        mine, wanted = asdict(self.conditions), asdict(conditions)
        differences = [f"{k.replace('_', ' ')} {mine[k]!r}, not {wanted[k]!r}" for k in mine if mine[k] != wanted[k]]
        if differences:
            raise TableError(
                f"latency table {path} was measured with {'; '.join(differences)};"
                f" measure one for these conditions, or {remedy}"
            )

    def require_space(self, space: SearchSpace, path: Path | str) -> None:
        """Refuse a table of another space."""
        if self.space != space.name:
            raise TableError(
                f"latency table {path} is of space {self.space!r}, not {space.name!r}; choose another file"
            )

    def _require_complete(self, space: SearchSpace, path: Path | str) -> None:
        """Refuse a table that lacks operations, or whose operations and whole networks contradict each other."""
        operations = measurable_operations(space, self.conditions.runtime)
        missing = [operation.key for operation in operations if operation.key not in self.entries]
        if missing:
            raise TableError(
                f"latency table {named(path)} lacks {len(missing)} of the {len(operations)} operations of space"
                f" {space.name!r}, such as {missing[0]!r}; it is unfinished, or of another input size or other options"
                f" of the space: {MEASURE}"
            )
        if not self.entries:
            if (count := len(self._networks_of(space))) < (least := least_networks(space)):
                raise TableError(
                    f"latency table {named(path)} holds {count} whole networks, and space {space.name!r} with"
                    f" these options needs at least {least} of its own; {MEASURE}"
                )
            return
        told, measured = self.own_networks(space)
        if not measured:
            return
        factor = statistics.median(m / t if t > 0 else math.inf for m, t in zip(measured, told, strict=True))
        if not 1 / _FACTOR < factor < _FACTOR:
            raise TableError(
                f"latency table {named(path)} contradicts itself: its whole networks take {factor:.3g} times what its"
                f" operations and overhead add up to, as where units were mixed; {MEASURE}"
            )

    def own_networks(self, space: SearchSpace) -> tuple[list[float], list[float]]:
        """Predicted and measured latencies of the table's own whole networks of a space."""
        # Without operations, each tenth of the networks is predicted from the others, unless all were measured.
        known = self._networks_of(space)
        measured = list(known.values())
        if not self.whole or self.holds_all(space):
            return [self.architecture_ms(space, architecture) for architecture in known], measured
        counted = [operators(space, architecture) for architecture in known]
        told = [0.0] * len(counted)
        for fold in range(LEAST_NETWORKS):
            others = [i for i in range(len(counted)) if i % LEAST_NETWORKS != fold]
            model = LatencyModel([counted[i] for i in others], [measured[i] for i in others])
            for i in range(fold, len(counted), LEAST_NETWORKS):
                told[i] = model(counted[i])
        return told, measured

    def fit_overhead(self, space: SearchSpace) -> None:
        """Set the overhead with which the median error of the table's own whole networks is zero, if it has any."""
        if not self.whole and self._networks_of(space):
            self.overhead_ms = 0.0
            told, measured = self.own_networks(space)
            self.overhead_ms = statistics.median(m - t for m, t in zip(measured, told, strict=True))

    def margin(self, space: SearchSpace) -> float | None:
        """By what share a network may take longer than predicted; None if the table holds no network of the space."""
        # 95 % of its own whole networks take no more. With this rank the same holds for a new network (split conformal
        # prediction: Papadopoulos et al., "Inductive confidence machines for regression", ECML 2002).
        longer = sorted(m / t - 1 for t, m in zip(*self.own_networks(space), strict=True))
        if not longer:
            return None
        return max(0.0, longer[min(math.ceil(_COVERED * (len(longer) + 1)), len(longer)) - 1])

    def require_operations(self) -> None:
        """Refuse a table of whole networks where the latency of single operations is needed."""
        if self.whole:
            raise TableError(
                f"the latency table holds whole networks, as the operations of space {self.space!r} are too many or"
                " cannot be measured alone; what needs the latency of one, as a supernet's loss does, cannot use it"
            )

    def operation_ms(self, operation: Operation) -> float:
        """Latency of one operation, the median of its fastest visit."""
        self.require_operations()
        visits = self.entries.get(operation.key)
        if not visits:
            raise TableError(
                f"the latency table has no entry for {operation.key!r}; it is unfinished or of another space or input"
                " size: run nas-optuna latency measure for this space"
            )
        return fastest(visits)

    @property
    def whole(self) -> bool:
        """Whether it holds whole networks instead of operations."""
        return not self.entries and bool(self.networks)

    def holds_all(self, space: SearchSpace) -> bool:
        """Whether every network of a space was measured whole, so that none is learned from others."""
        return self.whole and len(self._networks_of(space)) >= space.size

    def architecture_ms(self, space: SearchSpace, architecture: Architecture) -> float:
        """Latency of a network: the sum of its operations and the overhead, or from whole networks."""
        if self.whole:
            return self._looked_up(space, architecture)
        made = require_operations(space, "a latency table")
        told = self.overhead_ms + sum(map(self.operation_ms, made.operations(architecture)))
        if told <= 0:
            raise TableError(
                f"the latency table's overhead of {self.overhead_ms:.4g} ms leaves nothing of the latency of"
                f" {architecture}; {MEASURE}"
            )
        return told

    def _looked_up(self, space: SearchSpace, architecture: Architecture) -> float:
        """The measured latency of a network, or for another network the predicted one."""
        if self._known is None:
            self._known = self._networks_of(space)
        if architecture in self._known:
            return self._known[architecture]
        if self._model is None:
            counted = [operators(space, measured) for measured in self._known]
            self._model = LatencyModel(counted, list(self._known.values()))
        return self._model(operators(space, architecture))

    def _networks_of(self, space: SearchSpace) -> dict[Architecture, float]:
        """Latency of each measured network of a space; the table of a larger space may also hold others."""
        found = {}
        for text, visits in self.networks.items():
            with suppress(ArchitectureError):
                found[space.parse(text)] = fastest(visits)
        if self.whole and not found:
            raise TableError(f"the latency table is of another space than {space.name!r}; {MEASURE}")
        return found


def least_networks(space: SearchSpace) -> int:
    """How many whole networks must be measured if no operations are: at most all of the space."""
    return min(LEAST_NETWORKS, space.size)


def measurable_operations(space: SearchSpace, runtime: str) -> list[Operation]:
    """Every operation that a space can contain; none if they are too many to measure, or cannot be measured alone."""
    # A function's network without its chosen layers has gaps, and a runtime that compiles graphs would optimise away
    # what leads into a gap.
    if not isinstance(space, Decomposable) or (runtime != "torch" and not space.sequential):
        return []
    try:
        found = list(islice(space.reachable_operations(), MOST_OPERATIONS + 1))
    except SpecError:  # the function has too many choices
        return []
    return found if len(found) <= MOST_OPERATIONS else []
