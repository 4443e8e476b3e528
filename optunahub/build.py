"""Write the OptunaHub package ``samplers/curve_sampler``, which works without ``nas_optuna``.

Its code is that of the package: the modules that the sampler and its pruner import, side by side in one folder, with
relative imports. The rest (README, licence, example) comes from the folder beside this script.

    python optunahub/build.py DESTINATION

writes ``DESTINATION/samplers/curve_sampler``; ``package/`` of a checkout of the registry is such a destination.
"""

from __future__ import annotations

import ast
import re
import shutil
import sys
from pathlib import Path

HERE = Path(__file__).parent
ROOT = HERE.parent / "nas_optuna"
NAME = "samplers/curve_sampler"
WANTED = {
    "nas_optuna.samplers.curves": ("CurveConfig", "CurveSampler"),
    "nas_optuna.samplers.curve_pruner": ("CurvePruner",),
    "nas_optuna.samplers.gp": ("ArchitectureGPConfig", "ArchitectureGPSampler"),
}
"""What the package offers, by module."""


def source_of(module: str) -> Path:
    """The file of a module of ours."""
    return ROOT.parent / Path(*module.split(".")).with_suffix(".py")


def imports_of(module: str) -> list[str]:
    """The modules of ours that a module imports when it is imported."""
    tree = ast.parse(source_of(module).read_text(encoding="utf-8"))
    found = [node.module for node in tree.body if isinstance(node, ast.ImportFrom) and node.module]
    return [name for name in found if name.startswith("nas_optuna.")]


def needed() -> list[str]:
    """What `WANTED` needs, itself included."""
    found: dict[str, None] = {}
    left = list(WANTED)
    while left:
        module = left.pop()
        if module not in found:
            found[module] = None
            left += imports_of(module)
    return sorted(found)


def rewritten(module: str) -> str:
    """A module's source with relative imports; those for type checkers alone are left as they are."""
    source = source_of(module).read_text(encoding="utf-8")
    return re.sub(r"^from nas_optuna\.(?:\w+\.)*(\w+) import", r"from .\1 import", source, flags=re.MULTILINE)


def build(destination: Path) -> Path:
    """Write the package; gives its folder."""
    modules = needed()
    names = [module.rpartition(".")[2] for module in modules]
    if len(set(names)) < len(names):
        raise ValueError(f"two modules have the same name: {', '.join(sorted(names))}")
    folder = destination / NAME
    shutil.copytree(HERE / "curve_sampler", folder, dirs_exist_ok=True)
    for module, name in zip(modules, names, strict=True):
        (folder / f"{name}.py").write_text(rewritten(module), encoding="utf-8")
    lines = [f"from .{module.rpartition('.')[2]} import {', '.join(offered)}" for module, offered in WANTED.items()]
    offered = ", ".join(f'"{name}"' for names in WANTED.values() for name in names)
    lines = ['"""A sampler that learns from every epoch of every trial, and its pruner."""', "", *sorted(lines), ""]
    (folder / "__init__.py").write_text("\n".join([*lines, f"__all__ = [{offered}]", ""]), encoding="utf-8")
    return folder


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("which folder? python optunahub/build.py DESTINATION")
    print(build(Path(sys.argv[1])))
