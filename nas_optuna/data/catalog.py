"""Data sets by name. A new one is a function here and a line in `DATA_SETS`, or an entry of `torchvision_sets.SETS`.

Each function takes ``(train, directory)``: which part is wanted, and where files are kept or downloaded to. It gives an
`ImageSet`. Third parties register the entry point group ``nas_optuna.datasets`` or are named as
``package.module:function``. Beside names there are ``folder:PATH`` and ``npz:FILE``.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from nas_optuna.data import torchvision_sets
from nas_optuna.data.arrays import NpzSource
from nas_optuna.data.folder import FolderSource
from nas_optuna.data.images import ImageSet
from nas_optuna.data.source import FunctionSource, Reading, Source, hold_out
from nas_optuna.data.torchvision_sets import SETS
from nas_optuna.errors import DataError, NasOptunaError, SpecError, named, reason_of, shown
from nas_optuna.registry import Registry

DATA_SETS = Registry(
    "data set",
    "nas_optuna.datasets",
    {"digits": f"{__name__}:digits"} | {name: f"{torchvision_sets.__name__}:{name.replace('-', '_')}" for name in SETS},
)

DESCRIPTIONS = {"digits": "1,797 8×8 grey digits, built in"} | {name: data.description for name, data in SETS.items()}

FROM_FILES: dict[str, type[FolderSource] | type[NpzSource]] = {"folder": FolderSource, "npz": NpzSource}
"""What stands before the colon where a name is a path."""


def is_code(name: str) -> bool:
    """Whether a data set's name stands for a function that would be imported from its place and called.

    Examples:
        >>> is_code("folder:pets"), is_code("digits"), is_code("my_data:load")
        (False, False, True)
    """
    return not name.startswith(("folder:", "npz:")) and DATA_SETS.is_code(name)


def is_missing(name: str) -> bool:
    """Whether a data set's name is a path to nothing, maybe because the images were moved."""
    kind, _, path = name.partition(":")
    try:
        return kind in FROM_FILES and not _user_path(kind, path).exists()
    except (DataError, OSError):
        return False


def set_names() -> list[str]:
    """Every registered name."""
    return DATA_SETS.names()


def data_directory() -> Path:
    """``NAS_OPTUNA_DATA``, else the user's cache directory."""
    import platformdirs

    return Path(os.environ.get("NAS_OPTUNA_DATA") or platformdirs.user_cache_path("nas-optuna") / "data")


def digits(train: bool, directory: Path) -> ImageSet:
    """The 1,797 8×8 digits of ``digits.npz`` beside this file; one fifth of each class is for test."""
    # They are the test set of E. Alpaydin and C. Kaynak, "Optical Recognition of Handwritten Digits", UCI Machine
    # Learning Repository, 1998, https://doi.org/10.24432/C50P49 (CC BY 4.0), as scikit-learn has it: grey values 0 …
    # 16.
    with np.load(Path(__file__).with_name("digits.npz")) as file:
        grey, values = file["images"], file["labels"]
    images = torch.from_numpy(np.rint(grey * (255 / 16)).astype(np.uint8)).unsqueeze(1)
    labels = torch.from_numpy(values.astype(np.int64))
    rest, held_out = hold_out(labels)
    return ImageSet(images, labels, tuple(map(str, range(10)))).subset(rest if train else held_out)


def open_source(name: str, directory: Path | None = None, reading: Reading | None = None) -> Source:
    """What a data set's name stands for, ready to be read; see `load_images` for the arguments."""
    reading = reading or Reading()
    kind, _, path = name.partition(":")
    with naming(name):
        if kind in FROM_FILES:
            return FROM_FILES[kind](_user_path(kind, path), reading)
        if name and name not in DATA_SETS and Path(name).is_dir():
            raise SpecError(f"unknown data set {shown(name)}; the folder of that name is folder:{name}")
        function = DATA_SETS.find(name)
        return FunctionSource(_Checked(function), directory or data_directory(), reading)


def load_images(name: str, train: bool, directory: Path | None = None, reading: Reading | None = None) -> ImageSet:
    """Load one part of a data set."""
    source = open_source(name, directory, reading)
    with naming(name):
        return source.training() if train else source.test()


@contextmanager
def naming(name: str) -> Iterator[None]:
    """Say in a `DataError` which data set it is about."""
    try:
        yield
    except DataError as error:
        raise DataError(f"data set {named(name)!r}: {error}") from error


def _user_path(kind: str, text: str) -> Path:
    """The path after the colon; ``~`` is the user's home."""
    if not text.strip() or "\0" in text:
        raise DataError(f"give a path after the colon, e.g. {kind}:{'images' if kind == 'folder' else 'images.npz'}")
    try:
        return Path(text).expanduser()
    except RuntimeError as error:  # ~somebody
        raise DataError(f"{named(text)} begins with ~, and there is no such user ({reason_of(error)})") from error


class _Checked:
    """Somebody else's function: whatever it does wrong is told in one line."""

    def __init__(self, function: Any) -> None:
        if not callable(function):
            raise DataError(
                f"it is a {type(function).__name__}, which cannot be called; name a function (train, directory)"
                " that returns a nas_optuna.ImageSet"
            )
        self._function = function

    def __call__(self, train: bool, directory: Path) -> ImageSet:
        part = "training" if train else "test"
        try:
            images = self._function(train, directory)
        except NasOptunaError:
            raise
        except (Exception, SystemExit) as error:
            reason = f"{type(error).__name__}: {reason_of(error)}"
            raise DataError(f"its function failed to load the {part} part ({reason})") from error
        if not isinstance(images, ImageSet):
            raise DataError(
                f"its function gave a {type(images).__name__} for the {part} part; it must return a nas_optuna.ImageSet"
            )
        return replace(images)  # checks it again: a tensor may have been changed since
