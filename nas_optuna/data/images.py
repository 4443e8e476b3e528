"""A set of labelled images in memory, and how it is divided."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from nas_optuna.errors import DataError


@dataclass(frozen=True)
class ImageSet:
    """Labelled images of one size, raw, on the host.

    Attributes:
        images: ``[n, channels, height, width]``, uint8.
        labels: ``[n]``, int64, from 0 to ``len(classes) - 1``.
        classes: What each label is called.
        mean: A mean for each channel, of pixels scaled to [0, 1]; empty to have it measured.
        std: A standard deviation for each channel, likewise.

    Raises:
        DataError: Shapes, types or labels are not as above, or there is no image.
    """

    images: Tensor
    labels: Tensor
    classes: tuple[str, ...]
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        if self.images.dtype != torch.uint8 or self.images.dim() != 4:
            raise DataError(
                f"images must be uint8 [n, channels, height, width], got {self.images.dtype} {list(self.images.shape)}"
            )
        if self.labels.dtype != torch.int64 or self.labels.shape != self.images.shape[:1]:
            raise DataError(f"labels must be int64 [{len(self.images)}], got {list(self.labels.shape)}")
        if not len(self.images):
            raise DataError("the data set has no image")
        if len(self.classes) < 2:
            raise DataError(f"the data set has {len(self.classes)} class; a classifier needs at least two")
        if self.labels.min() < 0 or self.labels.max() >= len(self.classes):
            found = f"{self.labels.min().item()} … {self.labels.max().item()}"
            raise DataError(f"labels must lie in 0 … {len(self.classes) - 1}, got {found}")
        if not self.mean:
            mean, std = _pixel_statistics(self.images)
            object.__setattr__(self, "mean", mean)
            object.__setattr__(self, "std", std)

    def __len__(self) -> int:
        return len(self.images)

    @property
    def channels(self) -> int:
        """Channels of each image."""
        return self.images.shape[1]

    @property
    def side(self) -> int:
        """The longer side in pixels, which a network's square input has unless the recipe says otherwise."""
        return max(self.images.shape[2:])

    def subset(self, indices: Sequence[int] | np.ndarray) -> ImageSet:
        """The images at `indices`, with the statistics of the whole."""
        index = torch.as_tensor(np.asarray(indices), dtype=torch.int64)
        return replace(self, images=self.images[index], labels=self.labels[index])


def _pixel_statistics(images: Tensor) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation of each channel in [0, 1], exact, from a histogram of the 256 values."""
    means, stds = [], []
    for channel in range(images.shape[1]):
        counts = torch.bincount(images[:, channel].flatten().long(), minlength=256).double()
        values = torch.arange(256, dtype=torch.float64) / 255
        mean = (counts @ values / counts.sum()).item()
        means.append(mean)
        stds.append(max((counts @ (values - mean) ** 2 / counts.sum()).sqrt().item(), 1 / 255))
    return tuple(means), tuple(stds)


def stratified_order(labels: Tensor, seed: int) -> np.ndarray:
    """An order of which every prefix has each class in nearly its share of the whole.

    Args:
        labels: ``[n]``, int64.
        seed: Draws the order within each class and between classes that are level.

    Returns:
        ``[n]`` indices, int64.
    """
    rng = np.random.default_rng(seed)
    values = labels.numpy()
    place = np.empty(len(values))
    for label in np.unique(values):
        members = rng.permutation(np.flatnonzero(values == label))
        place[members] = (np.arange(len(members)) + rng.random()) / len(members)
    return np.argsort(place, kind="stable")


def split(images: ImageSet, fraction: float, seed: int, limit: int | None = None) -> tuple[ImageSet, ImageSet]:
    """Divide a training set into what trains and what validates, stratified and fixed by the seed.

    Args:
        images: The training set.
        fraction: Share that validates.
        seed: The same seed gives the same division.
        limit: Use only this many of the images.

    Returns:
        The training part and the validation part.

    Raises:
        DataError: A part would be empty.
    """
    order = stratified_order(images.labels, seed)[: limit or len(images)]
    held_out = round(len(order) * fraction)
    if not 0 < held_out < len(order):
        raise DataError(
            f"{len(order)} images cannot be split with validation_fraction = {fraction}; one part would be empty"
        )
    return images.subset(order[held_out:]), images.subset(order[:held_out])
