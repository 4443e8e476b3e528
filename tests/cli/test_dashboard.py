"""The study in optuna-dashboard and in Optuna's own command, as a person meets it."""

import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import optuna
import pytest

from nas_optuna.cli import main

CHROMIUM = shutil.which("chromium")
QUIET = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--no-first-run", "--disable-sync"]
TINY = ["--set", "space.depth=2", "--set", "recipe.epochs=2", "--set", "recipe.input_size=8"]


@pytest.fixture
def study(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> optuna.Study:
    monkeypatch.chdir(tmp_path)
    assert main(["run", "--sampler", "random", "--trials", "2", *TINY]) == 0
    return optuna.load_study(study_name="nas", storage="sqlite:///nas-optuna.db")


@pytest.fixture
def address(study: optuna.Study) -> Iterator[str]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "nas_optuna", "dashboard", "--port", str(port)]
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])}
    server = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    url = f"http://127.0.0.1:{port}/dashboard"
    try:
        for _ in range(300):
            try:
                urllib.request.urlopen(url).close()
                break
            except OSError:
                assert server.poll() is None, "the dashboard ended"
                time.sleep(0.1)
        yield url
    finally:
        server.terminate()
        server.wait()


@pytest.mark.skipif(CHROMIUM is None, reason="needs a browser: apt-get install chromium")
def test_the_trial_page_shows_the_architecture(study: optuna.Study, address: str, tmp_path: Path) -> None:
    from playwright.sync_api import sync_playwright

    trial = study.get_trials()[0]
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=QUIET)
        page = browser.new_page(viewport={"width": 1400, "height": 1000})
        page.goto(f"{address}/studies/{study._study_id}/trials?numbers={trial.number}")
        page.get_by_text(trial.user_attrs["architecture"]).first.wait_for(timeout=60_000)
        page.get_by_role("cell", name="conv2").first.wait_for(timeout=10_000)  # the note's table
        page.screenshot(path=os.environ.get("NAS_OPTUNA_SCREENSHOT") or tmp_path / "trial.png")
        browser.close()


def test_optunas_own_command_lists_the_trials(study: optuna.Study) -> None:
    program = "import sys; from optuna.cli import main; sys.exit(main())"
    command = [sys.executable, "-c", program, "trials", "--study-name", "nas", "-f", "json"]
    command += ["--storage", "sqlite:///nas-optuna.db"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    for trial in study.get_trials():
        assert trial.user_attrs["architecture"] in done.stdout


def test_a_port_in_use_gets_one_line(study: optuna.Study, capsys: pytest.CaptureFixture[str]) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        capsys.readouterr()
        assert main(["dashboard", "--port", str(port)]) == 2
    assert "choose another --port" in capsys.readouterr().err
