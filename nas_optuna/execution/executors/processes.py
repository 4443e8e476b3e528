"""Workers that are processes of this machine."""

from __future__ import annotations

import multiprocessing
import pickle
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from multiprocessing.connection import Connection, wait
from pathlib import Path

from nas_optuna.data.search_data import map_images
from nas_optuna.execution.events import Callback
from nas_optuna.execution.executors.contract import Handle, Work
from nas_optuna.execution.executors.local import without_ctrl_c, worker_context
from nas_optuna.execution.executors.pool import (
    GRACE,
    PAUSE,
    Message,
    WorkerPool,
    WorkerSpec,
    WorkerState,
    run_worker,
)
from nas_optuna.execution.loop import Outcome, StopRequest, TrialBudget, interruptible
from nas_optuna.files import scratch_folder
from nas_optuna.masking import mask_stream


def run_processes(
    devices: Sequence[str], threads: int, work: Work, budget: TrialBudget, *, stop: StopRequest, told: Callback
) -> Outcome:
    """Run trials in processes, one for each device; see `Executor.run`."""
    handle = work.handle
    assert handle is not None
    with scratch_folder(Path(tempfile.gettempdir())) as folder:
        if work.data is not None:
            handle = replace(handle, images=map_images(work.data, folder))
        return _ProcessPool(handle, work, budget, told).run(devices, threads, stop)


class _ProcessPool(WorkerPool):
    def __init__(self, handle: Handle, work: Work, budget: TrialBudget, told: Callback) -> None:
        super().__init__(work, budget, told)
        self._context = worker_context()
        self._handle = pickle.dumps(handle)  # multiprocessing's own pickler would move tensors to other memory

    def start(self, spec: WorkerSpec, deaths: int = 0) -> WorkerState:
        here, there = self._context.Pipe()
        process = self._context.Process(
            target=_main, args=(self._handle, spec, there), name=f"nas-optuna worker {spec.number}"
        )
        with without_ctrl_c():
            process.start()
        there.close()
        name = f"worker {spec.number} (process {process.pid})"
        return WorkerState(spec, name, process, here, deaths=deaths)

    def serve(self) -> None:
        found = wait([t for w in self.workers for t in (w.messages, w.process.sentinel)], timeout=PAUSE)
        for worker in list(self.workers):
            has_ended = worker.process.sentinel in found
            if has_ended or worker.messages in found:
                self._receive(worker)
            if has_ended:
                worker.process.join()
                worker.messages.close()
                self.reap(worker, _how(worker.process.exitcode))

    def interrupt(self, worker: WorkerState) -> None:
        worker.process.terminate()

    def end(self) -> None:
        for worker in self.workers:
            worker.process.terminate()
        deadline = min(self.deadline, time.monotonic() + GRACE)
        for worker in self.workers:
            worker.process.join(max(0.0, deadline - time.monotonic()))
            worker.process.kill()
            worker.process.join()
        for worker in list(self.workers):
            worker.messages.close()
            self.reap(worker, "was ended")

    def _receive(self, worker: WorkerState) -> None:
        """Receive and answer a worker's messages."""
        while True:
            try:
                if not worker.messages.poll():
                    return
                message = worker.messages.recv()
            except (EOFError, ConnectionError):
                worker.process.join(PAUSE)  # the connection is closed, so the process is about to end
                return
            answer = self.handle(worker, message)
            if answer is not None:
                with suppress(ConnectionError):  # which the next turn finds closed
                    worker.messages.send(answer)


def _how(code: int | None) -> str:
    """How a process ended, for a person."""
    if code is not None and code < 0:
        with suppress(ValueError):
            return f"was killed by {signal.Signals(-code).name}"
    return f"ended with the exit code {code}"


def _main(handle: bytes, spec: WorkerSpec, connection: Connection) -> None:
    """The main function of a worker's process."""
    sys.stdout = sys.stderr  # standard output is reserved for the facts of the command that may have started it
    if sys.stderr is not None:  # it was closed
        mask_stream(sys.stderr, forgives=True)
    stop, lock = StopRequest(), threading.Lock()

    def tell(message: Message) -> bool:
        try:
            with lock:  # a log line may come from another thread
                connection.send(message)
                return message.kind == "ask" and bool(connection.recv())
        except (EOFError, ConnectionError) as error:  # the executor is gone, which no code of a user's is to handle
            raise KeyboardInterrupt from error

    threading.Thread(target=_stop_without_parent, args=(stop,), daemon=True).start()
    with interruptible(stop):
        run_worker(pickle.loads(handle), spec, tell, stop)


def _stop_without_parent(stop: StopRequest) -> None:
    """Stop at the next step if the parent process is gone, so that the trial goes back into the queue."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        stop.asked = True
