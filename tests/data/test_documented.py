"""The tables of docs/data.md: every name and value in them is taken."""

import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from nas_optuna.data import load_images
from nas_optuna.errors import DataError
from nas_optuna.spec import StudySpec

PAGE = Path(__file__).parents[2] / "docs/data.md"


def rows(heading: str) -> Iterator[tuple[str, str]]:
    """The rows of the table below a heading, as (first, second) cell."""
    section = re.split(r"^## ", PAGE.read_text(encoding="utf-8"), flags=re.MULTILINE)
    (text,) = [part for part in section if part.startswith(heading)]
    for line in re.findall(r"^\| (`.*) \|$", text, re.MULTILINE):
        first, second = line.split(" | ", 1)
        yield first, second


def spoken(cell: str) -> list[str]:
    """What stands in a cell's code spans."""
    return re.findall(r"`([^`]+)`", cell)


IMAGES = np.random.default_rng(0).integers(0, 256, (40, 4, 3, 4), dtype=np.uint8)
LABELS = np.arange(40) % 2


@pytest.mark.parametrize("value", [text.strip('"') for first, cell in rows("A NumPy file") if "layout" in first
                                   for text in spoken(cell)])  # fmt: skip
def test_documented_layouts(tmp_path: Path, value: str) -> None:
    for name, spelled in (
        ("layout", value),
        ("layout", value.lower()),
        ("Layout", value.encode()),
        ("LAYOUT", [value]),
    ):
        np.savez(tmp_path / "x.npz", images=IMAGES, labels=LABELS, **{name: spelled})
        found = load_images(f"npz:{tmp_path / 'x.npz'}", True).images.shape[1:]
        assert found == ((4, 4, 3) if value.endswith("HWC") else (4, 3, 4))


def test_documented_arrays(tmp_path: Path) -> None:
    named = [name for first, _ in rows("A NumPy file") for name in spoken(first)]
    assert {"images", "labels", "layout", "classes", "test_images"} <= set(named)
    arrays = {name: IMAGES if name.endswith("images") else LABELS for name in named} | {"layout": "CHW"}
    arrays["classes"] = ["even", "odd"]
    np.savez(tmp_path / "x.npz", **arrays)
    images = load_images(f"npz:{tmp_path / 'x.npz'}", True)
    assert len(images) == 80, "training and validation"
    assert "left out" not in " ".join(images.notes), "every documented name means something"
    assert images.classes == ("even", "odd")


def test_documented_shapes(tmp_path: Path) -> None:
    axes = {"n": 40, "height": 6, "width": 7, "channels": 3}
    shapes = {first: [s for s in spoken(cell) if s.startswith("[")] for first, cell in rows("A NumPy file")}
    assert len(shapes["`images`"]) == 3
    for text in shapes["`images`"]:
        shape = [axes[axis] for axis in text.strip("[]").split(", ")]
        np.savez(tmp_path / "x.npz", images=np.zeros(shape, np.uint8), labels=LABELS)
        assert len(load_images(f"npz:{tmp_path / 'x.npz'}", True)) == 32
    assert shapes["`labels`"] == ["[n]", "[n, 1]", "[n, classes]"]
    for labels in (LABELS, LABELS[:, None], np.eye(2)[LABELS], np.array(["a", "b"])[LABELS]):
        np.savez(tmp_path / "x.npz", images=IMAGES[:, 0], labels=labels)
        assert len(load_images(f"npz:{tmp_path / 'x.npz'}", True).classes) == 2


def test_documented_settings() -> None:
    for first, cell in rows("Sizes"):
        (key,) = spoken(first)
        section, name = key.split(".")
        values = [value for value in spoken(cell) if "`" not in value] or ["64"]
        for value in values:
            given = "[24, 32]" if value.startswith("[") else value
            spec = StudySpec().override([f"{key}={given}"])
            assert str(getattr(getattr(spec, section), name)).strip("()[]") == given.strip("()[]")


@pytest.mark.parametrize("layout", ["WHC", b"\xff", 1.5, [0.5, 2.0], True, ""])
def test_another_layout_is_refused_with_those_that_are_known(tmp_path: Path, layout: object) -> None:
    np.savez(tmp_path / "x.npz", images=IMAGES, labels=LABELS, layout=layout)
    with pytest.raises(DataError, match="it must be 'HWC' or 'CHW'"):
        load_images(f"npz:{tmp_path / 'x.npz'}", True)
