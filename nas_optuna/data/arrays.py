"""A NumPy file of images and labels as a data set. Nothing in it is unpickled."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal
from zipfile import ZipFile

import numpy as np
import torch
from numpy.lib import format as npy
from torch import Tensor

from nas_optuna.data.images import MAX_CLASSES, LeftOut, left_out_notes, listing
from nas_optuna.data.pictures import find_white, scaling, shared_whites
from nas_optuna.data.pixels import to_uint8
from nas_optuna.data.source import PART_NAMES, PARTS, WITHOUT_TEST, FileSource, InputSize, Part, require_memory
from nas_optuna.errors import DataError, named, reason_of
from nas_optuna.quantities import plural
from nas_optuna.spec import DataSpec

Role = Literal["images", "labels"]

_ROLES: dict[Role, frozenset[str]] = {
    "images": frozenset({"images", "image", "imgs", "x", "data"}),
    "labels": frozenset({"labels", "label", "y", "targets", "target"}),
}
_CLASSES = frozenset({"classes", "class_names", "label_names"})
_LAYOUT = "layout"
_CHANNEL_AXES = {"chw": 1, "nchw": 1, "hwc": 3, "nhwc": 3}
_MAX_CHANNELS = 4
_STRIP = 64
"""Images that are copied at once."""
_SMALLER = "store uint8, or fewer or smaller images"


@dataclass(frozen=True)
class _Header:
    """What a file says of one of its arrays, before that is read."""

    name: str
    shape: tuple[int, ...]
    dtype: np.dtype[np.generic]

    @property
    def nbytes(self) -> int:
        return math.prod(self.shape) * self.dtype.itemsize

    def needed(self) -> int:
        """Bytes to read it as images of bytes."""
        return self.nbytes + (math.prod(self.shape) if self.dtype != np.uint8 else 0)

    def __str__(self) -> str:
        return f"{named(self.name)} {list(self.shape)} {self.dtype}"


class NpzSource(FileSource):
    """The arrays of an ``.npz`` file, as docs/data.md describes them; problems are `DataError`."""

    def __init__(self, path: Path, spec: DataSpec, input_size: InputSize = None) -> None:
        self._path = path
        self._left_out = LeftOut(dict)
        with _readable():
            self._headers = self._read_headers()
        self._arrays = _assigned(self._headers, self._left_out)
        self._axes = self._channel_axes()
        labels = {part: roles["labels"] for part, roles in self._arrays.items()}
        values = {part: _label_values(self._array(header), named(header.name)) for part, header in labels.items()}
        if any(found.dtype.kind == "U" for found in values.values()):  # one part may write what another counts
            values = {part: found.astype(str) for part, found in values.items()}
        known, classes = _class_values(values, self._named_classes(), self._left_out)
        numbers = {part: torch.from_numpy(np.searchsorted(known, found)) for part, found in values.items()}
        super().__init__(numbers, classes, spec, input_size)

    def _read_headers(self) -> dict[str, _Header]:
        if not self._path.is_file():  # a pipe would block, and a device would never end
            problem = "is not a regular file" if self._path.exists() else "does not exist"
            raise DataError(f"it {problem}; name an .npz file, or folder: and a directory of pictures")
        headers = {}
        with ZipFile(self._path) as archive:
            for entry in archive.infolist():
                name = entry.filename.removesuffix(".npy")
                if name == entry.filename:
                    self._left_out["files that are no arrays"][named(name)] = None
                    continue
                with archive.open(entry) as file:
                    old = npy.read_magic(file) == (1, 0)
                    shape, _, dtype = (npy.read_array_header_1_0 if old else npy.read_array_header_2_0)(file)
                headers[name] = _Header(name, shape, dtype)
        return headers

    def _array(self, header: _Header, copies: int = 2) -> np.ndarray:
        """An array, where memory has room for so many copies of it."""
        if header.dtype.kind == "O":
            raise DataError(
                f"array {named(header.name)!r} holds Python objects, which are not read, because that can run code;"
                " save images as uint8 and names as text, e.g. labels=np.array(names, dtype=str)"
            )
        require_memory(copies * header.nbytes, f"array {header}", _SMALLER)
        with _readable(), ZipFile(self._path) as archive, archive.open(f"{header.name}.npy") as file:
            found: np.ndarray = npy.read_array(file, allow_pickle=False)
        return found

    def _channel_axes(self) -> dict[Part, int | None]:
        """The channel axis of each part, None if there is none; also checks that images, labels and parts fit."""
        layout, axes, channels, sizes = None, {}, set(), set()
        header = next((header for name, header in self._headers.items() if name.casefold() == _LAYOUT), None)
        if header is not None:
            values = self._array(header)
            texts = np.char.decode(values, "utf-8", "replace") if values.dtype.kind == "S" else values.astype(str)
            layout = "".join(texts.ravel()).casefold()
        for part, roles in self._arrays.items():
            images, labels = roles["images"], roles["labels"]
            axes[part] = axis = _channel_axis(images, layout)
            channels.add(1 if axis is None else images.shape[axis])
            if part != "test":
                sizes.add(tuple(side for place, side in enumerate(images.shape) if place not in (0, axis)))
            if labels.shape[:1] != images.shape[:1]:
                raise DataError(
                    f"{images} and {labels} do not fit: the first axis of both must count the {part} images"
                )
        if len(channels) > 1 or len(sizes) > 1:
            found = ", ".join(str(roles["images"]) for roles in self._arrays.values())
            raise DataError(
                f"its parts differ ({found}); give all the same channels, and training and validation the same size"
            )
        return axes

    def _named_classes(self) -> list[str] | None:
        """The names of the labels 0, 1, …, if the file has them."""
        header = next((header for name, header in self._headers.items() if name.casefold() in _CLASSES), None)
        if header is None:
            return None
        array = self._array(header)
        if array.ndim != 1 or array.dtype.kind not in "US":
            raise DataError(f"array {header} must hold the name of each class as text")
        return [str(each) for each in _label_values(array, named(header.name))]

    def _pixels(self, part: Part) -> np.ndarray:
        """``[n, channels, height, width]``, uint8, not necessarily contiguous."""
        pixels = self._array(self._arrays[part]["images"], copies=1)
        if pixels.dtype != np.uint8:
            pixels = to_uint8(pixels, self._whites["fraction_white" if pixels.dtype.kind == "f" else "whole_white"])
        if self._axes[part] is None:
            return pixels[:, None]
        return pixels if self._axes[part] == 1 else pixels.transpose(0, 3, 1, 2)

    @cached_property
    def _whites(self) -> dict[str, Any]:
        """The values that become 255 in arrays of whole numbers and of fractions, if any are not uint8."""
        headers = [roles["images"] for roles in self._arrays.values()]
        found = [find_white(self._array(header, copies=1)) for header in headers if header.dtype != np.uint8]
        if {("fraction_white", 1), ("fraction_white", 255)} <= set(found):
            raise DataError("some of its images lie in 0 … 1 and others in 0 … 255; scale all to 0 … 255, as uint8")
        return shared_whites(found)

    def _pixels_at(self, chosen: np.ndarray) -> tuple[Tensor, dict[str, Any]]:
        whites = self._whites  # which reads every array, so before one is in memory
        images = self._copied(chosen)
        arrays = [str(self._arrays[part][role]) for part in self._arrays for role in ("images", "labels")]
        layout = f"arrays: {', '.join(arrays)}" + ("" if "test" in self._arrays else f"; {WITHOUT_TEST}")
        scaled = [scaling(kind, white) for kind, white in whites.items() if kind.endswith("_white")]
        notes = (layout, *(f"pixels: {words}" for words in scaled if words), *left_out_notes(self._left_out))
        return torch.from_numpy(images), {"sizes": (tuple(images.shape[2:]),), "notes": notes, **whites}

    def _copied(self, chosen: np.ndarray) -> np.ndarray:
        """The chosen images; of the arrays they are in, only one at a time is in memory beside them."""
        start, found = 0, []
        for part, roles in self._arrays.items():
            end = start + roles["images"].shape[0]
            places = np.flatnonzero((start <= chosen) & (chosen < end))
            if len(places):
                found.append((part, start, places))
            start = end
        headers = [self._arrays[part]["images"] for part, *_ in found]
        shape = (len(chosen), *_planar(headers[0].shape, self._axes[found[0][0]]))
        largest = max(headers, key=_Header.needed)
        what = f"{plural(len(chosen), 'image')} beside array {largest}"
        require_memory(math.prod(shape) + largest.needed(), what, _SMALLER)
        with _readable():  # a damaged file may say any shape
            images = np.empty(shape, np.uint8)
        for part, start, places in found:
            pixels = self._pixels(part)
            for strip in np.split(places, range(_STRIP, len(places), _STRIP)):
                images[strip] = pixels[chosen[strip] - start]
            del pixels  # before the next array is read
        return images


@contextmanager
def _readable() -> Iterator[None]:
    """Turn whatever NumPy and zipfile raise for damaged or foreign files into one line."""
    try:
        yield
    except DataError:
        raise
    except Exception as error:  # readers of a damaged file may raise anything
        raise DataError(f"it is not an .npz file with arrays 'images' and 'labels' ({reason_of(error)})") from error


def _assigned(headers: Mapping[str, _Header], left_out: LeftOut) -> dict[Part, dict[Role, _Header]]:
    """Which array holds the images and the labels of each part, in the order of `PARTS`."""
    found: dict[Part, dict[Role, _Header]] = {}
    for name, header in headers.items():
        meaning = meaning_of(name)
        if meaning is not None:
            part, role = meaning
            other = found.setdefault(part, {}).setdefault(role, header)
            if other is not header:
                raise DataError(
                    f"arrays {listing((other.name, name))} both hold the {role} of the {part} part; keep one"
                )
        elif name.casefold() not in {_LAYOUT, *_CLASSES}:
            left_out["arrays whose names mean nothing here"][named(name)] = None
    for part in ("train", *found):
        for role in _ROLES:
            if role not in found.get(part, {}):
                raise DataError(
                    f"it holds {listing(headers, 6) or 'no array'}, and no {role} of the {part} part; an .npz file has"
                    " arrays 'images' and 'labels' (or 'train_images' and 'train_labels', or 'x_train' and 'y_train'),"
                    " and both of each further part, such as 'test_images' and 'test_labels'"
                )
    return {part: found[part] for part in PARTS if part in found}


def meaning_of(name: str) -> tuple[Part, Role] | None:
    """The part and the role that an array's name means, as in ``x_train`` or ``val_labels``."""
    words = [word for word in re.split(r"[\W_]+", re.sub(r"(?<=[a-z])(?=[A-Z])", "_", name).casefold()) if word]
    parts = [part for word in words for part, names in PART_NAMES.items() if word in names]
    roles = [role for word in words for role, names in _ROLES.items() if word in names]
    if len(roles) != 1 or len(parts) > 1 or len(parts) + 1 != len(words):
        return None
    return (parts[0] if parts else "train"), roles[0]


