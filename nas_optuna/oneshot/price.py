"""The cost of a supernet's training, the costs of its operations, and the loss with a cost term."""

from __future__ import annotations

import copy
import itertools
import random
import statistics
import timeit
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from nas_optuna.costs.complexity import macs_table, size
from nas_optuna.costs.latency_table import LatencyTable
from nas_optuna.data import BatchLoader
from nas_optuna.devices import synchronize
from nas_optuna.execution.evaluator import Search
from nas_optuna.oneshot.score import SharedEvaluator
from nas_optuna.oneshot.strategies.base import Strategy
from nas_optuna.spaces import SearchSpace, require_operations
from nas_optuna.spaces.architecture import Architecture
from nas_optuna.spaces.supernet import supernet_class
from nas_optuna.spec import SupernetSpec
from nas_optuna.training import TrainStep, make_network
from nas_optuna.training.fit import steps_per_epoch
from nas_optuna.training.step import GRAPH_WARM_UP


@dataclass(frozen=True)
class CostTable:
    """What each operation of a space costs."""

    costs: Mapping[str, float]  # ``Operation.key`` → cost in `unit`
    unit: str  # "ms", or "MMACs" for millions of multiply-accumulates
    source: str  # of the figures, for a person


def cost_table(
    space: SearchSpace, path: str | Path | None, *, whole: bool = False, force: bool = False, optional: bool = False
) -> CostTable:
    """The latency table of the subspace that a supernet supports, or its MACs without a table."""
    # With `whole` it is for the whole space, without a supernet; without a file it is then empty, because the MACs of
    # each architecture are counted, see `cost_of`.
    # A table may be of another device than this one, namely the one that the network is searched for. An `optional` one
    # of whole networks is left out, since it tells nothing of an operation.
    if optional and path is not None and LatencyTable.load(Path(path)).whole:
        path = None
    if whole and path is None:
        return CostTable({}, "MMACs", "MACs")
    held = space if whole else supernet_class(space).supported_subspace(space)
    if path is None:
        return CostTable({key: macs / 1e6 for key, macs in macs_table(held).items()}, "MMACs", "MACs")
    table = LatencyTable.open(path, held, force=force)
    table.require_operations()
    operations = require_operations(held, "a latency table").reachable_operations()
    costs = {operation.key: table.operation_ms(operation) for operation in operations}
    return CostTable(costs, "ms", f"{path}, measured on {table.conditions.device_name}")


def cost_of(space: SearchSpace, architecture: Architecture, costs: Mapping[str, float]) -> float:
    """The sum of an architecture's operations, in the table's unit; millions of MACs with an empty table."""
    if not costs:
        return size(space, architecture)[0] / 1e6
    return sum(costs[op.key] for op in require_operations(space, "a cost").operations(architecture))


def with_cost(spec: SupernetSpec, cross_entropy: Tensor, cost: Tensor) -> Tensor:
    """The loss with the spec's cost term; the cost is in milliseconds or millions of MACs."""
    if spec.latency_loss == "fbnet":
        # Wu et al. 2019 (FBNet), equation 2, with the cost in microseconds. The 1 keeps the logarithm positive for the
        # smallest networks, and is negligible otherwise.
        return cross_entropy * spec.latency_weight * torch.log1p(1000 * cost) ** (spec.latency_power or 0.6)
    if spec.latency_target is not None:  # free below it
        cost = torch.relu(cost / spec.latency_target - 1)
    return cross_entropy + spec.latency_weight * cost


PRICED_ARCHITECTURES, PRICED_STEPS = 3, 9
"""How many stand-alone networks and how many steps of shared weights are timed."""
SCORED_AT_RANDOM, SCORED_IN_TURN = 4, 32
"""How many architectures are scored to measure the cost of scoring: random ones, or successive ones, which share most
of the computation, if the whole space will be scored."""


@dataclass(frozen=True)
class Price:
    """The cost of a supernet's training, measured on a few steps."""

    epoch_seconds: float  # of shared weights
    training_seconds: float  # mean of one stand-alone training by the study's recipe, over random architectures
    scoring_seconds: float  # for one architecture on shared weights; 0 if none is scored

    @property
    def epoch_in_trainings(self) -> float:
        """How many stand-alone trainings one epoch costs."""
        return self.epoch_seconds / self.training_seconds


def measure_price(search: Search, strategy: Strategy, evaluator: SharedEvaluator | None, evaluations: int) -> Price:
    """Time a few steps of both trainings in turn, on a copy of the supernet and random architectures."""
    job, recipe, space = strategy.job, search.spec.recipe, search.space
    own = BatchLoader(search.data.train, recipe.batch_size, space.input_size, job.device)
    copied = type(strategy)(replace(job, supernet=copy.deepcopy(job.supernet)), strategy.options)
    copied.finished = copied.length - 1  # after any warm-up
    copied.begin_epoch(job.spec.seed)
    rng = random.Random(job.spec.seed)
    shared_batch, own_batch = next(iter(copied.images.epoch(0))), next(iter(own.epoch(0)))
    shared, alone = [], []
    copied.step(shared_batch)
    scoring = 0.0
    if evaluator is not None:
        some = [space.sample(rng) for _ in range(SCORED_AT_RANDOM)] if space.size > evaluations else None
        scored = some or list(itertools.islice(space.enumerate(), SCORED_IN_TURN))
        scoring = _seconds(lambda: evaluator(scored), job.device) / len(scored)
    for _ in range(PRICED_ARCHITECTURES):
        network = make_network(space, space.sample(rng), recipe, job.device, recipe.seed)
        step = TrainStep(network, recipe, job.device, total_steps=1000)
        for _ in range(1 if job.device.type == "cpu" else GRAPH_WARM_UP + 1):  # later steps are CUDA graphs
            step(*own_batch)
        alone.append(_seconds(partial(step, *own_batch), job.device))
        steps = PRICED_STEPS // PRICED_ARCHITECTURES
        shared += [_seconds(lambda: copied.step(shared_batch), job.device) for _ in range(steps)]
    own_steps = steps_per_epoch(recipe, own.size) * recipe.epochs * recipe.repeats
    return Price(
        epoch_seconds=statistics.fmean(shared) * len(copied.images),
        training_seconds=statistics.fmean(alone) * own_steps,
        scoring_seconds=scoring,
    )


def _seconds(step: Callable[[], object], device: torch.device) -> float:
    """The fastest of three runs, because other processes may disturb some."""

    def once() -> None:
        step()
        synchronize(device)

    return min(timeit.repeat(once, number=1, repeat=3))
