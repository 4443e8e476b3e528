"""Every example of docs/spaces.md runs, and what it says of the command line is true."""

import re
from pathlib import Path

import pytest

from nas_optuna.spec import StudySpec

PAGE = (Path(__file__).parent.parent / "docs" / "spaces.md").read_text(encoding="utf-8")
EXAMPLES = re.findall(r"```python(?: title=\"my_net.py\")?\n(.*?)```", PAGE, re.DOTALL)


def test_the_page_has_its_examples() -> None:
    assert len(EXAMPLES) == 4


@pytest.mark.parametrize("example", EXAMPLES)
def test_examples_run(example: str) -> None:
    names: dict[str, object] = {"__name__": "example"}
    exec(compile(example, "docs/spaces.md", "exec"), names)
    made = names.get("network") or names.get("mnist")
    if callable(made):
        assert made(in_channels=3, classes=4, input_size=(28, 20)).size >= 1


NNI_LINES = 28
"""Lines of code of ``DepthwiseSeparableConv`` and ``ModelSpace`` in NNI's ``examples/tutorials/hello_nas.py``."""


def test_nnis_space_is_no_longer_here_than_there() -> None:
    body = EXAMPLES[-1].partition("@nas.space")[2].partition("space = ")[0]
    assert 0 < len([line for line in f"@nas.space{body}".splitlines() if line.strip()]) <= NNI_LINES


def test_the_spec_that_pins_is_read(tmp_path: Path) -> None:
    (text,) = re.findall(r"```toml\n(.*?)```", PAGE, re.DOTALL)
    file = tmp_path / "pinned.toml"
    file.write_text(text)
    assert StudySpec.from_toml(file).space.options == {"fix": {"stage1.width": 32}}
