import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from typer.testing import CliRunner

from nas_optuna.cli import app
from nas_optuna.costs.latency_table import LatencyTable
from nas_optuna.errors import SpecError, TableError

SMALL = ["--set", "depth=1", "--set", "filters=[4, 8]", "--input-size", "12"]


@pytest.fixture
def table(tmp_path: Path) -> Path:
    path = tmp_path / "table.json"
    run("measure", "--out", str(path), "--rounds", "1", *SMALL)
    return path


def run(*arguments: str) -> str:
    result = CliRunner().invoke(app, ["latency", *arguments], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.stdout


def test_measure_then_check(table: Path) -> None:
    before = LatencyTable.load(table)
    summary = json.loads(run("measure", "--out", str(table), "--rounds", "1", "--json", *SMALL))
    assert summary["operations"] == len(before.entries) > 0
    assert LatencyTable.load(table) == before, "a finished table is left alone"
    figures = json.loads(run("check", str(table), "--networks", "4", "--json", *SMALL))
    assert figures["networks"] == len(figures["measured_ms"]) == len(figures["table_ms"]) == 4
    assert -1 <= figures["spearman"] <= 1
    assert figures["conditions"]["batch_size"] == 1
    assert figures["margin"] >= 0
    assert LatencyTable.load(table) == before, "only --save-overhead writes"


def test_options_of_the_space_may_be_written_as_for_a_run(table: Path) -> None:
    as_for_a_run = [word.replace("depth=", "space.depth=").replace("filters=", "space.filters=") for word in SMALL]
    assert as_for_a_run != SMALL
    assert "Spearman" in run("check", str(table), "--networks", "3", *as_for_a_run)


def test_check_writes_an_overhead_that_helps(table: Path) -> None:
    content = json.loads(table.read_text())
    content["entries"] = {
        key: [[value / 2 for value in visit] for visit in visits] for key, visits in content["entries"].items()
    }
    table.write_text(json.dumps(content))
    run("check", str(table), "--networks", "6", "--save-overhead", *SMALL)
    assert LatencyTable.load(table).overhead_ms > 0


def test_what_a_table_with_networks_of_its_own_does_not_need_is_refused(table: Path) -> None:
    table.write_text(json.dumps(json.loads(table.read_text()) | {"kit": "0123456789abcdef"}))
    with pytest.raises(SpecError, match="leave out --networks and --seed and --device"):
        run("check", str(table), "--networks", "9", "--seed", "0", "--device", "cpu", *SMALL)


def test_a_foreign_table_needs_force(table: Path) -> None:
    table.write_text(table.read_text().replace('"device_name":"', '"device_name":"Z80 and '))
    with pytest.raises(TableError, match="device name 'Z80 and"):
        run("check", str(table), *SMALL)
    assert "Spearman" in run("check", str(table), "--networks", "3", "--force", *SMALL)


def test_wrong_values_are_refused(tmp_path: Path) -> None:
    out = str(tmp_path / "table.json")
    with pytest.raises(SpecError, match=r"directory .* does not exist"):
        run("measure", "--out", f"{out}/x/y.json")
    with pytest.raises(SpecError, match="did you mean 'depth'"):
        run("measure", "--out", out, "--set", "depht=3")
    with pytest.raises(SpecError, match="unknown space 'cnv'"):
        run("measure", "--out", out, "--space", "cnv")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.process
def test_ctrl_c_keeps_what_is_measured(tmp_path: Path) -> None:
    out = tmp_path / "table.json"
    start = [sys.executable, "-c", "from nas_optuna.cli import main; raise SystemExit(main())"]
    command = [*start, "latency", "measure", "--out", str(out), "--rounds", "50"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    while not out.exists() and process.poll() is None:
        time.sleep(0.2)
    process.send_signal(signal.SIGINT)
    stdout, stderr = process.communicate()
    assert process.returncode == 130
    assert stdout == b""
    assert b"nothing is lost. Continue: nas-optuna latency measure" in stderr
    assert b"Traceback" not in stderr
    assert LatencyTable.load(out).entries


@pytest.mark.parametrize("command", ["measure", "check"])
def test_help_ends_with_an_example(command: str) -> None:
    assert run(command, "--help").rstrip().splitlines()[-1].strip().startswith("Example: nas-optuna latency")
