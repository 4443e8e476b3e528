"""Workers on one study that are killed, stopped and cut off from their database, and an account of what came of it.

Every trial trains a real network, for two epochs of a few milliseconds. Its value is known: the same architecture
trained alone, undisturbed. So an account can tell not only what was lost or recorded twice, but also what is wrong.
"""

from __future__ import annotations

import importlib
import json
import logging
import multiprocessing
import os
import random
import signal
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import redirect_stderr, suppress
from dataclasses import asdict, dataclass, field
from functools import cache
from multiprocessing.process import BaseProcess
from multiprocessing.synchronize import Barrier
from pathlib import Path
from typing import Any

import optuna
import torch
from optuna.trial import FixedTrial, FrozenTrial, TrialState

from nas_optuna import ConvSpace, Objective, Recipe, load_data
from nas_optuna.cli import main
from nas_optuna.errors import StudyExists
from nas_optuna.execution.evaluator import Measurement
from nas_optuna.execution.events import Callback, Callbacks, Subject
from nas_optuna.execution.loop import run
from nas_optuna.spaces.architecture import Architecture
from nas_optuna.spec import DataSpec, StudySpec
from nas_optuna.study import lease_table
from nas_optuna.study.storage import open_storage
from nas_optuna.study.studies import create_study, load_study

EPOCHS = 2
SPACE = ConvSpace(depth=2, filters=(4, 8), kernels=(3, 5, 7), strides=(1,), input_size=8)
"""36 architectures."""
_PROCESSES = multiprocessing.get_context("forkserver")
_PROCESSES.set_forkserver_preload(["tests.faults.warm"])


@cache
def objective(checkpoints: Path | None) -> Objective:
    """Train a network on 80 images; of nothing is reused what another trial trained."""
    torch.set_num_threads(1)
    data = load_data(DataSpec(name="digits", train_limit=100))
    recipe = Recipe(epochs=EPOCHS, batch_size=50, input_size=8)
    return Objective(SPACE, data, recipe, device="cpu", reuse_duplicates=False, checkpoints=checkpoints)


@dataclass(frozen=True)
class Place:
    """Where a study and its workers are.

    Attributes:
        address: The storage's URL.
        folder: For checkpoints and for what the workers note.
        environment: Variables of the workers.
    """

    address: str
    folder: Path
    environment: Mapping[str, str] = field(default_factory=dict)

    def study(self) -> optuna.Study:
        """The study, made where it is missing."""
        return optuna.create_study(
            study_name="s",
            storage=open_storage(self.address, create=True, with_retry=True),
            direction="maximize",
            load_if_exists=True,
            sampler=optuna.samplers.RandomSampler(),
            pruner=optuna.pruners.NopPruner(),
        )

    def noted(self, what: str) -> Counter[str]:
        """How often each line was noted by all workers."""
        return Counter(line for file in self.folder.glob(f"{what}.*") for line in file.read_text().splitlines())


@dataclass(frozen=True)
class Account:
    """What came of a study.

    Attributes:
        trials: Trials of the study.
        kills: Processes that were killed.
        stops: Processes that stood still for longer than a lease.
        restarts: How often the database server was away.
        lost: Trials that did not end, and numbers that no trial has.
        doubled: Trials whose end was recorded more than once.
        wrong: Trials whose value is not that of the same architecture trained alone.
        epochs_lost: Whole epochs that were trained beyond those of each trial.
        seconds: Seconds that it took.
    """

    trials: int
    kills: int
    stops: int
    restarts: int
    lost: int
    doubled: int
    wrong: int
    epochs_lost: int
    seconds: float

    def __str__(self) -> str:
        return ", ".join(f"{name.replace('_', ' ')} {value}" for name, value in asdict(self).items())


class _Notes(Callback):
    """Note each epoch and each end in files of this process's own."""

    def __init__(self, folder: Path, host: str = "") -> None:
        self._folder, self._host = folder, host

    def trial_started(self, subject: Subject) -> None:
        if self._host and isinstance(subject.trial, optuna.Trial):
            subject.trial.set_user_attr("host", self._host)

    def step_finished(self, subject: Subject, measurement: Measurement) -> None:
        self._note("epochs", f"{subject.name} {measurement.step}")

    def trial_finished(self, subject: Subject, ended: FrozenTrial | None) -> None:
        if subject.trial is not None:  # else another process recorded it, and was killed before it had told
            self._note("ends", subject.name)

    def note_trainings(self) -> None:
        """Note each epoch that is trained in this process, rather than read from a checkpoint."""
        fit = importlib.import_module("nas_optuna.training.fit")
        train_epoch = fit._train_epoch

        def noted(*arguments: Any) -> Any:
            learned = train_epoch(*arguments)
            self._note("trained", f"epoch {arguments[2]}")
            return learned

        fit._train_epoch = noted  # type: ignore[attr-defined]

    def _note(self, what: str, line: str) -> None:
        with (self._folder / f"{what}.{os.getpid()}").open("a") as file:
            file.write(line + "\n")


