"""Labels of a NumPy file: whole numbers, names or one-hot rows become classes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from nas_optuna.data.images import MAX_CLASSES
from nas_optuna.data.report import LeftOutCollector, listing
from nas_optuna.data.source import Part
from nas_optuna.errors import DataError, named

_EXACT = 2**53
"""Above it, floating-point numbers are not exact."""

_WITHOUT_IMAGE = "classes without an image"


def label_values(array: np.ndarray, name: str) -> np.ndarray:
    """``[n]`` whole numbers or text, one for each image; a `DataError` where it is neither of these nor one-hot."""
    if array.ndim == 2 and array.shape[1] == 1:
        array = array[:, 0]
    if array.ndim == 2 and array.dtype.kind in "biuf":
        return _from_one_hot(array, name)
    if array.ndim != 1:
        raise DataError(
            f"array {name!r} has the shape {list(array.shape)}; labels must be [n], [n, 1] or one-hot [n, classes]"
        )
    if array.dtype.kind == "S":
        try:
            return np.char.decode(array, "utf-8")
        except UnicodeDecodeError as error:
            raise DataError(f"array {name!r} holds names that are not UTF-8; save them as text") from error
    if array.dtype.kind == "U":
        return array
    if array.dtype.kind == "b":
        return array.astype(np.int64)
    if array.dtype.kind in "iu":
        return array
    if array.dtype.kind != "f" or not np.isfinite(array).all() or (abs(array) > _EXACT).any() or (array % 1).any():
        raise DataError(f"array {name!r} ({array.dtype}) must hold whole numbers or names, one for each image")
    return array.astype(np.int64)


def named_classes(array: np.ndarray, name: str) -> list[str]:
    """The names of the classes, in their order."""
    if array.ndim != 1 or array.dtype.kind not in "US":
        raise DataError(
            f"array {name!r} must hold the name of each class as text, got {array.dtype} {list(array.shape)}"
        )
    return [str(each) for each in label_values(array, name)]


def class_values(
    labels: Mapping[Part, np.ndarray], names: Sequence[str] | None, left_out: LeftOutCollector
) -> tuple[np.ndarray, tuple[str, ...]]:
    """The different values of a data set's labels, sorted, and what each is called."""
    # `names` are what the values 0, 1, … are called, None where each value is its own name; `left_out` is told of names
    # that no image has. A `DataError` where a part has a value that the training part lacks, or values are no classes.
    train = labels["train"]
    known = np.unique(train)
    if len(known) > MAX_CLASSES or (len(train) >= 100 and 2 * len(known) > len(train)):
        raise DataError(
            f"its labels hold {len(known):,} different values in {len(train):,} images; a classifier needs several"
            " images of each class"
        )
    for part, values in labels.items():
        if (values.dtype.kind == "U") != (train.dtype.kind == "U"):
            raise DataError("some of its labels are names and others numbers; use one of both")
        if unknown := np.setdiff1d(values, known).tolist():
            raise DataError(f"the {part} part has the labels {listing(map(str, unknown))}, which no training image has")
    if names is None:
        return known, tuple(str(value) for value in known.tolist())
    if known.dtype.kind == "U" or known[0] < 0 or known[-1] >= len(names):
        raise DataError(f"its labels must lie in 0 … {len(names) - 1}, because its array of classes names {len(names)}")
    for number in sorted(set(range(len(names))) - set(known.tolist())):
        left_out.add(_WITHOUT_IMAGE, named(names[number]))
    return known, tuple(names[number] for number in known.tolist())


def _from_one_hot(array: np.ndarray, name: str) -> np.ndarray:
    if not ((array == 0) | (array == 1)).all() or not (array.sum(1) == 1).all():
        raise DataError(
            f"array {name!r} {list(array.shape)} is not one-hot: each row must hold a single 1 and else 0; several"
            " labels for one image are not supported"
        )
    numbers: np.ndarray = np.argmax(array, 1)
    return numbers
