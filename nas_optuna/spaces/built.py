"""The base class of spaces whose networks a function builds: those of this package and your own."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from torch import nn

from nas_optuna.spaces.architecture import Architecture, Choice, InputSize
from nas_optuna.spaces.base import Decomposable, Operation, Parameter
from nas_optuna.spaces.checks import checked_input_size
from nas_optuna.spaces.choices import Choices

if TYPE_CHECKING:  # it is made of spaces
    from nas_optuna.spaces.function_supernet import FunctionSupernet


@dataclass(frozen=True)
class Task:
    """What the network is for.

    Attributes:
        channels: Channels of an input image.
        classes: Number of classes.
        input_size: Side of the input in pixels; ``(height, width)`` where it is not square.
    """

    channels: int
    classes: int
    input_size: InputSize

    @property
    def shape(self) -> tuple[int, int, int]:
        """``(channels, height, width)`` of one input."""
        size = self.input_size
        return (self.channels, *((size, size) if isinstance(size, int) else size))


Build = Callable[..., Any]
"""``(choices, task, **options) -> nn.Module``."""


@dataclass(frozen=True)
class CostStep:
    """One step of a network's cost as a Markov chain, whose first state is 0; the next states are flattened."""

    names: Sequence[str]  # of the parameters that are decided here
    costs: Sequence[Sequence[float]]  # [states, combinations of choices], those of the last parameter in a row
    targets: Sequence[int]
    uses: tuple[str, Sequence[float]] | None = None  # a parameter, and 1 for each of its choices that has this step


class BuiltSpace(Decomposable):
    """A space whose networks a function builds.

    Its supernet is made by the same function (`FunctionSupernet`). A subclass fills in `parameters` and says how an
    architecture is written, and which operations a network is made of.
    """

    draws_weights = True

    def __init__(self, build: Build, task: Task, options: Mapping[str, Any]) -> None:
        self.in_channels, self.classes = task.channels, task.classes
        self.input_size = checked_input_size(task.input_size)
        self.options = dict(options)
        self._build, self._task = build, Task(task.channels, task.classes, self.input_size)

    def build(self, architecture: Architecture) -> nn.Module:
        """The architecture's network."""
        return self.build_with(Choices(lambda name, asked: architecture.params[name]))

    def build_with(self, choices: Choices) -> nn.Module:
        """Run the function with any `Choices`, on the current default device."""
        network: nn.Module = self._build(choices, self._task, **self.options)
        return network

    def known(self, name: str, asked: Parameter) -> Parameter:
        """The space's parameter for a question of the function; a fixed one has fewer choices than the question."""
        return self.parameters[name]

    def used(self, architecture: Architecture) -> dict[str, Choice]:
        """Those params that the architecture's network asks for."""
        return dict(architecture.params)

    def supernet_class(self) -> type[FunctionSupernet]:
        """The function's network, with all choices open."""
        from nas_optuna.spaces.function_supernet import FunctionSupernet

        return FunctionSupernet

    @abstractmethod
    def cost_steps(self, price: Callable[[Operation], float]) -> Iterator[CostStep]:
        """The steps of a network's cost, where `price` gives the cost of one operation."""

    def stabilize_init(self, network: nn.Module) -> None:
        """Lessen the initial weights of a supernet's network; see `Supernet.stabilize_init`."""
        return
