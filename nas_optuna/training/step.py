"""One optimiser step, the body of the hot loop. It never waits for the device.

It is eager on every device. On CUDA, full batches are replayed as one CUDA graph (forward, loss, backward, optimiser,
and the sums for the epoch's figures); the last, smaller batch of an epoch runs eagerly on the same weights and state.
"""

from __future__ import annotations

import logging
import math
import warnings
from contextlib import nullcontext
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nas_optuna.devices import forget_compiled, is_out_of_memory, prepare_process
from nas_optuna.errors import TrainingError, reason_of
from nas_optuna.randomness import HostGenerators
from nas_optuna.spaces.backbone import PretrainedBody
from nas_optuna.spec import Recipe
from nas_optuna.training.network import (
    autocast,
    may_draw,
    microbatch_size,
    mixes_images,
    require_logits,
    resolve_precision,
    takes,
)

logger = logging.getLogger(__name__)

GRAPH_WARM_UP = 3
"""Eager full batches before capture, so that cuDNN has chosen its algorithms and the optimiser has its state."""

SMALLER = 5 / 8
"""The side of the images with which a progressive training begins, as a share of theirs."""
SMALLEST = 20
"""Pixels a side below which images are not made smaller: digits of 28 lose strokes."""
PROGRESSIVE, MOST_PASSES = 0.6, 25
"""With ``progressive = "auto"``: that share of the steps, where each image is seen less often than so: two points of
accuracy at 18 passes over 10,000 pictures, nothing at 30 over 12,000."""

TAUGHT = 0.9
"""The share of a teacher's probabilities in the targets; the rest are the labels."""

_fallbacks_logged: set[str] = set()


