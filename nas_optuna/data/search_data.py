"""The images for a search, for a retraining, and for the final test."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from nas_optuna.data.catalog import opened
from nas_optuna.data.folder import FolderSource
from nas_optuna.data.images import VERBS, ImageSet, class_counts, dimensions, divide, listing, stratified_order
from nas_optuna.data.source import InputSize, Source
from nas_optuna.data_sets import DATA_SETS
from nas_optuna.digests import hex_digest
from nas_optuna.errors import DataError, checked, require_kind
from nas_optuna.quantities import plural
from nas_optuna.spec import DataSpec


@dataclass(frozen=True, eq=False)
class SearchData:
    """The images of a search.

    Attributes:
        name: The data set's name.
        train: Images that train the networks.
        validation: Images that select among them.

    Raises:
        DataError: The parts differ in their channels or classes.

    Examples:
        >>> from nas_optuna import load_data
        >>> data = load_data("digits")
        >>> len(data.train), len(data.validation), data.train.classes[0]
        (1150, 288, '0')
    """

    given_as: ClassVar[str] = "what load_data returns"

    name: str
    train: ImageSet
    validation: ImageSet

    def __post_init__(self) -> None:
        for part in (self.train, self.validation):
            require_kind(part, ImageSet, "a part of the data", "give an ImageSet")
        _require_same(self.validation, self.train, "validation")

    @property
    def title(self) -> str:
        """Its name for those who get a network: of files the last part of their path alone."""
        kind, _, path = self.name.partition(":")
        return f"{kind}:{Path(path).expanduser().resolve().name}" if DATA_SETS.is_of_files(kind) else self.name

    @cached_property
    def fingerprint(self) -> str:
        """Thirty-two hex digits of the content: pixels, labels and classes of both parts, in their order.

        The same images have the same fingerprint in any place. The selection (`DataSpec.select_on`, the split and its
        seed, `train_limit`) and changes of the pixels affect it, because they affect the content.
        """
        return hex_digest(f"{self.train.fingerprint}/{self.validation.fingerprint}", 32)

    @property
    def notes(self) -> tuple[str, ...]:
        """Lines for a person: the classes, changes of the images, and what is left out."""
        counts = [sum(both) for both in zip(self.train.class_sizes, self.validation.class_sizes, strict=True)]
        lines = [f"classes, by images that train or select: {class_counts(self.train.classes, counts)}"]
        empty = [
            f"{name} of {listing(found)}"
            for name, part in (("training image", self.train), ("validation image", self.validation))
            if (found := [part.classes[i] for i, count in enumerate(part.class_sizes) if not count])
        ]
        if empty:
            lines.append(f"there is no {', and no '.join(empty)}")
        return (*lines, *self.train.notes)

    @property
    def facts(self) -> dict[str, str | int | float]:
        """What a study remembers of its images."""
        images = len(self.validation)
        majority = max(self.validation.class_sizes) / images
        figures = {"training": len(self.train), "validation": images, "majority": round(majority, 4)}
        return {"name": self.name, "fingerprint": self.fingerprint, **figures}

    def describe_size(self, height: int, width: int) -> str:
        """How the images' size changes, e.g. ``48×40 → 32×32, stretched`` (height×width)."""
        stored = (self.train.images.shape[2], self.train.images.shape[3])
        first, *others = self.train.sizes or [stored]
        goal = dimensions(height, width)
        if not others and first == (height, width):
            return goal
        found = f"{len(others) + 1} sizes from {dimensions(*first)} to {dimensions(*others[-1])}" if others else ""
        change = f"{found or dimensions(*first)} → {goal}"
        same_shape = not others and first[0] * width == first[1] * height
        return change if same_shape else f"{change}, {VERBS[self.train.resize]}"


@checked
def load_data(
    spec: DataSpec | str = "digits", directory: Path | None = None, *, input_size: InputSize = None
) -> SearchData:
    """Load a data set's training and validation images; without a validation part, the training part is split.

    Args:
        spec: A data spec, or just a data set's name.
        directory: Folder of its files, or for their download; `data_directory` by default.
        input_size: Side of the networks' input in pixels, or ``(height, width)``, if it is known: a folder's pictures
            are reduced to it while they are read.

    Raises:
        SpecError: The name is unknown.
        DataError: The data set is absent and cannot be downloaded, or cannot be used or split in this way.

    Examples:
        >>> data = load_data("digits")
        >>> len(data.train), len(data.validation)
        (1150, 288)
    """
    spec = DataSpec(name=spec) if isinstance(spec, str) else spec
    with opened(spec, directory, input_size) as source:
        train, validation = _chosen(source, spec, divided=spec.select_on != "test")
        images = source.training(np.concatenate((train, validation)))
        images = replace(images, chiral=images.is_chiral)  # so that both parts agree
        if spec.select_on == "test":
            return SearchData(spec.name, images, _fitting(source.test(), images))
        # Detached, so that the parts do not keep all images alive when they are moved to other memory.
        pixels = (part.detach() for part in images.images.split((len(train), len(validation))))
        labels = images.labels.split((len(train), len(validation)))
        parts = (replace(images, images=each, labels=of) for each, of in zip(pixels, labels, strict=True))
        return SearchData(spec.name, *parts)


