"""Trainings that last for seconds rather than epochs.

With equal epochs a search prefers large networks, and spends its time on them. With equal seconds it prefers cheap
ones, which soon stop improving: on 12,000 pictures of CIFAR-10 the best after nine seconds each ended five points
behind a known network after four minutes of training. So each network's own step is timed, and its seconds grow with
it, though less than in proportion; see `nas_optuna.fitting.clock.Rung`. It gets as many steps as fit into them, and its
learning rate falls to zero by the end.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import optuna
import torch
from torch import Tensor, nn

from nas_optuna.devices import network_failures
from nas_optuna.errors import StudyError, reason_of
from nas_optuna.execution.evaluator import Measurement, TrainingEvaluator, digest
from nas_optuna.execution.retrain import Stage
from nas_optuna.files import write_file
from nas_optuna.fitting.clock import Clock, Rung, TimeBudget
from nas_optuna.quantities import plural
from nas_optuna.spaces import SearchSpace
from nas_optuna.spaces.architecture import Architecture
from nas_optuna.spec import Recipe
from nas_optuna.study.schema import TrialKey
from nas_optuna.training import TrainStep, make_network
from nas_optuna.training.fit import epoch_order
from nas_optuna.training.network import autocast
from nas_optuna.training.step import GRAPH_WARM_UP

FEWEST_STEPS = 8
"""A network that takes fewer steps in its share of the time learns nothing in it."""
LONGEST_EPOCH = 20.0
"""The longest epoch in seconds, and so the most that a kill costs."""
PART = 32
"""Images with which a step is timed on a CPU; beyond this number its time grows in proportion."""
MARGIN = 1.2
"""A test may take this multiple of the time of its forward passes."""
EPOCHS = 40
"""The fewest epochs of the last training; after each its state is kept, and the clock decides again."""
LONGEST_LAST_EPOCH = 60.0
"""The longest epoch of the last training in seconds: a stop costs at most so much, and so often something is said."""
TAUGHT_FROM = 200
"""Passes over the images above which the last training is divided: its network is the teacher of a second one. On
1,500 pictures 120 passes had reached as much as 240 (0.706 and 0.704), and 120 and 90 of a second network 0.715; but 50
and 37 had less than 100 of one (0.685 and 0.689). See docs/benchmarks.md, "What decided it"."""
LARGER = 0.25
"""The share of the last training for a larger teacher of a network that a limit has made smaller. On 12,000 of MNIST
half the width has 0.9925 after 100 passes, and 0.9947 after 40 with such a teacher of 12, as long altogether."""
CHEAPEST, DEAREST = 1 / 8, 4.0
"""Costs of a network, relative to the reference, beyond which its seconds no longer change."""


class EqualSeconds(TrainingEvaluator):
    """The built-in training, but with equal seconds for networks of equal cost; see `Evaluator`."""

    # The number of steps is fixed once the network's step has been timed, and stored: from then on the training is as
    # reproducible as any, and can continue where it stopped.

    def __init__(
        self,
        training: TrainingEvaluator,
        rung: Rung,
        number: int,  # stored with each trial, like the seconds: trainings of other lengths are not compared
        per_step: float,  # seconds of a step of the reference network
        reference: Architecture | None = None,  # trained however slow it is
    ) -> None:
        vars(self).update(vars(training))
        self.rung, self.per_step, self.alone, self.reference = rung, per_step, rung.networks == 1, reference
        self.attributes = {TrialKey.RUNG: number, TrialKey.SHARE: round(rung.seconds, 2)}
        self.steps = max(1, math.ceil(rung.seconds / LONGEST_EPOCH))
        divided = {"seconds": round(rung.seconds, 1), "rung": number, "growth": rung.growth}
        self.__dict__["identity"] = digest(training.identity, divided)

    def evaluate(
        self, architecture: Architecture, *, resume: Path | None, stop: Callable[[], bool]
    ) -> Iterator[Measurement]:
        """See `Evaluator`; a network that is too large for its share of the time is pruned."""
        # But the reference, or the only network, is always trained: the search must end with a network.
        fewest = 1 if self.alone or architecture == self.reference else FEWEST_STEPS
        steps = self._fixed_steps(architecture, resume, fewest)
        if steps < fewest:
            raise optuna.TrialPruned(f"only {plural(steps, 'step')} in {self.rung.seconds:.0f} s")
        recipe = paced(self.recipe, steps, self.steps, self.train_loader.size)
        plain = TrainingEvaluator.evaluate(self.with_recipe(recipe), architecture, resume=resume, stop=stop)
        for measured in plain:
            yield replace(measured, details={**measured.details, "STEPS": steps, "RECIPE": recipe.fingerprint})

    def _fixed_steps(self, architecture: Architecture, resume: Path | None, fewest: int) -> int:
        """The number of steps, which was decided when the training began."""
        file = resume / "steps.json" if resume else None
        if file is not None:
            with suppress(OSError, ValueError, TypeError):  # or a kill has left it empty, as earlier releases wrote it
                return int(json.loads(file.read_text()))
        timed = time_network(self, architecture)
        batches = len(self.validation_loader) * self.steps
        cost = min(DEAREST, max(CHEAPEST, timed.step / self.per_step))
        usable = self.rung.seconds * cost**self.rung.growth - batches * timed.forward
        steps = max(int(usable / timed.step), 1)
        if file is not None and steps >= fewest:
            try:
                file.parent.mkdir(parents=True, exist_ok=True)
                write_file(file, json.dumps(steps))
            except OSError as error:
                raise StudyError(f"cannot keep {file} ({reason_of(error)}); free some space there") from error
        return steps


def paced(recipe: Recipe, steps: int, epochs: int, images: int) -> Recipe:
    """The recipe with this number of steps of one length, in epochs of equal size."""
    each = max(1, round(steps / epochs))
    return recipe.model_copy(
        update={"epochs": epochs, "epoch_size": each * min(recipe.batch_size, images), "progressive": 0.0}
    )


def epochs_within(
    recipe: Recipe, seconds: float, per_step: float, images: int, *, least: float = 0.0
) -> dict[str, Any]:
    """The epochs and the epoch size of a training of so many seconds; no epochs if these are fewer than `least`."""
    # The weights from a search are kept as they are if the learning rate, which rises first, would have less time to
    # fall than in the search.
    steps = max(1, int(max(seconds, 1.0) / per_step))
    epochs = min(max(EPOCHS, math.ceil(seconds / LONGEST_LAST_EPOCH)), steps)
    late = least > 0 and seconds < least
    return {"epochs": 0 if late else epochs, "epoch_size": paced(recipe, steps, epochs, images).epoch_size}


def last_trainings(
    recipe: Recipe, seconds: float, timed: Timed, images: int, least: float = 0.0, larger: Timed | None = None
) -> dict[str, Any]:
    """`epochs_within`; under ``"teacher"`` those of a training before it.

    There is one if a larger network is to teach, or if a single training would see the images too often.
    """
    per_step, own = timed.step, (1 - LARGER) * seconds
    if larger is not None and own >= least:
        before = epochs_within(recipe, LARGER * seconds, larger.step, images) | {"before": own, "larger": True}
        return epochs_within(recipe, own, per_step + larger.forward, images) | {"teacher": before}
    if seconds / per_step * min(recipe.batch_size, images) < TAUGHT_FROM * images or seconds / 2 < least:
        return epochs_within(recipe, seconds, per_step, images, least=least)
    teacher = epochs_within(recipe, seconds / 2, per_step, images) | {"before": seconds / 2}
    return epochs_within(recipe, seconds / 2, per_step + timed.forward, images) | {"teacher": teacher}


def stages_of(
    final: Mapping[str, Any], recipe: Recipe, budget: TimeBudget, reserve: float, larger: SearchSpace | None = None
) -> list[Stage]:
    """The trainings that `last_trainings` has chosen, each with the clock that ends it."""
    share = 1 - LARGER if larger else 0.5  # of the second one
    more = share * (budget.total - final.get("within", budget.total))  # if another time is given now
    return [
        Stage(
            recipe.model_copy(update={name: part[name] for name in ("epochs", "epoch_size")}),
            Clock(budget, reserve + (max(0.0, part["before"] + more) if "before" in part else 0.0), part["epochs"]),
            larger if "larger" in part else None,
        )
        for part in (final.get("teacher"), final)
        if part
    ]


@dataclass(frozen=True)
class Timed:
    """What a network takes on this machine."""

    step: float  # seconds of a training step
    forward: float  # seconds of a batch in evaluation; of a network with frozen layers it is most of a step
    layers: int

    def test(self, batches: float) -> float:
        """Seconds for so many batches of test images."""
        return MARGIN * self.forward * batches


@network_failures("a training step cannot be timed")
def time_network(training: TrainingEvaluator, architecture: Architecture, space: SearchSpace | None = None) -> Timed:
    """The fastest of a few steps and forward passes of a temporary network, possibly of another space."""
    device, train = training.device, training.train_loader
    recipe = paced(training.recipe, 1, 1, train.size)
    network = make_network(space or training.space, architecture, recipe, device, recipe.seed)
    network.train()
    tried = 3 if device.type == "cpu" else GRAPH_WARM_UP + 3  # all but the first steps of a training are graphs
    step = TrainStep(network, recipe, device, total_steps=tried)
    part = min(PART, train.batch_size) if device.type == "cpu" else recipe.batch_size
    # Where there are fewer full batches, images come again.
    batches = train.epoch(0, epoch_order(0, 1, train.size, tried * train.batch_size))
    found, forward = [], []
    for _ in range(tried):
        began = time.perf_counter()
        images, labels = next(batches)
        ready = time.perf_counter()
        step(images[:part], labels[:part])
        step.read_sums()  # waits for the device
        ended = time.perf_counter()
        times = len(images) / min(part, len(images))
        found.append(ready - began + (ended - ready) * times)
        forward.append(ready - began + _forward(network, images[:part], step.dtype) * times)
    return Timed(min(found[1:]), min(forward[1:]), count_layers(network))


def time_reference(training: TrainingEvaluator, space: SearchSpace) -> Timed:
    """What the reference of a space takes."""
    assert space.reference is not None
    return time_network(training, space.reference, space)


def count_layers(network: nn.Module) -> int:
    """The number of modules that contain no others."""
    return sum(not list(module.children()) for module in network.modules())


def _forward(network: nn.Module, images: Tensor, dtype: torch.dtype) -> float:
    """Seconds of a forward pass in evaluation."""
    network.eval()
    began = time.perf_counter()
    with network_failures("evaluation failed"), torch.inference_mode(), autocast(images.device, dtype):
        network(images).sum().item()  # waits for the device
    network.train()
    return time.perf_counter() - began
