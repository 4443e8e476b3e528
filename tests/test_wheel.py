"""What an installed wheel holds, looked at from outside the checkout."""

import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from hatchling.builders.wheel import WheelBuilder

pytestmark = pytest.mark.process

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    (wheel,) = WheelBuilder(str(ROOT)).build(directory=str(folder / "dist"), versions=["standard"])
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder / "site")
    return folder / "site"


def run(installed: Path, *arguments: str) -> str:
    """The command of the unpacked wheel, which is all that this Python sees of the package."""
    code = "import sys; sys.path.insert(0, sys.argv.pop(1)); from nas_optuna.cli import main; sys.exit(main())"
    found = subprocess.run(
        [sys.executable, "-P", "-c", code, str(installed), *arguments],
        cwd=installed.parent,
        env={"PATH": "/usr/bin:/bin", "HOME": str(installed.parent)},
        capture_output=True,
        text=True,
        check=False,
        timeout=100,
    )
    assert found.returncode == 0, found.stderr
    return found.stdout


def test_presets_are_in_the_wheel(installed: Path) -> None:
    in_wheel = {path.name for path in (installed / "nas_optuna" / "studies").glob("*.toml")}
    assert in_wheel == {path.name for path in (ROOT / "studies").glob("*.toml")}
    assert "24^5" not in run(installed, "space", "show", "--spec", "mnist-random")
    assert "7,962,624" in run(installed, "space", "show", "--spec", "mnist-random")


def test_a_report_of_the_wheel_has_its_templates(installed: Path) -> None:
    storage = f"sqlite:///{installed.parent / 'nas.db'}"
    run(installed, "study", "create", "--study", "s", "--storage", storage)
    assert "A search for neural networks" in run(
        installed, "report", "--study", "s", "--storage", storage, "--out", "-"
    )


def test_the_wheel_is_typed_and_holds_no_tests(installed: Path) -> None:
    assert (installed / "nas_optuna" / "py.typed").exists()
    assert not (installed / "tests").exists()
    (metadata,) = installed.glob("nas_optuna-*.dist-info")
    assert "nas-optuna = nas_optuna.__main__:main" in (metadata / "entry_points.txt").read_text()
