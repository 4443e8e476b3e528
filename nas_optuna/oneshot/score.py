"""A score for architectures that combines the figures of shared weights with sizes.

Shared weights and sizes carry different information, so both together rank better than either. Size mainly shows which
networks are too small: with sizes cut off above their mean, the first by the score is nearer to the best than with
uncut sizes, which put the largest first. If strides are searched, the most informative size is the resolution of the
feature maps: no later layer restores what a stride throws away, and shared weights hardly notice. The weights of the
regression start from a prior and move towards the evidence of short trainings and of the study's finished trials, which
may bring uncut sizes back.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from nas_optuna.costs.complexity import size
from nas_optuna.data import BatchLoader
from nas_optuna.spaces import Decomposable, SearchSpace
from nas_optuna.spaces.architecture import Architecture
from nas_optuna.spaces.supernet import ChoiceWeights, Stage, Supernet
from nas_optuna.training.network import autocast

RECALIBRATION_BATCHES = 1
"""Batches of 256 training images for a path's batch norm statistics; eight batches rank the same (τ 0.98)."""


@dataclass(frozen=True)
class SharedFigures:
    """How well an architecture does with shared weights on held-out images."""

    accuracy: float  # share of correct predictions, 0 … 1
    loss: float  # mean cross entropy


class SharedEvaluator:
    """Evaluates architectures with a supernet's weights.

    Each stage of the forward pass is computed once for all architectures that agree up to it; of those that differ only
    in a number of channels, the widest is computed and narrowed. So a whole space costs a fraction of its networks. A
    supernet with batch norm is recalibrated for each architecture, and computes each from the start.
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
        """Compute the remaining stages depth first, so that one tensor is kept for each stage."""
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
"""The index of an architecture, and its choice weights."""


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


Array = NDArray[np.float64]

FEATURES = ("shared accuracy", "shared loss", "log MACs", "log parameters", "log widths", "log resolutions")
"""The features of the score, in order; of the loss, minus its logarithm."""
SIZES = slice(2, 6)
ENOUGH = 0.5
"""Sizes are cut off this many standard deviations above the mean, since they mainly show what is too small."""
PRIOR = np.array([1.0, 0.25, 0.3, 0.0, 0.1, 1.0, 0.0, 0.0, 0.0, 0.0])
"""The weights before any training: of standardised features, with sizes cut off at `ENOUGH`, then of uncut sizes."""
SHARED_STRENGTH, SIZE_STRENGTH, SINGLE_STRENGTH = 1.0, 2.0, 8.0
"""Strength of the prior, in trials: of the shared features together, of the sizes together, of a single weight."""
SHORT_WORTH = 0.25
"""The weight of a short training in the regression; a full training has 1."""
MIN_TRAININGS = 3
"""The fewest trainings that a score is fitted to."""


def features(space: SearchSpace, architectures: Sequence[Architecture], shared: Sequence[SharedFigures]) -> Array:
    """The features of architectures without a training, ``[architectures, len(FEATURES) + choices]``."""
    # The last columns are an indicator for each choice of each parameter: its effect beyond sizes.
    rows = []
    for architecture, figure in zip(architectures, shared, strict=True):
        macs, params = size(space, architecture)
        rows.append(
            (
                figure.accuracy,
                -math.log(max(figure.loss, 1e-6)),
                math.log(max(macs, 1)),
                math.log(max(params, 1)),
                *log_shapes(space, architecture),
            )
        )
    tokens = np.array([space.tokens(architecture) for architecture in architectures], dtype=np.int64)
    sizes = [len(p.choices) for p in space.parameters.values()]
    return np.column_stack([np.array(rows), *(np.eye(size)[tokens[:, i]] for i, size in enumerate(sizes))])


def log_shapes(space: SearchSpace, architecture: Architecture) -> tuple[float, float]:
    """Widths and resolutions: sums over operations of the logarithms of their filters and output positions."""
    # Output channels count for an operation without filters; positions are height times width of the output. A space
    # that does not declare operations has zeros, which a score ignores.
    widths = resolutions = 0.0
    if isinstance(space, Decomposable):
        for operation in space.operations(architecture):
            if len(operation.output_shape) == 3:
                channels, height, width = operation.output_shape
                widths += math.log(dict(operation.options).get("filters", channels))
                resolutions += math.log(height * width)
    return widths, resolutions


@dataclass(frozen=True)
class Score:
    """A weighted sum of standardised features, with sizes cut off and uncut."""

    centre: Array  # mean of each feature over random architectures
    scale: Array  # standard deviation of each
    weights: Array  # one for each entry of `PRIOR`, then one for each choice
    trials: int = 0  # finished ones that the weights are fitted to
    short: int = 0  # short trainings that they are fitted to; with neither it is the prior

    @classmethod
    def prior(cls, reference: Array) -> Score:
        """The score before any training."""
        scale = reference.std(0)
        scale[len(FEATURES) :] = 1.0
        weights = np.concatenate([PRIOR, np.zeros(reference.shape[1] - len(FEATURES))])
        return cls(reference.mean(0), np.where(scale > 1e-9, scale, np.inf), weights)

    def __call__(self, rows: Array) -> Array:
        """``[architectures, features]`` → ``[architectures]``; higher is better."""
        result: Array = self._design(rows) @ self.weights
        return result

    def fit(self, rows: Array, accuracies: Sequence[float], *, short: bool = False) -> Score:
        """The score fitted to trainings of the study's recipe."""
        # A ridge regression of the accuracies' logits around this score's weights. The shared features and the sizes
        # are each scaled as a whole, because shared weights are informative in some spaces and useless in others; and
        # each weight can move by itself, see `SINGLE_STRENGTH`.
        if len(accuracies) < MIN_TRAININGS:
            return self
        target = logits(accuracies)
        if target.std() < 1e-9:
            return self
        x = self._design(rows)
        x, y = x - x.mean(0), (target - target.mean()) / target.std()
        shared = np.arange(len(self.weights)) < SIZES.start
        parts = np.stack([shared, ~shared]) * self.weights
        design = np.column_stack([x @ parts.T, x])
        strength = np.array([SHARED_STRENGTH, SIZE_STRENGTH, *[SINGLE_STRENGTH] * x.shape[1]])
        strength /= SHORT_WORTH if short else 1.0
        moved = np.linalg.solve(design.T @ design + np.diag(strength), design.T @ (y - x @ self.weights))
        weights = self.weights + moved[: len(parts)] @ parts + moved[len(parts) :]
        trials, shorts = (0, len(accuracies)) if short else (len(accuracies), 0)
        return replace(self, weights=weights, trials=self.trials + trials, short=self.short + shorts)

    def most_informative(self, rows: Array, count: int) -> list[int]:
        """The architectures whose training would be most informative about the weights."""
        # A greedy D-optimal design (Fedorov 1972): each has the largest variance given those before it.
        x = self._design(rows) - self._design(self.centre[None])
        precision = np.eye(x.shape[1]) * (SINGLE_STRENGTH / 2)
        chosen: list[int] = []
        for _ in range(min(count, len(x))):
            variance = np.einsum("ij,jk,ik->i", x, np.linalg.inv(precision), x)
            variance[chosen] = -np.inf
            chosen.append(int(variance.argmax()))
            precision += np.outer(x[chosen[-1]], x[chosen[-1]])
        return chosen

    @property
    def has_shared(self) -> bool:
        """Whether there are figures of shared weights."""
        return bool(np.isfinite(self.scale[: SIZES.start]).any())

    def of_sizes(self) -> Score:
        """This score without the accuracy and loss of shared weights, which shows how much these add to sizes."""
        scale = self.scale.copy()
        scale[: SIZES.start] = np.inf
        return replace(self, scale=scale)

    def to_dict(self) -> dict[str, float]:
        """The weights of the features that vary, for a person; for a size, the one below the cut."""
        weights = self.weights[: len(FEATURES)].copy()
        weights[SIZES] += self.weights[len(FEATURES) : len(PRIOR)]
        rounded = zip(FEATURES, np.round(weights, 3).tolist(), self.scale, strict=False)
        return {name: weight for name, weight, scale in rounded if np.isfinite(scale)}

    def _design(self, rows: Array) -> Array:
        standard = (rows - self.centre) / self.scale
        cut = standard.copy()
        cut[:, SIZES] = np.minimum(cut[:, SIZES], ENOUGH)
        return np.column_stack([cut[:, : len(FEATURES)], standard[:, SIZES], standard[:, len(FEATURES) :]])


