"""``@space``: what makes a function that builds networks a search space."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, overload

from nas_optuna.digests import hex_digest
from nas_optuna.errors import SpecError
from nas_optuna.spaces.architecture import Choice, InputSize
from nas_optuna.spaces.built import Build, Task
from nas_optuna.spaces.checks import checked_input_size, require_positive

if TYPE_CHECKING:
    from nas_optuna.spaces.function import FunctionSpace

_OWN_WEIGHTS = "own weights"
"""Part of the digest of a function's file: earlier releases drew its networks' weights anew, with other results."""
Reference = Mapping[str, Choice] | Callable[..., Mapping[str, Choice]]
"""Params, or a function ``(task, **options)`` that gives them."""


class SpaceFunction:
    """A function ``(choices, task, **options) -> nn.Module`` that has become a search space; made by `space`.

    Called with `in_channels`, `classes`, `input_size` and the function's own options, it gives a `FunctionSpace`.
    """

    def __init__(self, build: Build, version: int, reference: Reference | None = None) -> None:
        functools.update_wrapper(self, build)
        self.build = build
        self.version = version
        self.reference = reference
        own = list(inspect.signature(build).parameters.values())[2:]
        keyword = inspect.Parameter.KEYWORD_ONLY
        figures = [inspect.Parameter(name, keyword) for name in ("in_channels", "classes", "input_size")]
        options = [p if p.kind is p.VAR_KEYWORD else p.replace(kind=keyword) for p in own]
        self.__signature__ = inspect.Signature(sorted([*figures, *options], key=lambda p: p.kind))

    def __call__(self, *, in_channels: int, classes: int, input_size: InputSize, **options: Any) -> FunctionSpace:
        """The space for inputs of that shape."""
        from nas_optuna.spaces.function import FunctionSpace

        require_positive(in_channels=in_channels, classes=classes)
        return FunctionSpace(self, Task(in_channels, classes, checked_input_size(input_size)), options)

    def __reduce__(self) -> str:
        return self.build.__qualname__  # pickled as a function is: by its name


@overload
def space(build: Build, /) -> SpaceFunction: ...
@overload
def space(*, version: int = 1, reference: Reference | None = None) -> Callable[[Build], SpaceFunction]: ...
def space(
    build: Build | None = None, /, *, version: int = 1, reference: Reference | None = None
) -> SpaceFunction | Callable[[Build], SpaceFunction]:
    """Make a function that builds a network a search space.

    The function is run with different answers to find its parameters, so that it must depend on its arguments alone.

    Args:
        build: Takes `nas_optuna.spaces.choices.Choices` and a `Task`, and returns a module from images
            ``[batch, channels, height, width]`` to logits ``[batch, classes]``. Further arguments are options that a
            spec may set.
        version: Raise it when the same choices give another network than before.
        reference: Params of the network that a search has to beat, e.g. ``{"width": 64, "depth": 3}``; a parameter that
            it leaves out has its first choice. Or a function ``(task, **options)`` that gives such params. It becomes
            the space's `SearchSpace.reference`.

    Examples:
        >>> from torch import nn
        >>> @space
        ... def network(c, task):
        ...     layers = [nn.Flatten(), nn.LazyLinear(c.choice("units", [8, 16], ordered=True))]
        ...     for i in range(c.integer("depth", 0, 2)):
        ...         layers.append(c.layer(f"act{i}", {"relu": nn.ReLU, "silu": nn.SiLU}))
        ...     return nn.Sequential(*layers, nn.LazyLinear(task.classes))
        >>> made = network(in_channels=1, classes=10, input_size=8)
        >>> made.size, str(made.parse("units=16,depth=1,act0=silu"))
        (14, 'units=16,depth=1,act0=silu')
    """
    if build is None:
        return functools.partial(SpaceFunction, version=version, reference=reference)
    if not callable(build):
        raise SpecError(f"@space decorates a function (choices, task) -> nn.Module, got a {type(build).__name__}")
    return SpaceFunction(build, version, reference)


def source_of(function: Build) -> str:
    """Digest of the file that a function stands in."""
    try:
        file = inspect.getsourcefile(function)
        text = Path(file).read_text(encoding="utf-8") if file else inspect.getsource(function)
    except (OSError, TypeError, ValueError):
        try:
            text = inspect.getsource(function)
        except (OSError, TypeError):
            text = ""
    return hex_digest(f"{text}{_OWN_WEIGHTS}")
