"""The training loop: epochs of steps, one result each."""

from __future__ import annotations

import hashlib
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass

import torch
from torch import nn

from nas_optuna.data import BatchLoader
from nas_optuna.errors import Interrupted, TrainingError
from nas_optuna.spec import Recipe
from nas_optuna.training.checkpoint import CheckpointFolder
from nas_optuna.training.evaluate import evaluate
from nas_optuna.training.step import TrainStep


@dataclass(frozen=True)
class EpochResult:
    """What one epoch brought.

    Attributes:
        epoch: Epochs finished, from 1: the trial's fidelity.
        train_loss: Mean cross entropy over the epoch, while the weights changed.
        train_accuracy: Share of correct predictions over the epoch, 0 … 1.
        loss: Mean cross entropy on the validation images after the epoch; NaN without validation images.
        accuracy: Share of correct predictions on them, 0 … 1; NaN without validation images.
        seconds: What the epoch took, validation included.
        micro_batches: Parts that each batch was divided into, to fit in memory.
    """

    epoch: int
    train_loss: float
    train_accuracy: float
    loss: float
    accuracy: float
    seconds: float
    micro_batches: int


def epoch_seed(seed: int, epoch: int) -> int:
    """The seed of everything random in one epoch, so that a resumed training draws what an undisturbed one would."""
    digest = hashlib.sha256(f"{seed}/{epoch}".encode()).digest()
    return int.from_bytes(digest[:6], "little")


def fit(
    network: nn.Module,
    train: BatchLoader,
    validation: BatchLoader | None,
    recipe: Recipe,
    device: torch.device,
    *,
    seed: int,
    checkpoints: CheckpointFolder | None = None,
    interrupted: Callable[[], bool] = lambda: False,
) -> Iterator[EpochResult]:
    """Train a network in place by a recipe.

    Stop asking for results to stop training; it costs nothing to go on later only with `checkpoints`.

    Args:
        network: On the device.
        train: The images to learn from.
        validation: The images to score after each epoch, if any.
        recipe: Everything else.
        device: Where all of them live.
        seed: Draws the order of images, augmentation, and whatever the network itself draws.
        checkpoints: Where each epoch's state is kept. Epochs found there are not trained again; their results
            come first.
        interrupted: Asked between steps.

    Yields:
        One result an epoch.

    Raises:
        TrainingError: The loss is not finite any more, or memory ran out twice.
        Interrupted: `interrupted` said so.
    """
    step = TrainStep(network, recipe, device, total_steps=recipe.epochs * len(train))
    results = _restore(step, checkpoints, len(train)) if checkpoints else []
    yield from results
    for epoch in range(len(results) + 1, recipe.epochs + 1):
        started = time.perf_counter()
        network.train()
        devices = [device] if device.type == "cuda" else []
        with torch.random.fork_rng(devices=devices):  # dropout and the like draw from the global generators
            torch.manual_seed(epoch_seed(seed, epoch))
            for images, labels in train.epoch(epoch_seed(seed, epoch)):
                if interrupted():
                    raise Interrupted(f"stopped in epoch {epoch}")
                step(images, labels)
        loss, correct = step.read_sums()
        if not math.isfinite(loss):
            raise TrainingError(f"the loss is not finite in epoch {epoch}", "non-finite loss")
        figures = evaluate(network, validation, device, step.dtype) if validation else None
        result = EpochResult(
            epoch=epoch,
            train_loss=loss / train.size,
            train_accuracy=correct / train.size,
            loss=figures.loss if figures else math.nan,
            accuracy=figures.accuracy if figures else math.nan,
            seconds=time.perf_counter() - started,
            micro_batches=step.micro_batches,
        )
        results.append(result)
        if checkpoints:
            _save(step, checkpoints, results)
        yield result


def _save(step: TrainStep, checkpoints: CheckpointFolder, results: list[EpochResult]) -> None:
    state = {
        "optimizer": step.optimizer.state_dict(),
        "scaler": step.scaler.state_dict(),
        "micro_batches": step.micro_batches,
    }
    checkpoints.save(len(results), step.network.state_dict(), state, [asdict(result) for result in results])


def _restore(step: TrainStep, checkpoints: CheckpointFolder, steps_an_epoch: int) -> list[EpochResult]:
    found = checkpoints.load(step.device)
    if found is None:
        return []
    weights, state, progress = found
    step.network.load_state_dict(weights)
    step.optimizer.load_state_dict(state["optimizer"])
    step.scaler.load_state_dict(state["scaler"])
    step.micro_batches = state["micro_batches"]
    step.steps = len(progress) * steps_an_epoch
    return [EpochResult(**result) for result in progress]
