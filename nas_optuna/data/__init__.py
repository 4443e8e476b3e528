"""Data sets by name, their division, and batches of them on a device."""

from nas_optuna.data.catalog import data_directory, load_images
from nas_optuna.data.images import ImageSet, split
from nas_optuna.data.loaders import BatchLoader, make_loader
from nas_optuna.data.pixels import PixelFormat
from nas_optuna.data.preprocessing import Augmentation
from nas_optuna.data.search_data import (
    SearchData,
    load_data,
    load_test_images,
    load_training_images,
)
from nas_optuna.data.source import Reading
from nas_optuna.data_sets import DATA_SETS

__all__ = [
    "DATA_SETS",
    "Augmentation",
    "BatchLoader",
    "ImageSet",
    "PixelFormat",
    "Reading",
    "SearchData",
    "data_directory",
    "load_data",
    "load_images",
    "load_test_images",
    "load_training_images",
    "make_loader",
    "split",
]
