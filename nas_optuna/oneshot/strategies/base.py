"""The base class of strategies: a resumable loop over epochs and steps; a subclass defines one step."""

from __future__ import annotations

import math
import statistics
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

import torch
import torch.nn.functional as F
from pydantic import Field, model_validator
from torch import Tensor
from torch.utils._pytree import tree_leaves

from nas_optuna.data import BatchLoader, ImageSet
from nas_optuna.data.loaders import Batch
from nas_optuna.devices import prepare_process
from nas_optuna.errors import Interrupted, SpecError, TrainingError
from nas_optuna.randomness import RandomState
from nas_optuna.spaces.supernet import ChoiceWeights, Supernet
from nas_optuna.spec import SupernetSpec
from nas_optuna.spec_text import Settings
from nas_optuna.training import epoch_seed
from nas_optuna.training.checkpoint import load_optimizer_state
from nas_optuna.training.fit import never
from nas_optuna.training.network import autocast, may_draw
from nas_optuna.training.step import rate_factor

_PLAIN = (bool, int, float, str, type(None))
"""What a checkpoint keeps beside tensors."""
WINDOW = 50
"""Steps between two reads of losses and gradient norms, at which the loop waits for the device."""


@dataclass(frozen=True)
class Epoch:
    """The figures of one epoch of a supernet's training."""

    number: int  # from 1
    loss: float  # mean cross entropy of the weight steps
    accuracy: float  # share of correct predictions in the weight steps, before each step
    gradient_norm: float  # median norm of the weights' gradient before clipping
    seconds: float
    alpha_loss: float | None = None  # of the alpha steps; None while alphas do not move, and in a joint update
    temperature: float | None = None  # of the Gumbel-softmax; None if nothing is drawn from alphas
    cost: float | None = None  # expected at the end, in the table's unit; None without alphas or a table
    alphas: Mapping[str, list[float]] | None = None  # parameter name → logits at the end; None if none are trained


EXPLOSION = 100.0
"""The largest ratio of a window's median gradient norm to the largest earlier median."""
CHANCE = 10.0
"""The largest ratio of a window's median loss to the loss of guessing, ``log(classes)``, unless the loss falls.

A deep residual network without norm layers can begin with such a loss and learn nevertheless.
"""


class Meter:
    """Losses, correct predictions and gradient norms, read once per window of steps and checked for explosions."""

    def __init__(self, classes: int) -> None:
        self._guessing = math.log(max(classes, 2))
        self._largest: float | None = None  # median norm of a window
        self._lowest = math.inf  # median loss of a window
        self.begin_epoch()

    def begin_epoch(self) -> None:
        """Reset the figures for a new epoch."""
        self._pending: list[Tensor] = []  # on the device
        self._steps: list[tuple[float, ...]] = []  # loss, correct predictions and norm of each step
        self._seen = 0

    def add(self, loss: Tensor, hits: Tensor, norm: Tensor, seen: int) -> None:
        """Add one step's mean loss, correct predictions, gradient norm and number of images."""
        self._pending.append(torch.stack([loss.float(), hits.float(), norm.float()]))
        self._seen += seen
        if len(self._pending) == WINDOW:
            self._read()

    def _read(self) -> None:
        if self._pending:
            losses, hits, norms = torch.stack(self._pending).T.tolist()
            self._pending.clear()
            self.observe(norms, losses)
            self._steps += zip(losses, hits, norms, strict=True)

    def figures(self) -> dict[str, Any]:
        """The `Epoch`'s ``loss``, ``accuracy`` and ``gradient_norm``."""
        self._read()
        losses, hits, norms = zip(*self._steps, strict=True)
        return {
            "loss": sum(losses) / len(losses),
            "accuracy": sum(hits) / self._seen,
            "gradient_norm": statistics.median_high(norms),
        }

    def state_dict(self) -> dict[str, float | None]:
        """The state as plain numbers."""
        return {"largest_norm": self._largest, "lowest_loss": self._lowest}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore the state from that of a training."""
        self._largest, self._lowest = state["largest_norm"], state["lowest_loss"]

    def observe(self, norms: Sequence[float], losses: Sequence[float]) -> None:
        """Check the gradient norms and losses of one window of steps."""
        remedy = "lower supernet.learning_rate or supernet.clip, and look for a ReLU that is missing or doubled"
        if not all(map(math.isfinite, losses)):
            raise TrainingError(f"the supernet's loss is not finite; {remedy}", "non-finite loss")
        norm, loss = statistics.median(norms), statistics.median(losses)
        steep = not all(map(math.isfinite, norms)) or norm > EXPLOSION * (self._largest or math.inf)
        if steep or (self._largest is not None and loss > max(CHANCE * self._guessing, self._lowest)):
            raise TrainingError(
                f"the supernet's gradients explode: median norm {norm:.3g} (largest before: {self._largest or 0:.3g}),"
                f" loss {loss:.3g} (guessing: {self._guessing:.3g}); {remedy}",
                "gradient explosion",
            )
        self._largest, self._lowest = max(norm, self._largest or 0.0), min(loss, self._lowest)


class StrategyOptions(Settings):
    """The options of ``[supernet]`` that every strategy has; a strategy's own class adds options and sets defaults.

    Attributes:
        epochs: Passes over the images that weights are trained on.
        batch_size: Images per step.
        optimizer: ``"sgd"``, or ``"adamw"``, which trains deep chains without norm layers faster.
        learning_rate: The peak learning rate of the weights.
        weight_decay: The weights' decay; decoupled for AdamW, L2 for SGD.
        schedule: ``"cosine"`` to zero over all steps, or ``"constant"``.
        clip: Largest norm of the weights' gradient; 0 turns clipping off.
    """

    epochs: int | None = Field(default=None, ge=1)
    batch_size: int = Field(default=64, ge=1)
    optimizer: Literal["sgd", "adamw"] = "sgd"
    learning_rate: float = Field(default=0.025, gt=0)
    weight_decay: float = Field(default=0.0, ge=0)
    schedule: Literal["constant", "cosine"] = "cosine"
    clip: float = Field(default=5.0, ge=0)


class RankedOptions(StrategyOptions):
    """Options of a strategy that trains only weights, after which architectures are ranked.

    Attributes:
        budget: The cost of the weights in stand-alone trainings of the recipe, instead of `epochs`. With 0 there are no
            shared weights: sizes and short trainings rank architectures.
        evaluations: Architectures that are scored on the frozen weights to learn the alphas and to find the best.
        short_trainings: Random architectures that are trained alone for a twelfth of the recipe's epochs, which
            calibrates how much shared weights and each size are worth in this space. A quarter as many, the best by
            the score, are then trained for a sixth of the epochs, which decides their order. Both are fewer if the
            recipe has few epochs, see `oneshot.short_trainings.ShortPlan`. 0 leaves them out; fewer than 3 are
            ignored, and fewer than 8 have no finalists.
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
        interrupted: Called between steps; True stops the training.
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
        """Batches in the supernet's input size on its device."""
        return BatchLoader(images, batch_size, self.supernet.space.input_size, self.device)


