"""What a supernet's training costs, and what each operation of its space does."""

from __future__ import annotations

import copy
import itertools
import random
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch

from nas_optuna.costs.complexity import macs_table
from nas_optuna.costs.latency_table import LatencyTable
from nas_optuna.data import make_loader
from nas_optuna.execution.search import Search
from nas_optuna.oneshot.fair import FairTraining
from nas_optuna.oneshot.shared import SharedEvaluator
from nas_optuna.oneshot.supernets import supernet_for
from nas_optuna.spaces import SearchSpace, require_operations
from nas_optuna.spaces.supernet import Supernet
from nas_optuna.spec import SupernetSpec
from nas_optuna.training import TrainStep, make_network
from nas_optuna.training.precision import resolve_precision


@dataclass(frozen=True)
class CostTable:
    """What each operation of a space costs.

    Attributes:
        costs: ``Operation.key`` → cost in `unit`.
        unit: ``"ms"``, or ``"MMACs"`` for millions of multiply-accumulates.
        source: Where the figures are from, for a person.
    """

    costs: Mapping[str, float]
    unit: str
    source: str


def cost_table(space: SearchSpace, path: str | Path | None) -> CostTable:
    """A latency table for what a space's supernet holds, or its MACs where there is none.

    A table may be of another device than this one: it is of the device that the network is searched for.

    Raises:
        SpecError: The space has no supernet.
        TableError: The file is no sound latency table, or lacks an operation of the space.
    """
    space = supernet_for.covered(space)
    if path is None:
        return CostTable({key: macs / 1e6 for key, macs in macs_table(space).items()}, "MMACs", "MACs")
    table = LatencyTable.load(Path(path))
    operations = require_operations(space, "a latency table").reachable_operations()
    costs = {operation.key: table.operation_ms(operation) for operation in operations}
    return CostTable(costs, "ms", f"{path}, measured on {table.conditions.device_name}")


PRICED_ARCHITECTURES = 3
SCORED_AT_RANDOM, SCORED_IN_TURN = 4, 32
"""Architectures that are scored in one call to see what scoring costs; in turn where the whole space will be scored,
of which neighbours share most of what is computed."""


@dataclass(frozen=True)
class Price:
    """What a supernet's training costs, measured on a few steps.

    Attributes:
        epoch_seconds: One epoch of shared weights.
        training_seconds: One stand-alone training of the study's recipe, of an architecture of middling cost.
        scoring_seconds: One architecture scored on shared weights, among others as they will be scored.
    """

    epoch_seconds: float
    training_seconds: float
    scoring_seconds: float

    @property
    def epoch_in_trainings(self) -> float:
        """How many stand-alone trainings one epoch costs."""
        return self.epoch_seconds / self.training_seconds


def measure_price(
    search: Search, supernet: Supernet, spec: SupernetSpec, device: torch.device, evaluator: SharedEvaluator
) -> Price:
    """Time a few steps of both trainings in turn, on a copy of the supernet; each architecture is drawn at random.

    Args:
        search: What the study's spec names.
        supernet: It is left as it is.
        spec: The supernet's settings; strategy ``"fair"``.
        device: Where to train.
        evaluator: Scores architectures with the supernet.
    """
    recipe, space = search.spec.recipe, search.space
    batch, own = (
        make_loader(search.data.train, n, space.input_size, device) for n in (spec.batch_size, recipe.batch_size)
    )
    fair = FairTraining(copy.deepcopy(supernet), batch, spec, 1, supernet_precision(search, device))
    rng = random.Random(spec.seed)
    shared_batch, own_batch = next(iter(batch.epoch(0))), next(iter(own.epoch(0)))
    shared, alone = [], []
    fair.step(shared_batch, rng)
    if space.size <= spec.evaluations:
        scored = list(itertools.islice(space.enumerate(), SCORED_IN_TURN))
    else:
        scored = [space.sample(rng) for _ in range(SCORED_AT_RANDOM)]
    scoring = _seconds(lambda: evaluator(scored), device) / len(scored)
    for _ in range(PRICED_ARCHITECTURES):
        network = make_network(space, space.sample(rng), recipe, device, recipe.seed)
        step = TrainStep(network, recipe, device, total_steps=1000)
        step(*own_batch)
        alone.append(_seconds(partial(step, *own_batch), device))
        shared += [_seconds(lambda: fair.step(shared_batch, rng), device) for _ in range(3)]
    return Price(
        epoch_seconds=statistics.fmean(shared) * len(batch),
        training_seconds=statistics.fmean(alone) * len(own) * recipe.epochs * recipe.repeats,
        scoring_seconds=scoring,
    )


def _seconds(step: Callable[[], object], device: torch.device) -> float:
    """The fastest of three runs: what else runs on the machine disturbs some."""

    def once() -> float:
        start = time.perf_counter()
        step()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        return time.perf_counter() - start

    return min(once() for _ in range(3))


def supernet_precision(search: Search, device: torch.device) -> torch.dtype:
    """A supernet's steps have no gradient scaler, which float16 needs."""
    precision = search.spec.recipe.precision
    dtype = torch.float32 if precision == "fp16" else resolve_precision(precision, device)
    return torch.float32 if dtype == torch.float16 else dtype
