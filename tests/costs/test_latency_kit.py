"""A kit is measured by its own file, without torch and nas-optuna, and its table is used here."""

import json
import subprocess
import sys
import time
from pathlib import Path

import pytest

from nas_optuna import ConvSpace
from nas_optuna.costs import timing
from nas_optuna.costs.latency import check_table
from nas_optuna.costs.latency_kit import write_kit
from nas_optuna.costs.latency_table import LatencyTable
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
    (kept,) = kit.glob("measured-fp32-1.json")
    assert json.loads(kept.read_text())["entries"] == first["entries"]
    assert json.loads(run(kit, "--rounds", "1").stdout) == first


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
    (tmp_path / "project" / "models").mkdir(parents=True)
    (tmp_path / "project" / "models" / "best.onnx").write_bytes(b"precious")
    with pytest.raises(TableError, match="something else"):
        write_kit(ConvSpace(**SPACE), tmp_path / "project", networks=3)
    assert (tmp_path / "project" / "models" / "best.onnx").read_bytes() == b"precious"
    (tmp_path / "project" / "models" / "best.onnx").unlink()
    (tmp_path / "project" / "measure.py").write_text("precious")
    with pytest.raises(TableError, match="something else"):
        write_kit(ConvSpace(**SPACE), tmp_path / "project", networks=3)
    (tmp_path / "kit" / "models").mkdir(parents=True)
    (tmp_path / "kit" / "models" / "0123456789abcdef.onnx").write_bytes(b"of a kit that was not finished")
    for _ in range(2):
        write_kit(ConvSpace(**SPACE), tmp_path / "kit", precisions=["fp32"], networks=3)
    (tmp_path / "kit" / "kit.json").rename(tmp_path / "kit" / ".nas-optuna-1-0123abcd.json")  # as a kill leaves it
    write_kit(ConvSpace(**SPACE), tmp_path / "kit", precisions=["fp32"], networks=3)
    with pytest.raises(SpecError, match="precision of a latency kit"):
        write_kit(ConvSpace(**SPACE), tmp_path / "kit", precisions=["int4"], networks=3)


