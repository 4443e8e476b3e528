"""The base class of strategies: a loop over epochs and steps that can be resumed; a subclass defines one step."""

from __future__ import annotations

import math
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

import torch
import torch.nn.functional as F
from pydantic import BaseModel, ConfigDict, Field, model_validator
from torch import Tensor

from nas_optuna.data import BatchLoader, ImageSet
from nas_optuna.devices import prepare_process
from nas_optuna.errors import Interrupted, TrainingError
from nas_optuna.oneshot.progress import Epoch, Meter
from nas_optuna.oneshot.stability import DivergenceMonitor
from nas_optuna.spaces.supernet import ChoiceWeights, Supernet
from nas_optuna.spec import SupernetSpec
from nas_optuna.training import epoch_seed
from nas_optuna.training.checkpoint import load_optimizer_state
from nas_optuna.training.fit import never
from nas_optuna.training.network import autocast

Batch = tuple[Tensor, Tensor]
"""Images ``[batch, channels, height, width]`` and labels ``[batch]``."""


class StrategyOptions(BaseModel):
    """The options of ``[supernet]`` that every strategy has; a strategy's own class adds to them and sets defaults.

    Attributes:
        epochs: Passes over the images that weights are trained on.
        batch_size: Images per step.
        optimizer: ``"sgd"``, or ``"adamw"``, which trains deep chains without norm layers sooner.
        learning_rate: The weights' learning rate at its peak.
        weight_decay: The weights' decay; decoupled for AdamW, L2 for SGD.
        schedule: ``"cosine"`` to zero over all steps, or ``"constant"``.
        clip: Largest norm of the weights' gradient; 0 is off.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    epochs: int | None = Field(default=None, ge=1)
    batch_size: int = Field(default=64, ge=1)
    optimizer: Literal["sgd", "adamw"] = "sgd"
    learning_rate: float = Field(default=0.025, gt=0)
    weight_decay: float = Field(default=0.0, ge=0)
    schedule: Literal["constant", "cosine"] = "cosine"
    clip: float = Field(default=5.0, ge=0)


class RankedOptions(StrategyOptions):
    """Options of a strategy that trains weights alone, after which architectures are ranked.

    Attributes:
        budget: The cost of the weights in stand-alone trainings of the recipe, instead of `epochs`. With 0 there are no
            shared weights: sizes and short trainings rank architectures.
        evaluations: Architectures that are scored on the frozen weights to learn the alphas and to find the best.
        short_trainings: Random architectures that are trained alone for a twelfth of the recipe's epochs, which tells
            the score what shared weights and each size are worth in this space. A quarter as many, the best by the
            score, are then trained for a sixth of the epochs, which decides the order of these. Both are fewer where
            the recipe has few epochs, see `oneshot.short_trainings.ShortPlan`. 0 leaves them out; fewer than 3 tell
            nothing, and fewer than 8 have no finalists.
    """

    budget: float | None = Field(default=None, ge=0)
    evaluations: int = Field(default=1000, ge=10)
    short_trainings: int = Field(default=16, ge=0)

    @model_validator(mode="after")
    def _one_length(self) -> RankedOptions:
        if self.budget is not None and self.epochs is not None:
            raise ValueError("budget and epochs both say how long the training is; leave one of them out")
        return self


@dataclass(frozen=True)
class Job:
    """What a strategy is to train, and on what.

    Attributes:
        supernet: The supernet, on its device.
        images: All training images.
        spec: The common settings: seed and cost term.
        costs: ``Operation.key`` → cost, in milliseconds or millions of MACs.
        dtype: Autocast to this; float32 is no autocast.
        interrupted: Asked between steps.
    """

    supernet: Supernet
    images: ImageSet
    spec: SupernetSpec
    costs: Mapping[str, float] = field(default_factory=dict)
    dtype: torch.dtype = torch.float32
    interrupted: Callable[[], bool] = never

    @property
    def device(self) -> torch.device:
        """Where the supernet is."""
        return next(iter(self.supernet.alphas.values())).device

    def loader(self, images: ImageSet, batch_size: int) -> BatchLoader:
        """Batches in the supernet's input size, on its device."""
        return BatchLoader(images, batch_size, self.supernet.space.input_size, self.device)


