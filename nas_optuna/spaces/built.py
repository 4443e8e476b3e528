"""Spaces whose networks are built by a function: those of this package, and your own by ``@space``."""

from __future__ import annotations

import functools
import inspect
import itertools
from abc import abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast, overload

from torch import nn

from nas_optuna.digests import hex_digest
from nas_optuna.errors import SpecError, checked
from nas_optuna.registry import by_name
from nas_optuna.spaces.architecture import (
    Architecture,
    Choice,
    InputSize,
    checked_input_size,
    require_architecture,
    require_positive,
)
from nas_optuna.spaces.base import Decomposable, Operation, Parameter, Shape
from nas_optuna.spaces.choices import Choices

if TYPE_CHECKING:  # both import this module
    from nas_optuna.spaces.function import FunctionSpace
    from nas_optuna.spaces.function_supernet import FunctionSupernet


@dataclass(frozen=True)
class Task:
    """Inputs and classes of the network.

    Attributes:
        channels: Channels of an input image.
        classes: Number of classes.
        input_size: Side of the input in pixels; ``(height, width)`` if it is not square.

    Raises:
        SpecError: A number is not positive.
    """

    channels: int
    classes: int
    input_size: InputSize

    def __post_init__(self) -> None:
        require_positive(in_channels=self.channels, classes=self.classes)
        object.__setattr__(self, "input_size", checked_input_size(self.input_size))

    @property
    def shape(self) -> tuple[int, int, int]:
        """``(channels, height, width)`` of one input."""
        size = self.input_size
        return (self.channels, *((size, size) if isinstance(size, int) else size))


Build = Callable[..., Any]
"""``(choices, task, **options) -> nn.Module``."""


@dataclass(frozen=True)
class CostStep:
    """One step of a network's cost as a Markov chain, which starts in state 0."""

    names: Sequence[str]  # the parameters that are decided here
    costs: Sequence[Sequence[float]]  # [states, combinations of choices], the last parameter varying fastest
    targets: Sequence[int]  # the next state of each state and combination, flattened
    uses: tuple[str, Sequence[float]] | None = None  # a parameter, and 1 for each of its choices that has this step


class BuiltSpace(Decomposable):
    """A space whose networks and supernet (`FunctionSupernet`) are built by one function, `build_with`.

    A subclass sets `parameters`, and defines this, the text of an architecture and the operations of a network.
    """

    draws_weights = True

    def __init__(self, task: Task) -> None:
        self.in_channels, self.classes, self.input_size = task.channels, task.classes, task.input_size

    @checked
    def build(self, architecture: Architecture) -> nn.Module:
        """The architecture's network."""
        return self.built(self.architecture(architecture.params))[0]  # which refuses one of another space

    def built(self, architecture: Architecture) -> tuple[nn.Module, Choices]:
        """The architecture's network, and the choices that have built it."""
        params = architecture.params

        def decide(name: str, asked: Parameter) -> Choice:
            self.known(name, asked)
            return params[name]

        choices = Choices(decide)
        return self.build_with(choices), choices

    @abstractmethod
    def build_with(self, c: Choices) -> nn.Module:
        """The network of some answers, or a supernet's, on the current default device."""

    def known(self, name: str, asked: Parameter) -> Parameter:
        """The space's parameter for a question of the function; if fixed, it has fewer choices than the question."""
        return self.parameters[name]

    def used(self, architecture: Architecture) -> dict[str, Choice]:
        """The params that the architecture's network asks for."""
        return dict(architecture.params)

    def supernet_class(self) -> type[FunctionSupernet]:
        """The function's network, with all choices open."""
        from nas_optuna.spaces.function_supernet import FunctionSupernet

        return FunctionSupernet

    @abstractmethod
    def cost_steps(self, price: Callable[[Operation], float]) -> Iterator[CostStep]:
        """The steps of a network's cost; `price` gives the cost of one operation."""

    def reachable_operations(self) -> Iterator[Operation]:
        """Every operation that has a part in the cost of some network, each once."""
        found: dict[Operation, float] = {}
        given = 0
        for _ in self.cost_steps(lambda operation: found.setdefault(operation, 0.0)):
            yield from itertools.islice(found, given, None)
            given = len(found)

    def stabilize_init(self, network: nn.Module) -> None:
        """Lessen the initial weights of a supernet's network; see `Supernet.stabilize_init`."""
        return


@dataclass(frozen=True)
class Part:
    """One part of a chain."""

    names: tuple[str, ...]  # its parameters
    operation: Callable[..., Operation]  # from the input shape and one choice for each parameter
    depth: tuple[str, int] | None = None  # a parameter, and its least value with this part, which keeps the shape

    def is_used(self, params: Mapping[str, Choice]) -> bool:
        """Whether a network with these params has this part."""
        return self.depth is None or cast(int, params[self.depth[0]]) >= self.depth[1]


