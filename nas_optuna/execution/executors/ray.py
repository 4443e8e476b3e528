"""Workers on a Ray cluster: actors that run our loop against the study's storage.

Ray only says where a worker runs and whether its node is alive; who runs which trial is in the study's database, as
everywhere. Ray's own hyperparameter search (Ray Tune) is not used: it runs Optuna's samplers without their pruners.
"""

from __future__ import annotations

import logging
import os
import queue
import socket
import threading
import time
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import torch

from nas_optuna.data import SearchData
from nas_optuna.data.sharing import Emptied
from nas_optuna.errors import SpecError, StudyError, printable, shortened
from nas_optuna.execution.events import Callback
from nas_optuna.execution.executors.contract import Budget, Handle, Work
from nas_optuna.execution.executors.crew import Crew, Hand
from nas_optuna.execution.executors.local import GRACE
from nas_optuna.execution.executors.worker import Ended, Message, Place, work
from nas_optuna.execution.loop import Outcome, StopRequest
from nas_optuna.study import optuna_internals
from nas_optuna.study.records import count
from nas_optuna.study.storage import sqlite_file
from nas_optuna.study.worker import Worker

if TYPE_CHECKING:
    from types import ModuleType

logger = logging.getLogger(__name__)

_PAUSE = 0.2
"""Seconds between two looks at whether somebody asked to stop."""
_LONG = 20.0
"""Seconds after which it is said that Ray has found no room for some workers."""


@contextmanager
def connected(address: str | None = None) -> Iterator[ModuleType]:
    """Within it this process is connected to a Ray cluster.

    Args:
        address: The cluster's, e.g. ``"auto"`` or ``"ray://head:10001"``. By default that of ``RAY_ADDRESS``, or the
            cluster that runs on this host, or one that is started here and ended afterwards. ``"auto"`` starts none.

    Yields:
        The module ``ray``.

    Raises:
        SpecError: Ray is not installed.
        StudyError: There is no cluster at that address.
    """
    named = (os.environ.get("RAY_ADDRESS") or address) if address in (None, "auto") else address
    _use_token(named)
    try:
        import ray
    except ImportError:
        raise SpecError("--executor ray needs Ray; pip install 'nas-optuna[ray]'") from None
    if ray.is_initialized():
        yield ray
        return
    place = _place(named)
    if place is None:
        logger.warning("starting a Ray cluster on this host")
    try:
        with warnings.catch_warnings(), _silent():
            warnings.simplefilter("ignore")  # what they say is in the error as well
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


def _place(named: str | None) -> str | None:
    """The address of a cluster that is there; None where one is to be started.

    Ray remembers the cluster that ran last on a host, also when it has ended, and waits for it for minutes.

    Raises:
        StudyError: Nobody answers at the address that is named, or ``"auto"`` finds no cluster.
    """
    if named == "local":
        return None
    try:
        place = remembered(named) if named in (None, "auto") else named
        if place is not None:
            logger.warning("connecting to the Ray cluster at %s", place)
            _require_answer(place)
    except (ConnectionError, ValueError):  # Ray remembers none, or nothing that is an address
        if named is not None:
            raise StudyError("no Ray cluster runs on this host; ray start --head starts one") from None
        return None
    except StudyError as error:
        if named is not None:
            raise
        logger.warning("%s", error)
        return None
    return place


def remembered(named: str | None) -> str | None:
    """The address that Ray would connect to where it is given None or ``"auto"``; None where it would start a cluster.

    Raises:
        ConnectionError: ``"auto"`` finds none.
        ValueError: What Ray remembers is no address.
    """
    from ray._private.services import canonicalize_bootstrap_address  # which ray.init calls; nothing public tells it

    return canonicalize_bootstrap_address(named)  # type: ignore[arg-type] # None is what ray.init gives it


def _use_token(named: str | None) -> None:
    """Have Ray show its token to a cluster that a person names; by itself it does so only to one that it finds.

    A cluster that wants none ignores it.
    """
    file = os.environ.get("RAY_AUTH_TOKEN_PATH") or Path.home() / ".ray" / "auth_token"
    if named not in (None, "auto") and ("RAY_AUTH_TOKEN" in os.environ or Path(file).is_file()):
        os.environ.setdefault("RAY_AUTH_MODE", "token")  # which Ray reads when it is imported


@contextmanager
def _silent() -> Iterator[None]:
    """Within it nothing is written to the standard error: Ray writes a line per second there while it waits."""
    kept, nothing = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nothing, 2)
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nothing)


def _require_answer(address: str) -> None:
    """Refuse an address at which nobody listens, for which Ray would wait for minutes.

    Raises:
        StudyError: Nobody does.
    """
    try:
        place = urlsplit(address if "//" in address else f"//{address}")
        if place.hostname and place.port:
            socket.create_connection((place.hostname, place.port), timeout=_LONG).close()
    except (OSError, ValueError) as error:
        raise StudyError(f"no Ray cluster answers at {address} ({error}); --ray-address names another") from None


