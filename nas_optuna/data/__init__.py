"""Data sets by name, their splits, and batches of them on a device."""

from nas_optuna.data.catalog import begun_with, data_directory
from nas_optuna.data.images import ImageSet, split
from nas_optuna.data.loaders import Augmentation, BatchLoader
from nas_optuna.data.search_data import SearchData, check_test_pictures, load_data, load_images, load_test_images

__all__ = [
    "Augmentation",
    "BatchLoader",
    "ImageSet",
    "SearchData",
    "begun_with",
    "check_test_pictures",
    "data_directory",
    "load_data",
    "load_images",
    "load_test_images",
    "split",
]
