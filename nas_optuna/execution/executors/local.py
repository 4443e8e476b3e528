"""Trials on this machine: in this process or in several, each with its device and share of the CPU."""

from __future__ import annotations

import multiprocessing
import signal
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from multiprocessing import forkserver
from multiprocessing.context import ForkServerContext, SpawnContext

from nas_optuna.devices import free_memory, resolve_device, usable_cores
from nas_optuna.errors import StudyError
from nas_optuna.execution.executors.contract import Executor, Handle, Work, WorkerOptions
from nas_optuna.lazily import lazily
from nas_optuna.quantities import plural

with lazily():
    import torch

    from nas_optuna.execution.events import Callback
    from nas_optuna.execution.executors.processes import run_processes
    from nas_optuna.execution.loop import Outcome, StopRequest, TrialBudget, run
    from nas_optuna.execution.objective import EvaluatorObjective
    from nas_optuna.execution.threads import StepTimes, choose_threads, decided_threads, measure_steps

WORKER_MEMORY = 600_000_000
"""Bytes that a CPU worker takes in addition to the images, measured for small networks: mostly torch itself."""
_IMPORTED = [
    "nas_optuna.execution.executors.processes",
    "nas_optuna.experiment",
    "nas_optuna.study.optuna_internals",
    "torch._dynamo",  # torch imports it, for more than a second, when a process makes its first optimizer
]
_prepared = False


class LocalExecutor(Executor):
    """Runs trials one after another in this process, or in several worker processes, one per named device.

    A worker that dies is started again, and its trial continues from the last epoch that was kept. The images are
    loaded once, here, and all workers use the same memory. On Linux, workers are forked from a process that has already
    imported everything, so they start at once. Elsewhere, and in programs that do not call `preload`, each is a new
    process.

    Every worker imports the program's main module, as always with `multiprocessing`: protect its code with
    ``if __name__ == "__main__":``.

    Examples:
        ::

            executor = LocalExecutor(WorkerOptions(2, device="cpu", threads=1))
            experiment.run(study, trials=20, executor=executor, handle=ExperimentHandle(url, "nas")).trials
    """

    def __init__(self, options: WorkerOptions | None = None) -> None:
        super().__init__(options)
        self._devices: list[str] = []
        self._threads: int | None = None

    def preload(self) -> None:
        """Start the process from which workers are forked, if the system can; it ends with this one."""
        if not self.options.is_one_process:
            preload_workers()

    @contextmanager
    def reached(self, handle: Handle | None) -> Iterator[None]:
        """See `Executor`."""
        for name in self.options.devices:
            resolve_device(name)
        yield

    def prepare(self, objective: EvaluatorObjective) -> Sequence[str]:
        """Decide the devices and the CPU threads; see `Executor`."""
        if self.options.is_one_process:
            said = choose_threads(objective.evaluator, self.options.threads)
            chosen = [f"{said}; use threads (--threads) to change it"] if said else []
            return [*chosen, f"training on {objective.describe_device()}"]
        decided = decided_threads(self.options.threads)
        self._devices, times = _placed(self.options, decided, objective)
        share = times.best(usable_cores()) if times else max(1, usable_cores() // len(self._devices))
        self._threads = share if decided is None else decided
        names = ", ".join(f"{self._devices.count(name)} on {name}" for name in dict.fromkeys(self._devices))
        why = f"; {times}" if times else ""
        workers = plural(len(self._devices), "worker")
        return [f"{workers} with {plural(self._threads, 'CPU thread')} each: {names}{why}"]

    def run(self, work: Work, budget: TrialBudget, *, stop: StopRequest, told: Callback) -> Outcome:
        """See `Executor`."""
        if self.options.is_one_process:
            return run(work.study, work.objective, budget=budget, stop=stop, callbacks=[told])
        if work.handle is None:
            raise StudyError("workers need a study that other processes can open; keep it in a file or a database")
        if self._threads is None:
            self.prepare(work.objective)
        return run_processes(self._devices, self._threads or 1, work, budget, stop=stop, told=told)


def _placed(
    options: WorkerOptions, decided: int | None, objective: EvaluatorObjective
) -> tuple[list[str], StepTimes | None]:
    """The device of each worker, and the step times by which their number was chosen, if it was."""
    if options.devices:
        devices = [str(resolve_device(name)) for name in options.devices]
    elif options.device == "auto" and objective.device.type == "cuda":
        devices = [f"cuda:{index}" for index in range(torch.cuda.device_count())]
    else:
        devices = [str(objective.device)]
    if options.workers is not None:
        return [devices[worker % len(devices)] for worker in range(options.workers)], None
    if not options.auto or devices != ["cpu"]:
        return devices * (options.per_device or 1), None
    times = measure_steps(objective.evaluator) if decided is None else None
    threads = decided or (1 if times is None else times.best(usable_cores()))
    free = free_memory()
    by_memory = usable_cores() if free is None else free // WORKER_MEMORY
    return devices * max(1, min(usable_cores() // threads, by_memory)), times


def preload_workers() -> None:
    """Start the process from which workers are forked; it imports while this one may load images."""
    global _prepared
    if sys.platform != "linux" or sys.version_info < (3, 11, 1):  # older versions open its socket to other users
        return
    multiprocessing.set_forkserver_preload(_IMPORTED)
    with suppress(OSError), without_ctrl_c():  # the path of the temporary folder may be too long for a socket
        forkserver.ensure_running()
        _prepared = True


def worker_context() -> ForkServerContext | SpawnContext:
    """How workers are started."""
    return multiprocessing.get_context("forkserver") if _prepared else multiprocessing.get_context("spawn")


@contextmanager
def without_ctrl_c() -> Iterator[None]:
    """Start processes that see neither Ctrl-C nor the terminal's end, which reach all; this process sees them later."""
    if sys.platform == "win32" or threading.current_thread() is not threading.main_thread():
        yield
        return
    from multiprocessing import resource_tracker  # not on Windows

    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGHUP})
    try:
        resource_tracker.ensure_running()  # otherwise the first process would start it and thereby unblock the signal
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
