"""The common interface of image sources: a folder, a file or a function."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from nas_optuna.data.images import VERBS, ImageSet, dimensions, divide, stratified_order
from nas_optuna.data.pixels import fit_into
from nas_optuna.devices import free_memory
from nas_optuna.errors import DataError
from nas_optuna.spec import DataSpec

Part = Literal["train", "validation", "test"]
PART_NAMES: Mapping[Part, frozenset[str]] = {
    "train": frozenset({"train", "training"}),
    "validation": frozenset({"val", "valid", "validation"}),
    "test": frozenset({"test", "testing"}),
}
"""Common names of each part, in upper or lower case."""
PARTS = tuple(PART_NAMES)

WITHOUT_TEST = "no test part: a fixed fifth of each class is held out for test"
MAX_INPUT_SIDE = 4096
"""The largest side of images if the recipe sets no size; larger ones are reduced to it."""

InputSize = int | tuple[int, int] | None
"""Side of the networks' input in pixels, or ``(height, width)``; None if it is not set."""


def hold_out(labels: Tensor) -> tuple[np.ndarray, np.ndarray]:
    """Divide a single part: indices for training, and a fixed fifth of each class for test."""
    problem = "are too few to hold out a fifth of them for test; add images, or a test part"
    return divide(stratified_order(labels, seed=0), 0.2, problem)


class FileSource:
    """Labelled images in files, in consecutive parts in the order of `PARTS`."""

    # Without a test part, a fixed fifth of each class of the training part is held out for test.

    def __init__(
        self, labels: Mapping[Part, Tensor], classes: tuple[str, ...], spec: DataSpec, input_size: InputSize
    ) -> None:
        self._classes, self._spec, self._input_size = classes, spec, input_size
        ends = np.cumsum([len(labels.get(part, ())) for part in PARTS])
        train, validation, self._test = np.split(np.arange(ends[-1]), ends[:-1])
        if "test" not in labels:
            train, self._test = hold_out(labels["train"])
        self._training = np.concatenate((train, validation))
        self._labels = torch.cat([labels[part] for part in PARTS if part in labels])
        self.training_count, self.test_count = len(train), len(self._test)

    @property
    def labels(self) -> Tensor:
        """``[n]``, int64, of the training and the validation part."""
        return self._labels[torch.from_numpy(self._training)]

    def training(self, indices: np.ndarray | None = None) -> ImageSet:
        """The training and the validation part, or some images of them."""
        return self._read(self._training if indices is None else self._training[indices])

    def test(self) -> ImageSet:
        """The test part."""
        return self._read(self._test)

    def _read(self, chosen: np.ndarray) -> ImageSet:
        """The images with these indices."""
        pixels, found = self._pixels_at(chosen)
        images = ImageSet(pixels, self._labels[torch.from_numpy(chosen)], self._classes, **found)
        return fitted(images, self._spec, self._input_size)

    def _pixels_at(self, chosen: np.ndarray) -> tuple[Tensor, dict[str, Any]]:
        """``[n, channels, height, width]``, uint8, and further fields of `ImageSet`."""
        raise NotImplementedError


@dataclass(frozen=True)
class FunctionSource:
    """A function from ``train`` to an `ImageSet`, the training or the test part; there is no validation part."""

    load: Callable[[bool], ImageSet]
    spec: DataSpec
    input_size: InputSize

    @property
    def labels(self) -> Tensor:
        """The labels of the training part."""
        return self._training_part.labels

    @property
    def training_count(self) -> int:
        """The number of training images: all of them."""
        return len(self.labels)

    @property
    def test_count(self) -> int:
        """The number of test images."""
        return len(self.load(False))

    def training(self, indices: np.ndarray | None = None) -> ImageSet:
        """The training part, or some of it with the statistics of all."""
        return self._training_part if indices is None else self._training_part.subset(indices)

    def test(self) -> ImageSet:
        """The test part."""
        return fitted(self.load(False), self.spec, self.input_size)

    @cached_property
    def _training_part(self) -> ImageSet:
        return fitted(self.load(True), self.spec, self.input_size)


Source = FileSource | FunctionSource
"""An open data set, of which only the labels need to be in memory."""


def fitted(images: ImageSet, spec: DataSpec, input_size: InputSize) -> ImageSet:
    """Images in memory with the study's resize policy, reduced to its largest side if no input size is set."""
    images, side = replace(images, resize=spec.resize), min(spec.max_side or MAX_INPUT_SIDE, MAX_INPUT_SIDE)
    if input_size is not None or images.side <= side:
        return images
    height, width = images.images.shape[2:]
    change = f"size: {dimensions(height, width)} brought to {dimensions(side, side)}, {VERBS[spec.resize]}"
    pixels, sizes = resize_images(images.images, side, side, spec.resize), ((height, width),)
    return replace(images, images=pixels, mean=(), std=(), sizes=sizes, notes=(*images.notes, change))


def resize_images(images: Tensor, height: int, width: int, policy: str) -> Tensor:
    """Resize uint8 ``[n, channels, …, …]`` that are of another size, bilinearly and antialiased; padding is black."""
    if images.shape[2:] == (height, width):
        return images
    fit = fit_into(images.shape[2], images.shape[3], height, width, policy)
    result = torch.zeros(*images.shape[:2], height, width, dtype=torch.uint8)
    top, left = (height - fit.inner_height) // 2, (width - fit.inner_width) // 2
    inner = result[..., top : top + fit.inner_height, left : left + fit.inner_width]
    used = images[:, :, fit.top : fit.top + fit.height, fit.left : fit.left + fit.width]
    for part, goal in zip(used.split(256), inner.split(256), strict=True):
        resized = F.interpolate(part.float(), goal.shape[2:], mode="bilinear", align_corners=False, antialias=True)
        goal.copy_(resized.round_().clamp_(0, 255))
    return result


def require_memory(needed: int, what: str, remedy: str) -> None:
    """Raise a `DataError` if nearly all free memory would be needed."""
    free = free_memory()
    if free is not None and needed > 0.8 * free:  # networks need some as well
        sizes = f"{needed / 1e9:,.4g} GB, and {free / 1e9:,.4g} GB of memory are free"
        raise DataError(f"{what} would take {sizes}; {remedy}")
