"""The operations of a network that a function built: the layers that were chosen, as it uses them, and the rest."""

from __future__ import annotations

import functools
import itertools
import math
import operator
from abc import abstractmethod
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

from nas_optuna.digests import hex_digest
from nas_optuna.errors import SpecError
from nas_optuna.spaces.architecture import Architecture
from nas_optuna.spaces.base import Operation
from nas_optuna.spaces.built import BuiltSpace, CostStep
from nas_optuna.spaces.choices import Choices
from nas_optuna.spaces.tracing import Answers, Decide, Tracer

if TYPE_CHECKING:
    from torch import nn

    from nas_optuna.spaces.shapes import Call

_MAX_VALUES = 64
"""Choices of values for which the layers of a space are listed."""
_MAX_LABELS = 256
"""Choices of layers that belong together for which they are listed."""


class LayeredSpace(BuiltSpace):
    """A space whose networks' operations are found by running them.

    Attributes:
        tracer: Knows the parameters.
        layer_names: The parameters that are layers; the others are values.
    """

    tracer: Tracer
    layer_names: set[str]
    _outputs: dict[Architecture, Any]  # what each network that was tried gives
    _builders: dict[Operation, tuple[Architecture, Call | None]]

    @abstractmethod
    def tried(self, architecture: Architecture) -> tuple[nn.Module, Choices, list[Call]]:
        """The network on meta tensors, the choices that built it, and how it used them on two images."""

    @abstractmethod
    def decide(self, architecture: Architecture, answers: Answers | None = None) -> Decide:
        """What answers the function's questions for an architecture; `answers` is filled with what was asked."""

    def operations(self, architecture: Architecture) -> tuple[Operation, ...]:
        """Each use of a layer that was chosen, as it stands in its network, and the rest of the network."""
        from nas_optuna.spaces.shapes import TensorSpec

        network, choices, calls = self.tried(architecture)
        params = architecture.params
        made: dict[Operation, tuple[Architecture, Call | None]] = {}
        found = []
        for call in calls:
            layer = choices.layers[call.name][call.place]
            several = "" if call.simple else f" {_digest(repr(call.inputs))}"
            kind = f"{params[call.name]} {_digest(repr(layer))}{several}"
            found.append(Operation(kind, (), call.input_shape, call.output_shape))
            made[found[-1]] = (architecture, call)
        rest = _digest(f"{_without(network, choices, calls)} {[call.outputs for call in calls]}")
        output = self._outputs[architecture]
        shape = output.shape if isinstance(output, TensorSpec) else ()
        found.append(Operation(f"rest {rest}", (), self.input_shape, shape))
        made[found[-1]] = (architecture, None)
        self._builders = {**made, **self._builders}
        return tuple(found)

    def reachable_operations(self) -> Iterator[Operation]:
        """Every layer in place and every rest: all values, and with each of them every label."""
        seen: dict[Operation, None] = {}
        tried: set[Architecture] = set()
        groups = self.tracer.independent([n for n in self.parameters if n in self.layer_names])
        paths = list(itertools.islice(self.tracer.paths(lambda name: name not in self.layer_names), _MAX_VALUES + 1))
        if len(paths) > _MAX_VALUES:
            raise SpecError(
                f"space {self.name!r} has more than {_MAX_VALUES} choices of values, too many to measure its"
                " layers in each; pin some: --set 'space.fix={name = value}'"
            )
        for answers in paths:
            for group in groups or [[]]:
                for labels in self._combinations(group):
                    params = {**self._first(), **answers, **labels}
                    architecture = self.architecture(params)
                    if architecture not in tried:
                        tried.add(architecture)
                        seen.update(dict.fromkeys(self.operations(architecture)))
        yield from seen

    def cost_steps(self, price: Callable[[Operation], float]) -> Iterator[CostStep]:
        """See `BuiltSpace.cost_steps`: first all values, which are the state; then layers, whose costs add up."""

        def cost(*chosen: Answers) -> float:
            params = functools.reduce(operator.or_, chosen, self._first())
            return sum(map(price, self.operations(self.architecture(params))))

        names = [name for name in self.parameters if name not in self.layer_names]
        states = self._products(names)
        base = list(map(cost, states))
        yield CostStep(names, [base], range(len(states)))
        for group in self.tracer.independent([name for name in self.parameters if name in self.layer_names]):
            labels = self._products(group)
            more = [
                [cost(state, chosen) - first for chosen in labels] for state, first in zip(states, base, strict=True)
            ]
            yield CostStep(group, more, [i for i in range(len(states)) for _ in labels])

    def _combinations(self, names: Sequence[str]) -> Iterator[Answers]:
        """All choices of some parameters together; one by one where these are too many."""
        if math.prod(len(self.parameters[name].choices) for name in names) <= _MAX_LABELS:
            yield from self._products(names)
        else:
            yield from ({name: value} for name in names for value in self.parameters[name].choices)

    def _products(self, names: Sequence[str]) -> list[Answers]:
        choices = [self.parameters[name].choices for name in names]
        return [dict(zip(names, values, strict=True)) for values in itertools.product(*choices)]

    def _first(self) -> Answers:
        return {name: parameter.choices[0] for name, parameter in self.parameters.items()}

    def build_operation(self, operation: Operation) -> nn.Module:
        """A layer of some network that has it, or such a network with stand-ins for its layers."""
        from nas_optuna.spaces.shapes import Alone

        if operation not in self._builders:
            list(self.reachable_operations())
        architecture, call = self._builders[operation]
        choices = Choices(self.decide(architecture))
        network = self.build_with(choices)
        if call is None:
            return _without(network, choices, self.tried(architecture)[2])
        layer = choices.layers[call.name][call.place]
        return layer if call.simple else Alone(layer, call.inputs)


def _digest(text: str) -> str:
    """Six hex digits that tell modules of different make apart."""
    return hex_digest(text, 6)


def _without(network: nn.Module, choices: Choices, calls: Sequence[Call]) -> nn.Module:
    """The network with stand-ins for the layers that were called."""
    from nas_optuna.spaces.shapes import without

    return without(network, [choices.layers[call.name][call.place] for call in calls], calls)
