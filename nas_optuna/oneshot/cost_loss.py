"""How expected latency enters the alphas' loss."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from nas_optuna.spec import SupernetSpec

CostLoss = Callable[[Tensor, Tensor], Tensor]
"""The loss from cross entropy and expected cost, both scalars; the cost in milliseconds or millions of MACs."""


def linear(weight: float) -> CostLoss:
    """``CE + weight · E``: that of the reference supernet."""
    return lambda cross_entropy, cost: cross_entropy + weight * cost


def fbnet(weight: float, power: float) -> CostLoss:
    """``CE · weight · log(1 + 1000 E)^power``: Wu et al. 2019 (FBNet), equation 2, with E in microseconds."""
    # The 1 keeps the logarithm positive for the smallest networks and is lost in E otherwise.
    return lambda cross_entropy, cost: cross_entropy * weight * torch.log1p(1000 * cost) ** power


def target(weight: float, limit: float) -> CostLoss:
    """``CE + weight · max(0, E / limit - 1)``: free below the limit."""
    return lambda cross_entropy, cost: cross_entropy + weight * torch.relu(cost / limit - 1)


def cost_loss(spec: SupernetSpec) -> CostLoss:
    """The loss that a spec asks for."""
    if spec.latency_loss == "fbnet":
        return fbnet(spec.latency_weight, spec.latency_power or 0.6)
    if spec.latency_loss == "target":
        assert spec.latency_target is not None
        return target(spec.latency_weight, spec.latency_target)
    return linear(spec.latency_weight)
