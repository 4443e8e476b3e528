"""A folder of photos, none of them square: one command to a network that knows them."""

from pathlib import Path

import pytest

from tests.helpers import Command, write_photos


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_600_photos_become_a_network_by_one_command(command: Command, tmp_path: Path) -> None:
    photos = tmp_path / "photos"
    write_photos(photos, each=150, height=40, width=48)
    run = command("run", "--spec", "folder-macro", "--set", f"data.name=folder:{photos}", "--trials", 4)
    assert run.code == 0, run.err
    assert "images: 40×48 → 32×32, stretched" in run.err
    assert command("best", "--json").json["values"][0] >= 0.95


@pytest.mark.parametrize(
    ("settings", "header"),
    [
        (("data.resize=crop", "recipe.input_size=16"), "40×48 → 16×16, cropped"),
        (("data.resize=pad", "recipe.input_size=16"), "40×48 → 16×16, padded"),
        (("data.max_side=24",), "40×48 → 24×24, stretched"),
        (("recipe.input_size=[20, 24]",), "40×48 → 20×24\n"),
        (("recipe.input_size=[40, 12]", "data.resize=crop"), "40×48 → 40×12, cropped\n"),
    ],
)
def test_the_header_says_how_photos_are_resized(
    command: Command, tmp_path: Path, settings: tuple[str, ...], header: str
) -> None:
    photos = tmp_path / "photos"
    write_photos(photos, each=6, height=40, width=48)
    words = [
        word for setting in (*settings, f"data.name=folder:{photos}", "recipe.epochs=1") for word in ("--set", setting)
    ]
    run = command("run", "--spec", "folder-macro", *words, "--trials", 1)
    assert run.code == 0, run.err
    assert f"images: {header}" in run.err
