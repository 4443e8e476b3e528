"""What every search space is: named categorical parameters, and how a choice becomes a network."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from nas_optuna import registry
from nas_optuna.errors import ArchitectureError, SpecError, unknown
from nas_optuna.spaces.architecture import Architecture, Choice

if TYPE_CHECKING:  # torch and optuna cost more to import than a listing of spaces may take
    import optuna
    from torch import nn

    from nas_optuna.spaces.supernet import Supernet

Shape = tuple[int, ...]
"""A tensor's shape without the batch dimension, e.g. ``(channels, height, width)``."""


@dataclass(frozen=True)
class Parameter:
    """One categorical decision.

    Attributes:
        choices: What it may take, in order.
        ordered: Whether neighbouring choices are alike (16 → 24 filters); operations are not ordered.
    """

    choices: tuple[Choice, ...]
    ordered: bool = False


@dataclass(frozen=True)
class Operation:
    """A piece of a network that can be built, counted and measured on its own.

    A network of a space is the sequence of its operations, so a cost that is summed over operations (MACs, or
    latency from a table) is the network's.

    Attributes:
        kind: What the space builds from it, e.g. ``"conv"`` or ``"head"``.
        options: The rest of what `SearchSpace.build_operation` needs, as sorted pairs.
        input_shape: Shape of one input, without the batch.
        output_shape: Shape of one output, without the batch.
    """

    kind: str
    options: tuple[tuple[str, int], ...]
    input_shape: Shape
    output_shape: Shape

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
        supernet_class: ``package.module:Class`` of the space's supernet, for a space that has one.
        parameters: Optuna parameter name → `Parameter`, in the order in which they are suggested.
        in_channels: Channels of an input image.
        classes: Number of classes.
        input_size: Side length of the square input in pixels.
    """

    name: ClassVar[str]
    version: ClassVar[int] = 1
    supernet_class: ClassVar[str | None] = None

    parameters: Mapping[str, Parameter]
    in_channels: int
    classes: int
    input_size: int

    @property
    def size(self) -> int:
        """How many architectures there are."""
        return math.prod(len(p.choices) for p in self.parameters.values())

    def distributions(self) -> dict[str, optuna.distributions.CategoricalDistribution]:
        """One fixed Optuna distribution for each parameter name."""
        from optuna.distributions import CategoricalDistribution

        return {name: CategoricalDistribution(p.choices) for name, p in self.parameters.items()}

    def suggest(self, trial: optuna.trial.BaseTrial) -> Architecture:
        """Let a trial (a ``FixedTrial`` too) choose every parameter."""
        return self.architecture(
            {name: trial.suggest_categorical(name, p.choices) for name, p in self.parameters.items()}
        )

    def architecture(self, params: Mapping[str, Any]) -> Architecture:
        """The architecture that a params dict stands for.

        Args:
            params: One choice for every parameter name; any order.

        Raises:
            ArchitectureError: A name is missing or unknown, or a value is outside its choices.
        """
        for name in params:
            if name not in self.parameters:
                raise ArchitectureError(unknown("parameter", name, self.parameters))
        items = []
        for name, parameter in self.parameters.items():
            if name not in params:
                raise ArchitectureError(f"parameter {name!r} has no value; choose one of {parameter.choices}")
            value = params[name]
            if isinstance(value, bool) or value not in parameter.choices:
                raise ArchitectureError(f"{name} = {value!r} is outside its choices; choose one of {parameter.choices}")
            items.append((name, value))
        return Architecture(tuple(items), self.format(dict(items)))

    def tokens(self, architecture: Architecture) -> tuple[int, ...]:
        """The index of each choice, in the order of `parameters`."""
        return tuple(
            p.choices.index(value) for p, (_, value) in zip(self.parameters.values(), architecture.items, strict=True)
        )

    def build(self, architecture: Architecture) -> nn.Sequential:
        """The architecture's network: its operations, one after another.

        Returns:
            A module from images ``[batch, in_channels, input_size, input_size]`` (float, normalised) to logits
            ``[batch, classes]``, freshly initialised from torch's global generator, on the current default device.
        """
        from torch import nn

        return nn.Sequential(*map(self.build_operation, self.operations(architecture)))

    def supernet(self, **options: Any) -> Supernet:
        """One network that holds every architecture of the space with shared weights.

        Args:
            options: The supernet's own options, e.g. ``alpha_init="uniform"``.

        Raises:
            SpecError: The space has no supernet, or an option is unknown.
        """
        if self.supernet_class is None:
            raise SpecError(f"space {self.name!r} has no supernet; search it with a sampler instead")
        factory = registry.find("supernet", self.supernet_class, {}, "nas_optuna.supernets")
        registry.check_options("supernet", self.name, factory, options, reserved=("space",))
        supernet: Supernet = factory(self, **options)
        return supernet

    @abstractmethod
    def format(self, params: Mapping[str, Any]) -> str:
        """The canonical string of complete and valid params."""

    @abstractmethod
    def parse(self, text: str) -> Architecture:
        """The architecture of a string that a person may have typed.

        Raises:
            ArchitectureError: The string does not have the form, or a value is outside its choices.
        """

    @abstractmethod
    def operations(self, architecture: Architecture) -> tuple[Operation, ...]:
        """The network piece by piece, in the order of the forward pass."""

    @abstractmethod
    def reachable_operations(self) -> Iterator[Operation]:
        """Every distinct operation that some architecture contains, each once."""

    @abstractmethod
    def build_operation(self, operation: Operation) -> nn.Module:
        """A fresh module for one operation."""


def require_choices(option: str, values: Sequence[Choice]) -> tuple[Choice, ...]:
    """Check a list of choices that came from a user: not empty, no repetition.

    Raises:
        SpecError: Naming the option.
    """
    if not values or len(set(values)) != len(values):
        raise SpecError(f"space option {option!r} needs at least one choice and no repetition, got {values!r}")
    return tuple(values)


def require_positive(**options: int) -> None:
    """Check that integer options that came from a user are at least 1.

    Raises:
        SpecError: Naming the first option that is not.
    """
    for option, value in options.items():
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise SpecError(f"space option {option!r} must be a whole number of at least 1, got {value!r}")
