"""The contract of costs, which are numbers of an architecture known without training, and the counted ones."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, ClassVar

from nas_optuna.costs.complexity import ModelComplexity, figures
from nas_optuna.quantities import Direction
from nas_optuna.spaces import SearchSpace
from nas_optuna.spaces.architecture import Architecture
from nas_optuna.spec import LatencySpec

if TYPE_CHECKING:
    import torch
PICOJOULES_PER_MAC = 4.6
"""One float32 multiplication (3.7 pJ) and one addition (0.9 pJ) at 45 nm: Horowitz, "Computing's energy problem (and
what we can do about it)", ISSCC 2014, figure 1.1.9."""
PICOJOULES_PER_BYTE = 160.0
"""Reading 32 bits from DRAM (640 pJ) divided by four bytes: the same figure."""


@dataclass(frozen=True)
class CostContext:
    """What a cost may depend on beside the architecture.

    Attributes:
        space: The study's space.
        device: Where networks are trained and measured.
        latency: How latency is measured; its `batch_size` also holds for the activations of the cost ``memory``.
    """

    space: SearchSpace
    device: torch.device
    latency: LatencySpec

    def counted(self, architecture: Architecture) -> ModelComplexity:
        """MACs, parameters and bytes of an architecture; fast once its operations were counted."""
        return figures(self.space, architecture, self.latency.batch_size)


class Cost(ABC):
    """One cost. A new one is a subclass in a new file and a line in `nas_optuna.objectives.COSTS`.

    A third party registers the class as an entry point of the group ``nas_optuna.costs``, under its name. It then
    appears wherever costs are shown (tables, notes, report, dashboard, trackers).

    Args:
        context: The study's space, device and settings.

    Attributes:
        name: Its name in a spec.
        label: Its name for people; `name` if empty.
        unit: Unit of its values, e.g. ``"ms"``; empty for a count.
        direction: Which way is better. A limit is the most of a cost that is minimised, and the least of one that is
            maximised.
        format: Python's format specification of a value below 1,000; four significant digits by default.
        proxy: Name of a cost that is known at once and grows with this one, if this one has to be measured.
        margin: By what share of the known value the true one may be worse; limits leave that much room. None means
            unknown.
        counted: Whether it is counted from the operations that networks share, so that thousands of networks are soon
            asked; false by default.
        conditions: Conditions under which it holds if it depends on a device, e.g. ``"measured on …"``.

    Examples:
        >>> class Depth(Cost):
        ...     name, unit = "depth", "layers"
        ...
        ...     def __call__(self, architecture):
        ...         return float(len(self.context.space.operations(architecture)))
    """

    name: ClassVar[str]
    label: ClassVar[str] = ""
    unit: ClassVar[str] = ""
    direction: ClassVar[Direction] = "minimize"
    format: ClassVar[str] = ""
    conditions: str = ""
    proxy: str | None = None
    counted: bool = False

    def __init__(self, context: CostContext) -> None:
        self.context = context

    @classmethod
    def always(cls, context: CostContext) -> bool:
        """Whether every trial records it, even if no objective and no limit needs it."""
        return False

    @cached_property
    def margin(self) -> float | None:
        """See the class."""
        return 0.0

    @abstractmethod
    def __call__(self, architecture: Architecture) -> float:
        """The cost of one architecture, in `unit`."""

    def refine(self, architecture: Architecture, so_far: float) -> float:
        """A more exact value; called after each epoch of the network's training if the cost is an objective.

        Args:
            architecture: The architecture.
            so_far: The value known so far.
        """
        return so_far


class _CountedCost(Cost):
    counted = True

    @classmethod
    def always(cls, context: CostContext) -> bool:
        """Counting costs microseconds, so every trial records it."""
        return True


class MacsCost(_CountedCost):
    """Multiply-accumulates of one image's forward pass (convolutions and matrix products, no biases)."""

    name, label = "macs", "MACs"

    def __call__(self, architecture: Architecture) -> float:
        """Multiply-accumulates."""
        return self.context.counted(architecture).macs


class ParamsCost(_CountedCost):
    """Number of weights."""

    name, label = "params", "weights"

    def __call__(self, architecture: Architecture) -> float:
        """Weights."""
        return self.context.counted(architecture).params


class MemoryCost(_CountedCost):
    """Bytes of weights and of the peak of activations in inference, float32."""

    name = "memory"
    unit = "bytes"

    def __call__(self, architecture: Architecture) -> float:
        """Bytes."""
        counted = self.context.counted(architecture)
        return counted.weight_bytes + counted.activation_bytes


class EnergyCost(Cost):
    """Millijoules of one inference, estimated: arithmetic at 4.6 pJ per MAC, memory traffic at 160 pJ per byte.

    Weights and the largest activations of a batch are assumed to cross the memory bus once. The estimate ranks networks
    on hardware whose energy is dominated by arithmetic and DRAM; it is no measurement of your device. To use measured
    energy, register your own `Cost` as an entry point.
    """

    name, label, unit = "energy_mj", "energy", "mJ"
    counted = True

    def __call__(self, architecture: Architecture) -> float:
        """Millijoules of one image."""
        counted = self.context.counted(architecture)
        moved = (counted.weight_bytes + counted.activation_bytes) / self.context.latency.batch_size
        return (counted.macs * PICOJOULES_PER_MAC + moved * PICOJOULES_PER_BYTE) * 1e-9
