"""Strategy ``"fair"``: shared weights trained on uniformly drawn paths, so that every architecture gets its share.

Guo et al. 2020 ("Single path one-shot"): while weights are trained, nothing is preferred, and so no choice is judged
by weights that an early preference has trained more. Alphas follow on the frozen weights (`oneshot.alphas`).

Many steps on few images rank better than few steps on many: each step trains one path, and what counts is how many
paths were trained. AdamW's second moment has a short memory, because each step moves other weights than the one before.
"""

from __future__ import annotations

import math
import random
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from nas_optuna.data import BatchLoader
from nas_optuna.errors import Interrupted, TrainingError
from nas_optuna.oneshot.progress import Epoch, Meter
from nas_optuna.oneshot.stability import DivergenceMonitor
from nas_optuna.spaces.supernet import Pick, Supernet
from nas_optuna.spec import SupernetSpec
from nas_optuna.training import epoch_seed
from nas_optuna.training.precision import allow_fast_float32, autocast
from nas_optuna.training.soundness import (
    load_optimizer_state,
    require_number,
    require_optimizer_state,
    require_tensors,
)

STEPS_PER_PARAMETER = 200
"""The default length: that many steps for each parameter of the space, in whole epochs."""
WARM_UP = 0.1
"""The share of all steps in which the learning rate rises to its peak."""
BETAS = (0.9, 0.95)


def default_epochs(parameters: int, steps_per_epoch: int) -> int:
    """How many epochs `STEPS_PER_PARAMETER` asks for, at least one.

    Args:
        parameters: Parameters of the space.
        steps_per_epoch: Batches in an epoch.
    """
    return max(1, round(STEPS_PER_PARAMETER * parameters / steps_per_epoch))


class FairTraining:
    """Trains shared weights; every step computes one path that is drawn uniformly. Alphas stand still.

    Args:
        supernet: The supernet, on its device.
        images: All training images.
        spec: The settings; strategy ``"fair"``.
        epochs: How long to train.
        dtype: Autocast to this; float32 is no autocast.
        interrupted: Asked between steps.

    Attributes:
        length: Epochs in all.
        finished: Epochs done.
    """

    def __init__(
        self,
        supernet: Supernet,
        images: BatchLoader,
        spec: SupernetSpec,
        epochs: int,
        dtype: torch.dtype = torch.float32,
        interrupted: Callable[[], bool] = lambda: False,
    ) -> None:
        self.supernet = supernet
        self.spec = spec
        self.length = epochs
        self.finished = 0
        self._images = images
        self._dtype = dtype
        self._interrupted = interrupted
        self._device = next(iter(supernet.alphas.values())).device
        allow_fast_float32(self._device)
        self._weights = list(supernet.weights())
        self._optimizer = _optimizer(self._weights, spec)
        self._watch = DivergenceMonitor(supernet.space.classes)

    def epochs(self) -> Iterator[Epoch]:
        """Train epoch after epoch, from where the training stands.

        Raises:
            TrainingError: Gradients exploded. The supernet is back in its state at the end of the last good epoch.
            Interrupted: `interrupted` said so.
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

    def step(self, batch: tuple[Tensor, Tensor], rng: random.Random) -> tuple[Tensor, Tensor, Tensor, int]:
        """Draw a path and train it on one batch.

        Returns:
            Mean cross entropy, number of right answers, norm of the gradient before clipping, number of images.
        """
        images, labels = batch
        path = {name: Pick(rng.randrange(len(alpha)), None) for name, alpha in self.supernet.alphas.items()}
        with autocast(self._device, self._dtype):
            logits = self.supernet(images, path)
        loss = F.cross_entropy(logits.float(), labels)
        self._optimizer.zero_grad()
        torch.autograd.backward(loss)
        norm = torch.nn.utils.clip_grad_norm_(self._weights, self.spec.clip or math.inf)
        self._optimizer.step()
        return loss.detach(), (logits.detach().argmax(1) == labels).sum(), norm, len(labels)

    def state_dict(self) -> dict[str, Any]:
        """What `load_state_dict` needs to go on as if nothing had happened: tensors and plain numbers."""
        return {
            "finished": self.finished,
            "length": self.length,
            "supernet": self.supernet.state_dict(),
            "optimizer": self._optimizer.state_dict(),
            **self._watch.state_dict(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from a `state_dict` of a training with the same settings; see `require_state_dict`."""
        self.finished, self.length = state["finished"], state["length"]
        self.supernet.load_state_dict(state["supernet"])
        load_optimizer_state(state["optimizer"], self._optimizer)
        self._watch.load_state_dict(state)

    def require_state_dict(self, state: Mapping[str, Any], finished: int) -> None:
        """Check, without changing anything, that `load_state_dict` can go on from a state that comes from a file.

        Args:
            state: What was read.
            finished: How many epochs it must be of.

        Raises:
            ValueError: It is damaged, or of a training with other settings.
        """
        require_number("length", state["length"], max(1, finished))
        if not isinstance(state["length"], int) or self.spec.epochs not in (None, state["length"]):
            raise ValueError(f"length is {state['length']}")
        require_number("finished", state["finished"], finished, finished)
        require_tensors(state["supernet"], self.supernet.state_dict())
        require_optimizer_state(state["optimizer"], self._optimizer, moved=True)
        self._watch.require_state_dict(state)

    def _epoch(self) -> Epoch:
        start = time.monotonic()
        meter = Meter(self._watch)
        self.supernet.train()
        seed = epoch_seed(self.spec.seed, self.finished)
        rng = random.Random(seed)
        steps = len(self._images)
        for i, batch in enumerate(self._images.epoch(seed)):
            if self._interrupted():
                raise Interrupted(f"stopped in epoch {self.finished + 1}")
            self._set_learning_rate((self.finished * steps + i + 0.5) / (self.length * steps))
            meter.add(*self.step(batch, rng))
        meter.look()
        return Epoch(
            number=self.finished + 1,
            loss=meter.mean_loss(),
            accuracy=meter.accuracy(),
            alpha_loss=None,
            gradient_norm=meter.median_norm(),
            temperature=None,
            cost=None,
            alphas={name: alpha.tolist() for name, alpha in self.supernet.alphas.items()},
            entropy=self.supernet.entropy(),
            derived=self.supernet.derive(),
            seconds=time.monotonic() - start,
        )

    def _set_learning_rate(self, progress: float) -> None:
        factor = min(1.0, progress / WARM_UP)
        if self.spec.schedule == "cosine":
            factor *= 0.5 * (1 + math.cos(math.pi * progress))
        for group in self._optimizer.param_groups:
            group["lr"] = self.spec.learning_rate * factor


def _optimizer(weights: list[torch.nn.Parameter], spec: SupernetSpec) -> torch.optim.Optimizer:
    if spec.optimizer == "adamw":
        return torch.optim.AdamW(weights, spec.learning_rate, betas=BETAS, weight_decay=spec.weight_decay, fused=True)
    return torch.optim.SGD(weights, spec.learning_rate, momentum=0.9, weight_decay=spec.weight_decay)
