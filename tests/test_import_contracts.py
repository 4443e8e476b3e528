"""The shape of the package: its import contracts, which planted imports break, and the length of its functions."""

import ast
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
LONGEST_FUNCTION = 60
"""Lines, docstring included."""


@pytest.fixture(scope="module")
def copied(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("copy")
    shutil.copytree(ROOT / "nas_optuna", folder / "nas_optuna", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", folder)
    return folder


def _checked(folder: Path) -> tuple[int, str]:
    program = "from importlinter.cli import lint_imports_command; lint_imports_command()"
    run = subprocess.run(
        [sys.executable, "-c", program, "--no-cache"],
        cwd=folder,
        env=os.environ | {"PYTHONPATH": str(folder)},
        capture_output=True,
        text=True,
        check=False,
    )
    return run.returncode, run.stdout + run.stderr


def test_the_package_keeps_its_contracts(copied: Path) -> None:
    code, said = _checked(copied)
    assert code == 0, said


@pytest.mark.parametrize(
    ("place", "planted", "contract"),
    [
        ("training/fit.py", "import optuna", "Training knows nothing of Optuna"),
        ("training/checkpoint.py", "from optuna.trial import Trial", "Training knows nothing of Optuna"),
        ("export/__init__.py", "import optuna", "Training knows nothing of Optuna"),
        ("training/step.py", "import nas_optuna.execution.loop", "Imports run downward only"),
        ("data/images.py", "import nas_optuna.training.fit", "Imports run downward only"),
        ("execution/loop.py", "import nas_optuna.oneshot.training", "Imports run downward only"),
    ],
)
def test_a_planted_import_is_noticed(copied: Path, place: str, planted: str, contract: str) -> None:
    file = copied / "nas_optuna" / place
    before = file.read_text()
    file.write_text(f"{before}\n\ndef planted() -> None:\n    {planted}\n")
    try:
        code, said = _checked(copied)
    finally:
        file.write_text(before)
    assert code == 1, said
    assert f"{contract} BROKEN" in said


def test_no_function_is_too_long_to_be_read_at_once() -> None:
    for file in [*(ROOT / "nas_optuna").rglob("*.py"), *(ROOT / "examples").glob("*.py")]:
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                length = (node.end_lineno or node.lineno) - node.lineno + 1
                assert length <= LONGEST_FUNCTION, f"{file.relative_to(ROOT)}: {node.name} has {length} lines"
