"""Whether tensors that come from a file are those that a network or an optimiser needs; `ValueError` says what is not.

That files are whole is known from digests, or from their reader. So only what belongs to another network is looked for.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from nas_optuna.training.failure import kind_of

_MOMENTS = {"SGD": {"momentum_buffer"}, "Adam": {"step", "exp_avg", "exp_avg_sq"}}
_MOMENTS["AdamW"] = _MOMENTS["Adam"]


def require_tensors(found: Mapping[str, Any], wanted: Mapping[str, Tensor]) -> None:
    """Compare names, shapes and number types; and where the wanted values are finite, so must those found be.

    Examples:
        >>> require_tensors({"w": torch.zeros(2)}, {"w": torch.zeros(3)})
        Traceback (most recent call last):
        ...
        ValueError: w is float32 [2], not float32 [3]
    """
    if missing := sorted(wanted.keys() - found.keys()):
        raise ValueError(f"{missing[0]} is missing")
    if unknown := sorted(found.keys() - wanted.keys()):
        raise ValueError(f"{str(unknown[0])[:80]} is not a part of it")
    for name, like in wanted.items():
        value = found[name]
        if not isinstance(value, Tensor) or value.shape != like.shape or value.dtype != like.dtype:
            raise ValueError(f"{name} is {kind_of(value)}, not {kind_of(like)}")
        if like.device.type == "meta" or not like.is_floating_point():
            continue
        if bool(like.isfinite().all()) and not bool(value.isfinite().all()):
            raise ValueError(f"{name} is not finite")


def require_optimizer_state(state: Mapping[str, Any], optimizer: torch.optim.Optimizer) -> None:
    """Check that an optimiser of the recipe can go on from a ``state_dict``; one that has no moments has no entries."""
    groups = [[group["params"] for group in each["param_groups"]] for each in (state, optimizer.state_dict())]
    if groups[0] != groups[1]:
        raise ValueError("the optimiser's state is of other parameters")
    parameters = [parameter.detach() for group in optimizer.param_groups for parameter in group["params"]]
    for index, moments in state["state"].items():
        names = _MOMENTS[type(optimizer).__name__]
        require_tensors(moments, {n: torch.zeros(()) if n == "step" else parameters[index] for n in names})


def load_optimizer_state(state: Mapping[str, Any], optimizer: torch.optim.Optimizer) -> None:
    """Take over the moments of a state that was checked. Rates and the like are the optimiser's own."""
    own = optimizer.state_dict()["param_groups"]
    optimizer.load_state_dict({"state": state["state"], "param_groups": own})
