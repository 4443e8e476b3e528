"""docs/architecture.md names every room."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PAGE = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
ROOMS = sorted(
    f"{path.name}/" if path.is_dir() else path.name
    for path in (ROOT / "nas_optuna").iterdir()
    if (path.suffix == ".py" and path.name != "__init__.py") or (path / "__init__.py").exists()
)


@pytest.mark.parametrize("room", ROOMS)
def test_every_room_is_named(room: str) -> None:
    assert f"`{room}`" in PAGE


@pytest.mark.parametrize("path", sorted(set(re.findall(r"`(\w+(?:/\w+)*\.py|\w+(?:/\w+)*/)`", PAGE))))
def test_every_room_that_is_named_exists(path: str) -> None:
    places = (ROOT, ROOT / "nas_optuna", *(ROOT / "nas_optuna").glob("*/"))
    assert any((place / path).exists() for place in places)
