"""Define-by-run spaces: a function that builds a network becomes a search space."""

from __future__ import annotations

import functools
import itertools
import operator
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import cached_property, partial
from typing import Any

import torch
from torch import nn

from nas_optuna.devices import network_failures
from nas_optuna.digests import hex_digest
from nas_optuna.errors import (
    ArchitectureError,
    NasOptunaError,
    SpecError,
    TrainingError,
    checked,
    describe_error,
    reason_of,
    unknown,
)
from nas_optuna.randomness import RandomState
from nas_optuna.spaces.architecture import Architecture, Choice, require_architecture
from nas_optuna.spaces.base import Operation, Parameter, text_of
from nas_optuna.spaces.built import BuiltSpace, CostStep, source_of
from nas_optuna.spaces.built import SpaceFunction as SpaceFunction
from nas_optuna.spaces.built import Task as Task
from nas_optuna.spaces.built import space as space
from nas_optuna.spaces.choices import Choices
from nas_optuna.spaces.shapes import Alone, Call, TensorSpec, not_logits, require_module, settle, try_out, without
from nas_optuna.spaces.tracing import Answers, Decide, Tracer

_PROBES = 16
"""How many architectures are tried before a function without a working one is refused."""
_MAX_VALUES = 64
"""The most combinations of values for which the layers of a space are listed."""


