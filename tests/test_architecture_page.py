"""docs/architecture.md names every room, and says how a trial goes through them; CONTRIBUTING.md names what exists."""

import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import groupby
from pathlib import Path
from pydoc import locate
from types import FrameType

import pytest

from nas_optuna.experiment import Experiment
from nas_optuna.spec import StudySpec
from nas_optuna.study.storage import open_storage

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "nas_optuna"
PAGE = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
MODULES = sorted(str(path.relative_to(PACKAGE)) for path in PACKAGE.rglob("*.py") if path.name != "__init__.py")
ROWS = [
    re.findall(r"`([^`]+)`", line.split("|")[1]) for line in PAGE.partition("## The way")[0].splitlines() if "|" in line
]
WORDS = ("nas_optuna/study/schema.py", "nas_optuna/spaces/architecture.py")
EPOCHS = 3


@pytest.mark.parametrize("module", MODULES)
def test_the_room_of_every_module_is_named_once(module: str) -> None:
    folder, slash, _ = module.partition("/")
    assert sum(folder + slash in row for row in ROWS) == 1


NAMED = sorted(
    {
        path
        for page in (PAGE, (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8"))
        for path in re.findall(r"`(\w+(?:/\w+)*\.py|\w+(?:/\w+)*/|tests(?:/\w+)+)`", page)
    }
)


@pytest.mark.parametrize("path", NAMED)
def test_every_room_that_is_named_exists(path: str) -> None:
    places = (ROOT, PACKAGE, *PACKAGE.glob("*/"))
    assert any((place / path).exists() for place in places)


def test_the_reference_lists_every_class_that_is_a_contract() -> None:
    rows = PAGE.partition("\n## Contracts\n")[2].partition("\n## ")[0].splitlines()
    classes = {name for row in rows if "|" in row for name in re.findall(r"`([A-Z]\w+)`", row.split("|")[1])}
    listed = (ROOT / "docs" / "reference" / "contracts.md").read_text(encoding="utf-8")
    assert {"Decomposable", "Supernet"} <= classes
    for name in {*classes, "Operation"}:
        (path,) = re.findall(rf"^::: (\S+\.{name})$", listed, re.MULTILINE)
        assert locate(path), path


def room_of(frame: FrameType) -> str | None:
    """The folder that names the room of a frame; None for single files, and for other packages."""
    file = Path(frame.f_code.co_filename)
    if not file.is_relative_to(PACKAGE):
        return None
    top = file.relative_to(PACKAGE).parts[0]
    row = next((row for row in ROWS if top in row or f"{top}/" in row), [])
    return next((name for name in row if name.endswith("/")), None)


@contextmanager
def visits(of: str) -> Iterator[list[str]]:
    """The rooms that `execution/` enters while it is in a function: what these call is their own matter."""
    found: list[str] = []
    stack: list[tuple[FrameType, str | None]] = []

    def look(frame: FrameType, event: str, _: object) -> None:
        if event == "call" and (stack or frame.f_code.co_name == of):
            room = room_of(frame)
            counts = frame.f_code.co_name != "__str__" and not frame.f_code.co_filename.endswith(WORDS)
            if counts and room not in (None, "execution/") and all(r in (None, "execution/") for _, r in stack):
                found.append(room)  # type: ignore[arg-type] # it is not None
            stack.append((frame, room))
        elif event == "return" and stack:
            stack.pop()

    sys.setprofile(look)
    try:
        yield found
    finally:
        sys.setprofile(None)


def test_a_trial_goes_the_way_that_the_page_tells(tmp_path: Path) -> None:
    recipe = {"epochs": EPOCHS, "input_size": 8}
    spec = {"space": {"name": "conv", "depth": 2}, "recipe": recipe, "data": {"train_limit": 200}}
    settings = {"limits": {"macs": 1e9}, "sampler": {"name": "tpe"}, "pruner": {"name": "guarded"}}
    experiment = Experiment.from_spec(StudySpec.from_dict({**spec, **settings}), device="cpu", checkpoints=tmp_path)
    study = experiment.create(open_storage(f"sqlite:///{tmp_path}/x.db", create=True), "x")
    experiment.run(study, trials=1)
    with visits("_run_held") as found:
        assert experiment.run(study, trials=1).trials == 1

    told = re.findall(r"^\| \d+ \| `(\w+/)` \|", PAGE, re.MULTILINE)
    epoch = told[5:9]
    last = [*told[5:8], "training/"]  # the pruner is not asked, and the training says that it has ended
    whole = told[:5] + epoch * (EPOCHS - 1) + last + told[9:]
    assert [room for room, _ in groupby(found)] == [room for room, _ in groupby(whole)]
    assert len(told) - 1 <= 12, "changes of room"
    assert all(told.count(room) <= 2 for room in set(told) - {"study/"})