def is_one_host(ray: ModuleType) -> bool:
    """Whether all nodes of the cluster are on this host, whose files all workers then see."""
    hosts = {node["NodeManagerHostname"] for node in ray.nodes() if node["Alive"]}
    return hosts <= {socket.gethostname()}


class RayWorkers:
    """Runs trials in actors of a Ray cluster. This package has to be installed on its nodes.

    A worker that dies, alone or with its node, is started again where Ray finds room, and its trial goes back at once.
    The images are put into Ray's object store once.

    Args:
        workers: How many; None is as many as the cluster has room for.
        threads: CPU threads of each, which are reserved.
        gpus: GPUs of each, which are reserved; a fraction shares one.
        device: Where each trains; ``"auto"`` is the GPU that Ray gives it, else the CPU.
        address: As `connected` takes it.
        files_are_shared: Whether the handle's folder for checkpoints is the same on all hosts.

    Example:
        ::

            executor = RayWorkers(32, gpus=0.5)
            experiment.run(study, trials=1000, executor=executor, handle=ExperimentHandle(url, "nas"))
    """

    def __init__(
        self,
        workers: int | None = None,
        *,
        threads: int = 1,
        gpus: float = 0.0,
        device: str = "auto",
        address: str | None = None,
        files_are_shared: bool = False,
    ) -> None:
        self.workers = workers
        self.threads = threads
        self.gpus = gpus
        self.device = device
        self.address = address
        self.files_are_shared = files_are_shared

    def run(self, work: Work, budget: Budget, *, stop: StopRequest, told: Callback) -> Outcome:
        """See `Executor`.

        Raises:
            SpecError: Ray is not installed.
            StudyError: There is no cluster, or its nodes cannot open the study.
        """
        with self.reached(work.handle) as (ray, handle):
            if handle is not work.handle:
                logger.warning(
                    "a trial whose node dies begins anew: no folder is shared; --files DIR names one that is"
                )
            workers = self.workers or room(ray.cluster_resources(), self.threads, self.gpus)
            logger.warning("%s with %d CPU and %g GPU each", count(workers, "Ray worker"), self.threads, self.gpus)
            with stop.guarding(), optuna_internals.stoppable(work.study) as stopped:
                if work.data is not None:
                    handle = handle.with_images(StoredImages.put(ray, work.data))
                actors = _Actors(ray, handle, Crew(work, budget, told, stopped), self, self._places(workers, budget))
                try:
                    actors.run(stop)
                finally:
                    actors.end()
                return actors.crew.outcome(stop.asked)

    @contextmanager
    def reached(self, handle: Handle | None) -> Iterator[tuple[ModuleType, Handle]]:
        """Within it this process is connected to the cluster.

        Args:
            handle: What the workers open.

        Yields:
            The module ``ray``, and the handle with what all hosts of the cluster can reach.

        Raises:
            SpecError: Ray is not installed.
            StudyError: There is no cluster, or its nodes cannot open the study.
        """
        if handle is None:
            raise StudyError("workers need a study that other processes can open; keep it in a database")
        with connected(self.address) as ray:
            yield ray, self._reachable(handle, is_one_host(ray))

    def _places(self, workers: int, budget: Budget) -> list[Place]:
        return [Place(number, self.device, self.threads, budget.total) for number in range(1, workers + 1)]

    def _reachable(self, handle: Handle, one_host: bool) -> Handle:
        """The handle with what all hosts of the cluster can reach.

        Raises:
            StudyError: The study is in a file of this host.
        """
        if one_host:
            return handle
        if sqlite_file(handle.storage):
            raise StudyError(
                "SQLite is a file of this host, and the Ray cluster has other hosts; keep the study in a database"
                " server: --storage postgresql+psycopg://USER:PASSWORD@HOST/DATABASE"
            )
        return handle if self.files_are_shared else handle.without_files()


@dataclass(frozen=True)
class StoredImages:
    """Search data whose pixels are in Ray's object store; calling it gives the data.

    Attributes:
        pixels: Reference to the pixels of training and validation images, which all workers of a node read in place.
        rest: Everything but the pixels.
    """

    pixels: Any
    rest: Emptied

    @classmethod
    def put(cls, ray: ModuleType, data: SearchData) -> StoredImages:
        """Put search data into the object store."""
        arrays = tuple(part.images.contiguous().numpy() for part in (data.train, data.validation))
        return cls(ray.put(arrays), Emptied.of(data))

    def __call__(self) -> SearchData:
        """The search data, in this process."""
        import ray

        train, validation = ray.get(self.pixels)
        with warnings.catch_warnings():
            # The store's memory cannot be written to, and nobody does.
            warnings.filterwarnings("ignore", message=".*not writable.*")
            return self.rest.filled((torch.from_numpy(train), torch.from_numpy(validation)))


