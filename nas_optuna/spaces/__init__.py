"""Search spaces by name: each defines the choices, and builds the networks and the supernet.

A new space is a file here and a line in `SPACES`; third parties register an entry point in the group
``nas_optuna.spaces``, or are named as ``package.module:Class``.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

from nas_optuna.errors import SpecError, checked
from nas_optuna.registry import Registry
from nas_optuna.spaces.architecture import InputSize, require_positive
from nas_optuna.spaces.base import Decomposable, Operation, Parameter, SearchSpace, Shape, require_operations

__all__ = [
    "SPACES",
    "Decomposable",
    "InputSize",
    "Operation",
    "Parameter",
    "SearchSpace",
    "Shape",
    "create_space",
    "require_operations",
]

SPACES = Registry(
    "space",
    "nas_optuna.spaces",
    {
        "conv": "nas_optuna.spaces.conv:ConvSpace",
        "block": "nas_optuna.spaces.block:BlockSpace",
        "macro": "nas_optuna.spaces.macro:MacroSpace",
        "residual": "nas_optuna.spaces.residual:residual",
        "backbone": "nas_optuna.spaces.backbone:backbone",
    },
)
_DOUBLINGS = 18
"""``width * 2**stages`` of the residual space is at most two to this power: a wider network has terabytes of weights,
and of still wider ones torch counts the numbers of no outline, so that they would be built to look at them."""


@checked
def create_space(
    name: str, options: dict[str, Any], *, in_channels: int, classes: int, input_size: InputSize
) -> SearchSpace:
    """Make the space of that name.

    Args:
        name: Built-in name, entry point, ``package.module:name`` or ``file.py:name``; a class, or a function that
            ``@nas_optuna.space`` has made a space.
        options: The space's own options, e.g. ``{"depth": 3}``, and ``fix`` with values of parameters that are not
            searched, e.g. ``{"fix": {"conv1.stride": 1}}``.
        in_channels: Channels of an input image.
        classes: Number of classes.
        input_size: Side length of the input in pixels, or ``(height, width)``.

    Raises:
        SpecError: The name or an option is unknown, or an option's value is refused.

    Examples:
        >>> options = {"depth": 1, "fix": {"conv1.stride": 1}}
        >>> create_space("conv", options, in_channels=1, classes=10, input_size=28).size
        12
    """
    _require_space(name)
    shape = {"in_channels": in_channels, "classes": classes, "input_size": input_size}
    own = {option: value for option, value in options.items() if option != "fix"}
    if name == "residual":
        _require_widths(**own)
    space: SearchSpace = SPACES.make(name, options=own, wanted=SearchSpace, **shape)
    fix = options.get("fix")
    return space.fixed(fix) if fix else space


def _require_widths(*, width: int = 16, stages: int = 3, **_others: object) -> None:
    """Check the options of the residual space."""
    # In its own file, a check would change the digest of that, and put what every stored study has trained aside.
    require_positive(_DOUBLINGS, stages=stages)
    require_positive(2 ** (_DOUBLINGS - stages), width=width)


def _require_space(name: str) -> None:
    """Refuse a plain function, because it does not take a space's arguments."""
    found = SPACES.find(name)
    if inspect.isfunction(found) and not makes_spaces(found):
        raise SpecError(f"space {name!r} is a plain function; write @nas_optuna.space above it")


def makes_spaces(make: Callable[..., Any]) -> bool:
    """Whether a function or class takes a space's arguments."""
    parameters = inspect.signature(make).parameters.values()
    return any(p.name == "in_channels" or p.kind is p.VAR_KEYWORD for p in parameters)
