"""Parts found by name: built in, through an entry point, as ``package.module:name``, or as ``file.py:name``."""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import operator
import sys
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from functools import cache
from importlib.metadata import EntryPoints, entry_points
from pathlib import Path
from types import ModuleType
from typing import Any

from nas_optuna.digests import hex_digest
from nas_optuna.errors import (
    LONGEST_ERROR,
    NasOptunaError,
    SpecError,
    reason_of,
    shown,
    unknown,
    with_article,
    with_types,
)

_AGREED: ContextVar[frozenset[str] | None] = ContextVar("agreed", default=None)


@contextmanager
def importing_only(code: Iterable[str]) -> Iterator[None]:
    """Let registries import only this user code within the block, and of it only what a block around it lets them."""
    # So exactly the code to which a person has agreed is imported, whatever a stored study contains.
    agreed, around = frozenset(code), _AGREED.get()
    token = _AGREED.set(agreed if around is None else agreed & around)
    try:
        yield
    finally:
        _AGREED.reset(token)


@dataclass(frozen=True)
class Registry:
    """All parts of one kind: built-in ones, by import path so that a listing imports nothing, and entry points."""

    kind: str  # the word for a part in messages
    group: str  # of entry points
    builtin: Mapping[str, str] = field(default_factory=dict)
    reserved: tuple[str, ...] = ()  # keywords that the caller of `make` passes itself
    files: tuple[str, ...] = ()  # beginnings of names, before a colon, that mean a user's files

    def names(self) -> list[str]:
        """Every registered name, built-in ones first."""
        return [*self.builtin, *(e.name for e in self._installed() if e.name not in self.builtin)]

    def __contains__(self, name: object) -> bool:
        """Whether a name is registered; entry points are looked up only if it is not built in."""
        return name in self.builtin or any(e.name == name for e in self._installed())

    def _installed(self) -> EntryPoints:
        return _entry_points(self.group, tuple(sys.path))

    def is_code(self, name: str) -> bool:
        """Whether a name is the path of user code rather than a registered name."""
        return ":" in name and name not in self and not self.is_of_files(name)

    def is_of_files(self, name: str) -> bool:
        """Whether a name means a user's files, as ``folder:PATH`` does."""
        return name.partition(":")[0] in self.files

    def code(self, name: str) -> list[str]:
        """The user code that `find` would import for a name, as `importing_only` takes it; none if it is registered."""
        return [f"{self.kind} {name}"] if self.is_code(name) else []

    def find(self, name: str) -> Any:
        """Import a registered name, ``package.module:attribute`` or ``file.py:attribute``."""
        target = self.builtin.get(name)
        if target is None:
            target = next((e.value for e in self._installed() if e.name == name), None)
        if target is None and self.is_code(name):
            agreed = _AGREED.get()
            if agreed is not None and f"{self.kind} {name}" not in agreed:
                raise SpecError(f"{self.kind} {name!r} would be imported, and nobody was asked about it")
            target = name
        if target is None and name.endswith(".py"):
            raise SpecError(f"{self.kind} {name!r} is a file; say what in it is meant: {name}:NAME")
        if target is None:
            raise SpecError(unknown(self.kind, name, self.names()))
        place, _, attribute = target.rpartition(":")
        try:
            found: Any = _module_of_file(Path(place)) if place.endswith(".py") else _module(place)
            for part in attribute.split("."):
                if isinstance(found, ModuleType) and not hasattr(found, part):
                    names = [known for known in vars(found) if not known.startswith("_")]
                    reason = unknown(f"name in {place}:", part, names)
                    raise SpecError(f"{self.kind} {name!r} cannot be imported: {reason}")
                found = getattr(found, part)
        except NasOptunaError:
            raise
        except (Exception, SystemExit) as error:  # a user's module may raise anything
            ends = "it ends its process; put what it runs below if __name__ == '__main__'"
            reason = ends if isinstance(error, SystemExit) else reason_of(error)
            raise SpecError(f"{self.kind} {name!r} cannot be imported: {reason}") from error
        return found

    def make(self, name: str, *arguments: Any, options: Mapping[str, Any], wanted: type, **given: Any) -> Any:
        """Make a part by name, from the arguments for all parts of its kind and the user's options."""
        factory = self.find(name)
        check_options(self.kind, name, factory, options, reserved=(*self.reserved, *given))
        if name in self.builtin:  # what a user's code takes is its own affair, and its studies are to go on
            options = with_types(factory, options, self.kind)
        try:
            made = factory(*arguments, **options, **given)
        except NasOptunaError:
            raise
        except (Exception, SystemExit) as error:  # of a user's factory, too
            cause = f"refuses {shown(dict(options))}" if options else "cannot be made"
            raise SpecError(f"{self.kind} {name!r} {cause}: {reason_of(error)}") from error
        if not isinstance(made, wanted):
            gave, right = with_article(type(made).__name__), with_article(wanted.__name__)
            raise SpecError(f"{self.kind} {name!r} gave {gave}, not {right}")
        return made

    def describe(self) -> list[dict[str, Any]]:
        """Name, advice and options with defaults of all named parts; the advice on a plugin that fails is its error."""
        found = []
        for name in self.names():
            try:
                factory = self.find(name)
                advice, options = inspect.cleandoc(factory.__doc__ or "").split("\n")[0], _options(factory)
            except Exception as error:  # of somebody else's package
                advice, options = reason_of(error, LONGEST_ERROR), {}
            found.append({"name": name, "advice": advice, "options": options})
        return found


