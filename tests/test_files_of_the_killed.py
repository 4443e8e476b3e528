"""What processes that were killed leave half-made goes with the next one."""

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from nas_optuna.files import scratch_folder

pytestmark = pytest.mark.process

CODE = """
import sys, time
from pathlib import Path
from nas_optuna.files import scratch_folder
with scratch_folder(Path(sys.argv[1])) as made:
    (made / "images").write_bytes(bytes(1000))
    print(made, flush=True)
    time.sleep(600)
"""


def test_what_a_killed_process_leaves_is_removed_by_the_next(tmp_path: Path) -> None:
    other = subprocess.Popen([sys.executable, "-c", CODE, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    try:
        assert other.stdout is not None
        theirs = Path(other.stdout.readline().strip())
        assert theirs.exists()
        with scratch_folder(tmp_path) as mine:
            assert theirs.exists(), "its process lives"
            assert mine.parent == theirs.parent
            assert mine.name.rpartition("-")[0] == theirs.name.rpartition("-")[0]
        assert not mine.exists()
    finally:
        other.send_signal(signal.SIGKILL)
        other.wait()
    assert theirs.exists()
    with scratch_folder(tmp_path):
        assert not theirs.exists()
    assert not list(tmp_path.iterdir())


def test_folders_of_others_stay(tmp_path: Path) -> None:
    with scratch_folder(tmp_path) as mine:
        prefix = mine.name.rpartition("-")[0]
    for name, made in (
        (f"{prefix}-file", Path.touch),
        (".nas-optuna-other-x", Path.mkdir),
    ):
        made(tmp_path / name)
    (tmp_path / ".nas-optuna-other-x" / "lock").touch()
    with scratch_folder(tmp_path):
        pass
    assert {f"{prefix}-file", ".nas-optuna-other-x"} <= {path.name for path in tmp_path.iterdir()}
