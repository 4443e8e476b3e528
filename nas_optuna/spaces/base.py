"""The base class of search spaces: named categorical parameters, and how choices become a network."""

from __future__ import annotations

import copy
import functools
import itertools
import json
import math
import random
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from html import escape
from typing import Any, ClassVar, Self

from nas_optuna.errors import ArchitectureError, SpecError, checked, require_kind, shown, unknown
from nas_optuna.lazily import lazily
from nas_optuna.quantities import plural
from nas_optuna.spaces.architecture import Architecture, Choice, InputSize, not_chosen, require_architecture
from nas_optuna.spaces.architecture import Parameter as Parameter
from nas_optuna.spaces.architecture import text_of as text_of

with lazily():  # torch and optuna are slow to import, and a listing of spaces must be fast
    import optuna
    from torch import nn

    from nas_optuna.spaces.supernet import Supernet

Shape = tuple[int, ...]
"""A tensor's shape without the batch dimension, e.g. ``(channels, height, width)``."""

_ATTEMPTS, _ATTEMPTS_EACH = 20_000, 100
"""The most draws of a sample, and the further draws for each wanted architecture."""


@dataclass(frozen=True)
class Operation:
    """A piece of a network that can be built and measured on its own, and whose costs add up to the network's.

    Attributes:
        kind: Its kind, e.g. ``"conv"`` or ``"head"``.
        options: Sorted pairs that distinguish it from others of its kind.
        input_shape: Shape of one input, without the batch.
        output_shape: Shape of one output, without the batch.
        make: Makes a fresh module of it.
        macs: Multiply-accumulates for one image by a formula, which is faster for a space of thousands of operations;
            None to count them.
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
    """Named categorical parameters, in order, and the network for each combination of choices.

    A subclass takes its own options and the figures of the data (`in_channels`, `classes`, `input_size`) as keywords,
    and sets `parameters`. It knows nothing of studies.

    Attributes:
        name: The name under which it is registered.
        version: To be raised whenever the same options give other parameters or other networks, so that a study made
            with the old ones is not continued by mistake.
        parameters: Optuna parameter name → `Parameter`, in the order in which they are suggested.
        in_channels: Channels of an input image.
        classes: Number of classes.
        input_size: Side length of the input in pixels; ``(height, width)`` if the input is not square.
        settings: Names of the attributes that decide, beside `identity`, which network an architecture is: studies
            reuse a training only if they are equal. None means every public attribute with a plain value, so a space
            that declares nothing must keep computed values under names that begin with an underscore.
        draws_weights: Whether a recipe's `init` draws the weights of the space's networks. If not, as in your own
            spaces, training starts from the weights that `build` set: pretrained, frozen or zeroed.

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
        size, parameters = plural(self.size, "architecture"), plural(len(self.parameters), "parameter")
        height, width = self.image_size
        return (
            f"<{type(self).__name__} {self.name!r}: {size} of {parameters},"
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
        """The network that a search has to beat, and may begin with, if the space names one."""
        return None

    @property
    def size(self) -> int:
        """How many architectures there are."""
        return math.prod(len(p.choices) for p in self.parameters.values())

    def distributions(self) -> dict[str, optuna.distributions.CategoricalDistribution]:
        """One fixed Optuna distribution for each parameter name."""
        return {name: optuna.distributions.CategoricalDistribution(p.choices) for name, p in self.parameters.items()}

    def suggest(self, trial: optuna.trial.BaseTrial) -> Architecture:
        """Let a trial, or a ``FixedTrial``, choose every parameter.

        Raises:
            ArchitectureError: The trial was enqueued with a value that is none of a parameter's choices.
        """
        require_kind(trial, optuna.trial.BaseTrial, "the trial", "give one of Optuna's")
        chosen = {}
        for name, parameter in self.parameters.items():
            try:
                chosen[name] = trial.suggest_categorical(name, parameter.choices)
            except ValueError as error:
                raise ArchitectureError(not_chosen(name, parameter.choices, error)) from error
        return self.architecture(chosen)

    def architecture(self, params: Mapping[str, Any]) -> Architecture:
        """The architecture of a params dict.

        Args:
            params: One choice for every parameter name; any order.

        Raises:
            ArchitectureError: A name is missing or unknown, or a value is outside its choices.
        """
        given = self.matched(params)
        self.require_values(self.parameters, given)
        chosen = self.canonical(given)
        return Architecture(tuple(chosen.items()), self.format(chosen))

    def matched(self, params: Mapping[str, Any]) -> dict[str, Choice]:
        """The choices that params name; an `ArchitectureError` for an unknown name or a value outside its choices."""
        require_kind(params, Mapping, "params", "give a dictionary")
        for name in params:
            if name not in self.parameters:
                raise ArchitectureError(unknown("parameter", name, self.parameters))
        return {name: p.match(name, params[name]) for name, p in self.parameters.items() if name in params}

    def require_values(self, names: Iterable[str], given: Collection[str]) -> None:
        """Refuse params without a value for one of some parameters."""
        for name in names:
            if name not in given:
                choices = self.parameters[name].choices
                raise ArchitectureError(f"parameter {name!r} has no value; choose one of {choices}")

    def canonical(self, params: Mapping[str, Any]) -> dict[str, Choice]:
        """The params dict that represents all dicts with the same network.

        If some choices switch others off (a kernel size without a convolution), those get their first choice.
        Architectures are stored and compared in this form.

        Args:
            params: A valid choice for each parameter; a missing one gets its first choice, and names that are no
                parameters of the space are ignored.
        """
        return {name: params.get(name, parameter.choices[0]) for name, parameter in self.parameters.items()}

    @property
    def conditional(self) -> bool:
        """Whether some choices switch others off, so that params may need `canonical`."""
        return type(self).canonical is not SearchSpace.canonical

    def tokens(self, architecture: Architecture) -> tuple[int, ...]:
        """The index of each choice, in the order of `parameters`; 0 for a parameter that is missing."""
        require_architecture(architecture)
        chosen = architecture.params
        return tuple(
            p.choices.index(p.match(name, chosen[name])) if name in chosen else 0 for name, p in self.parameters.items()
        )

    def from_tokens(self, tokens: Sequence[int]) -> Architecture:
        """The architecture of one index for each parameter, as `tokens` gives them."""
        try:
            if min(tokens, default=0) < 0:  # which Python would count from the end
                raise IndexError
            params = {name: p.choices[i] for (name, p), i in zip(self.parameters.items(), tokens, strict=True)}
        except (TypeError, ValueError, IndexError):
            raise ArchitectureError(
                f"tokens are the index of a choice for each parameter, not {shown(tokens)}"
            ) from None
        return self.architecture(params)

    @checked
    def sample(self, rng: random.Random) -> Architecture:
        """Draw every parameter uniformly and independently."""
        return self.architecture({name: rng.choice(p.choices) for name, p in self.parameters.items()})

    @checked
    def sample_distinct(
        self, count: int, rng: random.Random, accept: Callable[[Architecture], bool] = lambda architecture: True
    ) -> list[Architecture]:
        """Draw distinct, accepted architectures, in the order drawn; fewer if the space has few of them."""
        found: dict[Architecture, None] = {}
        for _ in range(_ATTEMPTS + count * _ATTEMPTS_EACH):
            if len(found) >= min(count, self.size):
                break
            drawn = self.sample(rng)
            if drawn not in found and accept(drawn):
                found[drawn] = None
        return list(found)

    def neighbours(self, architecture: Architecture) -> Iterator[Architecture]:
        """Every other architecture with one changed parameter, each once."""
        require_architecture(architecture)
        changes = ((name, value) for name, parameter in self.parameters.items() for value in parameter.choices)
        others = (self.architecture({**architecture.params, name: value}) for name, value in changes)
        return (other for other in dict.fromkeys(others) if other != architecture)

    def enumerate(self) -> Iterator[Architecture]:
        """Every architecture, each once; only for small spaces."""
        seen = set()
        for values in itertools.product(*(p.choices for p in self.parameters.values())):
            architecture = self.architecture(dict(zip(self.parameters, values, strict=True)))
            if architecture not in seen:
                seen.add(architecture)
                yield architecture

    def fixed(self, values: Mapping[str, Choice]) -> Self:
        """A copy of the space in which some parameters have only one choice.

        Args:
            values: Parameter name → the choice that stays; for numbers, text is accepted, too.

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
            del narrowed.__dict__[name]  # it depends on the parameters
        return narrowed

    def pinned(self, values: Mapping[str, Any]) -> dict[str, Choice]:
        """The choices of a user's values, by parameter; raises as `fixed` does."""
        require_kind(values, Mapping, "values to fix", "give a dictionary")
        for name, value in values.items():
            if isinstance(value, Mapping):  # TOML takes a dot outside of quotes for a section
                whole = f"{name}.{next(iter(value), '')}"
                raise SpecError(f"the name of a parameter to fix with a dot needs quotes: {{{json.dumps(whole)} = …}}")
            if name not in self.parameters:
                raise SpecError(unknown("parameter to fix:", name, self.parameters))
        return {name: self.parameters[name].typed(name, value) for name, value in values.items()}

    def identity(self) -> dict[str, Any]:
        """Everything that must not change during a study, JSON-ready."""
        return {
            "name": self.name,
            "version": self.version,
            "in_channels": self.in_channels,
            "classes": self.classes,
            "input_size": self.input_size if isinstance(self.input_size, int) else list(self.input_size),
            "parameters": {name: list(parameter.choices) for name, parameter in self.parameters.items()},
        }

    def require_logits(self, architecture: Architecture | None = None) -> None:
        """Refuse networks that do not return logits, which our own training needs; other evaluators may not.

        Args:
            architecture: Whose network is checked; None checks what is known of the space before the first trial.

        Raises:
            SpecError: They return something else.
        """
        return

    def supernet_class(self) -> type[Supernet] | None:
        """The class of the space's supernet, a subclass of `nas_optuna.spaces.supernet.Supernet`; None if it has none.

        Import it in this method, since a listing of spaces must not import torch.
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
        """The architecture of a string.

        Raises:
            ArchitectureError: The string does not have the form, or a value is outside its choices.
        """


class Decomposable(SearchSpace):
    """A space whose networks are made of operations that can be built, counted and measured on their own.

    Only latency tables and the exact expected cost of a supernet need this.

    Attributes:
        sequential: Whether a network is the sequence of its operations, so that all its figures, memory included,
            follow from theirs.
    """

    sequential: bool = True

    def build(self, architecture: Architecture) -> nn.Module:
        """The architecture's network: its operations, one after another."""
        return nn.Sequential(*(operation.make() for operation in self.operations(architecture)))

    @abstractmethod
    def operations(self, architecture: Architecture) -> tuple[Operation, ...]:
        """The operations of a network, in the order of the forward pass."""

    @abstractmethod
    def reachable_operations(self) -> Iterator[Operation]:
        """Every operation that any architecture contains, each once."""


def require_operations(space: SearchSpace, needed_by: str) -> Decomposable:
    """The space, or a `SpecError` if its networks are not made of operations."""
    if isinstance(space, Decomposable):
        return space
    raise SpecError(
        f"{needed_by} needs a space whose networks are made of operations, which space {space.name!r} does not"
        " declare (nas_optuna.spaces.Decomposable); measure or count whole networks instead"
    )