def logits(accuracies: Sequence[float]) -> Array:
    """Log odds of accuracies, clipped away from 0 and 1."""
    clipped = np.clip(np.asarray(accuracies), 0.005, 0.995)
    return np.asarray(np.log(clipped / (1 - clipped)))


RIDGES = (0.1, 0.3, 1.0, 3.0, 10.0, 30.0)


def distil(x: Array, y: Array) -> tuple[Array, float]:
    """A linear predictor of the score from indicators of the choices alone, for workers that have no weights."""
    order = np.random.default_rng(0).permutation(len(y))
    test, fit = order[: len(y) // 5], order[len(y) // 5 :]

    def error(ridge: float) -> float:
        coefficients, intercept = _ridge(x[fit], y[fit], ridge)
        return float(((x[test] @ coefficients + intercept - y[test]) ** 2).mean()) if len(test) else 0.0

    return _ridge(x, y, min(RIDGES, key=error))


def _ridge(x: Array, y: Array, strength: float) -> tuple[Array, float]:
    """Ridge regression by the smaller of the two normal equations."""
    centre, mean = x.mean(0), float(y.mean())
    z, target = x - centre, y - mean
    if len(y) < x.shape[1]:
        coefficients = z.T @ np.linalg.solve(z @ z.T + strength * np.eye(len(y)), target)
    else:
        coefficients = np.linalg.solve(z.T @ z + strength * np.eye(x.shape[1]), z.T @ target)
    return coefficients, mean - float(centre @ coefficients)
