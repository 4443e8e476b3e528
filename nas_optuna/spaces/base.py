"""What every search space is: named categorical parameters, and how a choice becomes a network."""

from __future__ import annotations

import copy
import functools
import itertools
import json
import math
import random
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from html import escape
from typing import TYPE_CHECKING, Any, ClassVar, Self

from nas_optuna.errors import ArchitectureError, SpecError, unknown
from nas_optuna.spaces.architecture import Architecture, Choice, InputSize

if TYPE_CHECKING:  # torch and optuna cost more to import than a listing of spaces may take
    import optuna
    from torch import nn

    from nas_optuna.spaces.supernet import Supernet

Shape = tuple[int, ...]
"""A tensor's shape without the batch dimension, e.g. ``(channels, height, width)``."""

_ATTEMPTS, _ATTEMPTS_EACH = 20_000, 100
"""The most draws of a sample, and how many more for each wanted architecture."""


@dataclass(frozen=True)
class Parameter:
    """One categorical decision.

    Attributes:
        choices: What it may take, in order.
        ordered: Whether neighbouring choices are alike (16 → 24 filters); operations are not ordered.
    """

    choices: tuple[Choice, ...]
    ordered: bool = False

    def match(self, name: str, value: Any) -> Choice:
        """The choice that equals a value, else an `ArchitectureError`. ``True`` is not 1, unlike in Python."""
        for choice in self.choices:
            if choice == value and isinstance(choice, bool) == isinstance(value, bool):
                return choice
        raise ArchitectureError(f"{name} = {value!r} is outside its choices; choose one of {self.choices}")

    def typed(self, name: str, value: Any) -> Choice:
        """Like `match`, and typed text stands for the choice that is written like it; else a `SpecError`."""
        try:
            return self.match(name, value)
        except ArchitectureError as error:
            written = {text_of(choice): choice for choice in self.choices}
            if isinstance(value, str) and value in written:
                return written[value]
            raise SpecError(str(error)) from None


def text_of(choice: Choice) -> str:
    """How a choice is written in a string: a text as it is, everything else as in JSON."""
    return choice if isinstance(choice, str) else json.dumps(choice)


@dataclass(frozen=True)
class Operation:
    """A piece of a network that can be built, counted and measured on its own.

    A network of a space is the sequence of its operations, so a cost that is summed over operations (MACs, or
    latency from a table) is the network's.

    Attributes:
        kind: What it is, e.g. ``"conv"`` or ``"head"``.
        options: What tells it from others of its kind, as sorted pairs.
        input_shape: Shape of one input, without the batch.
        output_shape: Shape of one output, without the batch.
        make: Makes a fresh module of it; needed beside `macs` too, for networks, latency tables and memory figures.
        macs: Multiply-accumulates for one image, where the space knows them; None stands for: make it and count. A
            space of thousands of operations is faster with a formula.
    """

    kind: str
    options: tuple[tuple[str, int], ...]
    input_shape: Shape
    output_shape: Shape
    make: Callable[[], nn.Module] = field(compare=False, repr=False)
    macs: int | None = field(default=None, compare=False, repr=False)

    @property
    def key(self) -> str:
        """A stable, readable identity, e.g. ``"conv filters=16 kernel=3 stride=1 | 1x28x28 > 16x15x15"``."""
        options = "".join(f" {name}={value}" for name, value in self.options)
        shapes = " > ".join("x".join(map(str, shape)) for shape in (self.input_shape, self.output_shape))
        return f"{self.kind}{options} | {shapes}"


