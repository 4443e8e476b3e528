"""Every example runs."""

import runpy
from pathlib import Path

import pytest

EXAMPLES = sorted((Path(__file__).parent.parent / "examples").glob("*.py"))


@pytest.mark.parametrize("file", EXAMPLES, ids=lambda file: file.stem)
def test_examples_run(file: Path) -> None:
    study = runpy.run_path(str(file))["main"](trials=1, epochs=1)
    assert 0 <= study.best_value <= 1
