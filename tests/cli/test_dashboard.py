"""Other people's tools on a study of ours: optuna-dashboard in a browser, and the `optuna` command."""

import http.client
import http.server
import io
import json
import os
import re
import shutil
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.artifacts import FileSystemArtifactStore, upload_artifact
from optuna_dashboard import get_note, save_note

from nas_optuna.cli import main
from nas_optuna.report.dashboard import DRAWING, replace
from nas_optuna.study.optuna_internals import trial_id_of
from tests.helpers import Command, tiny

CHROMIUM = Path("/usr/bin/chromium")
SWITCHES = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--no-first-run", "--disable-sync"]
LAUNCH = [sys.executable, "-c", "import sys; from nas_optuna.cli import main; sys.exit(main(sys.argv[1:]))"]


Trials = list[dict[str, Any]]


@pytest.fixture(scope="module")
def searched(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Trials]:
    """A folder with a study of three trials, and those."""
    folder = tmp_path_factory.mktemp("searched")
    out = io.StringIO()
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(out):
        patch.chdir(folder)
        patch.delenv("NAS_OPTUNA_STORAGE", raising=False)
        assert main(["run", "--sampler", "random", "--trials", "3", "--json", *tiny()]) == 0
    return folder, sorted(json.loads(out.getvalue()), key=lambda trial: trial["number"])


@pytest.fixture
def trials(place: Path, searched: tuple[Path, Trials]) -> Trials:
    """The trials of a study in the current folder, which is the test's own."""
    folder, found = searched
    shutil.copytree(folder, place, dirs_exist_ok=True)
    return found


