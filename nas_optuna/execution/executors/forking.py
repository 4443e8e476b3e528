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
from contextlib import contextmanager
from multiprocessing import forkserver
from multiprocessing.context import ForkServerContext, SpawnContext

_IMPORTED = ["nas_optuna.execution.executors.local", "nas_optuna.experiment", "nas_optuna.study.optuna_internals"]
_prepared = False


def prepare() -> None:
    """Start the process that imports, where that is possible; it ends with this one."""
    global _prepared
    if sys.platform != "linux":
        return
    multiprocessing.set_forkserver_preload(_IMPORTED)
    with without_ctrl_c():
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
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
