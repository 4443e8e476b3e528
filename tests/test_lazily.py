"""What `nas_optuna.lazily` imports later is only called, asked for attributes, or a type for the checker."""

import ast
import builtins
import threading
import time
from pathlib import Path
from types import FunctionType, ModuleType

import pytest

import nas_optuna
from nas_optuna.lazily import lazily

PACKAGE = Path(nas_optuna.__file__).parent
FILES = [path for path in sorted(PACKAGE.rglob("*.py")) if "with lazily():" in path.read_text(encoding="utf-8")]
TYPES = ("annotation", "returns")
PASSED_ON = {"STRATEGIES"}
"""A registry in a table of registries, which is asked there."""


def test_a_name_waits_for_its_first_use() -> None:
    with lazily():
        import colorsys

        from nas_optuna.nowhere import nothing  # type: ignore[import-not-found]

        from nas_optuna.quantities import Quantity, plural
    assert (Quantity("macs").heading, plural(2, "epoch")) == ("macs", "2 epochs")
    assert colorsys.rgb_to_yiq(0, 0, 0) == (0, 0, 0)
    with pytest.raises(ModuleNotFoundError, match="nowhere"):
        nothing()


def test_names_of_the_package_are_what_they_stand_for() -> None:
    found = {name: getattr(nas_optuna, name) for name in nas_optuna.__all__}
    assert all(isinstance(value, type | FunctionType | ModuleType | str) for value in found.values())
    assert found["layers"].__name__ == "nas_optuna.layers"
    with pytest.raises(AttributeError, match="has no attribute 'nothing'"):
        _ = nas_optuna.nothing


def test_two_threads_leave_imports_as_they_were() -> None:
    before, begun, ended = builtins.__import__, threading.Event(), threading.Event()

    def other() -> None:
        begun.set()
        with lazily():
            ended.wait(10)

    thread = threading.Thread(target=other)
    with lazily():
        thread.start()
        begun.wait(10)
        time.sleep(0.1)  # the other thread waits here, or has replaced what imports
    ended.set()
    thread.join()
    try:
        assert builtins.__import__ is before
    finally:
        builtins.__import__ = before


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_names_that_wait_are_only_called_or_asked(path: Path) -> None:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    blocks = [node for node in tree.body if isinstance(node, ast.With)]
    waiting = {alias.asname or alias.name for block in blocks for each in block.body for alias in each.names}  # type: ignore[attr-defined]
    fit: set[int] = set()
    for node in ast.walk(tree):
        fit |= {id(node.func)} if isinstance(node, ast.Call) else set()
        fit |= {id(node.value)} if isinstance(node, ast.Attribute) else set()
        fit |= {id(part) for name in TYPES if (kind := getattr(node, name, None)) for part in ast.walk(kind)}
    names = [node for node in ast.walk(tree) if isinstance(node, ast.Name) and node.id in waiting - PASSED_ON]
    assert [(node.id, node.lineno) for node in names if id(node) not in fit] == []
