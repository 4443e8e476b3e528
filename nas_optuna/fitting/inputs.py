"""Whatever a person has of pictures and labels, as the name of a data set."""

from __future__ import annotations

from collections.abc import Sized
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np

from nas_optuna.data.names import data_name
from nas_optuna.errors import DataError, StudyError, named

DATABASE = "search.db"
"""The search of a fit; where it is, the images beside it are those that it began with."""
PIXELS = "images.npz"
"""Where pictures that were given as arrays are kept, so that a repeated call needs no other file."""


def name_of(data: Any, folder: Path) -> str:
    """The data set's name.

    Args:
        data: A folder, a ``.npz`` file, a name such as ``"mnist"``, a pair ``(images, labels)`` of arrays or tensors,
            or a torch ``Dataset`` of such pairs.
        folder: Where what is in memory is written to.

    Raises:
        SpecError: A name stands for nothing.
        DataError: It is something else, or its images differ in size.
        StudyError: The folder holds a fit of other images.

    Examples:
        >>> name_of("digits", Path("model"))
        'digits'
    """
    if isinstance(data, str | Path):
        return data_name(str(data))
    if isinstance(data, tuple | list) and len(data) == 2:
        return _kept(_array(data[0]), _array(data[1]), folder)
    if hasattr(data, "__getitem__") and isinstance(data, Sized):
        return _kept(*_collected(data), folder)
    raise DataError(
        f"a {type(data).__name__} holds no pictures; give a folder, a .npz file, a pair (images, labels) or a Dataset"
    )


def _array(values: Any) -> np.ndarray[Any, Any]:
    found = values.detach().cpu().numpy() if hasattr(values, "detach") else np.asarray(values)
    return np.asarray(found)


def _collected(dataset: Any) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """The pictures and labels of a ``Dataset``, read once."""
    images, labels = [], []
    for index in range(len(dataset)):
        item = dataset[index]
        if not (isinstance(item, tuple | list) and len(item) >= 2):
            raise DataError("an item of the Dataset must be a pair (image, label)")
        images.append(_array(item[0]))
        labels.append(int(item[1]) if hasattr(item[1], "item") else item[1])
    shapes = {image.shape for image in images}
    if len(shapes) != 1:
        sizes = ", ".join(str(list(shape)) for shape in sorted(shapes)[:3]) or "none"
        raise DataError(f"the images of the Dataset have several shapes ({sizes}); resize them in its transform")
    return np.stack(images), np.asarray(labels)


def _read(path: Path) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]] | None:
    """The arrays of an earlier call; None where they are absent or damaged, so that they are written anew."""
    try:
        with np.load(path) as known:
            return known["images"], known["labels"]
    except (OSError, ValueError, KeyError, EOFError, BadZipFile):
        return None


def _kept(images: np.ndarray[Any, Any], labels: np.ndarray[Any, Any], folder: Path) -> str:
    """Write the arrays, unless the same lie there already, or others of which a search has begun."""
    path = (folder / PIXELS).absolute()
    known = _read(path) if (folder / DATABASE).is_file() else None
    if known is not None:
        if not all(map(np.array_equal, known, (images, labels))):
            raise StudyError(f"{named(folder)} holds a fit of other images; choose another out")
        return f"npz:{path}"
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.partial.npz")
    try:
        np.savez(partial, images=images, labels=labels)
        partial.replace(path)
    except OSError as error:
        raise DataError(f"cannot keep the images in {path}: {error.strerror}; choose another out") from error
    return f"npz:{path}"