class Strategy(ABC):
    """Trains a supernet's weights, step by step.

    A subclass sets `Options` and defines one `step`; the loop, the schedule, the check for explosions, stopping and
    resuming are here.

    Args:
        job: What to train.
        options: An instance of `Options`.
        images: The images that weights are trained on; all of the job by default.

    Raises:
        SpecError: The space cannot honour an option.
        DataError: There are too few images.

    Attributes:
        Options: The class that checks this strategy's keys of ``[supernet]``: a subclass of `RankedOptions`, or of
            `StrategyOptions` if it learns alphas.
        learns_alphas: Whether alphas are trained together with the weights. If not, they are learned afterwards on the
            frozen weights, see `oneshot.ranking`.
        adamw: Further settings of AdamW, which may be fused, since it skips weights without a gradient.
        length: Total number of epochs.
        finished: Finished epochs.

    Examples:
        >>> class Widest(Strategy):
        ...     def step(self, batch):
        ...         last = {name: ChoiceWeights(len(alpha) - 1, None) for name, alpha in self.supernet.alphas.items()}
        ...         return self.train_weights(*self.cross_entropy(batch, last), batch)
    """

    Options: ClassVar[type[StrategyOptions]] = RankedOptions
    learns_alphas: ClassVar[bool] = False
    adamw: ClassVar[Mapping[str, Any]] = {}

    def __init__(self, job: Job, options: Any, images: ImageSet | None = None) -> None:
        self.job = job
        self.options = options
        self.supernet = job.supernet
        self.finished = 0
        prepare_process(job.device)
        self.images = job.loader(images or job.images, options.batch_size)
        self.length: int = options.epochs or self.default_epochs()
        self.weights = list(self.supernet.weights())
        self.optimizer = self.weight_optimizer()
        self.meter = Meter(self.supernet.space.classes)

    def default_epochs(self) -> int:
        """The number of epochs if neither epochs nor a budget are set."""
        return 30

    def weight_optimizer(self) -> torch.optim.Optimizer:
        """SGD with momentum 0.9, or AdamW."""
        # Fused SGD would need the momentum of every weight, and a weight that no drawn path has used yet has none.
        # AdamW does not, so a strategy may fuse it by its settings, as `fair` does.
        options = self.options
        if options.optimizer == "adamw":
            return torch.optim.AdamW(
                self.weights, options.learning_rate, weight_decay=options.weight_decay, **self.adamw
            )
        momentum = getattr(options, "momentum", 0.9)
        return torch.optim.SGD(self.weights, options.learning_rate, momentum, weight_decay=options.weight_decay)

    def begin_epoch(self, seed: int) -> None:
        """Prepare for an epoch's steps."""
        return

    @abstractmethod
    def step(self, batch: Batch) -> tuple[Tensor, Tensor, Tensor, int]:
        """Train on one batch.

        Returns:
            Mean cross entropy, number of correct predictions, norm of the gradient before clipping, number of images:
            the result of `train_weights`.
        """

    def end_epoch(self) -> dict[str, Any]:
        """Other fields of the epoch's `Epoch`: ``alpha_loss``, ``temperature``, ``cost``, ``alphas``."""
        return {}

    def learning_rate(self, step: int, steps: int) -> float:
        """The learning rate of one step of the next epoch."""
        progress = (self.finished + step / steps) / self.length
        return float(self.options.learning_rate * rate_factor(self.options.schedule, progress, 1))

    def cross_entropy(self, batch: Batch, picks: Mapping[str, ChoiceWeights]) -> tuple[Tensor, Tensor]:
        """Mean cross entropy of one forward pass, and the logits ``[batch, classes]``."""
        images, labels = batch
        with autocast(self.job.device, self.job.dtype):
            logits = self.supernet(images, picks)
        return F.cross_entropy(logits.float(), labels), logits

    def train_weights(
        self, loss: Tensor, logits: Tensor, batch: Batch, whole: Tensor | None = None
    ) -> tuple[Tensor, Tensor, Tensor, int]:
        """Take one clipped step of the weights' optimizer, for the `whole` loss if it has more terms than `loss`."""
        self.optimizer.zero_grad()
        torch.autograd.backward(loss if whole is None else whole)
        norm = torch.nn.utils.clip_grad_norm_(self.weights, self.options.clip or math.inf)
        self.optimizer.step()
        labels = batch[1]
        return loss.detach(), (logits.detach().argmax(1) == labels).sum(), norm, len(labels)

    def epochs(self) -> Iterator[Epoch]:
        """Train the remaining epochs.

        Raises:
            TrainingError: Gradients exploded, or the loss is not finite.
            Interrupted: The job was asked to stop.
        """
        while self.finished < self.length:
            epoch = self._epoch()
            self.finished += 1
            yield epoch

    def _epoch(self) -> Epoch:
        start, steps = time.monotonic(), len(self.images)
        self.meter.begin_epoch()
        self.supernet.train()
        seed = epoch_seed(self.job.spec.seed, self.finished)
        self.begin_epoch(seed)
        state = RandomState(seed, self.job.device) if may_draw(self.supernet) else None
        for i, batch in enumerate(self.images.epoch(seed)):
            if self.job.interrupted():
                raise Interrupted(f"stopped in epoch {self.finished + 1}")
            for group in self.optimizer.param_groups:
                group["lr"] = self.learning_rate(i, steps)
            with state.current() if state else nullcontext():
                done = self.step(batch)
            right = isinstance(done, tuple) and [getattr(part, "ndim", None) for part in done] == [0, 0, 0, None]
            self._require(right, "step", "what train_weights gives")
            self.meter.add(*done)
        figures = self.meter.figures()  # which waits for the device
        more = self.end_epoch()
        right = isinstance(more, dict) and more.keys() <= {"alpha_loss", "temperature", "cost", "alphas"}
        self._require(right, "end_epoch", "a dictionary of alpha_loss, temperature, cost and alphas, or an empty one")
        return Epoch(self.finished + 1, seconds=time.monotonic() - start, **figures, **more)

    def _require(self, right: bool, method: str, wanted: str) -> None:
        """Refuse what a method of a user's strategy has returned."""
        if not right:
            raise SpecError(f"{method} of strategy {type(self).__name__} must return {wanted}")

    def checked_state(self) -> dict[str, Any]:
        """The `state_dict`, which a subclass may have extended by what a checkpoint can be read with."""
        state = self.state_dict()
        right = isinstance(state, dict) and state.keys() >= Strategy.state_dict(self).keys()
        right = right and all(isinstance(leaf, Tensor) or type(leaf) in _PLAIN for leaf in tree_leaves(state))
        self._require(right, "state_dict", "what super().state_dict() gives, to which it may add tensors and numbers")
        return state

    def state_dict(self) -> dict[str, Any]:
        """The state for `load_state_dict`: tensors and plain numbers."""
        return {
            "finished": self.finished,
            "length": self.length,
            "supernet": self.supernet.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            **self.meter.state_dict(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from a `state_dict` of a training with the same settings."""
        self.finished, self.length = state["finished"], state["length"]
        self.supernet.load_state_dict(state["supernet"])
        load_optimizer_state(state["optimizer"], self.optimizer)
        self.meter.load_state_dict(state)