def test_a_kit_says_how_it_is_measured(command: Command, place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (place / "my kit").mkdir()
    monkeypatch.chdir(place / "my kit")
    words = ["latency", "kit", *OF_THE_SPACE, "--input-size", "8", "--precision", "fp32", "--networks", "3"]
    assert "python 'my kit/measure.py' > table.json" in command(*words, "--out", ".").err


def test_a_device_that_throttles_is_told_in_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(timing, "LOOK", 0.0)
    pause = 0.001
    watch = timing._Watch(lambda: (time.sleep(pause), pause * 1e3)[1], [])
    for done in range(9):
        pause = 0.001 if done < 5 else 0.002
        watch.look(done, 8)
    watch.report({("entries", "steady"): [(1.0, 1.0, 1.0)] * 2})
    (line,) = [line for line in capsys.readouterr().err.splitlines() if "warning" in line]
    assert "in 4 of 8 looks this device was more than 15% slower" in line
    assert "let it cool or idle, then measure --again" in line


@pytest.mark.parametrize(
    ("cpuinfo", "name"),
    [
        ("processor : 0\nmodel\t\t: 2\nmodel name\t: AMD EPYC\n", "AMD EPYC"),
        (
            "processor : 0\nCPU part : 0xd08\n\nHardware : BCM2835\nModel\t\t: Raspberry Pi 4 Model B Rev 1.4\n",
            "Raspberry",
        ),
        ("Hardware\t: Qualcomm SM8550\n", "Qualcomm"),
    ],
)
def test_a_device_is_called_what_its_maker_calls_it(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, cpuinfo: str, name: str
) -> None:
    (tmp_path / "cpuinfo").write_text(cpuinfo)
    monkeypatch.setattr(timing, "Path", lambda _: tmp_path / "cpuinfo")
    assert timing.device_name().startswith(name)


SETTINGS = ["space.depth=2", "space.filters=[4,8]", "space.kernels=[3]", "space.strides=[1]", "recipe.input_size=8"]
SETS = [word for value in SETTINGS for word in ("--set", value)]
OF_THE_SPACE = ["--set", "depth=2", "--set", "filters=[4,8]", "--set", "kernels=[3]", "--set", "strides=[1]"]


def middle(table: LatencyTable) -> float:
    """A limit that half of the networks meet, with the table's margin."""
    space = ConvSpace(**SPACE)
    latencies = sorted(table.architecture_ms(space, architecture) for architecture in space.enumerate())
    return latencies[len(latencies) // 2] * (1 + (table.margin(space) or 0.0)) * 1.001


def test_a_search_stays_inside_what_another_device_needs(kit: Path, command: Command, place: Path) -> None:
    table = json.loads(run(kit, "--rounds", "1").stdout)
    table["conditions"]["device_name"] = "a board on my desk"
    (place / "table.json").write_text(json.dumps(table))
    limit = middle(LatencyTable.load(place / "table.json"))
    more = ["--set", "recipe.epochs=1", "--set", "data.train_limit=100"]
    said = command("run", "--trials", "3", "--max-latency", limit, "--latency-table", "table.json", *SETS, *more)
    assert said.code == 0, said.err
    best = json.loads(command("best", "--json").out)
    assert best["costs"]["latency_ms"] <= limit
    (place / "foreign.json").write_text(json.dumps(table | {"space": "block"}))
    for words in (
        ["run", "--study", "other", "--trials", "1", *SETS],
        ["best"],
        ["supernet", "train"],
    ):
        refused = command(*words, "--latency-table", "foreign.json")
        assert (refused.code, refused.err.count("error:")) == (2, 1), refused.err
        assert "latency table foreign.json is of space 'block', not 'conv'" in refused.err


def test_the_best_for_a_device_is_chosen_among_what_was_trained_before(
    kit: Path, command: Command, place: Path
) -> None:
    table = json.loads(run(kit, "--rounds", "1").stdout)
    (place / "table.json").write_text(json.dumps(table))
    loaded, space = LatencyTable.load(place / "table.json"), ConvSpace(**SPACE)
    more = ["--set", "recipe.epochs=1", "--set", "data.train_limit=100"]
    assert command("run", "--sampler", "grid", "--trials", "4", *SETS, *more).code == 0
    limit = middle(loaded)
    best = command("best", "--latency-table", "table.json", "--max-latency", limit, "--json").json
    latency = loaded.architecture_ms(space, space.parse(best["architecture"]))
    assert best["costs"]["latency_ms"] == pytest.approx(latency)
    assert latency <= limit
    shown = command("best", "--latency-table", "table.json", "--max-latency", limit)
    assert f"--trial {best['number']}" in shown.err
    for words, says in (
        (
            ["--latency-table", "table.json", "--max-latency", "1e-6"],
            "no network of study 'nas' needs at most 1e-06 ms",
        ),
        (["--max-latency", limit], "--latency-table FILE"),
        (["--latency-table", "absent.json"], "cannot read latency table"),
    ):
        refused = command("best", *words)
        assert (refused.code, refused.out, len(refused.err.splitlines())) == (2, "", 1)
        assert says in refused.err


@pytest.mark.process
def test_a_device_with_onnx_runtime_alone_and_the_way_back(bare_python: Path, command: Command, place: Path) -> None:
    """From a space to a table by a bare environment, and every command that takes it."""
    assert command("latency", "kit", *OF_THE_SPACE, "--input-size", "8", "--networks", "6", "--out", "kit").code == 0
    there = subprocess.run(
        [
            str(bare_python),
            "-c",
            "import importlib.util as u; print([n for n in ('torch', 'onnx', 'nas_optuna') if u.find_spec(n)])",
        ],
        capture_output=True,
        text=True,
        check=True,
        env={"PATH": ""},
    )
    assert there.stdout.strip() == "[]"
    for precision in ("fp32", "int8"):
        measure = [str(bare_python), str(place / "kit" / "measure.py"), "--rounds", "2", "--precision", precision]
        made = subprocess.run(measure, capture_output=True, text=True, check=False, timeout=120, env={"PATH": ""})
        assert made.returncode == 0, made.stderr
        (place / f"{precision}.json").write_text(made.stdout)
        checked = command("latency", "check", f"{precision}.json", *OF_THE_SPACE, "--input-size", "8", "--json").json
        assert checked["networks"] == 4  # all that there are
        assert checked["conditions"]["precision"] == precision
    limit = middle(LatencyTable.load(place / "fp32.json"))
    inside = ["--max-latency", limit, "--latency-table", "fp32.json"]
    more = ["--set", "recipe.epochs=1", "--set", "data.train_limit=200"]
    assert command("run", "--trials", "3", *inside, *SETS, *more).code == 0
    assert command("best", "--json").json["costs"]["latency_ms"] <= limit
    assert command("best", "--latency-table", "int8.json", "--json").json["costs"]["latency_ms"] > 0
    trained = command("supernet", "train", "--latency-table", "fp32.json", "--set", "supernet.epochs=1")
    assert trained.code == 0, trained.err
    assert "costs from fp32.json" in trained.err
    fitted = command("fit", "digits", "--within", "15s", "--out", "model", "--space", "conv", *inside, *SETS)
    assert fitted.code == 0, fitted.err