class FunctionSpace(BuiltSpace):
    """The space of a function that builds networks, made by `space`; it is refused if no network works."""

    # Its parameters are all those that the function asks for under any answers. A parameter that an architecture does
    # not use has its first choice, so that equal networks are equal architectures and every sampler sees vectors of one
    # length. An architecture is written as the answers that its network asks for, in order, e.g.
    # ``width=32,depth=2,block0=conv3``. Results are reused while `source`, a digest of the function's file, is the
    # same. A supernet mixes those in `layer_names`, leaves elastic numbers open, and keeps values.

    sequential = False  # a network's memory does not follow from that of its layers
    draws_weights = False
    settings = ("in_channels", "classes", "input_size", "name", "version", "source", "options")

    def __init__(
        self,
        function: SpaceFunction,
        task: Task,
        options: Mapping[str, Any],
        pinned: Mapping[str, Choice] | None = None,
    ) -> None:
        self.name = function.build.__name__
        self.version = function.version
        self.source = source_of(function.build)
        super().__init__(task)
        self.options, self._task = dict(options), task
        self._function, self._pinned = function, dict(pinned or {})
        self._outputs: dict[Architecture, Any] = {}
        self.layer_names: set[str] = set()
        self.tracer = Tracer(self._trace, self._pinned)
        self.tracer.discover()
        self.parameters = self.tracer.parameters
        # A pin may switch off what another one pins.
        self._pinned = self.pinned({name: pin for name, pin in self._pinned.items() if name in self.parameters})
        self._probe()
        _ = self.reference  # which refuses wrong names now

    def _probe(self) -> None:
        """Refuse a function without a working network; if some work, the trials of the others fail."""
        first: BaseException | None = None
        for answers in itertools.islice(self.tracer.paths(), _PROBES):
            try:
                self._tried(self.architecture(answers))
                return
            except ArchitectureError as error:  # the function asks other questions than before
                raise SpecError(f"space {self.name!r}: {error}; and let it depend on its choices alone") from error
            except TrainingError as error:
                first = first or error.__cause__ or error  # or the function's own
        assert first is not None
        told = (reason_of if type(first) is RuntimeError else describe_error)(first, 240)
        raise SpecError(f"space {self.name!r}: {told}") from first

    @cached_property
    def size(self) -> int:
        """How many architectures there are: exact, or an estimate if many parameters decide which others exist."""
        return self.tracer.size()

    @cached_property
    def reference(self) -> Architecture | None:
        """The reference of ``@space(reference=…)``, with the space's fixed choices; None if its options exclude it."""
        named = self._function.reference
        if named is None:
            return None
        if callable(named):
            named = named(self._task, **self.options)
        params = {**named, **self._pinned}
        if self.options or self._pinned:  # they may exclude a part of the reference
            params = {name: value for name, value in params.items() if name in self.parameters}
        try:
            return self.architecture(self.tracer.trace(self.matched(params)))
        except ArchitectureError as error:
            if self.options:
                return None
            raise SpecError(f"space {self.name!r}: its reference: {error}") from error

    def fixed(self, values: Mapping[str, Choice]) -> FunctionSpace:
        """The space in which some parameters have only one choice, without what can no longer be asked for."""
        return FunctionSpace(self._function, self._task, self.options, {**self._pinned, **self.pinned(values)})

    def architecture(self, params: Mapping[str, Any]) -> Architecture:
        """The architecture of a params dict; parameters that its network does not use may be missing."""
        given = self.matched(params)
        used = self.tracer.trace(given)
        self.require_values(used, given)
        chosen = {name: used.get(name, p.choices[0]) for name, p in self.parameters.items()}
        return Architecture(tuple(chosen.items()), _write_params(used, self.parameters))

    def canonical(self, params: Mapping[str, Any]) -> dict[str, Choice]:
        """See `SearchSpace.canonical`."""
        used = self.tracer.trace({name: params[name] for name in self.parameters if name in params})
        return {name: used.get(name, parameter.choices[0]) for name, parameter in self.parameters.items()}

    @property
    def conditional(self) -> bool:
        """Whether some networks do not use every parameter."""
        return self.tracer.conditional

    def used(self, architecture: Architecture) -> Answers:
        """The params that the architecture's network asks for, in that order."""
        return self.tracer.trace(architecture.params)

    def known(self, name: str, asked: Parameter) -> Parameter:
        """The space's parameter for a question of the function."""
        return self.tracer.parameter(name, asked)

    def enumerate(self) -> Iterator[Architecture]:
        """Every architecture, each once; only for small spaces."""
        return map(self.architecture, self.tracer.paths())

    def format(self, params: Mapping[str, Any]) -> str:
        """E.g. ``"width=32,depth=2,block0=conv3"``."""
        return _write_params(self.tracer.trace(params), self.parameters)

    @checked
    def parse(self, text: str) -> Architecture:
        """The architecture of a string such as ``"width=32,depth=2,block0=conv3"``, in any order."""
        params = _read_params(text, self.parameters, example=self.format({}))
        architecture = self.architecture(params)
        if unused := params.keys() - self.used(architecture).keys():
            raise ArchitectureError(f"{text!r} gives {sorted(unused)[0]!r}, which its network does not ask for")
        return architecture

    def identity(self) -> dict[str, Any]:
        """See `SearchSpace.identity`; with the function's own options."""
        return {**super().identity(), **({"options": self.options} if self.options else {})}

    @checked
    def build(self, architecture: Architecture) -> nn.Module:
        """The architecture's network."""
        architecture = self.architecture(architecture.params)  # refuses one of another space
        if architecture not in self._outputs:
            self._tried(architecture)
        with _blamed_on(architecture):
            return self.built(architecture)[0]

    def require_logits(self, architecture: Architecture | None = None) -> None:
        """See `SearchSpace.require_logits`."""
        if architecture is not None and architecture not in self._outputs:
            self._tried(architecture)
        for output in self._outputs.values() if architecture is None else [self._outputs[architecture]]:
            if problem := not_logits(output, self.classes):
                raise SpecError(f"space {self.name!r}: {problem}")

    def _tried(self, architecture: Architecture) -> tuple[nn.Module, Choices, list[Call]]:
        """The network on meta tensors, the choices that built it, and the uses of its layers on two images."""
        with _without_drawing(), _blamed_on(architecture):
            with torch.device("meta"):
                network, choices = self.built(architecture)
            with torch.device("cpu"):  # whatever device the caller has set
                calls, self._outputs[architecture] = try_out(network, choices.layers, self.input_shape)
        self.tracer.confirm(choices.answers)
        return network, choices, calls

    def operations(self, architecture: Architecture) -> tuple[Operation, ...]:
        """Each use of a chosen layer in its network, and the rest of the network."""
        require_architecture(architecture)
        network, choices, calls = self._tried(architecture)
        params, found = architecture.params, []
        for call in calls:
            layer = choices.layers[call.name][call.place]
            several = "" if call.simple else f" {hex_digest(repr(call.inputs), 6)}"
            kind = f"{params[call.name]} {hex_digest(repr(layer), 6)}{several}"
            make = partial(self._build_layer, architecture, call)
            found.append(Operation(kind, (), call.input_shape, call.output_shape, make))
        rest = hex_digest(f"{without(network, choices.layers, calls)} {[call.outputs for call in calls]}", 6)
        output = self._outputs[architecture]
        shape = output.shape if isinstance(output, TensorSpec) else ()
        make = partial(self._build_rest, architecture, calls)
        return (*found, Operation(f"rest {rest}", (), self.input_shape, shape, make))

    def _build_layer(self, architecture: Architecture, call: Call) -> nn.Module:
        _, choices = self.built(architecture)
        layer = choices.layers[call.name][call.place]
        return layer if call.simple else Alone(layer, call.inputs)

    def _build_rest(self, architecture: Architecture, calls: Sequence[Call]) -> nn.Module:
        """The network with stand-ins for its layers."""
        network, choices = self.built(architecture)
        return without(network, choices.layers, calls)

    def cost_steps(self, price: Callable[[Operation], float]) -> Iterator[CostStep]:
        """See `BuiltSpace.cost_steps`: first all values, which are the state, then layers, whose costs add up."""
        costs: dict[Architecture, float] = {}
        first: Answers = {name: parameter.choices[0] for name, parameter in self.parameters.items()}

        def cost(*chosen: Answers) -> float:
            architecture = self.architecture(functools.reduce(operator.or_, chosen, first))
            if architecture not in costs:
                costs[architecture] = sum(map(price, self.operations(architecture)))
            return costs[architecture]

        layers = [name for name in self.parameters if name in self.layer_names]
        names = [name for name in self.parameters if name not in self.layer_names]
        if next(itertools.islice(self.tracer.paths(lambda name: name in names), _MAX_VALUES, None), None) is not None:
            raise SpecError(
                f"space {self.name!r} has more than {_MAX_VALUES} choices of values, too many to measure its"
                " layers in each; pin some: --set 'space.fix={name = value}' (in Python"
                ' overrides=["space.fix={name = value}"])'
            )
        states = self._products(names)
        base = list(map(cost, states))
        yield CostStep(names, [base], range(len(states)))
        for group in self.tracer.independent(layers):
            labels = self._products(group)
            more = [
                [cost(state, chosen) - without for chosen in labels]
                for state, without in zip(states, base, strict=True)
            ]
            yield CostStep(group, more, [i for i in range(len(states)) for _ in labels])

    def _products(self, names: Sequence[str]) -> list[Answers]:
        choices = [self.parameters[name].choices for name in names]
        return [dict(zip(names, values, strict=True)) for values in itertools.product(*choices)]

    def build_with(self, c: Choices) -> nn.Module:
        """See `BuiltSpace.build_with`."""
        on_meta = torch.get_default_device().type == "meta"
        with _without_drawing() if on_meta else nullcontext():
            try:
                made = self._function.build(c, self._task, **self.options)
            except Exception as error:
                if not on_meta or isinstance(error, NasOptunaError):
                    raise
                with torch.device("cpu"):  # a function that reads values of tensors cannot build on meta
                    made = self._function.build(c, self._task, **self.options)
            network = require_module(made, self.name)
            settle(network, self.input_shape)
        return network.to("meta") if on_meta else network

    def _trace(self, decide: Decide) -> None:
        choices = Choices(decide)
        try:
            with torch.device("meta"):
                self.build_with(choices)
        except NasOptunaError:
            raise
        except Exception:  # a fault of this architecture, which its trial will report
            return
        finally:
            self.layer_names.update(choices.layers)

    def __reduce__(self) -> tuple[Any, ...]:
        """Leave out the results of tracing, which another process finds again; it may not find the source."""
        return FunctionSpace, (self._function, self._task, self.options, self._pinned), {"source": self.source}


