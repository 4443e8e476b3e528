"""Every example that is a program of its own runs; evaluators are tested in tests/examples."""

import runpy
from pathlib import Path

import pytest

from tests.helpers import Command, write_photos

FOLDER = Path(__file__).parent.parent / "examples"
EXAMPLES = sorted(
    file for file in FOLDER.glob("*.py") if not file.stem.endswith("_evaluator") and file.stem != "notebook"
)


def test_there_are_examples() -> None:
    assert {"my_space", "torchvision_backbone", "joint_hyperparameters"} <= {file.stem for file in EXAMPLES}


@pytest.mark.parametrize("file", EXAMPLES, ids=lambda file: file.stem)
def test_examples_run(file: Path) -> None:
    study = runpy.run_path(str(file))["main"](trials=1, epochs=1)
    assert 0 <= study.best_value <= 1


def test_the_notebook_runs_and_its_last_cells_show_the_study(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    names = runpy.run_path(str(FOLDER / "notebook.py"))
    assert "trial   3" in capsys.readouterr().err, "no display of the run"
    assert "<svg" in names["stored"]._repr_svg_()
    assert len(names["stored"].frame()) == 4
    again = runpy.run_path(str(FOLDER / "notebook.py"))
    assert len(again["stored"].frame()) == 8, "it does not go on at its second run"


@pytest.mark.slow
def test_a_resnet_of_torchvision_trains_an_epoch_on_a_folder(command: Command, tmp_path: Path) -> None:
    write_photos(tmp_path / "photos", each=12, height=64, width=64)
    space, data = f"space.name={FOLDER}/torchvision_backbone.py:resnet", f"data.name=folder:{tmp_path / 'photos'}"
    run = command(
        "run", "--set", space, "--set", data, "--set", "recipe.epochs=1", "--sampler", "random", "--trials", 1
    )
    assert run.code == 0, run.err
    assert "images: 64×64" in run.err
    best = command("best", "--json").json
    assert best["architecture"].startswith("width=")
    assert best["architecture"].count("blocks=") == 4
