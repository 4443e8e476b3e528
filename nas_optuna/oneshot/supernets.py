"""Which supernet belongs to a space: spaces know nothing of their supernets.

`supernet_for` finds it by the space's class for the built-in spaces and for classes registered with
``@supernet_for.register(SpaceClass)``, and by the space's name for the entry point group ``nas_optuna.supernets``.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

from nas_optuna.errors import SpecError
from nas_optuna.registry import Registry, check_options
from nas_optuna.spaces import SearchSpace
from nas_optuna.spaces.built import BuiltSpace
from nas_optuna.spaces.function_supernet import FunctionSupernet
from nas_optuna.spaces.supernet import Supernet

REGISTRY = Registry("supernet", "nas_optuna.supernets")

Factory = Callable[..., Supernet]
"""Takes a space and the supernet's own options as keywords."""
_F = TypeVar("_F", bound=Factory)


class _SupernetFor:
    """The callable behind `supernet_for`; see there."""

    def __init__(self) -> None:
        self._registered: dict[type[SearchSpace], Factory] = {}

    def register(self, space_class: type[SearchSpace]) -> Callable[[_F], _F]:
        """Make the decorated class or function the supernet of a space class and of its subclasses."""

        def decorate(factory: _F) -> _F:
            self._registered[space_class] = factory
            return factory

        return decorate

    def factory(self, space: SearchSpace) -> Factory:
        """What makes the supernet of a space."""
        for cls in type(space).__mro__:
            if cls in self._registered:
                return self._registered[cls]
        if isinstance(space, BuiltSpace):
            return FunctionSupernet
        if space.name in REGISTRY.names():
            found: Factory = REGISTRY.find(space.name)
            return found
        raise SpecError(
            f"space {space.name!r} has no supernet; search it with a sampler instead, or register one with"
            " @nas_optuna.oneshot.supernets.supernet_for.register"
        )

    def supported_subspace(self, space: SearchSpace) -> SearchSpace:
        """The part of a space that its supernet holds; see `Supernet.supported_subspace`."""
        found: SearchSpace = getattr(self.factory(space), "supported_subspace", lambda whole: whole)(space)
        return found

    def __call__(self, space: SearchSpace, **options: Any) -> Supernet:
        """Make one network that holds every architecture of the space with shared weights.

        Args:
            space: The space.
            options: The supernet's own options, e.g. ``alpha_init="uniform"``.

        Raises:
            SpecError: The space has no supernet, or an option or its value is refused.

        Examples:
            >>> from nas_optuna.oneshot.supernets import supernet_for
            >>> from nas_optuna.spaces.block import BlockSpace
            >>> supernet_for(BlockSpace(depth=2)).derive()
            {'block1': 'k3_f16', 'block2': 'k3_f16'}
        """
        factory = self.factory(space)
        check_options("supernet", space.name, factory, options, reserved=("space",))
        supernet = factory(space, **options)
        if not isinstance(supernet, Supernet):
            raise SpecError(f"supernet {space.name!r} gave a {type(supernet).__name__}, not a Supernet")
        return supernet


supernet_for = _SupernetFor()
"""Callable ``(space, **options)`` → the space's `Supernet`; ``supernet_for.register(SpaceClass)`` adds one."""