def _without_drawing() -> AbstractContextManager[None]:
    """Leave torch's global generator as it is, for other threads, too: the values of such a network do not matter."""
    return RandomState(0, torch.device("cpu")).current()


def _blamed_on(architecture: Architecture) -> AbstractContextManager[None]:
    """Let whatever the function or its layers raise be a `TrainingError`, which concerns this network alone."""
    return network_failures(f"{architecture} cannot be built")


def _write_params(params: Mapping[str, Choice], parameters: Mapping[str, Parameter]) -> str:
    """The text of the params that a network asks for, in that order."""
    written = (f"{_quote(name)}={_quote(_text(parameters[name], value))}" for name, value in params.items())
    return ",".join(written) or "fixed"


def _read_params(text: str, parameters: Mapping[str, Parameter], example: str) -> dict[str, Choice]:
    """The params of a text, in any order."""
    names = {_quote(name): name for name in parameters}
    params: dict[str, Choice] = {}
    for part in text.strip().split(",") if text.strip() not in ("", "fixed") else ():
        written, equals, value = (piece.strip() for piece in part.partition("="))
        if not equals:
            raise ArchitectureError(f"{part!r} is not name=value; an architecture is written {example}")
        if written not in names:
            raise ArchitectureError(unknown("parameter", written, names))
        parameter = parameters[names[written]]
        choices = {_quote(_text(parameter, choice)): choice for choice in parameter.choices}
        if value not in choices:
            raise ArchitectureError(
                f"{names[written]} = {value!r} is outside its choices; choose one of {list(choices)}"
            )
        params[names[written]] = choices[value]
    return params


def _text(parameter: Parameter, value: Choice) -> str:
    written = [text_of(choice) for choice in parameter.choices]
    # A string such as "1" keeps its quotes if the number 1 is a choice, too.
    return f'"{value}"' if isinstance(value, str) and written.count(value) > 1 else text_of(value)


def _quote(text: str) -> str:
    """Percent-encode separators, blanks and control characters."""
    return "".join(f"%{ord(c):02X}" if c in "%,=" or c.isspace() or not c.isprintable() else c for c in text)
