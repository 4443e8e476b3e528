"""One replay for every question about samplers and pruners: searches spend trainings that a table holds.

A stopped training goes on where it was, and a network that was trained before costs nothing, as in a study. Several
workers are simulated: one that becomes free asks at once, while the others' epochs take as long as the table says.
"""

from __future__ import annotations

import heapq
import math
import time
import warnings
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import optuna
from optuna.trial import TrialState
from tables import Chain, Table, open_table

from nas_optuna.execution.pruning import report, should_prune
from nas_optuna.pruners import create_pruner
from nas_optuna.samplers import create_sampler
from nas_optuna.samplers.beforehand import best_of, remember
from nas_optuna.samplers.wrapping import AmongSampler
from nas_optuna.study.optuna_internals import hypervolume
from nas_optuna.study.schema import TrialKey

PRUNED_BY = {"hyperband": "random+hyperband", "curves": "curves+curves"}
"""Methods that are more than a sampler without a pruner."""

EARLIER_TRIALS, BEGIN_WITH = 60, 3
"""How many trials an earlier study has, and with how many of its best networks the new one begins."""


@dataclass(frozen=True)
class Point:
    """Where a search stands when a trial has ended.

    Attributes:
        trials: How many have ended.
        trainings: How many networks were begun.
        epochs: Trained in all.
        seconds: Of the simulated clock, with the processor's for proposals and pruning.
        place: The network.
        value: The accuracy of a whole training; None where the trial was stopped.
        ms: The processor's milliseconds for the latest proposal.
    """

    trials: int
    trainings: int
    epochs: int
    seconds: float
    place: int
    value: float | None
    ms: float


class Replay:
    """Trainings that come from a table; a stopped one goes on where it was.

    Args:
        table: Where to look.
        study: What asks for trials; each is told its end. With two objectives the second is multiply-accumulates.
        workers: How many trials run at a time.
        against_all: Whether a trial is pruned against all others, rather than against those that cost no more.

    Attributes:
        points: One for each trial that has ended.
    """

    def __init__(self, table: Table | Chain, study: optuna.Study, workers: int = 1, against_all: bool = False) -> None:
        self.table = table
        self.study = study
        self.points: list[Point] = []
        self._against_all = against_all
        self._workers = workers
        self._running: list[tuple[float, int, optuna.Trial, int, int]] = []
        self._reached: dict[int, int] = {}
        self._spent, self._now, self._busy, self._ms = 0, 0.0, 0.0, 0.0

    def run_trial(self) -> Point:
        """Go on until the next trial ends."""
        while True:
            while len(self._running) < self._workers:
                self._ask()
            self._now, number, trial, place, epoch = heapq.heappop(self._running)
            started = time.process_time()
            state = self._train(trial, place, epoch)
            self._busy += time.process_time() - started
            if state is not None:
                break
            heapq.heappush(self._running, (self._end_of_epoch(place), number, trial, place, epoch + 1))
        value = self.table.curve(place)[-1] if state == TrialState.COMPLETE else None
        seconds = self._now + self._busy / self._workers
        trainings = len(self._reached)
        self.points.append(Point(len(self.points) + 1, trainings, self._spent, seconds, place, value, self._ms))
        return self.points[-1]

    def _end_of_epoch(self, place: int) -> float:
        return self._now + self.table.epoch_seconds(place)

    def _ask(self) -> None:
        """Begin a trial; epochs that were trained before are reported for nothing, and decide nothing again."""
        started = time.process_time()
        trial = self.study.ask()
        place = self.table.suggest(trial)
        self._busy += (taken := time.process_time() - started)
        self._ms = 1000 * taken
        before = self._reached.setdefault(place, 0)
        for epoch, value in enumerate(self.table.curve(place)[:before], start=1):
            report(trial, value, epoch, {})
        end = self._now if before == self.table.epochs else self._end_of_epoch(place)
        heapq.heappush(self._running, (end, trial.number, trial, place, before + 1))

    def _train(self, trial: optuna.Trial, place: int, epoch: int) -> TrialState | None:
        """Report an epoch; the state in which the trial ends, if it does."""
        curve = self.table.curve(place)
        costs = self._costs(trial, place)
        if epoch <= len(curve):
            self._spent += 1
            self._reached[place] = max(self._reached[place], epoch)
            report(trial, curve[epoch - 1], epoch, {})
        if epoch >= len(curve):
            self.study.tell(trial, [curve[-1], *costs.values()])
            return TrialState.COMPLETE
        if should_prune(trial, {} if self._against_all else costs):
            trial.set_user_attr(TrialKey.PAUSED, epoch)
            self.study.tell(trial, state=TrialState.PRUNED)
            return TrialState.PRUNED
        return None

    def _costs(self, trial: optuna.Trial, place: int) -> dict[str, float]:
        if len(self.study.directions) == 1:
            return {}
        assert isinstance(self.table, Table)
        macs = float(self.table.macs[place])
        trial.set_user_attr(TrialKey.cost("macs"), macs)
        return {"macs": macs}


