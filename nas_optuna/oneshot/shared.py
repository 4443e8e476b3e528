"""Shared weights evaluated for many architectures: what they agree on is computed once, and no module is copied."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from nas_optuna.data import BatchLoader
from nas_optuna.spaces.architecture import Architecture
from nas_optuna.spaces.supernet import Pick, Stage, Supernet
from nas_optuna.training.precision import autocast

RECALIBRATION_BATCHES = 8
"""Batches of training images from which a path's batch norm statistics are taken."""


@dataclass(frozen=True)
class SharedFigures:
    """What an architecture does with shared weights, on held-out images.

    Attributes:
        accuracy: Share of right answers, 0 … 1.
        loss: Mean cross entropy.
    """

    accuracy: float
    loss: float


class SharedEvaluator:
    """Evaluates architectures with a supernet's weights.

    Architectures are taken in the order of their tokens, so that neighbours in this order agree in their first layers
    as far as possible; these are computed once. A supernet with batch norm is recalibrated for each architecture,
    and computes each from the start.

    Args:
        supernet: The supernet, on its device.
        held_out: Images that the weights were not trained on.
        training: Training images, which set the statistics of batch norm layers.
        dtype: Autocast to this; float32 is no autocast.
    """

    def __init__(
        self,
        supernet: Supernet,
        held_out: BatchLoader,
        training: Iterable[tuple[Tensor, Tensor]] = (),
        dtype: torch.dtype = torch.float32,
    ) -> None:
        self._supernet = supernet
        self._batches = list(held_out.epoch())
        self._size = held_out.size
        self._training = training
        self._dtype = dtype
        self._device = next(iter(supernet.alphas.values())).device

    @torch.inference_mode()
    def __call__(self, architectures: Sequence[Architecture]) -> list[SharedFigures]:
        """One result for each architecture, in their order. Waits for the device once."""
        tokens = [self._supernet.space.tokens(architecture) for architecture in architectures]
        order = sorted(range(len(tokens)), key=tokens.__getitem__)
        sums = torch.zeros(len(tokens), 2, device=self._device)
        was_training = self._supernet.training
        self._supernet.eval()
        with autocast(self._device, self._dtype):
            if self._supernet.has_norm:
                self._recalibrated(architectures, sums)
            else:
                for images, labels in self._batches:
                    self._prefixes(images, labels, [(i, self._supernet.path(architectures[i])) for i in order], sums)
        self._supernet.train(was_training)
        return [SharedFigures(hits / self._size, loss / self._size) for loss, hits in sums.tolist()]

    def _recalibrated(self, architectures: Sequence[Architecture], sums: Tensor) -> None:
        shared = {name: buffer.clone() for name, buffer in self._supernet.named_buffers()}
        for i, architecture in enumerate(architectures):
            self._supernet.recalibrate(architecture, self._training, RECALIBRATION_BATCHES)
            self._supernet.eval()
            path = self._supernet.path(architecture)
            for images, labels in self._batches:
                _add(sums[i], self._supernet(images, path), labels)
        for name, buffer in self._supernet.named_buffers():
            buffer.copy_(shared[name])

    def _prefixes(
        self, images: Tensor, labels: Tensor, paths: Sequence[tuple[int, dict[str, Pick]]], sums: Tensor
    ) -> None:
        stages = self._supernet.stages()
        reached: list[Tensor] = []  # the output of each stage for the path before
        before: dict[str, Pick] = {}
        for i, path in paths:
            kept = 0
            while kept < len(reached) and _agree(stages[kept], path, before):
                kept += 1
            del reached[kept:]
            for stage in stages[kept:]:
                reached.append(stage.run(reached[-1] if reached else images, path))
            before = path
            _add(sums[i], reached[-1], labels)


def _agree(stage: Stage, path: dict[str, Pick], other: dict[str, Pick]) -> bool:
    return all(path[name].index == other[name].index for name in stage.names)


def _add(sums: Tensor, logits: Tensor, labels: Tensor) -> None:
    logits = logits.float()
    sums += torch.stack([F.cross_entropy(logits, labels, reduction="sum"), (logits.argmax(1) == labels).sum().float()])