def _channel_axis(images: _Header, layout: str | None) -> int | None:
    """The channel axis; None for ``[n, height, width]``."""
    understood = "[n, height, width], [n, height, width, channels] or [n, channels, height, width]"
    if layout is not None and layout not in _CHANNEL_AXES:
        raise DataError(f"its array 'layout' is {named(layout)!r}; it must be 'HWC' or 'CHW'")
    if len(images.shape) == 3:
        return None
    axes = (1, 3) if layout is None else (_CHANNEL_AXES[layout],)
    possible = [axis for axis in axes if len(images.shape) == 4 and 1 <= images.shape[axis] <= _MAX_CHANNELS]
    if not possible:
        raise DataError(f"array {images} cannot be images: these are {understood}, with 1 to {_MAX_CHANNELS} channels")
    if len(possible) > 1:
        raise DataError(
            f"array {images} can be read as [n, channels, height, width] and as [n, height, width, channels];"
            " add an array layout='CHW' or layout='HWC' to the file"
        )
    return possible[0]


def _planar(shape: Sequence[int], axis: int | None) -> tuple[int, ...]:
    """The channels, height and width of images in an array of this shape."""
    _, *sides = shape
    channels = 1 if axis is None else sides.pop(axis - 1)
    return (channels, *sides)


def _label_values(array: np.ndarray, name: str) -> np.ndarray:
    """Labels as ``[n]`` whole numbers or text; a `DataError` if they are neither, nor one-hot."""
    if array.ndim == 2 and array.shape[1] == 1:
        array = array[:, 0]
    if array.ndim == 2 and array.dtype.kind in "biuf":
        if not ((array == 0) | (array == 1)).all() or not (array.sum(1) == 1).all():
            raise DataError(
                f"array {name!r} {list(array.shape)} is not one-hot: each row must hold a single 1 and else 0; several"
                " labels for one image are not supported"
            )
        array = np.argmax(array, 1)
    if array.ndim == 1 and array.dtype.kind in "Uiu":
        return array
    if array.ndim == 1 and array.dtype.kind in "Sbf":
        with suppress(UnicodeDecodeError), np.errstate(invalid="ignore"):
            if array.dtype.kind == "S":
                return np.char.decode(array, "utf-8")
            if ((whole := array.astype(np.int64)) == array).all():
                return whole
    raise DataError(
        f"array {name!r} {list(array.shape)} {array.dtype} holds no labels; these are [n] or [n, 1] whole numbers or"
        " names (as text), or one-hot [n, classes]"
    )