def load_images(
    spec: DataSpec | str, train: bool, directory: Path | None = None, *, input_size: InputSize = None
) -> ImageSet:
    """The test images, or training and validation images together, on which a chosen architecture is retrained."""
    spec = DataSpec(name=spec) if isinstance(spec, str) else spec
    with opened(spec, directory, input_size) as source:
        if not train or spec.train_limit is None:
            return source.training() if train else source.test()
        return source.training(np.concatenate(_chosen(source, spec, divided=False)))


def load_test_images(
    spec: DataSpec, like: ImageSet, directory: Path | None = None, *, input_size: InputSize = None
) -> ImageSet:
    """The test images, with the statistics of `like`, the training images."""
    with opened(spec, directory, input_size) as source:
        return _fitting(source.test(), like)


def check_test_pictures(spec: DataSpec, directory: Path | None = None) -> None:
    """Refuse a folder's test picture that cannot be read, unless the search reads it in any case."""
    if spec.select_on == "test" or not DATA_SETS.is_of_files(spec.name):
        return
    with opened(spec, directory) as source:
        if isinstance(source, FolderSource):
            source.check_test()


def _chosen(source: Source, spec: DataSpec, *, divided: bool) -> tuple[np.ndarray, np.ndarray]:
    """The indices of the training and of the validation images; of the latter none if all of them train."""
    labels, count, limit = source.labels, source.training_count, spec.train_limit
    if limit is not None and limit > len(labels):
        raise DataError(f"data.train_limit = {limit} is more than the {len(labels)} images there are")
    if count < len(labels):  # the source has a validation part of its own
        share = len(labels) if limit is None else limit
        training = max(1, min(share - 1, round(share * count / len(labels))))
        train, validation = np.arange(count), np.arange(count, len(labels))
        if limit is not None:
            train = stratified_order(labels[:count], spec.split_seed)[:training]
            validation = count + stratified_order(labels[count:], spec.split_seed)[: limit - training]
        return train, validation
    order = stratified_order(labels, spec.split_seed)[: limit or len(labels)]
    return divide(order, spec.validation_fraction) if divided else (order, order[:0])


def _fitting(test: ImageSet, train: ImageSet) -> ImageSet:
    """The test images with the training images' statistics; a `DataError` if they do not match."""
    _require_same(test, train, "test")
    return replace(test, mean=train.mean, std=train.std)


def _require_same(part: ImageSet, train: ImageSet, what: str) -> None:
    found, wanted = (f"{plural(each.channels, 'channel')}, classes {listing(each.classes)}" for each in (part, train))
    if (part.channels, part.classes) != (train.channels, train.classes):
        raise DataError(f"the {what} part has {found}, and the training part {wanted}; give both the same in one order")


def with_pixels(data: SearchData, pixels: Iterable[Tensor]) -> SearchData:
    """Search data with its pixels replaced by equal ones in another place; it keeps its fingerprint."""
    parts = zip((data.train, data.validation), pixels, strict=True)
    found = SearchData(data.name, *(replace(part, images=images) for part, images in parts))
    vars(found)["fingerprint"] = data.fingerprint  # where `cached_property` keeps it
    return found


def without_pixels(data: SearchData) -> SearchData:
    """Search data with the right shapes but a single pixel: small, and picklable."""
    one = [part.images[:1, :1, :1, :1].clone().expand(part.images.shape) for part in (data.train, data.validation)]
    return with_pixels(data, one)


def map_images(data: SearchData, folder: Path) -> Callable[[], SearchData]:
    """Move the pixels of search data into a file; the result returns the data in any process of this host."""
    # The kernel keeps a file's content once for all processes that map it, and may drop it when memory is short. From
    # now on `data` itself uses it as well.
    path = folder / "images"
    with path.open("wb") as file:  # by name, torch would not say that a disk is full
        try:
            torch.save([part.images for part in (data.train, data.validation)], file)
        except RuntimeError as error:  # torch ends the file in any case, and complains of what is missing in it
            raise error.__context__ or error from None
    mapped = partial(_mapped, path, without_pixels(data))
    for part, theirs in zip((data.train, data.validation), torch.load(path, mmap=True), strict=True):
        part.images.set_(theirs)
    return mapped


def _mapped(path: Path, header: SearchData) -> SearchData:
    """Search data whose pixels lie in a file that every process maps into its memory."""
    # A private mapping: writing would copy the page. Nobody writes, so all processes use the same memory.
    return with_pixels(header, torch.load(path, mmap=True))
