"""How many CPU threads a training should have, by measuring the first steps of a few networks of the study.

Small networks do not fill a second thread: its steps then take as long, or longer, and a second worker does twice the
work instead. Large ones do.
"""

from __future__ import annotations

import math
import os
import random
import statistics
import time
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import product

import torch

from nas_optuna.devices import remembered, usable_cores, use_threads
from nas_optuna.errors import NasOptunaError
from nas_optuna.execution.evaluator import Evaluator, TrainingEvaluator, digest, space_identity
from nas_optuna.training import make_network
from nas_optuna.training.fit import steps_per_epoch
from nas_optuna.training.step import TrainStep

NETWORKS = 3
"""Architectures that are tried, drawn from the space."""
ROUNDS = 3
"""How often each number of threads has its turn with each network."""
PATIENCE = 2.0
"""Seconds after which no second round or network is begun."""
MAX_SHARE = 0.1
"""The most that measuring may take of one training, which the run has at least one of."""
GAIN = 1.2
"""How many times faster more threads must be to be taken: values may differ in their last digits with the number of
threads, so that it should not change from run to run by chance."""
_LONG = 0.2
"""Seconds of a step beside which it does not matter that threads are started."""


@dataclass(frozen=True)
class StepTimes:
    """What a training step takes: the mean over the networks, by the number of threads."""

    seconds: Mapping[int, float]

    def best(self, cores: int = 1) -> int:
        """The best number of threads of each of several workers that share the cores; by default of a process alone."""
        chosen, *more = sorted(self.seconds)
        for threads in more:
            if self._work(threads, cores) >= GAIN * self._work(chosen, cores):
                chosen = threads
        return chosen

    def _work(self, threads: int, cores: int) -> float:
        """Steps per second of all workers."""
        return max(1, cores // threads) / self.seconds[threads]

    def __str__(self) -> str:
        """For a person, e.g. ``a step takes 3.1 ms with 1 thread, 2.9 ms with 2``."""
        first, *others = sorted(self.seconds)
        said = [f"{_duration(self.seconds[first])} with {first} thread{'s' if first > 1 else ''}"]
        return "a step takes " + ", ".join([*said, *(f"{_duration(self.seconds[n])} with {n}" for n in others)])


def _duration(seconds: float) -> str:
    return f"{seconds:.1f} s" if seconds >= 0.9995 else f"{1e3 * seconds:.3g} ms"


def choose_threads(evaluator: Evaluator, given: int | None = None) -> str:
    """Compute with as many CPU threads as make a step fastest, unless somebody has decided; return why."""
    if given is not None or "OMP_NUM_THREADS" in os.environ:
        return ""
    times = measure_steps(evaluator)
    if times is None:
        return ""
    use_threads(times.best())
    return f"CPU threads: {times.best()} ({times})"


def measure_steps(evaluator: Evaluator) -> StepTimes | None:
    """Measure training steps on the CPU with 1, 2, 4, … threads up to all cores, in a small share of one training.

    It is done once; the machine remembers it, so that a study has the same number of threads in each run.
    """
    if not isinstance(evaluator, TrainingEvaluator) or evaluator.device.type != "cpu":
        return None
    cores, before = usable_cores(), torch.get_num_threads()
    counts = [cores, *reversed([2**i for i in range(cores.bit_length()) if 2**i < cores])]
    recipe = evaluator.recipe
    share = MAX_SHARE * recipe.epochs * steps_per_epoch(recipe, evaluator.train_loader.size)
    if len(counts) == 1 or share < 1 + len(counts):
        return None

    def measure() -> dict[str, float] | None:
        try:
            found = _probe(evaluator, counts, share)
        except (NasOptunaError, RuntimeError):  # its trial will say what is wrong with it
            return None
        finally:
            torch.set_num_threads(before)
        shared = [n for n in counts if all(n in one for one in found)]
        return {str(n): statistics.fmean(one[n] for one in found) for n in shared} if len(shared) > 1 else None

    trained = digest(evaluator.identity, space_identity(evaluator.space))
    known = remembered(f"training steps of {trained} with up to {cores} threads", evaluator.device, measure)
    return None if known is None else StepTimes({int(n): seconds for n, seconds in known.items()})


def _probe(evaluator: TrainingEvaluator, counts: list[int], share: float) -> list[dict[int, float]]:
    """The fastest step of a few networks, by number of threads, measured for as long as `share` steps take."""
    recipe, device, rng = evaluator.recipe, evaluator.device, random.Random(0)
    batch = next(iter(evaluator.train_loader.epoch(0)))
    found: list[dict[int, float]] = []
    started, fastest = 0.0, math.inf

    def is_late(patience: float) -> bool:
        return time.monotonic() - started >= min(patience, share * fastest)

    while len(found) < NETWORKS and not (found and is_late(PATIENCE)):
        network = make_network(evaluator.space, evaluator.space.sample(rng), recipe, device, seed=0)
        step = TrainStep(network, recipe, device, total_steps=1 + 2 * ROUNDS * len(counts))
        step(*batch)  # memory and kernels are made, once for the trainings that follow, too
        started = started or time.monotonic()
        taken: dict[int, list[float]] = {}
        for turn, threads in product(range(ROUNDS), counts):  # the most threads, hardly ever slow, come first
            if is_late(PATIENCE if turn else math.inf):
                break
            torch.set_num_threads(threads)
            if fastest < _LONG or fastest == math.inf:
                step(*batch)  # threads are started, which is nothing beside a long step
            began = time.perf_counter()
            step(*batch)
            taken.setdefault(threads, []).append(time.perf_counter() - began)
            fastest = min(fastest, taken[threads][-1])
        found.append({n: min(times) for n, times in taken.items()})
    return found
