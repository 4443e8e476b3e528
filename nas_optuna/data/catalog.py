"""Data sets by name: ``folder:PATH``, ``npz:FILE``, or a name of `data_sets`.

The function of a name takes ``(train, directory)``: which part is wanted, and where files are kept or downloaded to. It
gives an `ImageSet`.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch

from nas_optuna.data.arrays import NpzSource
from nas_optuna.data.folder import FolderSource
from nas_optuna.data.images import ImageSet
from nas_optuna.data.source import FunctionSource, Reading, Source, hold_out
from nas_optuna.data_sets import DATA_SETS
from nas_optuna.errors import DataError, SpecError, named, reason_of, shown, unknown

FROM_FILES: dict[str, type[FolderSource] | type[NpzSource]] = {"folder": FolderSource, "npz": NpzSource}
"""What stands before the colon where a name is a path."""


def is_code(name: str) -> bool:
    """Whether a data set's name stands for a function that would be imported from its place and called.

    Examples:
        >>> is_code("folder:pets"), is_code("digits"), is_code("my_data:load")
        (False, False, True)
    """
    return not name.startswith(("folder:", "npz:")) and DATA_SETS.is_code(name)


def data_name(text: str) -> str:
    """The name of a data set: a folder is ``folder:PATH``, a file ``npz:FILE``, and a name stays."""
    if not text.strip():
        raise DataError("--data names nothing; give a folder of pictures, a .npz file, or a name such as mnist")
    if "://" in text:
        raise DataError(f"{shown(text)} is an address; download it, and give the folder or the .npz file")
    path = Path(text).expanduser()
    if ":" in text and not path.exists():
        kind, _, place = text.partition(":")
        return f"{kind.casefold()}:{place}" if kind.casefold() in ("folder", "npz") else text
    if path.is_dir() and not (text.isidentifier() and text in DATA_SETS):
        return f"folder:{path.absolute()}"
    if path.is_file():
        if path.suffix != ".npz":
            raise DataError(f"{named(path)} is no folder of pictures and no .npz file; see docs/data.md")
        return f"npz:{path.absolute()}"
    if text in DATA_SETS:
        return text
    if path.suffix or "/" in text:
        raise DataError(f"{named(path)} does not exist; give a folder of pictures or a .npz file")
    raise SpecError(unknown("folder, file or data set", text, DATA_SETS.names()))


def is_missing(name: str) -> bool:
    """Whether a data set's name is a path to nothing, maybe because the images were moved."""
    kind, _, path = name.partition(":")
    try:
        return kind in FROM_FILES and not _user_path(kind, path).exists()
    except (DataError, OSError):
        return False


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
        return FunctionSource(function, directory or data_directory(), reading)


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
