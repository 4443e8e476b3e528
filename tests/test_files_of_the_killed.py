"""What processes that were killed leave half-made goes with the next one."""

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from nas_optuna.files import scratch_folder, write_file

pytestmark = pytest.mark.process

BEGINNINGS = {
    "folder": """with scratch_folder(Path(sys.argv[1])) as made:
    (made / "images").write_bytes(bytes(1000))""",
    "file": """with replacing(Path(sys.argv[1]) / "report.html") as made:
    made.write_text("half of the n")""",
}


@pytest.mark.parametrize("kind", BEGINNINGS)
def test_what_a_killed_process_leaves_is_removed_by_the_next(tmp_path: Path, kind: str) -> None:
    code = f"""
import sys, time
from pathlib import Path
from nas_optuna.files import replacing, scratch_folder
{BEGINNINGS[kind]}
    print(made, flush=True)
    time.sleep(600)
"""
    other = subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    try:
        assert other.stdout is not None
        theirs = Path(other.stdout.readline().strip())
        assert theirs.exists()
        with scratch_folder(tmp_path) as mine:
            write_file(tmp_path / "notes.md", "new")
            assert theirs.exists(), "its process lives"
            assert mine.parent == theirs.parent
        assert not mine.exists()
    finally:
        other.send_signal(signal.SIGKILL)
        other.wait()
    assert theirs.exists()
    write_file(tmp_path / "notes.md", "newer")
    assert [path.name for path in tmp_path.iterdir()] == ["notes.md"]
