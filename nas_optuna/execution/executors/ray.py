"""Workers on a Ray cluster: actors that run our loop on the study's storage.

Ray only decides where a worker runs and knows whether its node is alive; who runs which trial is decided by the study's
database, as everywhere. Ray Tune is not used, because it runs Optuna's samplers without its pruners.
"""

from __future__ import annotations

import logging
import os
import queue
import secrets
import socket
import sys
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import torch

from nas_optuna.data import SearchData
from nas_optuna.data.search_data import with_pixels, without_pixels
from nas_optuna.errors import SpecError, StudyError, printable, shortened, shown
from nas_optuna.execution.events import Callback
from nas_optuna.execution.executors.contract import Executor, Handle, Work, WorkerOptions
from nas_optuna.execution.executors.pool import (
    PAUSE,
    Message,
    WorkerPool,
    WorkerSpec,
    WorkerState,
    run_worker,
)
from nas_optuna.execution.loop import Outcome, StopRequest, TrialBudget
from nas_optuna.masking import mask_stream, mask_urls
from nas_optuna.quantities import plural
from nas_optuna.study.lease_table import Worker
from nas_optuna.study.storage import sqlite_file

if TYPE_CHECKING:
    from types import ModuleType

logger = logging.getLogger(__name__)

_LONG = 20.0
"""Seconds after which a line says that Ray has found no room for some workers."""
_SHARE_FILES = "name one that all hosts share (--files DIR; in Python checkpoints and files_are_shared of the handle)"
"""The remedy if the workers share no folder."""


@contextmanager
def connected(address: str | None = None) -> Iterator[ModuleType]:
    """Connect this process to a Ray cluster."""
    named = (os.environ.get("RAY_ADDRESS") or address) if address in (None, "auto") else address
    if named not in (None, "auto") and _token_is_given():
        os.environ.setdefault("RAY_AUTH_MODE", "token")  # Ray reads it when it is imported
    try:
        import ray
    except ImportError:
        raise SpecError("executor ray needs Ray; pip install 'nas-optuna[ray]'") from None
    if ray.is_initialized():
        yield ray
        return
    _require_no_password(sys.orig_argv)
    place = _place(named)
    if place is None:
        logger.warning("starting a Ray cluster on this host")
        if not _token_is_given():  # Ray would write one to a file that every user of the host can read
            os.environ["RAY_AUTH_TOKEN"] = secrets.token_hex(32)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the error says the same
            ray.init(address=named if place else "local", log_to_driver=False, logging_level=logging.ERROR)
    except (ConnectionError, ValueError, RuntimeError, OSError, TimeoutError) as error:
        reason = shortened(printable(str(error)), 200)
        raise StudyError(
            f"no Ray cluster answers at {place or 'this host'} ({reason}); one that wants a token answers where"
            " RAY_AUTH_TOKEN, RAY_AUTH_TOKEN_PATH or ~/.ray/auth_token has it"
        ) from None
    try:
        yield ray
    finally:
        ray.shutdown()


def _require_no_password(command: Sequence[str]) -> None:
    """Refuse to connect if the URL in a word of this process's command has a password."""
    for word in command:
        if "//" in word and mask_urls(word) != word:
            raise SpecError(
                f"Ray would show {shown(word)} with its password to everybody on the cluster, as part of this command;"
                " name the database in NAS_OPTUNA_STORAGE and the cluster in RAY_ADDRESS, and leave a password of"
                " --learn-from or --track to a file such as ~/.pgpass, or to the tracker's own variables"
                " (MLFLOW_TRACKING_PASSWORD)"
            )


def _place(named: str | None) -> str | None:
    """The address of a cluster that answers; None to start one, StudyError if one was named."""
    # Ray remembers the last cluster of a host even after it has ended, and waits minutes for one that does not listen.
    if named == "local":
        return None
    place = None if named == "auto" else named
    try:
        place = place or remembered(named)
        if place is not None:
            logger.warning("connecting to the Ray cluster at %s", place)
            address = urlsplit(place if "//" in place else f"//{place}")
            if address.hostname and address.port:
                socket.create_connection((address.hostname, address.port), timeout=_LONG).close()
        return place
    except (OSError, ValueError) as error:  # or Ray remembers none, or no valid address
        said = f"no Ray cluster answers at {place or 'this host'} ({shortened(printable(str(error)), 200)})"
    if named is not None:
        raise StudyError(f"{said}; --ray-address (address) names another, and ray start --head starts one")
    logger.warning("%s", said)
    return None


