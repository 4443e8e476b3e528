"""Options that mean nothing where a clock decides."""

from pathlib import Path

import pytest

from nas_optuna.cli.networks import FitOptions, _spec_of
from tests.helpers import Command


@pytest.mark.parametrize("start", [("fit", "digits", "--within=20s"), ("run", "--within=20s")])
@pytest.mark.parametrize(
    ("option", "remedy"),
    [
        ("--epochs=3", "--epochs"),
        ("--set=recipe.epochs=3", "--epochs"),
        ("--set=recipe={epochs=3}", "--epochs"),
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


@pytest.mark.parametrize(
    ("own", "more", "name", "options"),
    [
        ('[sampler]\nname = "evolution"\npopulation_size = 7', {}, "evolution", {"population_size": 7}),
        ('[sampler]\nname = "evolution"\npopulation_size = 7', {"sampler": "random"}, "random", {}),
        ("[sampler]\nseed = 3", {}, "neighbours", {}),
        (None, {"spec": "digits-quick"}, "neighbours", {}),
        (None, {}, "neighbours", {}),
    ],
)
def test_fit_takes_the_sampler_of_ones_own_spec(
    place: Path, own: str | None, more: dict[str, str], name: str, options: dict[str, int]
) -> None:
    given = FitOptions(data="digits", **{"spec": None if own is None else "mine.toml"} | more)
    if own is not None:
        Path("mine.toml").write_text(own)
    found = _spec_of(given, None).sampler
    assert (found.name, found.options, found.seed) == (name, options, 3 if "seed" in (own or "") else 0)
