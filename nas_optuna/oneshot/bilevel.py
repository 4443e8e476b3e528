"""The search: weights and alphas of a supernet trained in turns, one result per epoch."""

from __future__ import annotations

import itertools
import math
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from nas_optuna.data import BatchLoader
from nas_optuna.errors import Interrupted, SpecError, TrainingError
from nas_optuna.oneshot.cost_loss import cost_loss
from nas_optuna.oneshot.gumbel import Draws
from nas_optuna.oneshot.progress import Epoch, Meter
from nas_optuna.oneshot.stability import DivergenceMonitor, require_no_collapse
from nas_optuna.oneshot.unrolled import gradient, unrolled_gradient
from nas_optuna.spaces.supernet import Draw, Supernet
from nas_optuna.spec import SupernetSpec
from nas_optuna.training import epoch_seed
from nas_optuna.training.precision import allow_fast_float32, autocast
from nas_optuna.training.soundness import (
    load_optimizer_state,
    require_number,
    require_optimizer_state,
    require_tensor,
    require_tensors,
)

TEMPERATURE, TEMPERATURE_DECAY = 5.0, 0.956
"""FBNet's schedule, Wu et al. 2019, section 4.1."""


class BilevelSearch:
    """Alternating (or joint) optimisation of a supernet.

    Args:
        supernet: The supernet, on its device.
        weight_images: What weights are trained on.
        alpha_images: What alphas are trained on; None in a joint update.
        spec: The settings; strategy ``"darts"``.
        table: ``Operation.key`` → cost, in milliseconds or millions of MACs.
        dtype: Autocast to this; float32 is no autocast.
        interrupted: Asked between steps.

    Raises:
        SpecError: The space cannot honour an option, or latency has a weight and no table.
    """

    def __init__(
        self,
        supernet: Supernet,
        weight_images: BatchLoader,
        alpha_images: BatchLoader | None,
        spec: SupernetSpec,
        table: Mapping[str, float] | None = None,
        dtype: torch.dtype = torch.float32,
        interrupted: Callable[[], bool] = lambda: False,
    ) -> None:
        if (alpha_images is None) != (spec.update == "joint"):
            raise SpecError("an alternating update needs images for the alphas, and a joint one has no use for them")
        require_honourable(spec, supernet, table)
        self.supernet = supernet
        self.spec = spec
        assert spec.epochs is not None, "strategy darts has a default"
        self.length = spec.epochs
        self._weight_images = weight_images
        self._alpha_images = alpha_images
        self._dtype = dtype
        self._interrupted = interrupted
        self._device = next(iter(supernet.alphas.values())).device
        allow_fast_float32(self._device)
        self._cost = supernet.cost_model(table) if table is not None else None
        self._loss = cost_loss(spec)
        self._weights = list(supernet.weights())
        self._alphas = list(supernet.alphas.values())
        self._optimizer = _weight_optimizer(self._weights, spec)
        self._alpha_optimizer = _alpha_optimizer(self._alphas, spec)
        self._draws = Draws(supernet, spec.seed)
        self._watch = DivergenceMonitor(supernet.space.classes)
        self._smallest = supernet.smallest()
        self.finished = 0

    @property
    def temperature(self) -> float:
        """The Gumbel-softmax's temperature in the next epoch."""
        start, decay = self.spec.temperature or TEMPERATURE, self.spec.temperature_decay or TEMPERATURE_DECAY
        return start * decay**self.finished

    def epochs(self) -> Iterator[Epoch]:
        """Train epoch after epoch, from where the search stands.

        Raises:
            TrainingError: Gradients exploded or the search collapsed. The supernet is back in its state at the end
                of the last good epoch.
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
            require_no_collapse(self.supernet.prior(), epoch.derived, self._smallest)

    def state_dict(self) -> dict[str, Any]:
        """What `load_state_dict` needs to go on as if nothing had happened: tensors and plain numbers."""
        return {
            "finished": self.finished,
            "supernet": self.supernet.state_dict(),
            "optimizer": self._optimizer.state_dict(),
            "alpha_optimizer": self._alpha_optimizer.state_dict(),
            "draws": self._draws.generator.get_state(),
            **self._watch.state_dict(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from a `state_dict` of a search with the same settings; see `require_state_dict`."""
        self.finished = state["finished"]
        self.supernet.load_state_dict(state["supernet"])
        load_optimizer_state(state["optimizer"], self._optimizer)
        load_optimizer_state(state["alpha_optimizer"], self._alpha_optimizer)
        self._draws.generator.set_state(state["draws"].cpu())
        self._watch.load_state_dict(state)

    def require_state_dict(self, state: Mapping[str, Any], finished: int) -> None:
        """Check, without changing anything, that `load_state_dict` can go on from a state that comes from a file.

        Args:
            state: What was read.
            finished: How many epochs it must be of.

        Raises:
            ValueError: It is damaged, or of a search with other settings.
        """
        require_number("finished", state["finished"], finished, min(finished, self.length))
        require_tensors(state["supernet"], self.supernet.state_dict())
        require_optimizer_state(state["optimizer"], self._optimizer, moved=True)
        require_optimizer_state(state["alpha_optimizer"], self._alpha_optimizer, moved=False)
        require_tensor("draws", state["draws"].cpu(), self._draws.generator.get_state())
        torch.Generator().set_state(state["draws"].cpu())
        self._watch.require_state_dict(state)

    def _epoch(self) -> Epoch:
        start = time.monotonic()
        temperature = self.temperature
        moving = self.finished >= self.spec.warmup_epochs
        steps = len(self._weight_images)
        meter = Meter(self._watch)
        self._draws.refresh()
        alpha_batches = self._alpha_batches() if self._alpha_images is not None and moving else None
        joint = moving and self._alpha_images is None
        for i, batch in enumerate(self._weight_images.epoch(epoch_seed(self.spec.seed, self.finished))):
            if self._interrupted():
                raise Interrupted(f"stopped in epoch {self.finished + 1}")
            self._set_learning_rate((self.finished + i / steps) / self.length)
            if alpha_batches is not None:
                meter.alpha_losses.append(self._alpha_step(batch, next(alpha_batches), temperature))
            meter.add(*self._weight_step(batch, temperature, joint))
        meter.look()
        cost = None if self._cost is None else float(self._cost(self.supernet.probabilities()).detach())
        return Epoch(
            number=self.finished + 1,
            loss=meter.mean_loss(),
            accuracy=meter.accuracy(),
            alpha_loss=meter.mean_alpha_loss(),
            gradient_norm=meter.median_norm(),
            temperature=temperature,
            cost=cost,
            alphas={name: alpha.tolist() for name, alpha in self.supernet.alphas.items()},
            entropy=self.supernet.entropy(),
            derived=self.supernet.derive(),
            seconds=time.monotonic() - start,
        )

    def _alpha_batches(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Batches for the alphas without end; a smaller half begins anew within the epoch."""
        assert self._alpha_images is not None
        for i in itertools.count():
            yield from self._alpha_images.epoch(epoch_seed(self.spec.seed, -1 - self.finished - i * self.length))

    def _set_learning_rate(self, progress: float) -> None:
        if self.spec.schedule == "cosine":
            for group in self._optimizer.param_groups:
                group["lr"] = self.spec.learning_rate * 0.5 * (1 + math.cos(math.pi * progress))

    def _cross_entropy(self, batch: tuple[Tensor, Tensor], draw: Draw, differentiable: bool) -> tuple[Tensor, Tensor]:
        images, labels = batch
        with autocast(self._device, self._dtype):
            logits = self.supernet(images, self.supernet.picks(self.spec.mode, draw, differentiable=differentiable))
        return F.cross_entropy(logits.float(), labels), logits

    def _with_cost(self, cross_entropy: Tensor) -> Tensor:
        if self.spec.latency_weight == 0 or self._cost is None:
            return cross_entropy
        return self._loss(cross_entropy, self._cost(self.supernet.probabilities()))

    def _weight_step(
        self, batch: tuple[Tensor, Tensor], temperature: float, joint: bool
    ) -> tuple[Tensor, Tensor, Tensor, int]:
        loss, logits = self._cross_entropy(batch, self._draws.next(temperature), differentiable=joint)
        self._optimizer.zero_grad()
        self._alpha_optimizer.zero_grad()
        torch.autograd.backward(self._with_cost(loss) if joint else loss)
        norm = torch.nn.utils.clip_grad_norm_(self._weights, self.spec.clip or math.inf)
        self._optimizer.step()
        if joint:
            self._alpha_optimizer.step()
        labels = batch[1]
        return loss.detach(), (logits.detach().argmax(1) == labels).sum(), norm, len(labels)

    def _alpha_step(
        self, weight_batch: tuple[Tensor, Tensor], alpha_batch: tuple[Tensor, Tensor], temperature: float
    ) -> Tensor:
        draw = self._draws.next(temperature)
        cross_entropy: list[Tensor] = []

        def alpha_loss() -> Tensor:
            loss, _ = self._cross_entropy(alpha_batch, draw, differentiable=True)
            cross_entropy.append(loss.detach())
            return self._with_cost(loss)

        if self.spec.order == 1:
            gradients = gradient(alpha_loss(), self._alphas)
        else:
            group = self._optimizer.param_groups[0]
            _, gradients = unrolled_gradient(
                lambda: self._cross_entropy(weight_batch, draw, differentiable=True)[0],
                alpha_loss,
                self._weights,
                self._alphas,
                learning_rate=group["lr"],
                momentum=self.spec.momentum,
                weight_decay=self.spec.weight_decay,
                buffers=[self._optimizer.state[w].get("momentum_buffer") for w in self._weights],
            )
        for alpha, g in zip(self._alphas, gradients, strict=True):
            alpha.grad = g
        self._alpha_optimizer.step()
        return cross_entropy[0]


def _weight_optimizer(weights: list[torch.nn.Parameter], spec: SupernetSpec) -> torch.optim.Optimizer:
    """Not fused: a fused SGD asks for the momentum of every weight, and a drawn path leaves some without."""
    if spec.optimizer == "adamw":
        return torch.optim.AdamW(weights, spec.learning_rate, weight_decay=spec.weight_decay)
    return torch.optim.SGD(weights, spec.learning_rate, momentum=spec.momentum, weight_decay=spec.weight_decay)


def _alpha_optimizer(alphas: list[torch.nn.Parameter], spec: SupernetSpec) -> torch.optim.Optimizer:
    """Adam with the settings of DARTS (Liu et al. 2019, appendix A.1.1); in a joint update the weights' SGD."""
    decay = spec.alpha_weight_decay
    if spec.update == "joint":
        rate = spec.alpha_learning_rate or spec.learning_rate
        return torch.optim.SGD(alphas, rate, momentum=spec.momentum, weight_decay=decay or 0.0)
    return torch.optim.Adam(
        alphas, spec.alpha_learning_rate or 3e-4, betas=(0.5, 0.999), weight_decay=1e-3 if decay is None else decay
    )


def require_honourable(spec: SupernetSpec, supernet: Supernet, table: Mapping[str, float] | None) -> None:
    """Refuse settings that the differentiable strategy could not obey with this supernet.

    Raises:
        SpecError: Naming the setting.
    """
    draws = spec.mode == "sampled" or bool(supernet.must_draw)
    if not draws and not (spec.temperature is None and spec.temperature_decay is None):
        raise SpecError(
            f"supernet.temperature is of no use to space {supernet.space.name!r} in mode 'mixture', which draws"
            " nothing; leave it out, or set supernet.mode=sampled"
        )
    if spec.latency_weight and table is None:
        raise SpecError("supernet.latency_weight needs a table of costs")