class _Actor:
    """A worker, in a process that Ray has started. Its methods are called in threads of their own."""

    def __init__(self) -> None:
        self._stop = StopRequest()
        self._answers: queue.Queue[bool] = queue.Queue()
        self._messages: queue.Queue[Message | None] = queue.Queue()

    def begin(self, handle: Handle, place: Place) -> None:
        """Work, in a thread."""

        def train() -> None:
            try:
                work(handle, place, self, self._stop)
            finally:
                self._messages.put(Ended())

        threading.Thread(target=train, daemon=True).start()

    def listen(self) -> list[Message | None]:
        """Wait for what is said next: messages, and None where leave for a trial is asked for."""
        said = [self._messages.get()]
        while not self._messages.empty():
            said.append(self._messages.get())
        return said

    def tell(self, message: Message) -> None:
        """See `Line`."""
        self._messages.put(message)

    def may_begin(self) -> bool:
        """See `Line`."""
        self._messages.put(None)
        return self._answers.get()

    def answer(self, leave: bool) -> None:
        """Answer the question for leave."""
        self._answers.put(leave)

    def stop(self) -> None:
        """End after the step at hand."""
        self._stop.asked = True


@dataclass
class _Worker:
    """One actor."""

    place: Place
    hand: Hand
    actor: Any
    said: Any
    """Reference to what it says next."""


class _Actors:
    """The actors of one run."""

    def __init__(
        self, ray: ModuleType, handle: Handle, crew: Crew, settings: RayWorkers, places: Sequence[Place]
    ) -> None:
        self.crew = crew
        self._ray = ray
        self._handle = handle
        self._class = ray.remote(_Actor).options(
            num_cpus=settings.threads, num_gpus=settings.gpus, max_concurrency=3, max_restarts=0
        )
        self._asked = False
        self._give_up_at = float("inf")
        self._workers: list[_Worker] = []
        for place in places:
            self._workers.append(self._start(place, Hand(place.number, f"worker {place.number}")))

    def run(self, stop: StopRequest) -> None:
        """Serve the workers until all have ended; those for which Ray has found no room are not waited for."""
        started, warned = time.monotonic(), False
        while any(worker.hand.owner for worker in self._workers) or (self._workers and self.crew.allotment.is_open):
            if time.monotonic() >= self._give_up_at:
                return
            ready, _ = self._ray.wait([worker.said for worker in self._workers], num_returns=1, timeout=_PAUSE)
            for worker in [worker for worker in self._workers if worker.said in ready]:
                self._serve(worker)
            self._pass_on(stop)
            waiting = sum(worker.hand.owner is None for worker in self._workers)
            if not warned and waiting and time.monotonic() - started > _LONG:
                warned = True
                logger.warning("Ray has not found room for %d of the workers yet; the others go on", waiting)

    def end(self) -> None:
        """Leave no actor behind, however the run has ended."""
        for worker in list(self._workers):
            self._ray.kill(worker.actor)
            self._forget(worker, "was ended", wanted=True)

    def _start(self, place: Place, hand: Hand) -> _Worker:
        actor = self._class.remote()
        actor.begin.remote(self._handle, place)
        return _Worker(place, hand, actor, actor.listen.remote())

    def _serve(self, worker: _Worker) -> None:
        """Take what a worker has said, and answer it."""
        try:
            messages: list[Message | None] = self._ray.get(worker.said)
        except self._ray.exceptions.RayError:
            if self._forget(worker, "was lost", wanted=self._asked):
                self._workers.append(self._start(worker.place, worker.hand))
            return
        for message in messages:
            if message is None:
                worker.actor.answer.remote(self.crew.allotment.ask(worker.hand.number))
            else:
                self.crew.hear(worker.hand, message)
        if worker.hand.owner is not None and (found := Worker.parse(worker.hand.owner)):
            worker.hand.name = f"worker {worker.place.number} ({found.host}, process {found.process})"
        if worker.hand.ended:
            self._ray.kill(worker.actor)
            self._forget(worker, "has ended", wanted=True)
        else:
            worker.said = worker.actor.listen.remote()

    def _forget(self, worker: _Worker, how: str, *, wanted: bool) -> bool:
        self._workers.remove(worker)
        return self.crew.lose(worker.hand, how, wanted=wanted)

    def _pass_on(self, stop: StopRequest) -> None:
        """Ask the workers to stop, and where somebody insists, or that takes long, give them up."""
        if not self._asked and (stop.asked or self.crew.error is not None):
            self._asked = True
            self.crew.allotment.close()
            for worker in self._workers:
                worker.actor.stop.remote()
            if self.crew.error is not None:
                self._give_up_at = time.monotonic() + GRACE
        if stop.insisted:
            self._give_up_at = 0.0


def room(resources: Mapping[str, float], threads: int, gpus: float) -> int:
    """How many workers a cluster has room for.

    Args:
        resources: What ``ray.cluster_resources()`` gives.
        threads: CPU threads of each.
        gpus: GPUs of each.

    Example:
        >>> room({"CPU": 16.0, "GPU": 2.0}, threads=1, gpus=0.5)
        4
    """
    by_cpu = int(resources.get("CPU", 0) // threads)
    return max(1, min(by_cpu, int(resources.get("GPU", 0) / gpus)) if gpus else by_cpu)