class Strategy(ABC):
    """Trains a supernet's weights, step by step.

    A subclass sets `Options` and says what one `step` does; the loop, the schedule, the watch for explosions, and
    stopping and going on are here.

    Args:
        job: What to train.
        options: An instance of `Options`.

    Raises:
        SpecError: The space cannot honour an option.
        DataError: There are too few images.

    Attributes:
        Options: The class that checks this strategy's keys of ``[supernet]``: a subclass of `RankedOptions`, or of
            `StrategyOptions` where it learns alphas.
        learns_alphas: Whether alphas are trained beside the weights. If not, they are learned afterwards on the frozen
            weights, see `oneshot.ranking`.
        length: Epochs in all.
        finished: Epochs done.

    Examples:
        >>> class Widest(Strategy):
        ...     def step(self, batch):
        ...         last = {name: ChoiceWeights(len(alpha) - 1, None) for name, alpha in self.supernet.alphas.items()}
        ...         return self.train_weights(*self.cross_entropy(batch, last), batch)
    """

    Options: ClassVar[type[StrategyOptions]] = RankedOptions
    learns_alphas: ClassVar[bool] = False

    def __init__(self, job: Job, options: Any) -> None:
        self.job = job
        self.options = options
        self.supernet = job.supernet
        self.finished = 0
        prepare_process(job.device)
        self.images = job.loader(self.weight_images(), options.batch_size)
        self.length: int = options.epochs or self.default_epochs()
        self.weights = list(self.supernet.weights())
        self.optimizer = self.weight_optimizer()
        self.watch = DivergenceMonitor(self.supernet.space.classes)

    @staticmethod
    def prepare(supernet: Supernet) -> None:
        """Change the initial weights once before the first epoch; does nothing by default."""
        return

    def weight_images(self) -> ImageSet:
        """The images that weights are trained on; all by default."""
        return self.job.images

    def default_epochs(self) -> int:
        """How long to train where neither epochs nor a budget say it."""
        return 30

    def weight_optimizer(self) -> torch.optim.Optimizer:
        """SGD with momentum 0.9, or AdamW. Not fused, because a drawn path leaves some weights without a gradient."""
        options = self.options
        if options.optimizer == "adamw":
            return torch.optim.AdamW(self.weights, options.learning_rate, weight_decay=options.weight_decay)
        momentum = getattr(options, "momentum", 0.9)
        return torch.optim.SGD(self.weights, options.learning_rate, momentum, weight_decay=options.weight_decay)

    def begin_epoch(self, seed: int) -> None:
        """Get ready for an epoch's steps."""
        return

    @abstractmethod
    def step(self, batch: Batch) -> tuple[Tensor, Tensor, Tensor, int]:
        """Train on one batch.

        Returns:
            Mean cross entropy, number of right answers, norm of the gradient before clipping, number of images: what
            `train_weights` returns.
        """

    def end_epoch(self) -> dict[str, Any]:
        """Other fields of the epoch's `Epoch`: ``alpha_loss``, ``temperature``, ``cost``, ``alphas``."""
        return {}

    def require_progress(self, epoch: Epoch) -> None:
        """Raise `TrainingError` where an epoch shows that going on is of no use."""
        return

    def learning_rate(self, step: int, steps: int) -> float:
        """The rate of one step of the next epoch."""
        if self.options.schedule == "constant":
            return float(self.options.learning_rate)
        progress = (self.finished + step / steps) / self.length
        return float(self.options.learning_rate * 0.5 * (1 + math.cos(math.pi * progress)))

    def cross_entropy(self, batch: Batch, picks: Mapping[str, ChoiceWeights]) -> tuple[Tensor, Tensor]:
        """Mean cross entropy of one forward pass, and the logits ``[batch, classes]``."""
        images, labels = batch
        with autocast(self.job.device, self.job.dtype):
            logits = self.supernet(images, picks)
        return F.cross_entropy(logits.float(), labels), logits

    def train_weights(
        self, loss: Tensor, logits: Tensor, batch: Batch, whole: Tensor | None = None
    ) -> tuple[Tensor, Tensor, Tensor, int]:
        """Take one clipped step of the weights' optimizer, of the `whole` loss where more than `loss` counts."""
        self.optimizer.zero_grad()
        torch.autograd.backward(loss if whole is None else whole)
        norm = torch.nn.utils.clip_grad_norm_(self.weights, self.options.clip or math.inf)
        self.optimizer.step()
        labels = batch[1]
        return loss.detach(), (logits.detach().argmax(1) == labels).sum(), norm, len(labels)

    def epochs(self) -> Iterator[Epoch]:
        """Train epoch after epoch, from where the training stands.

        Raises:
            TrainingError: Gradients exploded, or `require_progress` raised. The supernet is back in its state at the
                end of the last good epoch.
            Interrupted: The job was asked to stop.
        """
        while self.finished < self.length:
            good = {name: value.clone() for name, value in self.supernet.state_dict().items()}
            try:
                epoch = self._epoch()
            except TrainingError:
                self.supernet.load_state_dict(good)
                raise
            self.finished += 1
            yield epoch
            self.require_progress(epoch)

    def _epoch(self) -> Epoch:
        start, meter, steps = time.monotonic(), Meter(self.watch), len(self.images)
        self.supernet.train()
        seed = epoch_seed(self.job.spec.seed, self.finished)
        self.begin_epoch(seed)
        for i, batch in enumerate(self.images.epoch(seed)):
            if self.job.interrupted():
                raise Interrupted(f"stopped in epoch {self.finished + 1}")
            for group in self.optimizer.param_groups:
                group["lr"] = self.learning_rate(i, steps)
            meter.add(*self.step(batch))
        figures = meter.figures()  # which waits for the device
        return Epoch(self.finished + 1, seconds=time.monotonic() - start, **figures, **self.end_epoch())

    def state_dict(self) -> dict[str, Any]:
        """What `load_state_dict` needs to go on as if nothing had happened: tensors and plain numbers."""
        return {
            "finished": self.finished,
            "length": self.length,
            "supernet": self.supernet.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            **self.watch.state_dict(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from a `state_dict` of a training with the same settings."""
        self.finished, self.length = state["finished"], state["length"]
        self.supernet.load_state_dict(state["supernet"])
        load_optimizer_state(state["optimizer"], self.optimizer)
        self.watch.load_state_dict(state)
