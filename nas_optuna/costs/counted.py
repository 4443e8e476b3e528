"""The costs that are counted: multiply-accumulates, parameters and memory."""

from __future__ import annotations

from nas_optuna.costs.cost import Cost, CostContext
from nas_optuna.spaces.architecture import Architecture


class _CountedCost(Cost):
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