@dataclass(frozen=True)
class Task:
    """What is searched, and when a search ends: at the first of its limits.

    Attributes:
        table: Name or file.
        trials: That end.
        trainings: The epochs of so many whole trainings.
        within: Points below the best network.
        workers: Trials that run at a time.
        objectives: 2 adds multiply-accumulates, and the cheapest network comes first.
        earlier: The kind of earlier study that the search learns from: ``none``, ``related`` or ``contrary``.
    """

    table: str
    trials: float = math.inf
    trainings: float = math.inf
    within: float = -1.0
    workers: int = 1
    objectives: int = 1
    earlier: str = "none"


def make_study(table: Table | Chain, method: str, seed: int, objectives: int = 1) -> optuna.Study:
    """A study in memory with the sampler and the pruner of a method."""
    sampler_name, _, pruner = PRUNED_BY.get(method, method).partition("+")
    sampler = create_sampler(sampler_name, table, seed, {})  # type: ignore[arg-type]
    if table.listed is not None:
        sampler = AmongSampler(sampler, table, table.listed, seed)  # type: ignore[arg-type]
    directions = ["maximize", "minimize"][:objectives]
    return optuna.create_study(
        directions=directions, sampler=sampler, pruner=create_pruner(pruner or "none", table.epochs, {})
    )


def search(task: Task, method: str, seed: int) -> list[Point]:
    """One search."""
    quiet()
    table = open_table(task.table, seed)
    study = make_study(table, method, seed, task.objectives)
    if task.objectives > 1:
        enqueue_cheapest(study, table)
    if task.earlier != "none":
        learn_from(study, table, task.earlier)
    replay = Replay(table, study, task.workers)
    goal, epochs = table.best - task.within / 100 - 1e-9, task.trainings * table.epochs
    # A repeat spends nothing, so a search that has tried every network must end by the number of trials.
    networks = table.size if table.listed is None else len(table.listed)
    most = min(task.trials, 20 * networks)
    while len(replay.points) < most:
        point = replay.run_trial()
        if point.epochs >= epochs or (point.value is not None and point.value >= goal):
            break
    return replay.points


def enqueue_cheapest(study: optuna.Study, table: Table | Chain) -> None:
    """Begin with the cheapest network, as ``nas-optuna run`` does."""
    assert isinstance(table, Table)
    study.enqueue_trial(table.params(int(np.argmin(table.macs))))


def learn_from(study: optuna.Study, table: Table | Chain, kind: str) -> None:
    """Begin with an earlier study of the table: of the accuracy after one epoch, or of the worst network."""
    other = make_study(table, "tpe", 1000)
    worth = (lambda curve: curve[0]) if kind == "related" else (lambda curve: -curve[-1])
    other.optimize(lambda trial: float(worth(table.curve(table.suggest(trial)))), n_trials=EARLIER_TRIALS)
    remember(study, other, table.parameters)
    for params in best_of(study, table.parameters, BEGIN_WITH):
        study.enqueue_trial(params)


def one_epoch(table: Table | Chain, seed: int, trainings: int) -> float:
    """The regret of training random networks for an epoch for half of a budget, and the best three of them to the end.

    Each budget is a search of its own.
    """
    assert isinstance(table, Table)
    ends = max(1, min(3, trainings // 2))
    looks = min(len(table.curves), max(1, (trainings - ends) * table.epochs))
    drawn = np.random.default_rng(seed).permutation(len(table.curves))[:looks]
    best = drawn[np.argsort(-table.curves[drawn, 0], kind="stable")[:ends]]
    return 100 * float(table.best - table.final[best].max())


def regret(table: Table | Chain, points: Iterable[Point]) -> float:
    """Points below the best network, of the best that was trained to the end; of the median one before there is any."""
    found = [point.value for point in points if point.value is not None]
    return 100 * (table.best - (max(found) if found else table.typical))


def front(table: Table, points: Iterable[Point]) -> float:
    """The hypervolume of accuracy and multiply-accumulates, of a box that ends at the largest network."""
    whole = [point for point in points if point.value is not None]
    losses = [(1 - float(p.value or 0), float(table.macs[p.place] / table.macs.max())) for p in whole]
    return hypervolume(losses, (1.0, 1.0)) if losses else 0.0


def quiet() -> None:
    """Each process of a pool must be told."""
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    warnings.simplefilter("ignore")
