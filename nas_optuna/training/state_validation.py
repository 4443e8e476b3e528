"""Whether tensors that come from a file are those that a network or an optimiser needs.

Each check raises `ValueError` with what is wrong, and changes nothing.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from nas_optuna.training.failure import kind_of

_MOMENTS = {"SGD": {"momentum_buffer"}, "Adam": {"step", "exp_avg", "exp_avg_sq"}}
_MOMENTS["AdamW"] = _MOMENTS["Adam"]


def require_tensors(found: Mapping[str, Any], wanted: Mapping[str, Tensor]) -> None:
    """Compare names, shapes and number types; and where the wanted values are finite, so must those found be.

    Args:
        found: By name; what was read.
        wanted: By name, on any device, the meta device too, of which only shapes and types count.

    Raises:
        ValueError: Naming the first difference.

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
    for name, tensor in wanted.items():
        require_tensor(name, found[name], tensor)


def require_tensor(name: str, found: Any, wanted: Tensor) -> None:
    """Compare one tensor with the one that it is to replace, as `require_tensors` does.

    Raises:
        ValueError: Naming the difference.

    Examples:
        >>> require_tensor("w", torch.ones(2), torch.zeros(2))
    """
    if not isinstance(found, Tensor) or found.shape != wanted.shape or found.dtype != wanted.dtype:
        raise ValueError(f"{name} is {kind_of(found)}, not {kind_of(wanted)}")
    if wanted.device.type == "meta" or not wanted.is_floating_point():
        return
    if bool(wanted.isfinite().all()) and not bool(found.isfinite().all()):
        raise ValueError(f"{name} is not finite")


def require_optimizer_state(state: Any, optimizer: torch.optim.Optimizer, *, moved: bool) -> None:
    """Check that an optimiser can go on from a ``state_dict`` of one for the same parameters.

    Args:
        state: What was read.
        optimizer: SGD, Adam or AdamW, for the parameters.
        moved: Whether it has taken a step, so that there must be moments.

    Raises:
        ValueError: It is of another optimiser or other parameters.

    Examples:
        >>> optimizer = torch.optim.SGD([torch.zeros(2, requires_grad=True)], lr=0.1)
        >>> require_optimizer_state(optimizer.state_dict(), optimizer, moved=True)
        >>> require_optimizer_state({}, optimizer, moved=True)
        Traceback (most recent call last):
        ...
        ValueError: the optimiser's state is of another optimiser
    """
    wanted = optimizer.state_dict()["param_groups"]
    if not isinstance(state, Mapping) or state.keys() != {"state", "param_groups"}:
        raise ValueError("the optimiser's state is of another optimiser")
    groups, entries = state["param_groups"], state["state"]
    # The groups' rates and the like are not taken over; which parameters they have decides what a moment belongs to.
    if not isinstance(groups, list) or not all("params" in _keys(group) for group in groups):
        raise ValueError("the optimiser's state is of another optimiser")
    if [group["params"] for group in groups] != [group["params"] for group in wanted]:
        raise ValueError("the optimiser's state is of other parameters")
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    moments = _MOMENTS[type(optimizer).__name__]
    if not isinstance(entries, Mapping) or not all(_is_index(key, len(parameters)) for key in entries):
        raise ValueError("the optimiser's state is of other parameters")
    if moved and not entries and (moments != _MOMENTS["SGD"] or any(group["momentum"] for group in wanted)):
        raise ValueError("the optimiser's state holds no moments")
    for index, entry in entries.items():
        if _keys(entry) != moments:
            raise ValueError("the optimiser's state is of another optimiser")
        for name, value in entry.items():
            like = torch.zeros(()) if name == "step" else torch.zeros_like(parameters[index], device="cpu")
            require_tensor(f"{name} of parameter {index}", value, like)


def load_optimizer_state(state: Mapping[str, Any], optimizer: torch.optim.Optimizer) -> None:
    """Take over the moments of a state that was checked. Rates and the like are the optimiser's own.

    Examples:
        >>> optimizer = torch.optim.SGD([torch.zeros(2, requires_grad=True)], lr=0.1)
        >>> load_optimizer_state({"state": {}, "param_groups": []}, optimizer)
        >>> optimizer.param_groups[0]["lr"]
        0.1
    """
    own = optimizer.state_dict()["param_groups"]
    optimizer.load_state_dict({"state": state["state"], "param_groups": own})


def require_number(name: str, value: Any, low: float = -math.inf, high: float = math.inf, nan: bool = False) -> None:
    """Check that a value is a number within bounds.

    Args:
        name: What it is, for the message.
        value: What was read.
        low: The least that it may be.
        high: The most that it may be.
        nan: Whether it may be NaN too.

    Raises:
        ValueError: It is something else.

    Examples:
        >>> require_number("accuracy", 0.5, 0, 1)
    """
    if isinstance(value, int | float) and not isinstance(value, bool):
        if low <= value <= high and math.isfinite(value):
            return
        if nan and math.isnan(value):
            return
    raise ValueError(f"{name} is {str(value)[:40]}")


def _keys(value: Any) -> set[Any]:
    return set(value) if isinstance(value, Mapping) else set()


def _is_index(key: Any, count: int) -> bool:
    return isinstance(key, int) and 0 <= key < count