def _class_values(
    labels: Mapping[Part, np.ndarray], names: Sequence[str] | None, left_out: LeftOut
) -> tuple[np.ndarray, tuple[str, ...]]:
    """The distinct label values of a data set, sorted, and their names."""
    # `names` are those of the values 0, 1, …; None if each value is its own name. `left_out` collects names without an
    # image. A `DataError` if a part has a value that the training part lacks, or if values are not classes.
    train = labels["train"]
    known = np.unique(train)
    if len(known) > MAX_CLASSES or (len(train) >= 100 and 2 * len(known) > len(train)):
        raise DataError(
            f"its labels hold {len(known):,} different values in {len(train):,} images; a classifier needs several"
            " images of each class"
        )
    for part, values in labels.items():
        if unknown := np.setdiff1d(values, known).tolist():
            raise DataError(f"the {part} part has the labels {listing(map(str, unknown))}, which no training image has")
    if names is None:
        return known, tuple(str(value) for value in known.tolist())
    if known.dtype.kind == "U" or known[0] < 0 or known[-1] >= len(names):
        raise DataError(f"its labels must lie in 0 … {len(names) - 1}, because its array of classes names {len(names)}")
    for number in sorted(set(range(len(names))) - set(known.tolist())):
        left_out["classes without an image"][named(names[number])] = None
    return known, tuple(names[number] for number in known.tolist())
