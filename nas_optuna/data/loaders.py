"""Batches, ready for a network: from the device where the images fit there, else from the host."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import torch
from torch import Tensor

from nas_optuna.data.images import ImageSet
from nas_optuna.data.preprocessing import Augmentation, Preprocessor

RESIDENT_SHARE = 0.25
"""The share of a device's free memory that resident images may take; the rest is for networks."""

PREFETCHED = 3
"""Batches of images on the host that a thread keeps ready."""

Batch = tuple[Tensor, Tensor]
"""Images ``[batch, channels, side, side]``, float32, and labels ``[batch]``, int64, both on the device.

Where images are mixed, labels are each class's share of each image, ``[batch, classes]``, float32.
"""


class BatchLoader:
    """Batches of a set of images, in an order that the number of an epoch decides.

    Args:
        images: The images.
        batch_size: Images per batch; the last may be smaller.
        input_size: Side of the output in pixels, or its ``(height, width)``.
        device: Where batches are made.
        augmentation: Applied when an epoch has a seed.
        resident: Whether the raw images live on the device, where a batch is an index, a cast, a normalisation and a
            resize. Otherwise they stay on the host, and a thread gathers batches ahead.

    Attributes:
        kind: ``"resident"`` or ``"streaming"``, as a run calls it.
        size: Number of images.
    """

    def __init__(
        self,
        images: ImageSet,
        batch_size: int,
        input_size: int | tuple[int, int],
        device: torch.device,
        augmentation: Augmentation | None = None,
        *,
        resident: bool = True,
    ) -> None:
        self.kind = "resident" if resident else "streaming"
        self.size, self.batch_size = len(images), batch_size
        self._device, self._augmentation = device, augmentation
        self._home = device if resident else torch.device("cpu")
        self._images, self._labels = images.images.to(self._home), images.labels.to(self._home)
        self._classes = len(images.classes)
        self._prepare = Preprocessor(images.pixel_format(input_size), device)

    def __len__(self) -> int:
        """Batches an epoch."""
        return -(-self.size // self.batch_size)

    def epoch(self, seed: int | None = None, order: Tensor | None = None) -> Iterator[Batch]:
        """All images once, or those of an order; in the stored order and unvaried without a seed."""
        generator = torch.Generator(self._device).manual_seed(seed or 0)
        if seed is not None and order is None:
            # A CUDA generator cannot draw an order for the host; elsewhere one serves order and augmentation.
            drawing = generator if self._home.type == self._device.type else torch.Generator().manual_seed(seed)
            order = torch.randperm(self.size, device=self._home, generator=drawing)
        raw = self._raw(None if seed is None else order)
        for images, labels in raw if self.kind == "resident" else self._copied(self._ahead(raw)):
            if seed is not None and self._augmentation is not None:
                images, labels = self._augmentation.batch(images, labels, self._classes, generator)
            yield self._prepare(images), labels

    def _raw(self, order: Tensor | None) -> Iterator[Batch]:
        """Batches of pixels and labels where these live, in an order or in the stored one."""
        if order is None:
            yield from zip(self._images.split(self.batch_size), self._labels.split(self.batch_size), strict=True)
            return
        for index in order.to(self._home).split(self.batch_size):
            yield self._images[index], self._labels[index]

    def _ahead(self, raw: Iterator[Batch]) -> Iterator[Batch]:
        """Host batches, of which a thread gathers (and pins for CUDA) the next ones."""
        pin = self._device.type == "cuda"

        def gather() -> Batch | None:
            batch = next(raw, None)
            return (batch[0].pin_memory(), batch[1].pin_memory()) if batch and pin else batch

        with ThreadPoolExecutor(1, "nas-optuna-gather") as pool:
            waiting = deque(pool.submit(gather) for _ in range(PREFETCHED))
            while batch := waiting.popleft().result():
                waiting.append(pool.submit(gather))
                yield batch

    def _copied(self, batches: Iterator[Batch]) -> Iterator[Batch]:
        """Batches on the device; on CUDA a side stream copies each one while the one before it is used."""
        if self._device.type != "cuda":
            for images, labels in batches:
                yield images.to(self._device), labels.to(self._device)
            return
        side, current = torch.cuda.Stream(self._device), torch.cuda.current_stream(self._device)
        before: Batch | None = None
        for batch in batches:
            with torch.cuda.stream(side):
                copied = batch[0].to(self._device, non_blocking=True), batch[1].to(self._device, non_blocking=True)
            if before is not None:
                yield before
            current.wait_stream(side)
            for tensor in copied:  # made on the side stream, used (and freed) on this one
                tensor.record_stream(current)
            before = copied
        if before is not None:
            yield before


def make_loader(
    images: ImageSet,
    batch_size: int,
    input_size: int | tuple[int, int],
    device: torch.device,
    augmentation: Augmentation | None = None,
) -> BatchLoader:
    """A loader whose images live on the device where they take at most `RESIDENT_SHARE` of its free memory."""
    fits = True  # on the CPU the raw images already live on the device
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        fits = images.images.nbytes + images.labels.nbytes <= RESIDENT_SHARE * free
    return BatchLoader(images, batch_size, input_size, device, augmentation, resident=fits)
