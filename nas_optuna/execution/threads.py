"""How many CPU threads a training should use, by measuring the first steps of a few networks of the study.

Small networks gain nothing from a second thread, while a second worker does twice the work. Large ones do gain.
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

from nas_optuna.devices import network_failures, remembered, usable_cores, use_threads
from nas_optuna.errors import NasOptunaError
from nas_optuna.execution.evaluator import Evaluator, TrainingEvaluator, digest, space_identity
from nas_optuna.training import make_network
from nas_optuna.training.fit import steps_per_epoch
from nas_optuna.training.step import TrainStep

NETWORKS = 3
"""Architectures that are tried, drawn from the space."""
ROUNDS = 3
"""How often each network is measured with each number of threads."""
PATIENCE = 2.0
"""Seconds after which no second round or network is begun."""
MAX_SHARE = 0.1
"""The largest share of one training that measuring may take."""
GAIN = 1.2
"""The speed-up that justifies more threads. The number of threads can change the last digits of values, so it should
not vary from run to run by chance."""
_LONG = 0.2
"""Seconds of a step that make the start of threads negligible."""


@dataclass(frozen=True)
class StepTimes:
    """The mean time of a training step over the networks, by the number of threads."""

    seconds: Mapping[int, float]

    def best(self, cores: int = 1) -> int:
        """The best number of threads for each of the workers that share the cores; by default for a single process."""
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


def decided_threads(given: int | None = None) -> int | None:
    """The number of CPU threads that somebody has decided: the given one, or that of ``OMP_NUM_THREADS``."""
    return torch.get_num_threads() if given is None and "OMP_NUM_THREADS" in os.environ else given


def choose_threads(evaluator: Evaluator, given: int | None = None) -> str:
    """Use the number of CPU threads with which a step is fastest, unless somebody has decided; return why."""
    if decided_threads(given) is not None:
        return ""
    times = measure_steps(evaluator)
    if times is None:
        return ""
    use_threads(times.best())
    return f"CPU threads: {times.best()} ({times})"


def measure_steps(evaluator: Evaluator) -> StepTimes | None:
    """Measure training steps on the CPU with 1, 2, 4, … threads up to all cores, in a small share of one training.

    The result is kept on the machine, so that a study has the same number of threads in each run.
    """
    if not isinstance(evaluator, TrainingEvaluator) or evaluator.device.type != "cpu":
        return None
    cores, before = usable_cores(), torch.get_num_threads()
    counts = [cores, *reversed([2**i for i in range(cores.bit_length()) if 2**i < cores])]
    recipe = evaluator.recipe
    share = MAX_SHARE * recipe.epochs * steps_per_epoch(recipe, evaluator.train_loader.size)
    if len(counts) == 1 or share < 1 + len(counts):
        return None

    key = f"training steps of {digest(evaluator.identity, space_identity(evaluator.space))} with up to {cores} threads"
    try:
        known = remembered(key, evaluator.device, lambda: _probe(evaluator, counts, share))
    except NasOptunaError:  # its trial will report the error
        return None
    finally:
        torch.set_num_threads(before)
    return None if known is None else StepTimes({int(n): seconds for n, seconds in known.items()})


@network_failures("a training step cannot be timed")
def _probe(evaluator: TrainingEvaluator, counts: list[int], share: float) -> dict[str, float] | None:
    """The mean of the fastest steps of a few networks, by number of threads, measured for as long as `share` steps."""
    recipe, device, rng = evaluator.recipe, evaluator.device, random.Random(0)
    batch = next(iter(evaluator.train_loader.epoch(0)))
    found: list[dict[int, float]] = []
    started, fastest = 0.0, math.inf

    def is_late(patience: float) -> bool:
        return time.monotonic() - started >= min(patience, share * fastest)

    while len(found) < NETWORKS and not (found and is_late(PATIENCE)):
        network = make_network(evaluator.space, evaluator.space.sample(rng), recipe, device, seed=0)
        step = TrainStep(network, recipe, device, total_steps=1 + 2 * ROUNDS * len(counts))
        step(*batch)  # allocates memory and compiles kernels
        started = started or time.monotonic()
        taken: dict[int, list[float]] = {}
        for turn, threads in product(range(ROUNDS), counts):  # the largest number, which is rarely slow, comes first
            if is_late(PATIENCE if turn else math.inf):
                break
            torch.set_num_threads(threads)
            if fastest < _LONG or fastest == math.inf:
                step(*batch)  # starts the threads, which is negligible for a long step
            began = time.perf_counter()
            step(*batch)
            taken.setdefault(threads, []).append(time.perf_counter() - began)
            fastest = min(fastest, taken[threads][-1])
        found.append({n: min(times) for n, times in taken.items()})
    shared = [n for n in counts if all(n in one for one in found)]
    return {str(n): statistics.fmean(one[n] for one in found) for n in shared} if len(shared) > 1 else None
