"""Workers that are processes of this machine, each with its device and its share of the CPU."""

from __future__ import annotations

import multiprocessing
import pickle
import signal
import tempfile
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.context import ForkServerProcess, SpawnProcess
from pathlib import Path

from nas_optuna.data.sharing import map_images
from nas_optuna.errors import StudyError
from nas_optuna.execution.events import Callback
from nas_optuna.execution.executors.contract import Budget, Handle, Work
from nas_optuna.execution.executors.crew import Crew, Hand
from nas_optuna.execution.executors.forking import context, without_ctrl_c
from nas_optuna.execution.executors.worker import Message, Place, work
from nas_optuna.execution.loop import Outcome, StopRequest, interruptible
from nas_optuna.study import optuna_internals

GRACE = 10.0
"""Seconds that a worker has to end at once, before it is killed."""
_PAUSE = 0.2
"""Seconds between two looks at whether somebody asked to stop."""


class LocalWorkers:
    """Runs trials in processes of their own, one per device named; see `forking` for how they begin.

    A worker that dies is started again, and its trial goes on from the last epoch that was kept. The images are loaded
    once, here, and all workers use the same memory.

    The main module of a program that uses this is imported by every worker, as always with `multiprocessing`: begin it
    with ``if __name__ == "__main__":``.

    Args:
        devices: Where each worker trains, e.g. ``["cuda:0", "cuda:1"]`` or ``["cpu"] * 4``.
        threads: CPU threads of each worker.

    Example:
        ::

            executor = LocalWorkers(["cpu"] * 2, threads=1)
            experiment.run(study, trials=20, executor=executor, handle=ExperimentHandle(url, "nas")).trials
    """

    def __init__(self, devices: Sequence[str], threads: int) -> None:
        self.devices = tuple(devices)
        self.threads = threads

    def run(self, work: Work, budget: Budget, *, stop: StopRequest, told: Callback) -> Outcome:
        """See `Executor`.

        Raises:
            StudyError: The study lives in the memory of this process, or workers die again and again.
        """
        handle = work.handle
        if handle is None:
            raise StudyError("workers need a study that other processes can open; keep it in a file or a database")
        with (
            tempfile.TemporaryDirectory(prefix="nas-optuna-") as folder,
            stop.guarding(),
            optuna_internals.stoppable(work.study) as stopped,
        ):
            if work.data is not None:
                handle = handle.with_images(map_images(work.data, Path(folder)))
            processes = _Processes(handle, Crew(work, budget, told, stopped), self._places(budget))
            try:
                processes.run(stop)
            finally:
                processes.end()
            return processes.crew.outcome(stop.asked)

    def _places(self, budget: Budget) -> list[Place]:
        return [Place(n, device, self.threads, budget.total) for n, device in enumerate(self.devices, start=1)]


@dataclass
class _Worker:
    """One process."""

    place: Place
    hand: Hand
    process: ForkServerProcess | SpawnProcess
    line: Connection


class _Processes:
    """The processes of one run."""

    def __init__(self, handle: Handle, crew: Crew, places: Sequence[Place]) -> None:
        self.crew = crew
        self._context = context()
        self._handle = pickle.dumps(handle)  # not by multiprocessing's own way, which moves tensors to other memory
        self._signals = 0
        self._kill_at = float("inf")
        self._workers: list[_Worker] = []
        for place in places:
            self._workers.append(self._start(place, Hand(place.number, "")))

    def run(self, stop: StopRequest) -> None:
        """Serve the workers until all have ended, or should have."""
        while self._workers and time.monotonic() < self._kill_at:
            lines = {worker.line: worker for worker in self._workers}
            ended = {worker.process.sentinel: worker for worker in self._workers}
            found = wait([*lines, *ended], timeout=_PAUSE)
            for thing in found:
                if thing in lines:
                    self._serve(lines[thing])
            for thing in found:
                if thing in ended:
                    self._bury(ended[thing])
            self._pass_on(stop)

    def end(self) -> None:
        """Leave no process behind, however the run has ended."""
        for worker in self._workers:
            worker.process.terminate()
        deadline = min(self._kill_at, time.monotonic() + GRACE)
        for worker in self._workers:
            worker.process.join(max(0.0, deadline - time.monotonic()))
            worker.process.kill()
            worker.process.join()
        for worker in list(self._workers):
            self._forget(worker, "was ended", wanted=True)

    def _start(self, place: Place, hand: Hand) -> _Worker:
        here, there = self._context.Pipe()
        process = self._context.Process(
            target=_main, args=(self._handle, place, there), name=f"nas-optuna worker {place.number}"
        )
        with without_ctrl_c():
            process.start()
        there.close()
        hand.name = f"worker {place.number} (process {process.pid})"
        return _Worker(place, hand, process, here)

    def _serve(self, worker: _Worker) -> None:
        """Take all that a worker has sent, and answer it."""
        with suppress(EOFError, ConnectionError):
            while worker.line.poll():
                message: Message | None = worker.line.recv()
                if message is None:
                    worker.line.send(self.crew.allotment.ask(worker.hand.number))
                else:
                    self.crew.hear(worker.hand, message)
            return
        worker.process.join(_PAUSE)  # the line is closed, so that the process is about to end

    def _bury(self, worker: _Worker) -> None:
        self._serve(worker)
        worker.process.join()
        if self._forget(worker, _how(worker.process.exitcode), wanted=self._signals > 0):
            self._workers.append(self._start(worker.place, worker.hand))

    def _forget(self, worker: _Worker, how: str, *, wanted: bool) -> bool:
        self._workers.remove(worker)
        worker.line.close()
        return self.crew.lose(worker.hand, how, wanted=wanted)

    def _pass_on(self, stop: StopRequest) -> None:
        """Ask the workers to stop as often as this process was asked, and where one of them has failed."""
        asked = 2 if stop.insisted else 1 if stop.asked or self.crew.error is not None else 0
        while self._signals < asked:
            self._signals += 1
            if self._signals == 2:
                self._kill_at = time.monotonic() + GRACE
            self.crew.allotment.close()
            for worker in self._workers:
                worker.process.terminate()


def _how(code: int | None) -> str:
    """How a process ended, for a person."""
    if code is not None and code < 0:
        with suppress(ValueError):
            return f"was killed by {signal.Signals(-code).name}"
    return f"ended with the exit code {code}"


class _Pipe:
    """A worker's end of its line."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._lock = threading.Lock()  # a log line may come from another thread

    def tell(self, message: Message) -> None:
        """See `Line`."""
        with self._lock:
            self._connection.send(message)

    def may_begin(self) -> bool:
        """See `Line`."""
        with self._lock:
            self._connection.send(None)
            return bool(self._connection.recv())


def _main(handle: bytes, place: Place, connection: Connection) -> None:
    """What a worker's process does."""
    stop = StopRequest()
    threading.Thread(target=_stop_without_parent, args=(stop,), daemon=True).start()
    with interruptible(stop):
        work(pickle.loads(handle), place, _Pipe(connection), stop)


def _stop_without_parent(stop: StopRequest) -> None:
    """Stop at the next step where the process that shows and counts is gone: the trial goes back into the queue."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        stop.asked = True
