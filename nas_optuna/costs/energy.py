"""Energy of one inference, estimated from arithmetic and from bytes moved."""

from __future__ import annotations

from nas_optuna.costs.cost import Cost
from nas_optuna.spaces.architecture import Architecture

PICOJOULES_PER_MAC = 4.6
"""One float32 multiplication (3.7 pJ) and one addition (0.9 pJ) at 45 nm: Horowitz, "Computing's energy problem (and
what we can do about it)", ISSCC 2014, figure 1.1.9."""

PICOJOULES_PER_BYTE = 160.0
"""Reading 32 bits from DRAM (640 pJ) divided by four bytes: the same figure."""


class EnergyCost(Cost):
    """Millijoules of one inference, estimated: arithmetic at 4.6 pJ per MAC, memory traffic at 160 pJ per byte.

    Weights and the largest activations are taken to cross the memory bus once. The estimate ranks networks on hardware
    whose energy is dominated by arithmetic and DRAM; it is no measurement of your device. A measured energy is a `Cost`
    of your own with the same name as an entry point.
    """

    name, label, unit = "energy_mj", "energy", "mJ"

    def __call__(self, architecture: Architecture) -> float:
        """Millijoules."""
        counted = self.context.counted(architecture)
        moved = counted.weight_bytes / self.context.latency.batch_size + counted.activation_bytes
        return (counted.macs * PICOJOULES_PER_MAC + moved * PICOJOULES_PER_BYTE) * 1e-9
