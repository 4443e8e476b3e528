"""Where workers of this machine keep their images."""

import os
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


RELEASE_0_2 = """
import sys, time, torch
images = torch.from_file(sys.argv[1], shared=False, size=1000, dtype=torch.uint8)
print("mapped", flush=True)
time.sleep(600)
"""


def test_what_release_0_2_left_is_removed_unless_a_process_uses_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    kinds = ("left", "used", "young", "strange")
    folders = {kind: Path(tempfile.mkdtemp(prefix="nas-optuna-")) for kind in kinds}
    for folder in folders.values():
        (folder / "images").write_bytes(bytes(1000))
    (folders["strange"] / "thesis.tex").touch()
    for kind in ("left", "used", "strange"):
        os.utime(folders[kind], (0, 0))
    command = [sys.executable, "-c", RELEASE_0_2, str(folders["used"] / "images")]
    user = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        assert user.stdout is not None
        assert user.stdout.readline() == "mapped\n"
        with scratch_folder():
            assert [kind for kind in kinds if folders[kind].exists()] == ["used", "young", "strange"]
    finally:
        user.kill()
        user.wait()
    with scratch_folder():
        assert not folders["used"].exists()
