"""How many CPU threads a training should have, by measuring the first steps of a few networks of the study.

Small networks do not fill a second thread: its steps then take as long, or longer, and a second worker does twice the
work instead. Large ones do.
"""

from __future__ import annotations

import random
import statistics
import time
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from nas_optuna.devices import usable_cores
from nas_optuna.errors import NasOptunaError
from nas_optuna.execution.evaluator import TrainingEvaluator
from nas_optuna.training import make_network
from nas_optuna.training.step import TrainStep

NETWORKS = 3
"""Architectures that are tried, drawn from the space."""
ROUNDS = 3
"""How often each number of threads has its turn with each network."""
PATIENCE = 2.0
"""Seconds after which no further step is measured."""
GAIN = 1.2
"""How many times faster more threads must be to be taken: values may differ in their last digits with the number of
threads, so that it should not change from run to run by chance."""
_LONG = 0.2
"""Seconds of a step beside which it does not matter that threads are started."""


@dataclass(frozen=True)
class StepTimes:
    """What a training step takes.

    Attributes:
        seconds: The mean over the networks, by the number of threads.
    """

    seconds: Mapping[int, float]

    def fastest(self) -> int:
        """The number of threads that one process should have."""
        chosen, *more = sorted(self.seconds)
        for threads in more:
            if self.seconds[threads] * GAIN <= self.seconds[chosen]:
                chosen = threads
        return chosen

    def most_work(self, cores: int) -> int:
        """The number of threads that each of several workers should have, who share the cores."""
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
        said = [f"{1e3 * self.seconds[first]:.3g} ms with {first} thread{'s' if first > 1 else ''}"]
        return "a step takes " + ", ".join([*said, *(f"{1e3 * self.seconds[n]:.3g} ms with {n}" for n in others)])


def measure_steps(evaluator: TrainingEvaluator) -> StepTimes | None:
    """Measure training steps on the CPU with 1, 2, 4, … threads up to all cores; it takes a second or two.

    Args:
        evaluator: Trains on the CPU. Torch's number of threads is as before afterwards.

    Returns:
        None where there is nothing to choose, or where no network of the study can take a step.

    Example:
        ::

            times = measure_steps(experiment.objective.evaluator)
            torch.set_num_threads(times.fastest())
    """
    cores, before = usable_cores(), torch.get_num_threads()
    counts = [*(2**i for i in range(cores.bit_length()) if 2**i < cores), cores]
    if len(counts) == 1:
        return None
    images, labels = next(iter(evaluator.train_loader.epoch(0)))
    rng, deadline = random.Random(0), time.monotonic() + PATIENCE
    means: list[dict[int, float]] = []
    try:
        while len(means) < NETWORKS and (not means or time.monotonic() < deadline):
            means.append(_one_network(evaluator, rng, (images, labels), counts, deadline))
    except (NasOptunaError, RuntimeError):  # its trial will say what is wrong with it
        return None
    finally:
        torch.set_num_threads(before)
    return StepTimes({n: statistics.fmean(one[n] for one in means) for n in counts})


def _one_network(
    evaluator: TrainingEvaluator, rng: random.Random, batch: tuple[Tensor, Tensor], counts: list[int], deadline: float
) -> dict[int, float]:
    """The fastest step of one network by number of threads, which take turns."""
    network = make_network(evaluator.space, evaluator.space.sample(rng), evaluator.recipe, evaluator.device, seed=0)
    step = TrainStep(network, evaluator.recipe, evaluator.device, total_steps=1 + 2 * ROUNDS * len(counts))
    step(*batch)  # memory and kernels are made
    taken: dict[int, list[float]] = {n: [] for n in counts}
    slowest = 0.0
    for turn in range(ROUNDS):
        if turn and time.monotonic() >= deadline:
            break
        for threads in counts:
            torch.set_num_threads(threads)
            if slowest < _LONG:
                step(*batch)  # threads are started, which is nothing beside a long step
            started = time.perf_counter()
            step(*batch)
            taken[threads].append(time.perf_counter() - started)
            slowest = max(slowest, taken[threads][-1])
    return {n: min(times) for n, times in taken.items()}