class TrainStep:
    """A callable ``(images, labels)`` that updates the network once and adds to the epoch's sums."""

    # If memory runs out, batches are halved and the gradients of the parts summed, so that the step is the same to
    # rounding for networks without batch statistics. A second failure raises.

    def __init__(
        self,
        network: nn.Module,
        recipe: Recipe,
        device: torch.device,
        total_steps: int,
        passes: float = 0.0,
        teacher: nn.Module | None = None,
    ) -> None:
        prepare_process(device)
        self.network = network
        self.recipe = recipe
        self._teacher = teacher
        self._smoothing = recipe.label_smoothing if teacher is None else 0.0  # a teacher's targets are smooth
        self.device = device
        self.total_steps: float = total_steps
        self.steps: float = 0  # of the schedule; fractional only after `spread`
        self.micro_batches = 1  # parts into which a batch is divided to fit in memory
        self.draws = may_draw(network)
        self.mixes = False  # whether the network mixes the images of a batch; known after the first step
        self.dtype = resolve_precision(recipe.precision, device)
        self.scaler = torch.amp.GradScaler(device.type, enabled=self.dtype == torch.float16)
        self._graph_reason = self._why_no_graph()
        self.optimizer = make_optimizer(network, recipe, device, capturable=self._graph_reason is None)
        if recipe.compile:
            forget_compiled()
        self._forward = torch.compile(network) if recipe.compile else network
        self._sums = torch.zeros(2, device=device)  # summed loss, correct predictions
        self._graph: torch.cuda.CUDAGraph | None = None
        self._inputs: tuple[Tensor, Tensor] | None = None
        self._full_batches = 0
        self._microbatch_size: int | None = None  # known once a batch has been seen
        self._batch_size: int | None = None  # of the first batch, which is as large as any
        self._size: torch.Size | None = None  # height and width of the last images
        few = PROGRESSIVE if passes < MOST_PASSES else 0.0
        self._progressive = few if recipe.progressive == "auto" else recipe.progressive
        self._smaller: bool | None = None if self._progressive else False  # None until the network was asked

    def __call__(self, images: Tensor, labels: Tensor) -> None:
        """Update the network once."""
        self._set_learning_rate()
        labels = self._taught(images, labels)
        images = self._resized(images)
        if self._microbatch_size is None:
            self.mixes = mixes_images(self.network, images)
            self._microbatch_size = microbatch_size(self.network, images)
        self._batch_size = self._batch_size or len(images)
        if self._graph_reason is None and len(images) == self._batch_size:
            self._graphed(images, labels)
        else:
            self._eager(images, labels)
        self.steps += 1

    def _taught(self, images: Tensor, labels: Tensor) -> Tensor:
        """The targets: the labels, or for the most part what the teacher sees in the images."""
        if self._teacher is None:
            return labels
        with torch.no_grad(), autocast(self.device, self.dtype):
            seen = self._teacher(images).float().softmax(1)
        given = labels if labels.ndim == 2 else F.one_hot(labels, seen.shape[1]).float()
        return torch.lerp(given, seen, TAUGHT)

    def _resized(self, images: Tensor) -> Tensor:
        """The images, smaller in the first part of a progressive training; what is of the old size is forgotten."""
        if self._smaller is not False:
            small = F.interpolate(images, scale_factor=SMALLER, mode="bilinear", align_corners=False)
            if self._smaller is None:
                self._smaller = min(small.shape[2:]) >= SMALLEST and takes(self.network, images, small)
            self._smaller = self._smaller and self.steps < self._progressive * self.total_steps
            images = small if self._smaller else images
        if images.shape[2:] != self._size:
            self._size, self._microbatch_size, self._graph, self._full_batches = images.shape[2:], None, None, 0
        return images

    def spread(self, left: int) -> None:
        """Spread the rest of the schedule over so many steps."""
        done = self.steps / self.total_steps
        self.total_steps = left / (1 - done)
        self.steps = done * self.total_steps

    def read_sums(self) -> tuple[float, float]:
        """Wait for the device; return the summed loss and the number of correct predictions since the last call."""
        loss, correct = self._sums.tolist()
        self._sums.zero_()
        return loss, correct

    def _set_learning_rate(self) -> None:
        rate = self.recipe.learning_rate * rate_factor(self.recipe.schedule, self.steps, self.total_steps)
        for group in self.optimizer.param_groups:
            if isinstance(group["lr"], Tensor):
                group["lr"].fill_(rate * group["factor"])
            else:
                group["lr"] = rate * group["factor"]

    def _eager(self, images: Tensor, labels: Tensor) -> None:
        try:
            self._update(images, labels)
        except RuntimeError as error:
            if not is_out_of_memory(error):
                raise
            if self.micro_batches > 1 or len(images) < 2:
                raise TrainingError(
                    f"out of memory on {self.device} with half the batch of {len(images)}", "oom"
                ) from error
        else:
            return
        # Outside of the handler, where the exception no longer keeps the failed step's tensors.
        self.micro_batches = 2
        self._refuse_graph("the batch did not fit in memory")
        if self.device.type == "cuda":
            torch.cuda.empty_cache()
        self._eager(images, labels)

    def _update(self, images: Tensor, labels: Tensor) -> None:
        self.optimizer.zero_grad(set_to_none=True)
        part = min(self._microbatch_size or len(images), -(-len(images) // self.micro_batches))
        sums = torch.zeros_like(self._sums)
        for x, y in zip(images.split(part), labels.split(part), strict=True):
            with autocast(self.device, self.dtype):
                logits = self._forward(x)
            require_logits(logits, len(x))
            loss = F.cross_entropy(logits.float(), y, reduction="sum", label_smoothing=self._smoothing)
            self.scaler.scale(loss / len(images)).backward()
            named = y if y.ndim == 1 else y.argmax(1)
            sums += torch.stack((loss.detach(), (logits.detach().argmax(1) == named).sum()))
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self._sums += sums  # after success, so that a repeated step counts once

    def _why_no_graph(self) -> str | None:
        """Why steps cannot be CUDA graphs here, or None if they can."""
        if self.device.type != "cuda":
            return "the device is not CUDA"
        if not self.recipe.cuda_graphs:
            return "recipe.cuda_graphs is off"
        if torch.__version__ < "2.12":  # torch compares versions, not letters
            return "a capture that fails leaves torch before 2.12 damaged"
        if self.recipe.compile:
            return "recipe.compile is on"
        if self.dtype == torch.float16:
            return "the float16 gradient scaler decides on the host"
        return None

    def _graphed(self, images: Tensor, labels: Tensor) -> None:
        if self._graph is None:
            if self._full_batches < GRAPH_WARM_UP:
                self._full_batches += 1
                self._on_side_stream(images, labels)
                return
            self._capture(images, labels)
        if self._graph is None or self._inputs is None:
            self._eager(images, labels)
            return
        self._inputs[0].copy_(images)
        self._inputs[1].copy_(labels)
        self._graph.replay()

    def _on_side_stream(self, images: Tensor, labels: Tensor) -> None:
        """Warm-up batches are real training steps, on a side stream like the capture, as torch requires."""
        side = torch.cuda.Stream(self.device)
        side.wait_stream(torch.cuda.current_stream(self.device))
        with torch.cuda.stream(side), warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=".*constructed with capturable=True")  # only for the warm-up
            self._eager(images, labels)
        torch.cuda.current_stream(self.device).wait_stream(side)

    def _capture(self, images: Tensor, labels: Tensor) -> None:
        self._inputs = (images.clone(memory_format=torch.preserve_format), labels.clone())
        self.optimizer.zero_grad(set_to_none=True)
        generators, known = HostGenerators() if self.draws else None, set(self.optimizer.state)
        try:
            # On the network's device, which need not be the current one: a graph on another device would be empty. The
            # stream is restored even if the capture fails.
            with generators or nullcontext(), torch.cuda.stream(torch.cuda.current_stream(self.device)):
                graph = torch.cuda.CUDAGraph()
                # Other threads, such as one that pins the next batches, may allocate in the meantime.
                own = torch.cuda.Stream(self.device)
                with torch.cuda.graph(graph, stream=own, capture_error_mode="thread_local"):
                    self._update(*self._inputs)
                if generators is None or not generators.have_moved():
                    self._graph = graph
                    return
            refused = "the network draws random numbers on the host, and a replay would repeat them"
        except RuntimeError as error:
            refused = reason_of(error)
        # Nothing was computed, so what was made for the graph has no values.
        self._inputs = None
        self.optimizer.zero_grad(set_to_none=True)
        for new in self.optimizer.state.keys() - known:
            del self.optimizer.state[new]
        self._refuse_graph(refused)

    def _refuse_graph(self, reason: str) -> None:
        self._graph_reason = reason
        self._graph = None
        if self.device.type == "cuda" and reason not in _fallbacks_logged:
            _fallbacks_logged.add(reason)
            logger.warning("training without CUDA graphs: %s", reason)


def parameter_groups(network: nn.Module, recipe: Recipe) -> list[dict[str, Any]]:
    """The parameters that learn, in groups with a factor of the learning rate and a weight decay."""
    bodies = [module for module in network.modules() if isinstance(module, PretrainedBody)]
    factors = {id(p): body.rate for body in bodies for p in body.parameters()}
    learning = [p for p in network.parameters() if p.requires_grad]
    if not learning:
        raise TrainingError("the network has no weight that learns; let some have requires_grad")
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    for p in learning:
        # Weights of norms and biases have one dimension.
        decay = recipe.weight_decay if recipe.decay_norms or p.ndim > 1 else 0.0
        groups.setdefault((factors.get(id(p), 1.0), decay), []).append(p)
    return [{"params": params, "factor": factor, "weight_decay": decay} for (factor, decay), params in groups.items()]


WARM_UP = 0.2
"""Share of the steps in which the learning rate of ``"one-cycle"`` rises."""


def rate_factor(schedule: str, step: float, steps: float) -> float:
    """The learning rate after `step` of `steps`, as a share of its peak; see `Recipe.schedule`."""
    if schedule == "constant":
        return 1.0
    if schedule == "cosine":
        return 0.5 * (1 + math.cos(math.pi * step / steps))
    rising = max(1, round(WARM_UP * steps))
    return (step + 1) / rising if step < rising else (steps - step) / (steps - rising)


def make_optimizer(
    network: nn.Module, recipe: Recipe, device: torch.device, *, capturable: bool
) -> torch.optim.Optimizer:
    """The recipe's optimiser, fused into one kernel if the device supports it."""
    groups, rate = parameter_groups(network, recipe), recipe.learning_rate
    if capturable:  # a graph replays fixed addresses: what changes between steps must be a tensor
        groups = [{**group, "lr": torch.tensor(rate, device=device)} for group in groups]
    real = all(p.is_floating_point() for group in groups for p in group["params"])
    fused = real and device.type in ("cuda", "cpu", "mps")
    if recipe.optimizer == "sgd":
        sgd = torch.optim.SGD(groups, lr=rate, momentum=recipe.momentum, fused=fused)
        # The kernel makes no momentum for a weight that has its first gradient after others, and in float16 a first
        # step that overflows would leave what was in memory. A first step with momenta of zero has the same result.
        for p in (p for group in groups for p in group["params"] if fused and recipe.momentum):
            sgd.state[p]["momentum_buffer"] = torch.zeros_like(p)
        return sgd
    return torch.optim.AdamW(groups, lr=rate, fused=fused, capturable=capturable)
