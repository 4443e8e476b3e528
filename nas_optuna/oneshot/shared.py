"""Evaluation of many architectures with shared weights: common prefixes are computed once."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from nas_optuna.data import BatchLoader
from nas_optuna.spaces.architecture import Architecture
from nas_optuna.spaces.supernet import ChoiceWeights, Stage, Supernet
from nas_optuna.training.network import autocast

RECALIBRATION_BATCHES = 1
"""Batches of 256 training images for a path's batch norm statistics; eight rank the same (τ 0.98)."""


@dataclass(frozen=True)
class SharedFigures:
    """How well an architecture does with shared weights on held-out images."""

    accuracy: float  # share of right answers, 0 … 1
    loss: float  # mean cross entropy


class SharedEvaluator:
    """Evaluates architectures with a supernet's weights.

    Each stage of the forward pass is computed once for all architectures that agree up to it, and of those that differ
    only in a number of channels the widest is computed and narrowed. So a whole space costs a fraction of its
    networks. A supernet with batch norm is recalibrated for each architecture, and computes each from the start.
    """

    def __init__(
        self,
        supernet: Supernet,
        held_out: BatchLoader,
        training: Callable[[], Iterable[tuple[Tensor, Tensor]]] = tuple,
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
        sums = torch.zeros(len(architectures), 2, device=self._device)
        was_training = self._supernet.training
        self._supernet.eval()
        with autocast(self._device, self._dtype):
            if self._supernet.has_norm:
                self._recalibrated(architectures, sums)
            else:
                paths = [(i, self._supernet.path(architecture)) for i, architecture in enumerate(architectures)]
                for images, labels in self._batches:
                    self._descend(images, labels, paths, self._supernet.stages(), sums)
        self._supernet.train(was_training)
        return [SharedFigures(hits / self._size, loss / self._size) for loss, hits in sums.tolist()]

    def _recalibrated(self, architectures: Sequence[Architecture], sums: Tensor) -> None:
        shared = {name: buffer.clone() for name, buffer in self._supernet.named_buffers()}
        for i, architecture in enumerate(architectures):
            self._supernet.recalibrate(architecture, self._training(), RECALIBRATION_BATCHES)
            path = self._supernet.path(architecture)
            for images, labels in self._batches:
                _add(sums[i], self._supernet(images, path), labels)
        for name, buffer in self._supernet.named_buffers():
            buffer.copy_(shared[name])

    def _descend(
        self, x: Tensor, labels: Tensor, paths: Sequence[_Path], stages: Sequence[Stage], sums: Tensor
    ) -> None:
        """Go through the stages that are left, depth first: one tensor for each stage is kept."""
        if not stages:
            for i, _ in paths:
                _add(sums[i], x, labels)
            return
        stage, *rest = stages
        for group in _agreeing(paths, stage.names):
            if stage.nested is None:
                self._descend(stage.run(x, group[0][1]), labels, group, rest, sums)
                continue
            name, sizes = stage.nested.name, stage.nested.sizes
            widest = max((path for _, path in group), key=lambda path: sizes[_index(path, name)])
            wide = stage.run(x, widest)
            for narrow in _agreeing(group, (name,)):
                y = stage.nested.narrow(wide, _index(widest, name), _index(narrow[0][1], name))
                self._descend(y, labels, narrow, rest, sums)


_Path = tuple[int, dict[str, ChoiceWeights]]
"""Number of an architecture, and the picks that compute it."""


def _agreeing(paths: Sequence[_Path], names: Sequence[str]) -> list[list[_Path]]:
    """Groups of paths with the same choices of these parameters."""
    groups: dict[tuple[int, ...], list[_Path]] = {}
    for i, path in paths:
        groups.setdefault(tuple(_index(path, name) for name in names), []).append((i, path))
    return list(groups.values())


def _index(path: dict[str, ChoiceWeights], name: str) -> int:
    index = path[name].index
    assert index is not None, "a path has one choice of each parameter"
    return index


def _add(sums: Tensor, logits: Tensor, labels: Tensor) -> None:
    logits = logits.float()
    sums += torch.stack([F.cross_entropy(logits, labels, reduction="sum"), (logits.argmax(1) == labels).sum().float()])
