"""A worker, wherever it is, opens the study, runs our loop, and tells everything to its executor."""

from __future__ import annotations

import logging
import traceback
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, Protocol

import optuna

from nas_optuna.devices import use_threads
from nas_optuna.errors import NasOptunaError, StudyError, printable
from nas_optuna.execution.events import Callback, Run, Subject
from nas_optuna.execution.executors.contract import Handle
from nas_optuna.execution.loop import StopRequest, run
from nas_optuna.study.storage import failure
from nas_optuna.study.worker import this_worker


@dataclass(frozen=True)
class ReadyMessage:
    """The worker has opened the study, and marks its trials so."""

    owner: str


@dataclass(frozen=True)
class EventMessage:
    """A `Callback` is to be told something: its method, and its arguments."""

    event: str
    subject: Subject
    more: tuple[Any, ...] = ()


@dataclass(frozen=True)
class LogMessage:
    """A line of the worker's log."""

    level: int
    line: str


@dataclass(frozen=True)
class DoneMessage:
    """The worker has nothing more to do, or cannot go on."""

    error: NasOptunaError | None = None


Message = ReadyMessage | EventMessage | LogMessage | DoneMessage


class Channel(Protocol):
    """A worker's connection to its executor."""

    def tell(self, message: Message) -> None:
        """Send a message."""

    def may_begin(self) -> bool:
        """Ask for leave to begin one more trial."""


@dataclass(frozen=True)
class WorkerSpec:
    """Which worker it is, from 1, where it trains, with how many CPU threads, and when the study is full."""

    number: int
    device: str
    threads: int
    total: int | None = None


def run_worker(handle: Handle, spec: WorkerSpec, channel: Channel, stop: StopRequest) -> None:
    """Run trials for as long as the executor gives leave; never raises, because nobody here would see it."""
    with _logging_to(channel):
        try:
            use_threads(spec.threads)
            work = replace(handle, device=spec.device).work(interrupted=stop)
            channel.tell(ReadyMessage(this_worker()))
            relay = _Relay(channel, spec.number)
            options: dict[str, Any] = {"total": spec.total, "may_begin": channel.may_begin, "stop": stop}
            run(work.study, work.objective, **options, callbacks=[relay])
            channel.tell(DoneMessage())
        except (EOFError, BrokenPipeError, ConnectionError, KeyboardInterrupt):
            return  # whoever started this worker is gone, or does not want it any more
        except Exception as error:
            channel.tell(DoneMessage(_told_plainly(error, spec.number)))


class _Relay(Callback):
    """Sends what happens to the executor, without what belongs to this process."""

    def __init__(self, channel: Channel, worker: int) -> None:
        self._channel = channel
        self._worker = worker

    def any_event(self, event: str, about: Run | Subject, *more: Any) -> None:
        if isinstance(about, Subject):
            here = replace(about, trial=None, study=None, worker=self._worker)
            self._channel.tell(EventMessage(event, here, more))


def _told_plainly(error: Exception, worker: int) -> NasOptunaError:
    if isinstance(error, NasOptunaError):
        return error
    if (text := failure(error)) is not None:
        return StudyError(text)
    if not isinstance(error, OSError):  # a fault of ours or of the user's code: whoever looks for it needs the place
        logging.getLogger(__name__).error("%s", traceback.format_exc())
    return StudyError(f"worker {worker} failed: {type(error).__name__}: {error}")


class _Handler(logging.Handler):
    def __init__(self, channel: Channel) -> None:
        super().__init__(logging.WARNING)
        self._channel = channel

    def emit(self, record: logging.LogRecord) -> None:
        text = record.getMessage()
        if record.name == "py.warnings":  # place, category and message, then the source line
            text = text.partition("\n")[0].rpartition("Warning: ")[2]
        lines = text.splitlines() if record.levelno >= logging.ERROR else [printable(text)]
        for one in lines:
            self._channel.tell(LogMessage(record.levelno, one))


@contextmanager
def _logging_to(channel: Channel) -> Iterator[None]:
    """Within it what is logged here, Python's warnings included, is a line of the executor's log."""
    root, handler = logging.getLogger(), _Handler(channel)
    root.addHandler(handler)
    logging.captureWarnings(True)
    optuna.logging.disable_default_handler()
    optuna.logging.enable_propagation()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=".* is experimental")
            yield
    finally:
        root.removeHandler(handler)
        logging.captureWarnings(False)