class SearchSpace(ABC):
    """Named categorical parameters, in order, and the network that each choice of them stands for.

    A subclass takes its own options and the data's figures (`in_channels`, `classes`, `input_size`) as keywords
    and fills in `parameters`. It knows nothing of studies.

    Attributes:
        name: The name it is registered under.
        version: Raised whenever the same options would give other parameters or other networks, so that a
            study made with the old ones is not continued by mistake.
        parameters: Optuna parameter name → `Parameter`, in the order in which they are suggested.
        in_channels: Channels of an input image.
        classes: Number of classes.
        input_size: Side length of the input in pixels; ``(height, width)`` where the input is not square.
        settings: Names of the attributes that decide, beside `identity`, which network an architecture is: studies
            reuse a training only where they are the same. None stands for every public attribute that is a plain value
            (so a space that declares nothing must keep what it computes under names with an underscore).
        draws_weights: Whether a recipe's `init` draws the weights of the space's networks. Where it does not, as in a
            space of your own, they are trained from what `build` set: pretrained, frozen or zeroed.

    Examples:
        >>> import random
        >>> from nas_optuna import create_space
        >>> space = create_space("block", {}, in_channels=3, classes=10, input_size=(32, 48))
        >>> architecture = space.sample(random.Random(0))
        >>> space.parse(str(architecture)) == architecture
        True
    """

    name: str
    version: int = 1
    settings: ClassVar[tuple[str, ...] | None] = None
    draws_weights: bool = False

    parameters: Mapping[str, Parameter]
    in_channels: int
    classes: int
    input_size: InputSize

    def __repr__(self) -> str:
        size = f"{self.size:,}" if self.size < 1e9 else f"{self.size:.1e}"
        height, width = self.image_size
        return (
            f"<{type(self).__name__} {self.name!r}: {size} architectures of {len(self.parameters)} parameters,"
            f" {self.in_channels}x{height}x{width} to {self.classes} classes>"
        )

    def _repr_html_(self) -> str:
        """The table that a notebook shows: each parameter with its choices."""
        rows = "".join(
            f"<tr><td>{escape(name)}</td><td>{escape(', '.join(map(text_of, parameter.choices)))}</td></tr>"
            for name, parameter in self.parameters.items()
        )
        return f"<p>{escape(repr(self))}</p><table><tr><th>parameter</th><th>choices</th></tr>{rows}</table>"

    @property
    def image_size(self) -> tuple[int, int]:
        """Height and width of the input in pixels."""
        return (self.input_size, self.input_size) if isinstance(self.input_size, int) else self.input_size

    @property
    def input_shape(self) -> Shape:
        """``(channels, height, width)`` of one input."""
        return (self.in_channels, *self.image_size)

    @property
    def reference(self) -> Architecture | None:
        """The network that a search has to beat, and may begin with, where the space names one."""
        return None

    @property
    def size(self) -> int:
        """How many architectures there are."""
        return math.prod(len(p.choices) for p in self.parameters.values())

    def distributions(self) -> dict[str, optuna.distributions.CategoricalDistribution]:
        """One fixed Optuna distribution for each parameter name."""
        from optuna.distributions import CategoricalDistribution

        return {name: CategoricalDistribution(p.choices) for name, p in self.parameters.items()}

    def suggest(self, trial: optuna.trial.BaseTrial) -> Architecture:
        """Let a trial (a ``FixedTrial`` too) choose every parameter.

        Raises:
            ArchitectureError: The trial was enqueued with a value that is none of a parameter's choices.
        """
        chosen = {}
        for name, parameter in self.parameters.items():
            try:
                chosen[name] = trial.suggest_categorical(name, parameter.choices)
            except ValueError as error:  # Optuna's, of a fixed value
                raise ArchitectureError(f"{name}: {error}; choose one of {parameter.choices}") from error
        return self.architecture(chosen)

    def architecture(self, params: Mapping[str, Any]) -> Architecture:
        """The architecture that a params dict stands for.

        Args:
            params: One choice for every parameter name; any order.

        Raises:
            ArchitectureError: A name is missing or unknown, or a value is outside its choices.
        """
        self.require_known(params)
        chosen: dict[str, Choice] = {}
        for name, parameter in self.parameters.items():
            if name not in params:
                raise ArchitectureError(f"parameter {name!r} has no value; choose one of {parameter.choices}")
            chosen[name] = parameter.match(name, params[name])
        chosen = self.canonical(chosen)
        return Architecture(tuple(chosen.items()), self.format(chosen))

    def require_known(self, params: Iterable[str]) -> None:
        """Refuse a name that is no parameter of the space with an `ArchitectureError` that names the nearest one."""
        for name in params:
            if name not in self.parameters:
                raise ArchitectureError(unknown("parameter", name, self.parameters))

    def canonical(self, params: Mapping[str, Any]) -> dict[str, Choice]:
        """The one params dict that stands for all dicts with the same network.

        A space in which some choices switch others off (a kernel size where there is no convolution) gives the
        switched-off ones their first choice. Whoever remembers or compares architectures does so in this form.

        Args:
            params: A valid choice for each parameter; one that is left out has its first choice, and names that are no
                parameters of the space are left out.
        """
        return {name: params.get(name, parameter.choices[0]) for name, parameter in self.parameters.items()}

    @property
    def conditional(self) -> bool:
        """Whether some choices switch others off, so that params may need `canonical`."""
        return type(self).canonical is not SearchSpace.canonical

    def tokens(self, architecture: Architecture) -> tuple[int, ...]:
        """The index of each choice, in the order of `parameters`; 0 for a parameter that it does not have."""
        chosen = architecture.params
        return tuple(
            p.choices.index(p.match(name, chosen[name])) if name in chosen else 0 for name, p in self.parameters.items()
        )

    def from_tokens(self, tokens: Sequence[int]) -> Architecture:
        """The architecture of one index for each parameter, as `tokens` gives them."""
        pairs = zip(self.parameters.items(), tokens, strict=True)
        return self.architecture({name: parameter.choices[token] for (name, parameter), token in pairs})

    def sample(self, rng: random.Random) -> Architecture:
        """Draw every parameter uniformly and independently."""
        return self.architecture({name: rng.choice(p.choices) for name, p in self.parameters.items()})

    def sample_distinct(
        self, count: int, rng: random.Random, accept: Callable[[Architecture], bool] = lambda architecture: True
    ) -> list[Architecture]:
        """Draw distinct, accepted architectures, in the order drawn; fewer where the space has few of them."""
        found: dict[Architecture, None] = {}
        for _ in range(_ATTEMPTS + count * _ATTEMPTS_EACH):
            if len(found) >= min(count, self.size):
                break
            drawn = self.sample(rng)
            if drawn not in found and accept(drawn):
                found[drawn] = None
        return list(found)

    def neighbours(self, architecture: Architecture) -> Iterator[Architecture]:
        """Every other architecture that one changed parameter leads to, each once."""
        seen = {architecture}
        for name, parameter in self.parameters.items():
            for value in parameter.choices:
                other = self.architecture({**architecture.params, name: value})
                if other not in seen:
                    seen.add(other)
                    yield other

    def enumerate(self) -> Iterator[Architecture]:
        """Every architecture, each once; only for small spaces."""
        seen: set[Architecture] = set()
        for values in itertools.product(*(p.choices for p in self.parameters.values())):
            architecture = self.architecture(dict(zip(self.parameters, values, strict=True)))
            if architecture not in seen:
                seen.add(architecture)
                yield architecture

    def fixed(self, values: Mapping[str, Choice]) -> Self:
        """A copy of the space in which some parameters have one choice only.

        Args:
            values: Parameter name → the choice that stays; text that a person typed is accepted for numbers too.

        Raises:
            SpecError: A name is no parameter, or a value is outside its choices.

        Examples:
            >>> from nas_optuna.spaces.conv import ConvSpace
            >>> ConvSpace(depth=1).fixed({"conv1.stride": 1}).size
            12
        """
        pinned = self.pinned(values)
        narrowed = copy.copy(self)
        narrowed.parameters = {
            name: Parameter((pinned[name],), p.ordered) if name in pinned else p for name, p in self.parameters.items()
        }
        for name in [n for n in vars(self) if isinstance(getattr(type(self), n, None), functools.cached_property)]:
            del narrowed.__dict__[name]  # what follows from the parameters
        return narrowed

    def pinned(self, values: Mapping[str, Any]) -> dict[str, Choice]:
        """The choices that are meant by what a person typed, by parameter; refuses as `fixed` does."""
        for name in values:
            if name not in self.parameters:
                raise SpecError(unknown("parameter to fix:", name, self.parameters))
        return {name: self.parameters[name].typed(name, value) for name, value in values.items()}

    def identity(self) -> dict[str, Any]:
        """What must not change while a study goes on, JSON-ready."""
        return {
            "name": self.name,
            "version": self.version,
            "in_channels": self.in_channels,
            "classes": self.classes,
            "input_size": self.input_size if isinstance(self.input_size, int) else list(self.input_size),
            "parameters": {name: list(parameter.choices) for name, parameter in self.parameters.items()},
        }

    def require_logits(self, architecture: Architecture | None = None) -> None:
        """Refuse networks that give no logits, which our own training needs; another evaluator may do without.

        Args:
            architecture: Whose network is meant; None is what is known of the space before the first trial.

        Raises:
            SpecError: They give something else.
        """
        return

    def supernet_class(self) -> type[Supernet] | None:
        """The class of what holds all networks of the space with shared weights; None where there is no such thing.

        A subclass of `nas_optuna.spaces.supernet.Supernet`, no instance; imported here, as a listing needs no torch.
        """
        return None

    @abstractmethod
    def build(self, architecture: Architecture) -> nn.Module:
        """The architecture's network.

        Returns:
            A module from images ``[batch, in_channels, height, width]`` (float, normalised) to logits
            ``[batch, classes]``, freshly initialised from torch's global generator, on the current default device.
        """

    @abstractmethod
    def format(self, params: Mapping[str, Any]) -> str:
        """The canonical string of complete and valid params."""

    @abstractmethod
    def parse(self, text: str) -> Architecture:
        """The architecture of a string that a person may have typed.

        Raises:
            ArchitectureError: The string does not have the form, or a value is outside its choices.
        """


class Decomposable(SearchSpace):
    """A space whose networks are made of operations that can be built, counted and measured on their own.

    This is optional: a space without it trains as any other. Latency tables and the exact expected cost of a
    supernet need it.

    Attributes:
        sequential: Whether a network is its operations one after another, so that every figure of it (memory too)
            follows from figures of the operations.
    """

    sequential: bool = True

    def build(self, architecture: Architecture) -> nn.Module:
        """The architecture's network: its operations, one after another."""
        from torch import nn

        return nn.Sequential(*(operation.make() for operation in self.operations(architecture)))

    @abstractmethod
    def operations(self, architecture: Architecture) -> tuple[Operation, ...]:
        """The network piece by piece, in the order of the forward pass."""

    @abstractmethod
    def reachable_operations(self) -> Iterator[Operation]:
        """Every distinct operation that some architecture contains, each once."""


def require_operations(space: SearchSpace, needed_by: str) -> Decomposable:
    """The space, if its networks are made of operations."""
    if isinstance(space, Decomposable):
        return space
    raise SpecError(
        f"{needed_by} needs a space whose networks are made of operations, which space {space.name!r} does not"
        " declare (nas_optuna.spaces.Decomposable); measure or count whole networks instead"
    )
