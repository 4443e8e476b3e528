"""Images that several processes of one machine use, with one copy of them in its memory."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from nas_optuna.data.images import ImageSet, pieces
from nas_optuna.data.search_data import SearchData


@dataclass(frozen=True)
class DataHeader:
    """What search data is beside its pixels, whose shapes it knows: it can be pickled, and is small."""

    name: str
    fingerprint: str
    parts: tuple[ImageSet, ImageSet]
    shapes: tuple[tuple[int, ...], tuple[int, ...]]

    @classmethod
    def of(cls, data: SearchData) -> DataHeader:
        """What `data` is beside its pixels."""
        parts = (data.train, data.validation)
        shapes = (tuple(data.train.images.shape), tuple(data.validation.images.shape))
        return cls(data.name, data.fingerprint, (_with_one_pixel(parts[0]), _with_one_pixel(parts[1])), shapes)

    def with_pixels(self, pixels: tuple[Tensor, Tensor]) -> SearchData:
        """The search data with pixels of these shapes."""
        train, validation = (replace(part, images=images) for part, images in zip(self.parts, pixels, strict=True))
        data = SearchData(self.name, train, validation)
        vars(data)["fingerprint"] = self.fingerprint  # where `cached_property` keeps it
        return data


def _with_one_pixel(part: ImageSet) -> ImageSet:
    """The labels, classes and statistics, with one pixel for all."""
    return replace(part, images=part.images[:1, :, :1, :1].clone().expand(len(part), part.channels, 1, 1))


@dataclass(frozen=True)
class MappedImages:
    """Search data whose pixels lie in a file that every process maps into its memory; calling it gives the data."""

    file: Path
    header: DataHeader

    def __call__(self) -> SearchData:
        """The search data, in this process."""
        return self.header.with_pixels(self.pixels())

    def pixels(self) -> tuple[Tensor, Tensor]:
        """The pixels of the training and of the validation images, uint8."""
        train, validation = (torch.Size(shape) for shape in self.header.shapes)
        size = train.numel() + validation.numel()
        # Private: who writes to it gets a copy of that page. Nobody does, so that all use the same memory.
        flat = torch.from_file(str(self.file), shared=False, size=size, dtype=torch.uint8)
        return flat[: train.numel()].view(train), flat[train.numel() :].view(validation)


def map_images(data: SearchData, folder: Path) -> MappedImages:
    """Move the pixels of search data into a file in a folder; `data` itself uses it from then on."""
    # The kernel keeps a file's content once, however many processes map it, and may drop it when memory is short.
    mapped = MappedImages(folder / "images", DataHeader.of(data))
    parts = (data.train.images, data.validation.images)
    with mapped.file.open("wb") as file:
        for images in parts:
            for part in pieces(images):
                file.write(part.contiguous().numpy().data.cast("B"))
    for images, pixels in zip(parts, mapped.pixels(), strict=True):
        images.set_(pixels.untyped_storage(), pixels.storage_offset(), pixels.shape, pixels.stride())
    return mapped
