"""A kit is measured by its own file, without torch and nas-optuna, and its table is used here."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from nas_optuna import ConvSpace
from nas_optuna.costs.latency_kit import write_kit
from nas_optuna.costs.latency_table import LatencyTable, check_table
from nas_optuna.errors import SpecError, TableError
from tests.helpers import Command

SPACE = {"depth": 2, "filters": (4, 8), "kernels": (3,), "strides": (1,), "input_size": 8}
WITHOUT = """
import sys
class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("torch", "nas_optuna", "onnx", "scipy"):
            raise ImportError(f"{name} is not on this device")
sys.meta_path.insert(0, Absent())
file = sys.argv.pop(1)
sys.argv[0] = file
exec(compile(open(file).read(), file, "exec"), {"__name__": "__main__", "__file__": file})
"""


def run(kit: Path, *options: str) -> subprocess.CompletedProcess[str]:
    """Measure a kit as a device would on which nothing but ONNX Runtime is installed."""
    command = [sys.executable, "-I", "-c", WITHOUT, str(kit / "measure.py"), *options]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)


@pytest.fixture(scope="module")
def kit(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("kit") / "kit"
    write_kit(ConvSpace(**SPACE), folder, networks=4)
    return folder


@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_a_table_of_every_operation_comes_from_onnx_runtime_alone(kit: Path, tmp_path: Path, precision: str) -> None:
    made = run(kit, "--precision", precision, "--rounds", "2")
    assert made.returncode == 0, made.stderr
    assert "whole networks" in made.stderr
    (tmp_path / "table.json").write_text(made.stdout)
    table = LatencyTable.load(tmp_path / "table.json")
    space = ConvSpace(**SPACE)
    assert set(table.entries) == {operation.key for operation in space.reachable_operations()}
    assert table.conditions.runtime == "onnxruntime"
    assert table.conditions.precision == precision
    assert len(table.networks) == 4
    checked = check_table(table, space)  # by the kit's own networks, whatever this machine is
    assert len(checked.measured_ms) == 4
    assert checked.overhead_ms == pytest.approx(table.overhead_ms)


def test_what_is_measured_is_not_measured_again(kit: Path) -> None:
    first = json.loads(run(kit, "--rounds", "1").stdout)
    log = next(kit.glob("measured-fp32-*.jsonl"))
    log.write_text(log.read_text()[:-9])  # killed while it wrote
    again = json.loads(run(kit, "--rounds", "1").stdout)
    assert again["date"] == first["date"]
    same = sum(again["entries"][key] == visits for key, visits in first["entries"].items())
    assert same >= len(first["entries"]) - 1
    assert set(again["entries"]) == set(first["entries"])


@pytest.mark.parametrize(
    ("damage", "named"),
    [
        (lambda kit: (kit / "kit.json").write_text("{"), "kit.json"),
        (lambda kit: (kit / "kit.json").write_text('{"format": "nas-optuna latency kit 99"}'), "version"),
        (lambda kit: (kit / "kit.json").unlink(), "kit.json"),
        (lambda kit: next((kit / "models").glob("*.onnx")).write_bytes(b"torn"), "kit"),
    ],
)
def test_a_damaged_kit_is_one_line(tmp_path: Path, damage, named: str) -> None:  # type: ignore[no-untyped-def]
    folder = tmp_path / "kit"
    write_kit(ConvSpace(**SPACE), folder, precisions=["fp32"], networks=3)
    damage(folder)
    made = run(folder)
    assert made.returncode == 2
    assert made.stdout == ""
    (line,) = [line for line in made.stderr.splitlines() if line.startswith("error:")]
    assert named in line
    assert "Traceback" not in made.stderr


def test_a_precision_that_the_kit_has_not(tmp_path: Path) -> None:
    write_kit(ConvSpace(**SPACE), tmp_path / "kit", precisions=["fp32"], networks=3)
    made = run(tmp_path / "kit", "--precision", "int8")
    assert made.returncode == 2
    assert "this kit holds fp32" in made.stderr


def test_a_kit_replaces_a_kit_and_nothing_else(tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "photo.jpg").write_bytes(b"")
    with pytest.raises(TableError, match="something else"):
        write_kit(ConvSpace(**SPACE), tmp_path / "mine", networks=3)
    assert [path.name for path in (tmp_path / "mine").iterdir()] == ["photo.jpg"]
    for _ in range(2):
        write_kit(ConvSpace(**SPACE), tmp_path / "kit", precisions=["fp32"], networks=3)
    with pytest.raises(SpecError, match="precision of a latency kit"):
        write_kit(ConvSpace(**SPACE), tmp_path / "kit", precisions=["int4"], networks=3)


def test_a_search_stays_inside_what_another_device_needs(kit: Path, command: Command, place: Path) -> None:
    table = json.loads(run(kit, "--rounds", "1").stdout)
    table["conditions"]["device_name"] = "a board on my desk"
    (place / "table.json").write_text(json.dumps(table))
    space = ConvSpace(**SPACE)
    loaded = LatencyTable.load(place / "table.json")
    latencies = sorted(loaded.architecture_ms(space, architecture) for architecture in space.enumerate())
    limit = latencies[len(latencies) // 2]
    settings = ["space.depth=2", "space.filters=[4,8]", "space.kernels=[3]", "space.strides=[1]", "recipe.input_size=8"]
    sets = [part for value in (*settings, "recipe.epochs=1", "data.train_limit=100") for part in ("--set", value)]
    said = command("run", "--trials", "3", "--max-latency", limit, "--latency-table", "table.json", *sets)
    assert said.code == 0, said.err
    best = json.loads(command("best", "--json").out)
    assert f"{best['costs']['latency_ms'] if 'costs' in best else best['latency_ms']:.6f}" <= f"{limit:.6f}"
