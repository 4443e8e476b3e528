"""Which process runs a trial: told apart everywhere, and dead only where that is certain."""

import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from nas_optuna.study import lease_table
from nas_optuna.study.lease_table import Worker


def here() -> Worker:
    worker = Worker.parse(lease_table.this_worker())
    assert worker is not None
    return worker


def test_a_worker_is_read_as_it_was_written() -> None:
    assert str(here()) == lease_table.this_worker()
    assert here().process == os.getpid()
    assert Worker.parse("host/boot/n/12/345") == Worker("host", "boot", "n", 12, "345")
    for text in (None, 3, "", "somebody", "a/b/1/d", "a/b/c/d/e", "a/b/c/1/f/g", "a/b/c/d/1/f/g"):
        assert Worker.parse(text) is None


def test_a_lease_that_names_the_machine_is_read_so_that_a_killed_worker_of_an_earlier_version_is_known_dead() -> None:
    assert Worker.parse("host/machine/boot/n/12/345") == Worker("host", "boot", "n", 12, "345")
    host, rest = lease_table.this_worker().split("/", 1)
    alive = Worker.parse(f"{host}/machine/{rest}")
    assert alive == here()
    assert not alive.is_gone()
    assert replace(alive, process=999_999_999).is_gone()


def test_what_cannot_be_known_dead_is_alive() -> None:
    me = here()
    alive = {
        "this very process": me,
        "another PID namespace of this boot": replace(me, namespace="4026532000", process=999_999_999),
        "another host of the same name, or this one before it rebooted": replace(me, boot="b", process=999_999_999),
    }
    for who, worker in alive.items():
        assert not worker.is_gone(), who
    dead = {
        "ended": replace(me, process=999_999_999),
        "its number was given to this one": replace(me, started="1"),
    }
    for who, worker in dead.items():
        assert worker.is_gone(), who


def test_a_process_that_nobody_has_waited_for_is_dead() -> None:
    process = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    started = lease_table._start_time(process.pid)
    assert started
    worker = replace(here(), process=process.pid, started=started)
    assert not worker.is_gone()
    process.send_signal(signal.SIGKILL)
    os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
    assert worker.is_gone(), "a zombie"
    process.wait()
    assert worker.is_gone()


def test_a_fork_is_another_worker() -> None:
    reading, writing = os.pipe()
    child = os.fork()
    if not child:
        os.write(writing, lease_table.this_worker().encode())
        os._exit(0)
    os.waitpid(child, 0)
    text = os.read(reading, 1000).decode()
    assert text != lease_table.this_worker()
    worker = Worker.parse(text)
    assert worker is not None
    assert worker.process == child


@pytest.mark.parametrize("hidden", ["its entry", "all of /proc"])
def test_a_live_process_without_an_entry_in_proc_is_alive(monkeypatch: pytest.MonkeyPatch, hidden: str) -> None:
    """As with ``hidepid``, in some sandboxes, or where the folder shows another namespace."""
    process = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    worker = replace(here(), process=process.pid, started=lease_table._start_time(process.pid))
    real = Path.read_text

    def read_text(self: Path, *arguments: object, **options: object) -> str:
        if str(self).startswith(f"/proc/{process.pid}/" if hidden == "its entry" else "/proc/"):
            raise FileNotFoundError(2, "No such file or directory", str(self))
        return real(self, *arguments, **options)  # type: ignore[arg-type]

    try:
        with monkeypatch.context() as patch:
            patch.setattr(Path, "read_text", read_text)
            assert not worker.is_gone()
    finally:
        process.kill()
        process.wait()
    assert worker.is_gone()