@cache
def _entry_points(group: str, path: tuple[str, ...]) -> EntryPoints:
    """A group's entry points; cached, because the search through all distributions takes a hundredth of a second."""
    return entry_points(group=group)


def check_options(
    kind: str, name: str, function: Any, options: Collection[str], reserved: Collection[str] = ()
) -> None:
    """Refuse options that a function does not take, before it is called."""
    if not callable(function):
        raise SpecError(f"{kind} {name!r} is {with_article(type(function).__name__)}, which cannot be called")
    try:
        parameters = inspect.signature(function).parameters
    except ValueError:  # some functions written in C have no signature
        return
    if any(p.kind is inspect.Parameter.VAR_KEYWORD for p in parameters.values()):
        return
    accepted = [
        p.name
        for p in parameters.values()
        if p.kind in (inspect.Parameter.KEYWORD_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
        and p.name not in reserved
    ]
    for option in options:
        if option not in accepted:
            raise SpecError(unknown(f"option of {kind} {name!r}:", option, accepted))


def _options(factory: Any) -> dict[str, Any]:
    if hasattr(factory, "Options"):  # the options model of a strategy
        return dict(factory.Options().model_dump())
    return {
        parameter.name: "required" if parameter.default is parameter.empty else parameter.default
        for parameter in inspect.signature(factory).parameters.values()
        if parameter.kind is parameter.KEYWORD_ONLY
    }


def _module(name: str) -> ModuleType:
    if "" not in sys.path:
        sys.path.append("")  # the current folder, which is not on the path of an installed command
    return importlib.import_module(name)


_OF_FILE = "_nas_optuna_file_"


def by_name(module: str, name: str) -> str | tuple[Callable[[str, str], Any], tuple[str, str]]:
    """What ``__reduce__`` returns for an object that a module defines; of a ``file.py`` only its file is importable."""
    return (_in_file, (str(sys.modules[module].__file__), name)) if module.startswith(_OF_FILE) else name


def _in_file(file: str, name: str) -> Any:
    return operator.attrgetter(name)(_module_of_file(Path(file)))


def _module_of_file(path: Path) -> ModuleType:
    """The module of a file, always the same object in one process, so that its classes can be compared."""
    path = path.expanduser().resolve()
    name = f"{_OF_FILE}{hex_digest(str(path), 12)}_{path.stem}"
    if name in sys.modules:
        return sys.modules[name]
    if not path.is_file():
        raise SpecError(f"there is no file {path}")
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module