class ChainSpace(BuiltSpace):
    """A space whose networks are chains of parts, which give operations, costs and the stages of a supernet."""

    @cached_property
    def chain(self) -> Sequence[Part]:
        """The parts, in the order of the layers of the function's network."""
        return tuple(self.make_chain())

    @abstractmethod
    def make_chain(self) -> Iterator[Part]:
        """One part for each layer of the largest network."""

    def operations(self, architecture: Architecture) -> tuple[Operation, ...]:
        """One operation for each part of the architecture's network."""
        require_architecture(architecture)
        params, shape = architecture.params, self.input_shape
        found = []
        for part in self.chain:
            if part.is_used(params):
                found.append(part.operation(shape, *(params[name] for name in part.names)))
                shape = found[-1].output_shape
        return tuple(found)

    def cost_steps(self, price: Callable[[Operation], float]) -> Iterator[CostStep]:
        """See `BuiltSpace.cost_steps`: one step per part; the state is the shape of its input."""
        priced = cache(price)
        known: dict[object, list[Operation]] = {}
        shapes: list[Shape] = [self.input_shape]
        for part in self.chain:
            choices = tuple(self.parameters[name].choices for name in part.names)
            rows = []
            for shape in shapes:
                case = part.operation, shape, choices  # equal slots are computed once
                if case not in known:
                    known[case] = [part.operation(shape, *values) for values in itertools.product(*choices)]
                rows.append(known[case])
            places: dict[Shape, int] = {}
            targets = [places.setdefault(op.output_shape, len(places)) for row in rows for op in row]
            uses = None
            if part.depth:
                name = part.depth[0]
                uses = name, [float(part.is_used({name: depth})) for depth in self.parameters[name].choices]
            yield CostStep(part.names, [list(map(priced, row)) for row in rows], targets, uses)
            shapes = list(places)


_OWN_WEIGHTS = "own weights"
"""Part of the digest of a function's file, since earlier releases drew the weights of its networks anew."""
Reference = Mapping[str, Choice] | Callable[..., Mapping[str, Choice]]
"""Params, or a function ``(task, **options)`` that returns them."""


class SpaceFunction:
    """A function ``(choices, task, **options) -> nn.Module`` as a search space; made by `space`.

    Called with `in_channels`, `classes`, `input_size` and the function's own options, it returns a `FunctionSpace`.
    """

    given_as = "a function below @nas_optuna.space"

    def __init__(self, build: Build, version: int, reference: Reference | None = None) -> None:
        functools.update_wrapper(self, build)
        self.build = build
        self.version = version
        self.reference = reference
        own = list(inspect.signature(build).parameters.values())[2:]
        keyword = inspect.Parameter.KEYWORD_ONLY
        figures = [inspect.Parameter(name, keyword) for name in ("in_channels", "classes", "input_size")]
        if taken := {p.name for p in figures} & {p.name for p in own}:
            raise SpecError(
                f"{build.__qualname__}: {min(taken)} comes with the data and is no option; write two arguments,"
                " (c, task), and take task.channels, task.classes and task.input_size"
            )
        options = [p if p.kind is p.VAR_KEYWORD else p.replace(kind=keyword) for p in own]
        self.__signature__ = inspect.Signature(sorted([*figures, *options], key=lambda p: p.kind))

    def __call__(self, *, in_channels: int, classes: int, input_size: InputSize, **options: Any) -> FunctionSpace:
        """The space for inputs of that shape."""
        from nas_optuna.spaces.function import FunctionSpace

        return FunctionSpace(self, Task(in_channels, classes, input_size), options)

    def __reduce__(self) -> str | tuple[Any, ...]:
        return by_name(self.build.__module__, self.build.__qualname__)  # like a function


@overload
def space(build: Build, /) -> SpaceFunction: ...
@overload
def space(*, version: int = 1, reference: Reference | None = None) -> Callable[[Build], SpaceFunction]: ...
def space(
    build: Build | None = None, /, *, version: int = 1, reference: Reference | None = None
) -> SpaceFunction | Callable[[Build], SpaceFunction]:
    """Turn a function that builds a network into a search space.

    The function is run with different answers to find its parameters, so it must depend on its arguments alone.

    Args:
        build: Takes `nas_optuna.spaces.choices.Choices` and a `Task`, and returns a module from images
            ``[batch, channels, height, width]`` to logits ``[batch, classes]``. Further arguments are options that a
            spec may set.
        version: Raise it when the same choices give another network than before.
        reference: Params of the network that a search has to beat, e.g. ``{"width": 64, "depth": 3}``, or a function
            ``(task, **options)`` that returns them; a missing parameter has its first choice. It becomes the space's
            `SearchSpace.reference`.

    Examples:
        >>> from torch import nn
        >>> @space
        ... def network(c, task):
        ...     layers = [nn.Flatten(), nn.LazyLinear(c.choice("units", [8, 16], ordered=True))]
        ...     for i in range(c.integer("depth", 0, 2)):
        ...         layers.append(c.layer(f"act{i}", {"relu": nn.ReLU, "silu": nn.SiLU}))
        ...     return nn.Sequential(*layers, nn.LazyLinear(task.classes))
        >>> made = network(in_channels=1, classes=10, input_size=8)
        >>> made.size, str(made.parse("units=16,depth=1,act0=silu"))
        (14, 'units=16,depth=1,act0=silu')
    """
    if build is None:
        return functools.partial(SpaceFunction, version=version, reference=reference)
    if not callable(build) or not hasattr(build, "__qualname__"):  # by which it is called, and pickled
        raise SpecError(f"@space decorates a function (choices, task) -> nn.Module, got a {type(build).__name__}")
    return SpaceFunction(build, version, reference)


def of_network(make: Callable[[Task], Any], name: str) -> SpaceFunction:
    """A space that contains only the network of a function ``(task) -> nn.Module``."""

    def build(_: object, task: Task) -> Any:
        return make(task)

    build.__name__ = getattr(make, "__name__", name)  # for error messages
    return SpaceFunction(build, version=1)


def source_of(function: Build) -> str:
    """Digest of the file that contains a function."""
    text = ""
    with suppress(OSError, TypeError):
        text = inspect.getsource(function)  # all that there is of a function in a notebook
    with suppress(OSError, TypeError, ValueError):
        text = Path(inspect.getsourcefile(function) or "").read_text(encoding="utf-8")
    return hex_digest(f"{text}{_OWN_WEIGHTS}")