def remembered(named: str | None) -> str | None:
    """The address that Ray would connect to, given None or ``"auto"``; None if it would start a cluster."""
    from ray._private.services import canonicalize_bootstrap_address  # as ray.init does; there is no public function

    return canonicalize_bootstrap_address(named)  # type: ignore[arg-type] # ray.init passes None, too


def _token_is_given() -> bool:
    file = os.environ.get("RAY_AUTH_TOKEN_PATH") or Path.home() / ".ray" / "auth_token"
    return "RAY_AUTH_TOKEN" in os.environ or Path(file).is_file()


class RayExecutor(Executor):
    """Runs trials in actors of a Ray cluster whose nodes have this package installed.

    A worker that dies, alone or with its node, is started again where Ray finds room, and its trial is put back at
    once. The images are put into Ray's object store once.

    Args:
        options: Without a number of workers there are as many as the cluster has room for. Their threads are reserved.
        gpus: GPUs reserved for each worker; a fraction shares one.
        address: The address of the cluster; ``"auto"`` or None uses the one that runs here, or starts one.

    Raises:
        SpecError: Devices are named, although Ray chooses them.

    Examples:
        ::

            executor = RayExecutor(WorkerOptions(32), gpus=0.5)
            experiment.run(study, trials=1000, executor=executor, handle=ExperimentHandle(url, "nas"))
    """

    def __init__(self, options: WorkerOptions | None = None, *, gpus: float = 0.0, address: str | None = None) -> None:
        super().__init__(options)
        if self.options.devices or self.options.per_device is not None:
            raise SpecError("Ray chooses the devices; give --workers (workers) and --gpus-per-worker (gpus)")
        if not 0 <= gpus < 1000:
            raise SpecError(f"--gpus-per-worker (gpus) must be at least 0, got {gpus:g}")
        self.gpus = gpus
        self.address = address
        self.threads = self.options.threads or 1

    @contextmanager
    def reached(self, handle: Handle | None) -> Iterator[tuple[ModuleType, Handle]]:
        """Connect to the cluster; yield ``ray``, and the handle restricted to what all of its hosts can reach."""
        if handle is None:
            raise StudyError("workers need a study that other processes can open; keep it in a database")
        with connected(self.address) as ray:
            hosts = {node["NodeManagerHostname"] for node in ray.nodes() if node["Alive"]}
            yield ray, reachable(handle, hosts <= {socket.gethostname()})

    def run(self, work: Work, budget: TrialBudget, *, stop: StopRequest, told: Callback) -> Outcome:
        """See `Executor`."""
        with self.reached(work.handle) as (ray, handle):
            if handle is not work.handle:
                logger.warning(
                    "a trial whose node dies begins anew, because no folder of files is shared; %s", _SHARE_FILES
                )
            workers = self.options.workers or room(ray.cluster_resources(), self.threads, self.gpus)
            logger.warning("%s with %d CPU and %g GPU each", plural(workers, "Ray worker"), self.threads, self.gpus)
            if work.data is not None:
                handle = replace(handle, images=stored_images(ray, work.data))
            pool = _ActorPool(ray, handle, work, budget, told, num_cpus=self.threads, num_gpus=self.gpus)
            return pool.run([self.options.device] * workers, self.threads, stop)


def reachable(handle: Handle, one_host: bool) -> Handle:
    """The handle restricted to what all hosts can reach; a `StudyError` if the study is a file of this host."""
    if one_host:
        return handle
    if sqlite_file(handle.storage):
        raise StudyError(
            "SQLite is a file of this host, and the Ray cluster has other hosts; keep the study in a database"
            " server, e.g. NAS_OPTUNA_STORAGE=postgresql+psycopg://USER:PASSWORD@HOST/DATABASE"
        )
    if handle.files_are_shared:
        return handle
    if handle.keep_weights:
        raise StudyError(f"weights are to be kept, and the workers share no folder; {_SHARE_FILES}")
    return replace(handle, checkpoints=None)


def stored_images(ray: ModuleType, data: SearchData) -> Callable[[], SearchData]:
    """Put the pixels of search data into Ray's object store; the result returns the data in any process."""
    arrays = tuple(part.images.contiguous().numpy() for part in (data.train, data.validation))
    return partial(_from_store, ray.put(arrays), without_pixels(data))


