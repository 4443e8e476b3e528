"""A process that has imported everything, of which workers are copies: they begin in an instant, and share its memory.

It imports while the command that wants workers loads its images. Other systems than Linux cannot be copied so safely;
there, and in programs that use `LocalWorkers` themselves, each worker is a process that is started afresh.
"""

from __future__ import annotations

import multiprocessing
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from multiprocessing import forkserver
from multiprocessing.context import ForkServerContext, SpawnContext

_IMPORTED = [
    "nas_optuna.execution.executors.local",
    "nas_optuna.experiment",
    "nas_optuna.study.optuna_internals",
    "torch._dynamo",  # which torch imports in more than a second when a process makes its first optimizer
]
_prepared = False


def prepare() -> None:
    """Start the process that imports, where that is possible; it ends with this one."""
    global _prepared
    if sys.platform != "linux" or sys.version_info < (3, 11, 1):  # before, its socket was open to other users
        return
    multiprocessing.set_forkserver_preload(_IMPORTED)
    with suppress(OSError), without_ctrl_c():  # the folder for temporary files may have too long a name for a socket
        forkserver.ensure_running()
        _prepared = True


def context() -> ForkServerContext | SpawnContext:
    """How workers are started."""
    return multiprocessing.get_context("forkserver") if _prepared else multiprocessing.get_context("spawn")


@contextmanager
def without_ctrl_c() -> Iterator[None]:
    """A process started within it never sees Ctrl-C, which a terminal sends to all; this one sees it afterwards."""
    if sys.platform == "win32" or threading.current_thread() is not threading.main_thread():
        yield
        return
    from multiprocessing import resource_tracker  # not on Windows

    resource_tracker.ensure_running()  # the first process to start would start it, which lets the signal through again
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
