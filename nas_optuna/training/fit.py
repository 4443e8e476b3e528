"""The training loop: epochs of steps, and one result per epoch."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass, field

import torch
from torch import Tensor, nn

from nas_optuna.data import BatchLoader
from nas_optuna.devices import network_failures
from nas_optuna.digests import seed_from
from nas_optuna.errors import Interrupted, TrainingError
from nas_optuna.randomness import RandomState
from nas_optuna.spec import Recipe
from nas_optuna.training.checkpoint import (
    Checkpoint,
    CheckpointFolder,
    load_optimizer_state,
    require_optimizer_state,
    require_tensors,
)
from nas_optuna.training.evaluate import MetricFunction, evaluate
from nas_optuna.training.step import TrainStep


@dataclass(frozen=True)
class EpochResult:
    """The results of one epoch."""

    epoch: int  # number of finished epochs, from 1
    train_loss: float  # the mean cross entropy over the epoch, while the weights changed
    train_accuracy: float  # the share of correct predictions over the epoch, 0 … 1
    loss: float  # the mean cross entropy on the validation images after the epoch; NaN without such images
    accuracy: float  # the share of correct predictions on them, 0 … 1; NaN without such images
    seconds: float  # how long the epoch took, validation included
    micro_batches: int  # number of parts into which each batch was divided to fit in memory
    metrics: Mapping[str, float] = field(default_factory=dict)  # further ones of the validation images, by name


def epoch_seed(seed: int, epoch: int) -> int:
    """The seed of everything random in one epoch, so that a resumed training equals an uninterrupted one."""
    return seed_from(f"{seed}/{epoch}", 6)


def steps_per_epoch(recipe: Recipe, images: int) -> int:
    """The number of steps in an epoch of the recipe with so many training images."""
    return -(-(recipe.epoch_size or images) // min(recipe.batch_size, max(1, images)))


def epoch_order(seed: int, epoch: int, images: int, size: int) -> Tensor:
    """The images of an epoch, ``[size]`` on the host: its section of the concatenated permutations."""
    first, last = (epoch - 1) * size, epoch * size
    passes = range(first // images, -(-last // images))
    drawn = [torch.randperm(images, generator=torch.Generator().manual_seed(epoch_seed(seed, -p))) for p in passes]
    start = first - passes[0] * images
    return torch.cat(drawn)[start : start + size]


Pace = Callable[[Sequence[EpochResult]], int]
"""From the results so far to the total number of epochs of a training, if its schedule has not ended."""


def never() -> bool:
    """False: for a training that nobody stops."""
    return False


def fit(
    network: nn.Module,
    train: BatchLoader,
    validation: BatchLoader | None,
    recipe: Recipe,
    device: torch.device,
    *,
    seed: int,  # decides the order of images, augmentation, and random numbers in the network
    checkpoints: CheckpointFolder | None = None,  # results of epochs that are found there come first, untrained
    interrupted: Callable[[], bool] = never,  # called between steps; True raises `Interrupted`
    metrics: Mapping[str, MetricFunction] | None = None,  # further ones of the validation images, by name
    pace: Pace | None = None,  # asked before each epoch, if a clock decides how many there are
    teacher: nn.Module | None = None,  # a trained network (Hinton et al. 2015; Furlanello et al. 2018)
) -> Iterator[EpochResult]:
    """Train a network in place by a recipe, and yield one result per epoch; stop iterating to stop the training."""
    # It can be continued later only with `checkpoints`. A last batch of one image is left out if the network mixes
    # images (batch norm). Random numbers depend on seed and epoch only.
    steps = steps_per_epoch(recipe, train.size)
    with network_failures("the training cannot begin"):
        step = TrainStep(network, recipe, device, recipe.epochs * steps, recipe.passes(train.size), teacher)
    results = _restore(step, checkpoints, None if pace else recipe.epochs, steps) if checkpoints else []
    yield from results
    for epoch in _epochs(step, results, recipe.epochs, steps, pace):
        started = time.perf_counter()
        learned = _train_epoch(step, train, epoch, seed, interrupted)
        scored = evaluate(network, validation, device, step.dtype, metrics, train) if validation else None
        found = (scored.loss, scored.accuracy) if scored else (math.nan, math.nan)
        seconds = time.perf_counter() - started
        more = scored.metrics if scored else {}
        results.append(EpochResult(epoch, *learned, *found, seconds, step.micro_batches, more))
        if checkpoints:
            _save(step, checkpoints, results)
        yield results[-1]


def _epochs(
    step: TrainStep, results: Sequence[EpochResult], epochs: int, steps: int, pace: Pace | None
) -> Iterator[int]:
    """The remaining epochs; with a pace, the schedule is spread over them before each one."""
    while len(results) < (wanted := pace(results) if pace else epochs):
        if pace:
            if step.total_steps - step.steps < 0.5:  # the schedule has ended, possibly before an interruption
                return
            step.spread((wanted - len(results)) * steps)
        yield len(results) + 1


def _train_epoch(
    step: TrainStep, train: BatchLoader, epoch: int, seed: int, interrupted: Callable[[], bool]
) -> tuple[float, float]:
    """Take an epoch's steps; return the mean loss and the share of correct predictions."""
    step.network.train()
    state = RandomState(epoch_seed(seed, epoch), step.device) if step.draws else None
    size, seen = step.recipe.epoch_size, 0
    order = epoch_order(seed, epoch, train.size, size) if size else None
    for images, labels in train.epoch(epoch_seed(seed, epoch), order):
        if interrupted():
            raise Interrupted(f"stopped in epoch {epoch}")
        if len(images) == 1 and seen and step.recipe.batch_size > 1 and step.mixes:
            step.steps += 1  # of the schedule, without an update
            continue
        with network_failures(f"training failed in epoch {epoch}"), state.current() if state else nullcontext():
            step(images, labels)
        seen += len(images)
    loss, correct = step.read_sums()
    if not math.isfinite(loss):
        raise TrainingError(f"the loss is not finite in epoch {epoch}", "non-finite loss")
    return loss / seen, correct / seen


def _save(step: TrainStep, checkpoints: CheckpointFolder, results: list[EpochResult]) -> None:
    state = {
        "optimizer": step.optimizer.state_dict(),
        "scaler": step.scaler.state_dict(),
        "micro_batches": step.micro_batches,
        "schedule": [step.steps, step.total_steps],
    }
    checkpoints.save(len(results), step.network.state_dict(), state, [asdict(result) for result in results])


def _restore(
    step: TrainStep, checkpoints: CheckpointFolder, epochs: int | None, steps_per_epoch: int
) -> list[EpochResult]:
    def check(found: Checkpoint) -> None:
        require_tensors(found.weights, step.network.state_dict())
        require_optimizer_state(found.state["optimizer"], step.optimizer)
        if found.state["scaler"].keys() != step.scaler.state_dict().keys():
            raise ValueError("the gradient scaler's state is of another precision")
        if epochs is not None and found.epoch > epochs:
            raise ValueError(f"the training has {epochs} epochs")

    found = checkpoints.load(check)
    if found is None:
        return []
    step.network.load_state_dict(found.weights)
    load_optimizer_state(found.state["optimizer"], step.optimizer)
    step.scaler.load_state_dict(found.state["scaler"])
    step.micro_batches = found.state["micro_batches"]
    step.steps = found.epoch * steps_per_epoch
    if epochs is None:  # a clock decided the position in the schedule
        step.steps, step.total_steps = found.state["schedule"]
    return [EpochResult(**result) for result in found.progress]
