"""Other people's tools on a study of ours: optuna-dashboard in a browser, and the `optuna` command."""

import json
import re
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from nas_optuna.study.schema import TrialKey
from tests.helpers import Command, tiny

CHROMIUM = Path("/usr/bin/chromium")
SWITCHES = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--no-first-run", "--disable-sync"]
LAUNCH = [sys.executable, "-c", "import sys; from nas_optuna.cli import main; sys.exit(main(sys.argv[1:]))"]


@pytest.fixture
def trials(command: Command) -> list[dict[str, Any]]:
    result = command("run", "--sampler", "random", "--trials", 3, "--json", *tiny())
    assert result.code == 0, result.err
    return sorted(result.json, key=lambda trial: trial["number"])


@pytest.fixture
def address(trials: list[dict[str, Any]]) -> Iterator[str]:
    """Where `nas-optuna dashboard` serves the study, until the test is over."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    with subprocess.Popen([*LAUNCH, "dashboard", "--port", str(port)], stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        said = process.stderr.readline()
        assert f"http://127.0.0.1:{port}/dashboard" in said, said
        yield f"http://127.0.0.1:{port}"
        process.send_signal(2)
        assert process.wait(20) == 0
        assert process.stderr.read() == ""


def get(url: str) -> Any:
    with urllib.request.urlopen(url, timeout=30) as answer:
        return json.load(answer)


def test_the_dashboard_knows_the_study(address: str, trials: list[dict[str, Any]]) -> None:
    (study,) = get(f"{address}/api/studies")["study_summaries"]
    assert study["study_name"] == "nas"
    found = get(f"{address}/api/studies/{study['study_id']}?after=0")
    assert found["objective_names"] == ["accuracy"]
    for trial, ours in zip(found["trials"], trials, strict=True):
        assert ours["architecture"] in trial["note"]["body"]
        assert "| conv1 |" in trial["note"]["body"]
        assert {a["key"]: a["value"] for a in trial["user_attrs"]}[TrialKey.ARCHITECTURE].strip('"') == ours[
            "architecture"
        ]
    assert found["artifacts"] == []


@pytest.mark.skipif(not CHROMIUM.exists(), reason="there is no /usr/bin/chromium to open the dashboard with")
def test_the_trial_page_shows_the_architecture(address: str, trials: list[dict[str, Any]], tmp_path: Path) -> None:
    playwright = pytest.importorskip("playwright.sync_api")
    (study,) = get(f"{address}/api/studies")["study_summaries"]
    with playwright.sync_playwright() as started:
        browser = started.chromium.launch(executable_path=str(CHROMIUM), args=SWITCHES)
        page = browser.new_page(viewport={"width": 1400, "height": 1000})
        page.goto(f"{address}/dashboard/studies/{study['study_id']}/trials?numbers=1")
        note = page.get_by_role("table").filter(has_text="conv1")
        note.wait_for(timeout=60_000)
        page.screenshot(path=str(tmp_path / "trial.png"), full_page=True)
        text = page.inner_text("body")
        rows = [cells.split("\t") for cells in note.inner_text().splitlines() if cells.strip()]
        browser.close()
    assert trials[1]["architecture"] in text
    assert "Trial 1" in text
    layers = re.findall(r"f(\d+)k(\d+)s(\d+)", trials[1]["architecture"])
    assert [tuple(cell.strip() for cell in row[1:]) for row in rows[1:]] == layers


def test_the_optuna_command_lists_the_trials(trials: list[dict[str, Any]]) -> None:
    optuna = Path(sys.executable).with_name("optuna")
    command = [str(optuna), "trials", "--study-name", "nas", "--storage", "sqlite:///nas-optuna.db"]
    found = subprocess.run([*command, "--format", "json"], capture_output=True, text=True, timeout=100, check=True)
    listed = json.loads(found.stdout)
    assert [row["number"] for row in listed] == [0, 1, 2]
    for row, ours in zip(listed, trials, strict=True):
        assert row["user_attrs"]["nas_optuna:architecture"] == ours["architecture"]
        assert row["value"]["accuracy"] == ours["values"][0]
    assert time.strptime(listed[0]["datetime_start"], "%Y-%m-%d %H:%M:%S")
