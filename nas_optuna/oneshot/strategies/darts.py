"""Strategy ``"darts"``: weights and alphas of a supernet are trained in turns, by mixtures of all candidates.

Liu et al. 2019 (DARTS). Choices that cannot be mixed, because they change the shape of later layers, are drawn by
Gumbel-softmax; strategy ``"gumbel"`` draws everything (Wu et al. 2019, FBNet; Dong and Yang 2019, GDAS).
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping
from typing import Any, ClassVar, Literal

import torch
from pydantic import Field, model_validator
from torch import Tensor

from nas_optuna.data import split
from nas_optuna.data.loaders import Batch
from nas_optuna.errors import SpecError
from nas_optuna.oneshot.price import with_cost
from nas_optuna.oneshot.strategies.base import Job, Strategy, StrategyOptions
from nas_optuna.spaces.supernet import GumbelSample, Mode, Supernet
from nas_optuna.training import epoch_seed
from nas_optuna.training.checkpoint import load_optimizer_state


class GumbelSampler:
    """Gumbel-max draws from a supernet's alphas (Jang et al. 2017, equation 1).

    The host decides which candidate runs next, and alphas are on the device. Reading them in every step would stall
    it, so a draw uses the logits of one draw ago, whose copy to the host has long finished. An alpha moves by about
    its learning rate in between. The gradient uses the current logits.
    """

    def __init__(self, supernet: Supernet, seed: int) -> None:
        self._alphas = supernet.alphas
        self.generator = torch.Generator().manual_seed(seed)  # of the host: the same noise on every device
        self.refresh()

    def refresh(self) -> None:
        """Read the alphas now: after they were set, or at the start of an epoch."""
        flat = torch.cat([alpha.detach() for alpha in self._alphas.values()])
        # Only CUDA has an event that tells when a copy has ended, and keeps what is copied until then.
        self._logits = flat.to("cpu", non_blocking=flat.is_cuda)
        self._copied = torch.cuda.current_stream(flat.device).record_event() if flat.is_cuda else None

    def next(self, temperature: float) -> GumbelSample:
        """Draw every parameter."""
        logits, copied = self._logits, self._copied
        self.refresh()
        if copied is not None:
            copied.synchronize()
        noise = -torch.empty_like(logits).exponential_(generator=self.generator).log()
        sizes, device = [len(alpha) for alpha in self._alphas.values()], next(iter(self._alphas.values())).device
        perturbed = torch.split(logits + noise, sizes)
        on_device = torch.split(noise.to(device, non_blocking=device.type == "cuda"), sizes)
        return GumbelSample(
            {name: int(part.argmax()) for name, part in zip(self._alphas, perturbed, strict=True)},
            dict(zip(self._alphas, on_device, strict=True)),
            temperature,
        )


TEMPERATURE, TEMPERATURE_DECAY = 5.0, 0.956
"""FBNet's schedule, Wu et al. 2019, section 4.1."""


class DartsOptions(StrategyOptions):
    """Options of strategies ``"darts"`` and ``"gumbel"``.

    Attributes:
        update: ``"alternating"`` trains weights on one half of the training images and alphas on the other;
            ``"joint"`` trains both on the same batches with the same optimizer, as the reference supernet does.
        order: Always 1; a study of an earlier release with 2 opens, but no longer trains its supernet.
        warmup_epochs: Epochs before alphas move.
        momentum: SGD's momentum.
        alpha_learning_rate: By default 3e-4; in a joint update `learning_rate`.
        alpha_weight_decay: By default 1e-3; in a joint update 0.
        temperature: Of the Gumbel-softmax in the first epoch.
        temperature_decay: Its factor from epoch to epoch.
    """

    epochs: int = Field(default=30, ge=1)
    weight_decay: float = Field(default=3e-4, ge=0)
    update: Literal["alternating", "joint"] = "alternating"
    order: Literal[1, 2] = 1
    warmup_epochs: int = Field(default=3, ge=0)
    momentum: float = Field(default=0.9, ge=0, lt=1)
    alpha_learning_rate: float | None = Field(default=None, gt=0)
    alpha_weight_decay: float | None = Field(default=None, ge=0)
    temperature: float | None = Field(default=None, gt=0)
    temperature_decay: float | None = Field(default=None, gt=0, le=1)

    @model_validator(mode="after")
    def _honourable(self) -> DartsOptions:
        if self.warmup_epochs >= self.epochs:
            raise ValueError(
                f"warmup_epochs = {self.warmup_epochs} leaves none of the {self.epochs} epochs to alphas; raise epochs"
                " or lower warmup_epochs"
            )
        if self.optimizer == "adamw" and self.update == "joint":
            raise ValueError(
                'optimizer = "adamw" needs update = "alternating"; a joint update shares its SGD with alphas'
            )
        return self


