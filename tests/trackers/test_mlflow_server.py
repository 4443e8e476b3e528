"""A tracking server of MLflow's over HTTP: what a run prints, and what becomes of it where the server goes away."""

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from tests.helpers import Command, tiny


class Server(ThreadingHTTPServer):
    """Answers what our tracker asks of MLflow's REST interface, until it has answered so many requests."""

    def __init__(self, folder: Path, answers: int | None = None) -> None:
        self.folder, self.left = folder, answers
        self.runs: dict[str, dict[str, Any]] = {}
        self.logged: list[dict[str, Any]] = []
        super().__init__(("127.0.0.1", 0), Handler)

    def answer(self, what: str, asked: dict[str, Any]) -> dict[str, Any] | None:
        """None for what is not there."""
        if what == "experiments/create":
            return {"experiment_id": "1"}
        if what == "runs/create":
            number = str(len(self.runs))
            info = {"run_id": number, "run_name": asked["run_name"], "experiment_id": "1", "status": "RUNNING"}
            self.runs[number] = info | {"artifact_uri": str(self.folder / number)}
            return {"run": {"info": self.runs[number], "data": {}}}
        if what == "runs/get":
            return {"run": {"info": self.runs[asked["run_id"]], "data": {}}}
        if what == "runs/update":
            self.runs[asked["run_id"]]["status"] = asked["status"]
            return {"run_info": self.runs[asked["run_id"]]}
        if what in ("runs/set-tag", "runs/log-metric", "runs/log-batch"):
            self.logged.append(asked)
            return {}
        return None


class Handler(BaseHTTPRequestHandler):
    def answer(self) -> None:
        server = self.server
        assert isinstance(server, Server)
        if server.left is not None:
            server.left -= 1
        if server.left is not None and server.left < 0:
            self.close_connection = True  # as a server that was killed
            return
        path, _, query = self.path.partition("?")
        asked = dict(pair.split("=", 1) for pair in query.split("&") if pair)
        if length := int(self.headers.get("Content-Length", 0)):
            asked |= json.loads(self.rfile.read(length))
        found = {} if path == "/health" else server.answer(path.partition("/mlflow/")[2], asked)
        body = json.dumps({"error_code": "RESOURCE_DOES_NOT_EXIST"} if found is None else found).encode()
        self.send_response(404 if found is None else 200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    do_GET = do_POST = do_PATCH = answer  # noqa: N815

    def log_message(self, format: str, *args: object) -> None:
        pass


@contextmanager
def serving(folder: Path, answers: int | None = None) -> Iterator[tuple[Server, str]]:
    server = Server(folder, answers)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    try:
        yield server, f"mlflow:http://me:hunter2@127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()


def test_what_a_run_prints_is_ours_alone(place: Path, command: Command) -> None:
    with serving(place) as (server, where):
        done = command("run", "--sampler", "random", "--trials", 2, "--json", *tiny(), "--track", where)
    assert done.code == 0, done.err
    assert len(done.json) == 2, "no line of MLflow's is among the JSON"
    assert {run["run_name"]: run["status"] for run in server.runs.values()} == {
        "nas search": "FINISHED",
        "trial 0": "FINISHED",
        "trial 1": "FINISHED",
    }
    named = {metric["key"] for asked in server.logged for metric in asked.get("metrics", ())}
    assert {"final.accuracy", "final.macs", "final.params"} <= named
    assert "hunter2" not in done.out + done.err


@pytest.mark.parametrize("answers", [3, 8, 12])
def test_a_server_that_dies_ends_no_run_and_is_said_once(
    place: Path, command: Command, caplog: pytest.LogCaptureFixture, answers: int
) -> None:
    with serving(place, answers) as (_, where):
        done = command("run", "--sampler", "random", "--trials", 2, "--json", *tiny(), "--track", where)
    assert (done.code, len(done.json)) == (0, 2), done.err
    said = [record.getMessage() for record in caplog.records if record.name.startswith("nas_optuna")]
    assert sum("MlflowTracker is told nothing more" in line for line in said) == 1
    assert "hunter2" not in done.out + done.err + caplog.text