def finished(study: optuna.Study) -> int:
    """How many trials have ended."""
    return sum(trial.state.is_finished() for trial in study.get_trials(deepcopy=False))


def work(place: Place, total: int, host: str = "") -> None:
    """Be a worker until the study has that many finished trials and nothing waits.

    Args:
        place: Where.
        total: Trials of the study.
        host: Act as another host of this name, with a clock that is an hour fast.
    """
    os.environ.update(place.environment)
    log = place.folder / f"log.{os.getpid()}"
    logging.basicConfig(filename=log, level=logging.INFO, force=True)
    if host:
        lease_table._surroundings = lambda: (host, f"boot-{host}", "4026531836")  # type: ignore[assignment]
        real = time.time
        time.time = lambda: real() + 3600
    study, notes = place.study(), _Notes(place.folder, host)
    scored = objective(place.folder / "checkpoints")
    notes.note_trainings()
    while finished(study) < total or study.get_trials(deepcopy=False, states=(TrialState.WAITING,)):
        run(study, scored, trials=4, callbacks=[notes])


def start(place: Place, total: int, host: str = "") -> BaseProcess:
    """Start a worker."""
    process = _PROCESSES.Process(target=work, args=(place, total, host), daemon=True)
    process.start()
    return process


def at_once(work: Callable[..., None], count: int, *arguments: object) -> list[int | None]:
    """Let processes begin at the same moment; return how they ended.

    Args:
        work: Called with the arguments and with what to call when it is ready to begin.
        count: How many.
        arguments: They can be pickled.
    """
    gate = _PROCESSES.Barrier(count)
    processes = [_PROCESSES.Process(target=work, args=(*arguments, gate), daemon=True) for _ in range(count)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(timeout=120)
    return [process.exitcode for process in processes]


def begin(place: Place, trials: int, gate: Barrier) -> None:
    """Open a database that may not be there, make the study or join it, and run some trials."""
    notes, scored = _Notes(place.folder), objective(place.folder / "checkpoints")
    gate.wait(timeout=60)
    storage = open_storage(place.address, create=True)
    with suppress(StudyExists):
        create_study(storage, "s", StudySpec(), SPACE)
    study = load_study(storage, "s")
    study.sampler, study.pruner = optuna.samplers.RandomSampler(), optuna.pruners.NopPruner()
    assert run(study, scored, trials=trials, callbacks=[notes]).trials == trials


def command_line(arguments: Sequence[str], folder: Path, gate: Barrier) -> None:
    """Be a command with `folder` as its current folder; what it says is in ``said.PROCESS`` there."""
    os.chdir(folder)
    with (folder / f"said.{os.getpid()}").open("w") as file, redirect_stderr(file):
        gate.wait(timeout=60)
        sys.exit(main(list(arguments)))


class Kill(Callback):
    """End this process without a word after the first epoch."""

    def step_finished(self, subject: Subject, measurement: Measurement) -> None:
        os.kill(os.getpid(), signal.SIGKILL)


def killed_script(place: Place, gate: Barrier) -> None:
    """Be a plain script of Optuna's users, with a plain storage, which is killed after the first epoch."""
    scored = objective(place.folder / "checkpoints")
    _Notes(place.folder).note_trainings()
    scored.callbacks = Callbacks([Kill()])
    optuna.load_study(study_name="s", storage=place.address).optimize(scored, n_trials=2)


def search(
    place: Place,
    *,
    trials: int,
    workers: int,
    kills: int = 0,
    stops: int = 0,
    stop_seconds: float = 0.0,
    disturbances: Mapping[float, Callable[[], None]] | None = None,
    seed: int = 0,
) -> Account:
    """Let workers search while they are killed and stopped at random moments, and account for it.

    Args:
        place: Where.
        trials: Trials of the study; some more are begun by workers that do not know of each other.
        workers: How many there are at a time.
        kills: How many are killed (SIGKILL), each replaced by a new one.
        stops: How many are stopped (SIGSTOP).
        stop_seconds: For how long.
        disturbances: Share of the trials that has ended → what happens then.
        seed: Of the random moments.
    """
    began, rng = time.monotonic(), random.Random(seed)
    disturbances = dict(disturbances or {})
    study = place.study()
    running = [start(place, trials) for _ in range(workers)]
    plan: list[tuple[float, str, Callable[[], bool]]] = []
    plan += [(rng.uniform(0.02, 0.95), "kill", lambda: _kill(place, trials, running, rng)) for _ in range(kills)]
    plan += [(rng.uniform(0.1, 0.7), "stop", lambda: _stop(running, stop_seconds, rng)) for _ in range(stops)]
    plan += [(share, "restart", lambda act=act: act() is None) for share, act in disturbances.items()]  # type: ignore[misc]
    done: Counter[str] = Counter()
    for share, what, act in sorted(plan, key=lambda entry: entry[0]):
        while finished(study) < share * trials:
            time.sleep(0.1)
        time.sleep(rng.uniform(0, 0.2))
        done[what] += act()
    _join(place, running)
    _drain(place, trials)
    return _account(place, done["kill"], done["stop"], done["restart"], time.monotonic() - began)


def _victim(running: list[BaseProcess], rng: random.Random) -> BaseProcess | None:
    """A worker that runs; None where all have ended, as at the end of a short search."""
    alive = [process for process in running if process.is_alive()]
    return rng.choice(alive) if alive else None


def _kill(place: Place, trials: int, running: list[BaseProcess], rng: random.Random) -> bool:
    victim = _victim(running, rng)
    if victim is None:
        return False
    victim.kill()
    victim.join()
    running[running.index(victim)] = start(place, trials)
    return True


def _stop(running: list[BaseProcess], seconds: float, rng: random.Random) -> bool:
    victim = _victim(running, rng)
    if victim is None or victim.pid is None:
        return False
    os.kill(victim.pid, signal.SIGSTOP)
    threading.Timer(seconds, _wake, [victim]).start()
    return True


def _wake(process: BaseProcess) -> None:
    if process.is_alive() and process.pid is not None:  # it may have been killed meanwhile
        os.kill(process.pid, signal.SIGCONT)


def _join(place: Place, running: list[BaseProcess]) -> None:
    for process in running:
        process.join(timeout=300)
    said = "\n".join(file.read_text() for file in place.folder.glob("log.*"))
    assert [process.exitcode for process in running] == [0] * len(running), said
    assert "Traceback" not in said, said


def _drain(place: Place, trials: int) -> None:
    """The next run: it takes up what the last of the killed left."""
    last = start(place, max(trials, finished(place.study()) + 1))  # one trial at least, so that there is a run
    _join(place, [last])


def _account(place: Place, kills: int, stops: int, restarts: int, seconds: float) -> Account:
    trials = place.study().get_trials(deepcopy=False)
    numbers = {trial.number for trial in trials}
    complete = [trial for trial in trials if trial.state == TrialState.COMPLETE]
    expected = values_alone()
    wrong = [trial for trial in complete if trial.value != expected[SPACE.architecture(trial.params)]]
    return Account(
        trials=len(trials),
        kills=kills,
        stops=stops,
        restarts=restarts,
        lost=len(trials) - len(complete) + len(set(range(len(trials))) - numbers),
        doubled=sum(count > 1 for count in place.noted("ends").values()),
        wrong=len(wrong),
        epochs_lost=sum(place.noted("trained").values()) - EPOCHS * len(complete),
        seconds=round(seconds, 1),
    )


@cache
def values_alone() -> dict[Architecture, float]:
    """The value of each architecture, trained in a process of its own that nothing disturbs."""
    ours, theirs = _PROCESSES.Pipe()
    process = _PROCESSES.Process(target=_send_values, args=(theirs,), daemon=True)
    process.start()
    text = ours.recv()
    process.join()
    return {SPACE.parse(name): value for name, value in json.loads(text).items()}


def _send_values(pipe: multiprocessing.connection.Connection) -> None:
    scored = objective(None)
    pipe.send(json.dumps({str(a): scored(FixedTrial(dict(a.params))) for a in SPACE.enumerate()}))
