"""Where workers of this machine keep their images."""

import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from nas_optuna.execution.executors.processes import scratch_folder

pytestmark = pytest.mark.process

CODE = """
import sys, time
from nas_optuna.execution.executors.processes import scratch_folder
with scratch_folder() as folder:
    (folder / "images").write_bytes(bytes(1000))
    print(folder, flush=True)
    time.sleep(600)
"""


def test_what_a_killed_process_leaves_is_removed_by_the_next(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    environment = {"TMPDIR": str(tmp_path), "PYTHONPATH": ":".join(filter(None, sys.path))}
    other = subprocess.Popen([sys.executable, "-c", CODE], stdout=subprocess.PIPE, text=True, env=environment)
    try:
        assert other.stdout is not None
        theirs = Path(other.stdout.readline().strip())
        assert (theirs / "images").is_file()
        with scratch_folder() as mine:
            assert theirs.is_dir(), "its process lives"
            assert mine.parent == theirs.parent
        assert not mine.exists()
    finally:
        other.kill()
        other.wait()
    assert theirs.is_dir()
    with scratch_folder():
        assert not theirs.exists()
