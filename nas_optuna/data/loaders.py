"""Batches, ready for a network: resident on the device where they fit, streamed from the host where not."""

from __future__ import annotations

import queue
import threading
from collections.abc import Iterator
from typing import ClassVar

import torch
from torch import Tensor

from nas_optuna.data.images import ImageSet
from nas_optuna.data.preprocessing import Augmentation, Preprocessor

RESIDENT_SHARE = 0.25
"""The share of a device's free memory that resident images may take; the rest is for networks."""

PREFETCHED = 3
"""Batches that a streaming loader keeps ready."""

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

    Attributes:
        kind: ``"resident"`` or ``"streaming"``.
        size: Number of images.
    """

    kind: ClassVar[str]

    def __init__(
        self,
        images: ImageSet,
        batch_size: int,
        input_size: int | tuple[int, int],
        device: torch.device,
        augmentation: Augmentation | None = None,
    ) -> None:
        self.size, self.batch_size = len(images), batch_size
        home = device if self.kind == "resident" else torch.device("cpu")
        self._images, self._labels, self._classes = images.images.to(home), images.labels.to(home), len(images.classes)
        self._device, self._augmentation = device, augmentation
        self._prepare = Preprocessor(images.pixel_format(input_size), device)

    def __len__(self) -> int:
        """Batches an epoch."""
        return -(-self.size // self.batch_size)

    def epoch(self, seed: int | None = None, order: Tensor | None = None) -> Iterator[Batch]:
        """All images once, or those of an order; in the stored order and unvaried without a seed."""
        generator = torch.Generator(self._device).manual_seed(seed or 0)
        if seed is not None and order is None:
            order = self._drawn_order(seed, generator)
        for images, labels in self._raw(None if seed is None else order):
            if seed is not None and self._augmentation is not None:
                images, labels = self._augmentation.batch(images, labels, self._classes, generator)
            yield self._prepare(images), labels

    def _drawn_order(self, seed: int, generator: torch.Generator) -> Tensor:
        return torch.randperm(self.size, device=self._device, generator=generator)

    def _raw(self, order: Tensor | None) -> Iterator[Batch]:
        """Batches of pixels and labels on the device, in an order or in the stored one."""
        raise NotImplementedError


class ResidentLoader(BatchLoader):
    """The raw images live on the device; a batch is an index, a cast, a normalisation and a resize there."""

    kind = "resident"

    def _raw(self, order: Tensor | None) -> Iterator[Batch]:
        if order is None:
            yield from zip(self._images.split(self.batch_size), self._labels.split(self.batch_size), strict=True)
            return
        for index in order.to(self._device).split(self.batch_size):
            yield self._images[index], self._labels[index]


class StreamingLoader(BatchLoader):
    """The raw images stay on the host; a thread gathers batches ahead and, on CUDA, a side stream copies them."""

    kind = "streaming"

    def _drawn_order(self, seed: int, generator: torch.Generator) -> Tensor:
        # On the CPU one generator serves order and augmentation, as in ResidentLoader; a CUDA one cannot draw an order
        # for the host.
        host = generator if self._device.type == "cpu" else torch.Generator().manual_seed(seed)
        return torch.randperm(self.size, generator=host)

    def _raw(self, order: Tensor | None) -> Iterator[Batch]:
        return self._on_device(self._gathered(torch.arange(self.size) if order is None else order))

    def _gathered(self, order: Tensor) -> Iterator[Batch]:
        """Raw host batches, gathered (and pinned for CUDA) by a thread that stays `PREFETCHED` ahead."""
        batches: queue.Queue[Batch | BaseException | None] = queue.Queue(PREFETCHED)
        stopped = threading.Event()
        pin = self._device.type == "cuda"

        def put(item: Batch | BaseException | None) -> bool:
            while not stopped.is_set():
                try:
                    batches.put(item, timeout=0.1)
                except queue.Full:
                    continue
                return True
            return False

        def gather() -> None:
            try:
                for index in order.split(self.batch_size):
                    images, labels = self._images[index], self._labels[index]
                    if not put((images.pin_memory(), labels.pin_memory()) if pin else (images, labels)):
                        return
                put(None)
            except BaseException as error:  # handed to the consumer, who raises it
                put(error)

        thread = threading.Thread(target=gather, name="nas-optuna-gather", daemon=True)
        thread.start()
        try:
            while (item := batches.get()) is not None:
                if isinstance(item, BaseException):
                    raise item
                yield item
        finally:
            stopped.set()
            thread.join()

    def _on_device(self, batches: Iterator[Batch]) -> Iterator[Batch]:
        """Copy each batch one step ahead of its use, on a side stream where the device has streams."""
        if self._device.type != "cuda":
            for images, labels in batches:
                yield images.to(self._device), labels.to(self._device)
            return
        side = torch.cuda.Stream(self._device)
        ahead: Batch | None = None
        for images, labels in batches:
            with torch.cuda.stream(side):
                copied = (
                    images.to(self._device, non_blocking=True),
                    labels.to(self._device, non_blocking=True),
                )
            if ahead is not None:
                yield ahead
            torch.cuda.current_stream(self._device).wait_stream(side)
            for tensor in copied:  # made on the side stream, used (and freed) on this one
                tensor.record_stream(torch.cuda.current_stream(self._device))
            ahead = copied
        if ahead is not None:
            yield ahead


def make_loader(
    images: ImageSet,
    batch_size: int,
    input_size: int | tuple[int, int],
    device: torch.device,
    augmentation: Augmentation | None = None,
) -> BatchLoader:
    """A resident loader where the images take at most `RESIDENT_SHARE` of the free memory, else a streaming one."""
    fits = True  # on the CPU the raw images already live on the device
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        fits = images.images.nbytes + images.labels.nbytes <= RESIDENT_SHARE * free
    loader = ResidentLoader if fits else StreamingLoader
    return loader(images, batch_size, input_size, device, augmentation)