def _from_store(pixels: Any, rest: SearchData) -> SearchData:
    import ray

    train, validation = ray.get(pixels)
    with warnings.catch_warnings():
        # The store's memory is read-only, and nobody writes to it.
        warnings.filterwarnings("ignore", message=".*not writable.*")
        return with_pixels(rest, (torch.from_numpy(train), torch.from_numpy(validation)))


class _Actor:
    """A worker in a process of Ray's. Each of its methods is called in its own thread."""

    def __init__(self) -> None:
        self._stop = StopRequest()
        self._answers: queue.Queue[bool] = queue.Queue()
        self._messages: queue.Queue[Message] = queue.Queue()
        for stream in (sys.stdout, sys.stderr):  # files of Ray's
            mask_stream(stream, forgives=True)

    def work(self, handle: Handle, spec: WorkerSpec) -> None:
        """Run trials until there are no more."""
        try:
            run_worker(handle, spec, self._tell, self._stop)
        finally:
            self._messages.put(Message("done"))

    def listen(self) -> list[Message]:
        """Wait for the next messages."""
        said = [self._messages.get()]
        while not self._messages.empty():
            said.append(self._messages.get())
        return said

    def _tell(self, message: Message) -> bool:
        self._messages.put(message)
        return message.kind == "ask" and self._answers.get()

    def answer(self, leave: bool) -> None:
        """Answer a request for permission."""
        self._answers.put(leave)

    def stop(self) -> None:
        """End after the current step."""
        self._stop.asked = True


class _ActorPool(WorkerPool):
    """Actors, each with so many `resources`."""

    grace = 0.0  # since a node may be gone

    def __init__(
        self, ray: ModuleType, handle: Handle, work: Work, budget: TrialBudget, told: Callback, **resources: float
    ) -> None:
        super().__init__(work, budget, told)
        self._ray = ray
        self._handle = handle
        self._class = ray.remote(_Actor).options(max_concurrency=3, max_restarts=0, **resources)
        self._started, self._warned = time.monotonic(), False

    def start(self, spec: WorkerSpec, deaths: int = 0) -> WorkerState:
        actor = self._class.remote()
        actor.work.remote(self._handle, spec)
        name = f"worker {spec.number}"
        return WorkerState(spec, name, actor, actor.listen.remote(), deaths=deaths)

    def is_over(self) -> bool:
        """Whether no worker is left; those for which Ray has found no room do not count."""
        at_work = any(worker.owner for worker in self.workers)
        return not at_work and not (self.workers and self.budget.is_open)

    def serve(self) -> None:
        ready, _ = self._ray.wait([worker.messages for worker in self.workers], num_returns=1, timeout=PAUSE)
        for worker in [worker for worker in self.workers if worker.messages in ready]:
            self._receive(worker)
        waiting = sum(worker.owner is None for worker in self.workers)
        if not self._warned and waiting and time.monotonic() - self._started > _LONG:
            self._warned = True
            logger.warning("Ray has not found room for %d of the workers yet; the others go on", waiting)

    def interrupt(self, worker: WorkerState) -> None:
        worker.process.stop.remote()

    def end(self) -> None:
        for worker in list(self.workers):
            self._ray.kill(worker.process)
            self.reap(worker, "was ended")

    def _receive(self, worker: WorkerState) -> None:
        """Receive and answer a worker's messages."""
        try:
            messages: list[Message] = self._ray.get(worker.messages)
        except self._ray.exceptions.RayError as error:
            self.reap(worker, "was lost", by_trial="worker process has died" in str(error))  # rather than its node
            return
        for message in messages:
            answer = self.handle(worker, message)
            if answer is not None:
                worker.process.answer.remote(answer)
        if worker.owner is not None and (found := Worker.parse(worker.owner)):
            worker.name = f"worker {worker.spec.number} ({found.host}, process {found.process})"
        if worker.done:
            self._ray.kill(worker.process)
            self.reap(worker, "has ended")
        else:
            worker.messages = worker.process.listen.remote()


def room(resources: Mapping[str, float], threads: int, gpus: float) -> int:
    """How many workers with so many CPU threads and GPUs each fit into ``ray.cluster_resources()``.

    Examples:
        >>> room({"CPU": 16.0, "GPU": 2.0}, threads=1, gpus=0.5)
        4
    """
    by_cpu = int(resources.get("CPU", 0) // threads)
    return max(1, min(by_cpu, int(resources.get("GPU", 0) / gpus)) if gpus else by_cpu)
