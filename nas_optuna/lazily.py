"""Imports that wait until they are needed: that of torch takes seconds, and ``--help`` must come at once."""

from __future__ import annotations

import builtins
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

_one_at_a_time = threading.Lock()  # two threads that replaced what imports would not both put it back


class _Later:
    """A module, function or class that is imported when it is used; constants and types to test for cannot wait."""

    def __init__(self, home: str, name: str) -> None:
        self._home, self._name = home, name

    def _found(self) -> Any:
        home = __import__(self._home, fromlist=[self._name or "__name__"])
        return getattr(home, self._name) if self._name else home

    def __getattr__(self, attribute: str) -> Any:
        if attribute.startswith("__"):  # whoever looks through a module's names imports none of them
            raise AttributeError(attribute)
        return getattr(self._found(), attribute)

    def __call__(self, *args: Any, **more: Any) -> Any:
        return self._found()(*args, **more)


@contextmanager
def lazily() -> Iterator[None]:
    """Let what is imported in the block, by ``import home`` or ``from home import name``, wait for its first use."""
    thread = threading.get_ident()

    def later(home: str, *about: Any, **more: Any) -> Any:
        if threading.get_ident() != thread:
            return at_once(home, *about, **more)
        names = about[2]
        return SimpleNamespace(**{name: _Later(home, name) for name in names}) if names else _Later(home, "")

    with _one_at_a_time:
        at_once = builtins.__import__
        builtins.__import__ = later  # type: ignore[assignment]
        try:
            yield
        finally:
            builtins.__import__ = at_once


def taken_from(names: dict[str, Any]) -> dict[str, Callable[[], Any]]:
    """Remove a module's names that wait, so that its ``__getattr__`` can give what each stands for."""
    return {name: names.pop(name)._found for name, value in list(names.items()) if isinstance(value, _Later)}
