"""Options that mean nothing where a clock decides."""

from pathlib import Path

import pytest

from tests.helpers import Command


@pytest.mark.parametrize("start", [("fit", "digits", "--within=20s"), ("run", "--within=20s")])
@pytest.mark.parametrize(
    ("option", "remedy"),
    [
        ("--epochs=3", "--epochs"),
        ("--set=recipe.epochs=3", "--epochs"),
        ("--set=recipe.epoch_size=64", "recipe.epoch_size"),
        ("--set=recipe.repeats=3", "recipe.repeats=3"),
        ("--pruner=median", "--pruner"),
        ("--set=pruner.name=median", "--pruner"),
        ("--keep-paused=0", "--keep-paused"),
    ],
)
def test_what_a_clock_decides_is_refused_before_anything_is_written(
    command: Command, place: Path, start: tuple[str, ...], option: str, remedy: str
) -> None:
    result = command(*start, option)
    assert result.code == 2
    assert f"leave out {remedy}" in " ".join(result.err.split())
    assert not list(place.iterdir())
