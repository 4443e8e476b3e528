"""Spaces whose networks are a chain of operations, each decided by parameters of its own."""

from __future__ import annotations

import itertools
from abc import abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from typing import cast

from nas_optuna.spaces.architecture import Architecture, Choice
from nas_optuna.spaces.base import Operation, Shape
from nas_optuna.spaces.built import BuiltSpace, CostStep


@dataclass(frozen=True)
class Part:
    """One part of a chain, from its input shape and one choice for each of its parameters to the operation."""

    names: tuple[str, ...]
    operation: Callable[..., Operation]
    depth: tuple[str, int] | None = None  # a parameter, and its least value with this part, which keeps the shape

    def is_used(self, params: Mapping[str, Choice]) -> bool:
        """Whether a network with these params has this part."""
        return self.depth is None or cast(int, params[self.depth[0]]) >= self.depth[1]


class ChainSpace(BuiltSpace):
    """A space whose networks are a chain: operations, costs and the stages of a supernet follow from its parts."""

    @cached_property
    def chain(self) -> Sequence[Part]:
        """The parts, in the order of the layers of the function's network."""
        return tuple(self.make_chain())

    @abstractmethod
    def make_chain(self) -> Iterator[Part]:
        """One part for each layer that some network has."""

    def operations(self, architecture: Architecture) -> tuple[Operation, ...]:
        """One operation for each part that the architecture's network has."""
        params, shape = architecture.params, self.input_shape
        found = []
        for part in self.chain:
            if part.is_used(params):
                found.append(part.operation(shape, *(params[name] for name in part.names)))
                shape = found[-1].output_shape
        return tuple(found)

    def _walk(self) -> Iterator[tuple[Part, list[list[Operation]]]]:
        """Each part with its possible operations: for each input shape, one for each combination of choices."""
        known: dict[object, list[Operation]] = {}
        shapes: list[Shape] = [self.input_shape]
        for part in self.chain:
            choices = tuple(self.parameters[name].choices for name in part.names)
            rows = []
            for shape in shapes:
                case = part.operation, shape, choices  # slots that are alike are walked through once
                if case not in known:
                    known[case] = [part.operation(shape, *values) for values in itertools.product(*choices)]
                rows.append(known[case])
            yield part, rows
            shapes = list(dict.fromkeys(operation.output_shape for row in rows for operation in row))

    def reachable_operations(self) -> Iterator[Operation]:
        """Walk the shapes that can reach each part."""
        yield from dict.fromkeys(operation for _, rows in self._walk() for row in rows for operation in row)

    def cost_steps(self, price: Callable[[Operation], float]) -> Iterator[CostStep]:
        """See `BuiltSpace.cost_steps`: one step for each part; the state is the shape of the part's input."""
        priced = cache(price)
        for part, rows in self._walk():
            places: dict[Shape, int] = {}
            targets = [places.setdefault(op.output_shape, len(places)) for row in rows for op in row]
            uses = None
            if part.depth:
                name = part.depth[0]
                uses = name, [float(part.is_used({name: depth})) for depth in self.parameters[name].choices]
            yield CostStep(part.names, [list(map(priced, row)) for row in rows], targets, uses)
