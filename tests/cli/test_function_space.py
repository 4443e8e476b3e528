"""A function in a file, searched from the command line: samplers, supernet, and what a bad file gets."""

import json
from pathlib import Path

import pytest

from tests.helpers import Command

EXAMPLE = Path(__file__).parents[2] / "examples" / "my_space.py"
TINY = [
    word
    for setting in ("recipe.epochs=1", "recipe.input_size=8", "data.train_limit=200", "pruner.name=none")
    for word in ("--set", setting)
]


@pytest.fixture
def net(place: Path) -> str:
    file = place / "my net.py"
    file.write_text(EXAMPLE.read_text(encoding="utf-8"))
    return f"space.name={json.dumps(f'{file}:network')}"


@pytest.mark.parametrize("sampler", ["random", "gp", "nsga2", "evolution", "controller", "arch"])
def test_a_file_is_searched_and_goes_on_by_every_sampler(command: Command, net: str, sampler: str) -> None:
    first = command("run", *TINY, "--set", net, "--sampler", sampler, "--trials", 1)
    assert first.code == 0, first.err
    second = command("run", "--trials", 1)
    assert second.code == 0, second.err
    best = command("best", "--json")
    assert best.code == 0, best.err
    assert best.json["architecture"].startswith("width=")


def test_its_supernet_is_trained_checked_and_exported(command: Command, net: str) -> None:
    settings = ["--set", net, "--set", "space.fix={width = 16, depth = 2}", "--set", "supernet.epochs=4"]
    trained = command("supernet", "train", "--study", "nas", *TINY, *settings)
    assert trained.code == 0, trained.err
    for words in (("export", "--study", "nas"), ("check", "--study", "nas", "--architectures", 3)):
        result = command("supernet", *words)
        assert result.code == 0, result.err


def test_a_file_whose_network_cannot_take_the_images_costs_one_line_and_makes_nothing(
    command: Command, place: Path
) -> None:
    (place / "bad.py").write_text(
        "import nas_optuna as nas\nfrom torch import nn\n\n@nas.space\ndef net(c, task):\n"
        "    return nn.Sequential(nn.Flatten(), nn.Linear(c.choice('a', [7, 9]), task.classes))\n"
    )
    before = set(place.iterdir())
    result = command("run", *TINY, "--set", f"space.name={place}/bad.py:net", "--trials", 1)
    assert result.code == 2
    assert len(result.err.strip().splitlines()) == 1
    assert "layer '1' (Linear) cannot take [2, 64]" in result.err
    assert set(place.iterdir()) == before