@contextmanager
def serving(folder: Path) -> Iterator[str]:
    """Serve the studies of a folder with `nas-optuna dashboard`, and say where."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    environment = {name: value for name, value in os.environ.items() if name != "NAS_OPTUNA_STORAGE"}
    command = [*LAUNCH, "dashboard", "--port", str(port)]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, cwd=folder, env=environment) as process:
        assert process.stderr is not None
        said = process.stderr.readline()
        assert f"http://127.0.0.1:{port}/dashboard" in said, said
        yield f"http://127.0.0.1:{port}"
        process.send_signal(2)
        assert process.wait(20) == 0
        assert process.stderr.read() == ""


@pytest.fixture(scope="module")
def address(searched: tuple[Path, Trials]) -> Iterator[str]:
    """Where the study is served to those tests that do not change it."""
    with serving(searched[0]) as where:
        yield where


def get(url: str) -> Any:
    with urllib.request.urlopen(url, timeout=30) as answer:
        return json.load(answer)


@pytest.mark.process
def test_the_dashboard_knows_the_study(address: str, trials: Trials) -> None:
    (study,) = get(f"{address}/api/studies")["study_summaries"]
    assert study["study_name"] == "nas"
    found = get(f"{address}/api/studies/{study['study_id']}?after=0")
    assert found["objective_names"] == ["accuracy"]
    for trial, ours in zip(found["trials"], trials, strict=True):
        assert ours["architecture"] in trial["note"]["body"]
        assert "| conv1&emsp; |" in trial["note"]["body"]
        shown = {a["key"]: a["value"] for a in trial["user_attrs"]}
        assert shown["architecture"] == ours["architecture"]
        assert shown["MACs"] == str(ours["costs"]["macs"])
        (drawing,) = trial["artifacts"]
        with urllib.request.urlopen(
            f"{address}/artifacts/{study['study_id']}/{trial['trial_id']}/{drawing['artifact_id']}", timeout=30
        ) as answer:
            assert answer.headers["Content-Type"] == "image/svg+xml"
            assert ours["architecture"] in answer.read().decode()
        assert f"/{drawing['artifact_id']})" in trial["note"]["body"], "the note shows the drawing"
    shown = {a["key"]: a["value"] for a in found["user_attrs"]}
    assert not any("{" in value or len(value) > 80 for value in shown.values()), "no raw JSON"
    assert found["artifacts"] == []
    best = max(trials, key=lambda trial: (trial["accuracy"], -trial["number"]))
    assert best["architecture"] in found["note"]["body"]


@pytest.mark.process
@pytest.mark.skipif(not CHROMIUM.exists(), reason="there is no /usr/bin/chromium to open the dashboard with")
def test_the_trial_page_shows_the_architecture(address: str, trials: Trials, tmp_path: Path) -> None:
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


def ask(address: str, method: str, path: str, **headers: str) -> tuple[int, str]:
    """The status and body of a request, as a browser would send it for some page."""
    host, port = address.removeprefix("http://").split(":")
    connection = http.client.HTTPConnection(host, int(port), timeout=30)
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    connection.request(method, path, headers=named)
    answer = connection.getresponse()
    return answer.status, answer.read().decode()


@pytest.mark.process
def test_it_answers_to_its_own_names_and_pages_only(address: str) -> None:
    port = address.rpartition(":")[2]
    (study,) = get(f"{address}/api/studies")["study_summaries"]
    delete = ("DELETE", f"/api/studies/{study['study_id']}")
    for host in (f"evil.example:{port}", "evil.example", "127.0.0.1", f"127.0.0.1.evil.example:{port}"):
        for method, path in (delete, ("GET", "/api/studies"), ("GET", "/dashboard")):
            status, body = ask(address, method, path, Host=host)
            assert status == 403
            assert "nas" not in body
    for headers in (
        {"Origin": "http://evil.example"},
        {"Origin": "null"},
        {"Origin": f"http://localhost:{port}"},
        {"Sec_Fetch_Site": "cross-site"},
        {"Sec_Fetch_Site": "same-site", "Sec_Fetch_Mode": "no-cors"},
        {"Sec_Fetch_Site": "cross-site", "Sec_Fetch_Mode": "navigate", "Sec_Fetch_Dest": "document"},
    ):
        for method, path in (delete, ("POST", "/api/studies")):
            assert ask(address, method, path, **headers)[0] == 403
    assert len(get(f"{address}/api/studies")["study_summaries"]) == 1
    assert ask(address, "GET", "/api/studies", Host=f"localhost:{port}")[0] == 200
    navigation = {"Sec_Fetch_Site": "cross-site", "Sec_Fetch_Mode": "navigate", "Sec_Fetch_Dest": "document"}
    assert ask(address, "GET", "/dashboard", **navigation)[0] in (200, 302), "a link to the dashboard may be followed"


ATTACK = """async ([target, study]) => {
  const results = {};
  for (const [name, url, options] of [
    ['read', '/api/studies', {}], ['read opaquely', '/api/studies', {mode: 'no-cors'}],
    ['delete', '/api/studies/' + study, {method: 'DELETE'}],
    ['post', '/api/studies',
     {method: 'POST', mode: 'no-cors', body: JSON.stringify({study_name: 'x', directions: ['maximize']})}],
  ]) {
    try { const answer = await fetch(target + url, options); results[name] = answer.type + ' ' + await answer.text(); }
    catch (error) { results[name] = 'refused'; }
  }
  return results;
}"""


@pytest.mark.process
@pytest.mark.skipif(not CHROMIUM.exists(), reason="there is no /usr/bin/chromium to attack the dashboard with")
def test_a_page_of_another_origin_can_neither_read_nor_delete(address: str, trials: Trials) -> None:
    playwright = pytest.importorskip("playwright.sync_api")
    (study,) = get(f"{address}/api/studies")["study_summaries"]
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), http.server.SimpleHTTPRequestHandler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    port = address.rpartition(":")[2]
    with playwright.sync_playwright() as started:
        # The third name is the attacker's, which resolves to this machine (DNS rebinding).
        rebound = "--host-resolver-rules=MAP evil.example 127.0.0.1"
        browser = started.chromium.launch(executable_path=str(CHROMIUM), args=[*SWITCHES, rebound])
        page = browser.new_page()
        for origin, target in (
            (f"http://127.0.0.1:{server.server_port}", address),
            (f"http://evil.example:{server.server_port}", address),
            (f"http://evil.example:{port}", f"http://evil.example:{port}"),
        ):
            page.goto(origin)
            found = page.evaluate(ATTACK, [target, study["study_id"]])
            assert not any("nas" in text for text in found.values()), found
        page.goto(f"{address}/dashboard")
        page.get_by_text(re.compile(r"\bnas\b")).first.wait_for(timeout=60_000)
        browser.close()
    server.shutdown()
    server.server_close()
    summaries = get(f"{address}/api/studies")["study_summaries"]
    assert [summary["study_name"] for summary in summaries] == ["nas"]


SCRIPT = "document.title = 'ran'; fetch('/api/studies').then(() => {document.title = 'read'})"
HOSTILE = {
    "page.html": f"<p id=there>x</p><script>{SCRIPT}</script>",
    "drawing.svg": f'<svg xmlns="http://www.w3.org/2000/svg"><title>x</title><script>{SCRIPT}</script></svg>',
    "page.xhtml": f'<html xmlns="http://www.w3.org/1999/xhtml"><body><script>{SCRIPT}</script></body></html>',
    "code.js": "top.document.title = 'ran'",
}


@pytest.mark.process
@pytest.mark.skipif(not CHROMIUM.exists(), reason="there is no /usr/bin/chromium to attack the dashboard with")
def test_what_a_stranger_put_into_a_study_does_not_run(trials: Trials) -> None:
    playwright = pytest.importorskip("playwright.sync_api")
    study = optuna.load_study(study_name="nas", storage="sqlite:///nas-optuna.db")
    store, paths = FileSystemArtifactStore("nas-optuna-files/artifacts"), {}
    for name, text in HOSTILE.items():
        Path(name).write_text(text)
        number = upload_artifact(artifact_store=store, file_path=name, study_or_trial=study)
        paths[name] = f"/artifacts/{study._study_id}/{number}"
    inner = f"<script src='{paths['code.js']}'></script><script>top.document.title = 'ran'</script>"
    save_note(
        study, f'<iframe srcdoc="{inner}"></iframe><iframe src="{paths["page.html"]}"></iframe>\n\nthe **note** is here'
    )
    with serving(Path.cwd()) as address, playwright.sync_playwright() as started:
        browser = started.chromium.launch(executable_path=str(CHROMIUM), args=SWITCHES)
        page = browser.new_page()
        for name in ("page.html", "drawing.svg", "page.xhtml"):
            page.goto(f"{address}{paths[name]}")
            page.wait_for_timeout(500)
            assert page.title() not in ("ran", "read"), name
        page.goto(f"{address}/dashboard/studies/{study._study_id}/note")
        page.get_by_text("is here").first.wait_for(timeout=60_000)
        page.wait_for_timeout(1000)
        assert page.title() not in ("ran", "read")
        browser.close()


@pytest.mark.process
def test_the_optuna_command_lists_the_trials(trials: Trials) -> None:
    optuna = Path(sys.executable).with_name("optuna")
    command = [str(optuna), "trials", "--study-name", "nas", "--storage", "sqlite:///nas-optuna.db"]
    found = subprocess.run([*command, "--format", "json"], capture_output=True, text=True, timeout=100, check=True)
    listed = json.loads(found.stdout)
    assert [row["number"] for row in listed] == [0, 1, 2]
    for row, ours in zip(listed, trials, strict=True):
        assert row["user_attrs"]["nas_optuna:architecture"] == ours["architecture"]
        assert row["value"]["accuracy"] == ours["values"][0]
    assert time.strptime(listed[0]["datetime_start"], "%Y-%m-%d %H:%M:%S")


@pytest.mark.process
def test_a_retraining_is_shown_beside_its_trial(trials: Trials, command: Command) -> None:
    result = command("retrain", "--trial", 1, "--out", "net.safetensors", "--json")
    assert result.code == 0, result.err
    assert command("retrain", "--trial", 1, "--out", "net.safetensors").code == 0, "a second one replaces the files"
    with serving(Path.cwd()) as address:
        (study,) = get(f"{address}/api/studies")["study_summaries"]
        found = get(f"{address}/api/studies/{study['study_id']}?after=0")
        trial = found["trials"][1]
        files = {file["filename"]: file["artifact_id"] for file in trial["artifacts"]}
        assert len(files) == len(trial["artifacts"]) == 3
        assert set(files) == {"drawing.svg", "net.safetensors", "confusion-matrix.svg"}
        where = f"{address}/artifacts/{study['study_id']}/{trial['trial_id']}"
        with urllib.request.urlopen(f"{where}/{files['net.safetensors']}", timeout=30) as answer:
            assert answer.read() == Path("net.safetensors").read_bytes()
        assert f"test accuracy {result.json['mean']:.4f}" in trial["note"]["body"]
        assert f"{result.json['mean']:.4f}" in found["note"]["body"]


def test_a_note_that_a_person_has_changed_is_left_alone(command: Command, trials: Trials) -> None:
    study = optuna.load_study(study_name="nas", storage="sqlite:///nas-optuna.db")
    assert "3 trials" in get_note(study)
    save_note(study, "my own words")
    assert command("run", "--trials", 1).code == 0
    assert get_note(study) == "my own words"


def test_a_deleted_study_leaves_no_artifacts(command: Command, trials: Trials, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = Path("nas-optuna-files/artifacts")
    study = optuna.load_study(study_name="nas", storage="sqlite:///nas-optuna.db")
    upload_artifact(artifact_store=FileSystemArtifactStore(folder), file_path=__file__, study_or_trial=study)
    assert len(list(folder.iterdir())) == 4
    named = Path("named/artifacts")  # of a dashboard that ran beside NAS_OPTUNA_FILES
    named.mkdir(parents=True)
    upload_artifact(artifact_store=FileSystemArtifactStore(named), file_path=__file__, study_or_trial=study)
    monkeypatch.setenv("NAS_OPTUNA_FILES", "named")
    assert command("study", "delete", "nas", "--yes").code == 0
    assert list(folder.iterdir()) == list(named.iterdir()) == []


def test_what_a_copy_of_a_study_lists_is_kept_for_it(command: Command, trials: Trials) -> None:
    folder, url = Path("nas-optuna-files/artifacts"), "sqlite:///nas-optuna.db"
    optuna.copy_study(from_study_name="nas", from_storage=url, to_storage=url, to_study_name="copy")
    assert command("study", "delete", "copy", "--yes", "--json").json["artifacts"] == 0
    assert len(list(folder.iterdir())) == 3
    optuna.copy_study(from_study_name="nas", from_storage=url, to_storage=url, to_study_name="copy")
    study = optuna.load_study(study_name="nas", storage=url)
    replace(study, folder, trial_id_of(study.trials[0]), {DRAWING: b"<svg/>"})
    assert len(list(folder.iterdir())) == 4, "the copy has the earlier drawing"
    assert command("study", "delete", "copy", "--yes").code == 0
    assert command("study", "delete", "nas", "--yes").code == 0
    assert list(folder.iterdir()) == []


def test_a_study_can_be_looked_at_where_no_folder_can_be_made(
    command: Command, study: str, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.rmtree(place / "nas-optuna-files")
    (place / "nas-optuna-files").write_text("")

    def served(*_: object) -> None:
        raise OSError("so far")

    monkeypatch.setattr("nas_optuna.report.dashboard.create_server", served)
    assert "cannot serve on 127.0.0.1:8080 (OSError: so far" in command("dashboard").err
