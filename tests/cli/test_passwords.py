"""No stream, file or log of a run shows a password of any URL that it was given."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.helpers import tiny
from tests.processes import Server

SECRET = "hunter2"


def with_password(url: str) -> str:
    """The URL of a server that lets everybody in, with a password all the same."""
    return url.replace("postgres:@", f"postgres:{SECRET}%40x@", 1)


def run(*words: str, **environment: str) -> str:
    """What a command says on both streams."""
    command = [sys.executable, "-m", "nas_optuna", *words]
    ended = subprocess.run(command, env=os.environ | environment, capture_output=True, text=True, check=False)
    return f"{ended.stdout}{ended.stderr}"


def files(folder: Path) -> str:
    """What lies in a folder, as far as it is text."""
    found = (path for path in folder.rglob("*") if path.is_file())
    return "\n".join(f"{path}\n{path.read_bytes().decode(errors='replace')}" for path in found)


@pytest.mark.process
def test_a_run_with_seven_urls_shows_none_of_their_passwords(postgresql: Server, place: Path) -> None:
    storage = with_password(postgresql.fresh())
    assert SECRET in storage
    said = run("study", "create", "old", "--storage", storage, *tiny())
    said += run("run", "--study", "old", "--trials", "2", "--storage", storage)
    assert "2 complete" in said
    urls = (
        *("--storage", storage),
        *("--learn-from", f"old@{storage}&sslpassword={SECRET}"),
        *("--track", f"mlflow:http://me:{SECRET}@127.0.0.1:9/"),
        *("--track", f"mlflow:http://127.0.0.1:9/?token={SECRET}"),
        *("--set", f"latency.table=https://{SECRET}@127.0.0.1:9/table.json"),
    )
    said += run("run", "--study", "new", "--trials", "1", *urls, *tiny(), MLFLOW_HTTP_REQUEST_MAX_RETRIES="0")
    said += run(
        *("run", "--trials", "1", "--executor", "ray"),
        NAS_OPTUNA_STORAGE=storage,
        RAY_ADDRESS=f"ray://me:{SECRET}@127.0.0.1:9",
    )
    said += run("run", "--trials", "1", "--files", f"s3://me:{SECRET}@bucket/x", *tiny())
    said += run("best", "--json", NAS_OPTUNA_STORAGE=f"nosuch://me:{SECRET}@127.0.0.1/x?password={SECRET}")
    said += run("study", "list", "--json", "--storage", f"postgresql+psycopg://me:{SECRET}@127.0.0.1:9/x")
    said += run("report", "--study", "old", "--storage", storage)
    assert "error: " in said
    assert SECRET not in said, [line for line in said.splitlines() if SECRET in line]
    assert SECRET not in files(place)


@pytest.mark.process
def test_the_line_to_continue_hides_passwords(place: Path) -> None:
    script = f"""
import os, signal, sys
from nas_optuna.cli import main
from nas_optuna.execution import loop
loop.StopRequest.__call__ = lambda self: True
loop._Run._run_trial = lambda self: os.kill(os.getpid(), signal.SIGINT) or True
sys.exit(main(["run", "--trials", "3", "--track", "tensorboard:http://me:{SECRET}@x", *{tiny()!r}]))
"""
    ended = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    (line,) = [line for line in ended.stderr.splitlines() if "Continue: nas-optuna run --trials 3 " in line]
    assert "--track 'tensorboard:http://me:***@x'" in line
    assert SECRET not in ended.stdout + ended.stderr
