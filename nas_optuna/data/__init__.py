"""Data sets by name, their division, and batches of them on a device."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from nas_optuna.data.catalog import BUILTIN, GROUP, data_directory, load_images
from nas_optuna.data.images import ImageSet, split, stratified_order
from nas_optuna.data.loaders import BatchLoader, ResidentLoader, StreamingLoader, make_loader
from nas_optuna.data.preprocessing import Augmentation
from nas_optuna.errors import DataError
from nas_optuna.spec import DataSpec

__all__ = [
    "BUILTIN",
    "GROUP",
    "Augmentation",
    "BatchLoader",
    "ImageSet",
    "ResidentLoader",
    "SearchData",
    "StreamingLoader",
    "data_directory",
    "load_data",
    "load_images",
    "make_loader",
    "split",
]


@dataclass(frozen=True)
class SearchData:
    """What a search may look at.

    Attributes:
        name: The data set's name.
        train: Trains the networks.
        validation: Selects among them.
    """

    name: str
    train: ImageSet
    validation: ImageSet


def load_data(spec: DataSpec | str = "digits", directory: Path | None = None) -> SearchData:
    """Load a data set's training part and hold out the validation split.

    Args:
        spec: A data spec, or just a data set's name.
        directory: Where its files are or are downloaded to; `data_directory` by default.

    Raises:
        SpecError: Nothing has that name.
        DataError: It is absent and cannot be downloaded, or cannot be split so.
    """
    if isinstance(spec, str):
        spec = DataSpec(name=spec)
    whole = load_images(spec.name, True, directory)
    if spec.train_limit is not None and spec.train_limit > len(whole):
        raise DataError(f"data.train_limit = {spec.train_limit} is more than the {len(whole)} images of {spec.name!r}")
    if spec.select_on == "test":
        train = whole.subset(stratified_order(whole.labels, spec.split_seed)[: spec.train_limit])
        return SearchData(spec.name, train, load_images(spec.name, False, directory))
    train, validation = split(whole, spec.validation_fraction, spec.split_seed, spec.train_limit)
    return SearchData(spec.name, train, validation)