class DartsStrategy(Strategy):
    """Weights and alphas in turns or jointly, by mixtures of all candidates (DARTS)."""

    Options = DartsOptions
    learns_alphas = True
    mode: ClassVar[Mode] = "mixture"

    def __init__(self, job: Job, options: DartsOptions) -> None:
        halves = None if options.update == "joint" else split(job.images, 0.5, job.spec.seed)
        super().__init__(job, options, halves and halves[0])
        draws = self.mode == "sampled" or bool(self.supernet.must_draw)
        if not draws and not (options.temperature is None and options.temperature_decay is None):
            raise SpecError(
                f"supernet.temperature is of no use to space {self.supernet.space.name!r} with strategy 'darts', which"
                " draws nothing; leave it out, or set supernet.strategy=gumbel"
            )
        self._alpha_images = halves and job.loader(halves[1], options.batch_size)
        self._alphas = list(self.supernet.alphas.values())
        self._alpha_optimizer = _alpha_optimizer(self._alphas, options)
        self._draws = GumbelSampler(self.supernet, job.spec.seed)
        self._cost = self.supernet.cost_model(job.costs) if job.costs else None
        self._alpha_losses: list[Tensor] = []

    @property
    def temperature(self) -> float:
        """The Gumbel-softmax's temperature in the next epoch."""
        start, decay = self.options.temperature or TEMPERATURE, self.options.temperature_decay or TEMPERATURE_DECAY
        return float(start * decay**self.finished)

    def begin_epoch(self, seed: int) -> None:
        """Read the alphas, and restart the alphas' images."""
        if self.options.order == 2:  # not earlier, since what was trained so is read
            raise SpecError("supernet.order = 2 (second order) is no longer supported; set supernet.order=1")
        self._draws.refresh()
        self._alpha_losses = []
        self._batches = self._alpha_batches()

    def _alpha_batches(self) -> Iterator[Batch]:
        """An endless iterator of batches for the alphas; a smaller half is repeated within the epoch."""
        assert self._alpha_images is not None
        for i in itertools.count():
            yield from self._alpha_images.epoch(epoch_seed(self.job.spec.seed, -1 - self.finished - i * self.length))

    def step(self, batch: Batch) -> tuple[Tensor, Tensor, Tensor, int]:
        """Train the alphas on a batch of their own, then the weights; or both on this one."""
        moving = self.finished >= self.options.warmup_epochs
        if moving and self._alpha_images is not None:
            self._alpha_losses.append(self.alpha_step(next(self._batches)))
        return self.weight_step(batch, joint=moving and self._alpha_images is None)

    def end_epoch(self) -> dict[str, Any]:
        """Alphas and their expected cost."""
        losses = self._alpha_losses
        return {
            "alpha_loss": torch.stack(losses).mean().item() if losses else None,
            "temperature": self.temperature,
            "cost": None if self._cost is None else float(self._cost(self.supernet.probabilities()).detach()),
            "alphas": {name: alpha.tolist() for name, alpha in self.supernet.alphas.items()},
        }

    def weight_step(self, batch: Batch, *, joint: bool) -> tuple[Tensor, Tensor, Tensor, int]:
        """Train the weights; in a joint update the alphas as well."""
        loss, logits = self._drawn(batch, self._draws.next(self.temperature), differentiable=joint)
        self._alpha_optimizer.zero_grad()
        result = self.train_weights(loss, logits, batch, self._with_cost(loss) if joint else None)
        if joint:
            self._alpha_optimizer.step()
        return result

    def alpha_step(self, batch: Batch) -> Tensor:
        """Train the alphas, and return their cross entropy."""
        loss, _ = self._drawn(batch, self._draws.next(self.temperature), differentiable=True)
        gradients = torch.autograd.grad(self._with_cost(loss), self._alphas, allow_unused=True)
        for alpha, gradient in zip(self._alphas, gradients, strict=True):
            alpha.grad = torch.zeros_like(alpha) if gradient is None else gradient
        self._alpha_optimizer.step()
        return loss.detach()

    def _drawn(self, batch: Batch, draw: GumbelSample, *, differentiable: bool) -> tuple[Tensor, Tensor]:
        return self.cross_entropy(batch, self.supernet.picks(self.mode, draw, differentiable=differentiable))

    def _with_cost(self, cross_entropy: Tensor) -> Tensor:
        if self.job.spec.latency_weight == 0 or self._cost is None:
            return cross_entropy
        return with_cost(self.job.spec, cross_entropy, self._cost(self.supernet.probabilities()))

    def state_dict(self) -> dict[str, Any]:
        """The state of the base class, of the alphas' optimizer and of the draws."""
        own = {"alpha_optimizer": self._alpha_optimizer.state_dict(), "draws": self._draws.generator.get_state()}
        return super().state_dict() | own

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """The state of the base class, of the alphas' optimizer and of the draws."""
        super().load_state_dict(state)
        load_optimizer_state(state["alpha_optimizer"], self._alpha_optimizer)
        self._draws.generator.set_state(state["draws"].cpu())


def _alpha_optimizer(alphas: list[torch.nn.Parameter], options: DartsOptions) -> torch.optim.Optimizer:
    """Adam with the settings of DARTS (Liu et al. 2019, appendix A.1.1); in a joint update the weights' SGD."""
    decay = options.alpha_weight_decay
    if options.update == "joint":
        rate = options.alpha_learning_rate or options.learning_rate
        return torch.optim.SGD(alphas, rate, momentum=options.momentum, weight_decay=decay or 0.0)
    return torch.optim.Adam(
        alphas, options.alpha_learning_rate or 3e-4, betas=(0.5, 0.999), weight_decay=1e-3 if decay is None else decay
    )


class GumbelStrategy(DartsStrategy):
    """Like darts with one drawn candidate at a time (FBNet, GDAS): a step costs what a single network's costs."""

    mode: ClassVar[Mode] = "sampled"
