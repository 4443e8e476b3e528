"""Workers as copies of a process that has imported everything."""

import subprocess
import sys

import pytest

pytestmark = pytest.mark.process

CODE = """
import sys
from nas_optuna.execution.executors import local

def seen(pipe):
    import os, signal
    masked = {signal.SIGINT, signal.SIGHUP} <= signal.pthread_sigmask(signal.SIG_BLOCK, set())
    pipe.send(("torch" in sys.modules, masked, os.getppid()))

if __name__ == "__main__":
    found = []
    for _ in range(2):
        here, there = local.worker_context().Pipe()
        process = local.worker_context().Process(target=seen, args=(there,))
        with local.without_ctrl_c():
            process.start()
        found.append(here.recv())
        process.join()
        local.preload_workers()
        assert "torch" not in sys.modules, "this process waits for no import"
    print(*found)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="other systems start workers afresh")
def test_a_worker_finds_everything_imported_and_sees_neither_ctrl_c_nor_a_closed_terminal(tmp_path: object) -> None:
    file = f"{tmp_path}/program.py"
    with open(file, "w") as program:
        program.write(CODE)
    found = subprocess.run([sys.executable, file], capture_output=True, text=True, timeout=120, check=False)
    assert found.returncode == 0, found.stderr
    afresh, copied = found.stdout.strip()[1:-1].split(") (")
    assert afresh.startswith("False, True"), "not the first, either"
    assert copied.startswith("True, True")
    assert afresh.split()[-1] != copied.split()[-1], "its parent is the process that imports"
