"""Every example that is a program of its own runs; evaluators are tested in tests/examples."""

import runpy
from pathlib import Path

import pytest

FOLDER = Path(__file__).parent.parent / "examples"
EXAMPLES = sorted(file for file in FOLDER.glob("*.py") if not file.stem.endswith("_evaluator"))


def test_there_are_examples() -> None:
    assert {"my_space", "torchvision_backbone", "joint_hyperparameters"} <= {file.stem for file in EXAMPLES}


@pytest.mark.parametrize("file", EXAMPLES, ids=lambda file: file.stem)
def test_examples_run(file: Path) -> None:
    study = runpy.run_path(str(file))["main"](trials=1, epochs=1)
    assert 0 <= study.best_value <= 1
