"""Pictures and labels in any form that a user may have them, as the name of a data set."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Set, Sized
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from zipfile import BadZipFile, ZipFile

import numpy as np
from torch.utils.data import IterableDataset

from nas_optuna.data.arrays import NpzSource, meaning_of
from nas_optuna.data.catalog import data_name
from nas_optuna.data.images import ImageSet
from nas_optuna.data.pictures import find_white, has_grey_palette, picture_pixels
from nas_optuna.data.pixels import PixelFormat, is_deep, orientation
from nas_optuna.errors import DataError, SpecError, StudyError, describe_error, named, reason_of, shown
from nas_optuna.export import files_of_ours
from nas_optuna.files import alone_in
from nas_optuna.quantities import plural
from nas_optuna.spec import DataSpec

NETWORK, PAGE = "network", "report.html"
WEIGHTS = f"{NETWORK}/model.safetensors"
TRAINED = "trained.safetensors"
"""The network since its test, among the files of the search: from it what is missing is written again."""
DATABASE = "search.db"
"""The search of a fit; if it exists, the images next to it are those that it began with."""
PIXELS = "images.npz"
"""Where pictures that were given as arrays are kept, so that a repeated call finds them."""

Arrays = dict[str, np.ndarray[Any, Any]]
"""The arrays of an ``.npz`` file by name."""


def require_own_folder(folder: Path, *, begun: bool) -> None:
    """Refuse a folder with files that are not a fit's, now rather than after the time is spent."""
    if (folder / DATABASE).exists() and not begun:
        return  # a finished fit replaces nothing
    files_of_ours(folder / NETWORK)
    if (folder / PAGE).exists() and not begun:
        raise SpecError(f"{named(folder)} holds a {PAGE} that no fit wrote; choose another folder")


def is_whole(folder: Path) -> bool:
    """Whether nothing was deleted of what a finished fit has written."""
    try:
        names = files_of_ours(folder / NETWORK)
    except DataError:  # its mark was deleted, so nothing can be written there
        names = frozenset()
    return all((folder / name).is_file() for name in (WEIGHTS, PAGE, *(f"{NETWORK}/{name}" for name in names)))


@contextmanager
def own_folder(folder: Path) -> Iterator[None]:
    """Make the folder of a fit, and refuse a second one that would work in it at the same time."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise SpecError(f"{named(folder)} cannot be a folder: {error.strerror}; choose another folder") from error
    with alone_in(folder) as alone:
        if not alone:
            raise StudyError(f"another fit works in {named(folder)}; wait until it has ended, or choose another folder")
        yield


@contextmanager
def in_a_folder() -> Iterator[None]:
    """Name the folder instead of the study or the database in the remedies of errors."""
    try:
        yield
    except StudyError as error:
        told = str(error).replace("under another name (--study NAME)", "in another folder (--out FOLDER)")
        raise StudyError(told.replace("another file as the storage", "another folder (--out FOLDER)")) from None


def name_of(data: Any, folder: Path) -> str:
    """The data set's name, after data in memory are written into the folder; see `nas_optuna.fit` for the data.

    Examples:
        >>> name_of("digits", Path("model"))
        'digits'
    """
    if isinstance(data, str | Path):
        return data_name(str(data))
    if isinstance(data, ImageSet):
        data = {"images": data.images, "labels": data.labels, "classes": data.classes}
    parts = data.values() if isinstance(data, Mapping) else data if isinstance(data, tuple | list) else ()
    dimensions = [len(getattr(part, "shape", ())) for part in parts]
    split = len(parts) == 4 and 0 not in dimensions and sum(each > 2 for each in dimensions) == 2
    if (split and not isinstance(data, Mapping)) or (0 < len(parts) < 4 and all(map(_is_whole, parts))):
        raise DataError(
            f"it is divided into {plural(len(parts), 'part')}; give one dictionary of arrays: x_train, y_train, and"
            " x_test, y_test where images are kept for the test"
        )
    if isinstance(data, Mapping):
        return _kept(_named(data), folder)
    if isinstance(data, tuple | list) and len(data) == 2 and not isinstance(data[0], tuple):
        return _kept({"images": _images(data[0]), "labels": _labels(data[1])}, folder)
    if hasattr(data, "shape") and hasattr(data, "dtype"):
        raise DataError("these are images without labels; give the pair (images, labels)")
    if hasattr(data, "__getitem__") and isinstance(data, Sized) and not isinstance(data, bytes | IterableDataset):
        return _kept(_collected(data), folder)
    raise DataError(
        f"a {type(data).__name__} holds no pictures that can be asked for by number; give a folder, a .npz file, a pair"
        " (images, labels), a Dataset with a length, or the list of what it gives, if that is pairs (image, label)"
    )


def _is_whole(value: Any) -> bool:
    """Whether it is images with their labels, rather than one of both."""
    if isinstance(value, tuple | list):
        shapes = [tuple(getattr(each, "shape", ())) for each in value]
        return len(shapes) == 2 and len(shapes[0]) > 2 and shapes[0][:1] == shapes[1][:1]
    if hasattr(value, "shape") or not hasattr(value, "__getitem__") or isinstance(value, str | bytes | Mapping):
        return False
    try:
        return isinstance(first := value[0], tuple | list) and len(first) == 2
    except Exception:  # of the user's code, or of what has no items by number
        return False


def _named(data: Mapping[Any, Any]) -> Arrays:
    """The arrays of a dictionary; all pictures have as many channels, though each may be of another part."""
    meanings = {name: meaning_of(str(name)) for name in data}
    images = {name: _listed(data[name]) for name, meaning in meanings.items() if meaning and meaning[1] == "images"}
    channels = _channels(*images.values())
    return {
        str(name): _images(images[name], channels) if name in images else _array(values, f"{name!s:.40}")
        for name, values in data.items()
    }


def _collected(dataset: Any) -> Arrays:
    """The pictures and labels of a ``Dataset``, read once, and the names of its classes if it has them."""
    images, labels = [], []
    try:
        count = len(dataset)
    except Exception as error:  # the user's code
        raise DataError(f"the {type(dataset).__name__} does not say its length ({reason_of(error)})") from error
    for index in range(count):
        try:
            item = dataset[index]
        except Exception as error:  # of the user's code, or no Dataset at all
            what = f"item {index} of the {type(dataset).__name__}"
            raise DataError(f"{what} cannot be read ({describe_error(error)})") from error
        if not (isinstance(item, tuple | list) and len(item) >= 2):
            kinds = f"an item of the {type(dataset).__name__} is a {type(item).__name__}"
            raise DataError(f"{kinds}; each must be a pair (image, label)")
        images.append(item[0])
        labels.append(item[1])
    found = {"images": _images(images), "labels": _labels(labels)}
    while not hasattr(dataset, "classes") and hasattr(dataset, "dataset"):
        dataset = dataset.dataset  # of a Subset
    names = getattr(dataset, "classes", None)
    if found["labels"].dtype.kind in "iu" and isinstance(names, tuple | list) and all(type(n) is str for n in names):
        found["classes"] = np.asarray(names)
    return found


def _listed(values: Any) -> Any:
    """An array of images as it is, or a list of the images of a sequence."""
    if isinstance(values, str | bytes | Path) or not _in_order(values):
        raise DataError(f"images must be arrays, tensors or PIL images, not {shown(values)}")
    return values if hasattr(values, "shape") else list(values)


def _channels(*parts: Any) -> int:
    """The channels that PIL images among the images of a data set get: 1 if all are grey, else 3."""
    listed = (part for part in parts if isinstance(part, list))
    pictures = [image for part in listed for image in part if hasattr(image, "getbands")]
    return 1 if any(max(image.size) > 0 for image in pictures) and all(map(_is_grey, pictures)) else 3


def _images(values: Any, channels: int | None = None) -> np.ndarray[Any, Any]:
    """``[n, …]``: an array of images, or the images of a sequence."""
    values = _listed(values)
    if hasattr(values, "shape"):
        found = _array(values, "images")
    else:
        channels = channels or _channels(values)
        arrays = [_picture(image, channels) for image in values]
        shapes = sorted({image.shape for image in arrays})
        if len(shapes) > 1:
            sizes = ", ".join("×".join(map(str, shape)) for shape in shapes[:3])
            raise DataError(
                f"the images have several shapes ({sizes}{', …' if len(shapes) > 3 else ''}); resize them, or save them"
                " in one folder for each class and give that"
            )
        found = np.stack(arrays) if arrays else np.empty(0)
    if not len(found):
        raise DataError("there are no images")
    if found.dtype != np.uint8:
        try:
            find_white(found)
        except DataError as error:
            hint = " (or leave Normalize out of a transform)" if " in -" in str(error) else ""
            raise DataError(f"images: {error}{hint}") from None
    return found


def _is_grey(picture: Any) -> bool:
    return len(picture.getbands()) == 1 and (picture.mode != "P" or has_grey_palette(picture))


def _picture(image: Any, channels: int) -> np.ndarray[Any, Any]:
    """One image as an array; a PIL image is converted like a picture file."""
    if not hasattr(image, "getbands") or is_deep(image):
        if isinstance(image, str | bytes | Path) or image is None:
            raise DataError(f"images must be arrays, tensors or PIL images, not {shown(image)}")
        return _array(image, "images")
    width, height = image.size
    if orientation(image) >= 5:  # it lies on its side
        width, height = height, width
    format = PixelFormat(channels, height, width, (0.0,) * channels, (1.0,) * channels, (height, width))
    return picture_pixels(image, format)


def _in_order(values: Any) -> bool:
    """Whether its items can be read in an order that somebody has given them; a dictionary would give its keys."""
    return isinstance(values, Iterable) and not isinstance(values, Mapping | Set)


def _labels(values: Any) -> np.ndarray[Any, Any]:
    """Labels as an array; each may be a tensor or a NumPy number."""
    if isinstance(values, str | bytes) or not _in_order(values):
        raise DataError(f"labels must be a list of one for each image, in their order, not {shown(values)}")
    if not hasattr(values, "shape"):
        values = [value.item() if getattr(value, "shape", None) == () else value for value in values]
        kinds = {isinstance(value, str | bytes) for value in values}
        if len(kinds) > 1:
            raise DataError("some labels are names and others are not; use one of both")
    return _array(values, "labels")


def _array(values: Any, what: str) -> np.ndarray[Any, Any]:
    """An array from a tensor on any device, in any number format, or from anything that NumPy takes."""
    try:
        if hasattr(values, "detach"):
            values = values.detach().cpu()
            values = values.float().numpy() if values.is_floating_point() else values.numpy()
        found = np.asarray(values)
        if found.dtype == object and found.size and all(type(value) is str for value in found.flat):
            return found.astype(str)
    except (TypeError, ValueError, RuntimeError, NotImplementedError) as error:
        raise DataError(f"the {what} cannot be read as an array ({reason_of(error)})") from error
    if found.dtype.kind not in "biufUS":
        raise DataError(f"the {what} are of type {found.dtype}; give numbers or, of labels, names")
    return found


def _read(path: Path) -> Arrays | None:
    """The arrays of an earlier call; None if they are absent or damaged."""
    try:
        with np.load(path) as known:
            return dict(known)
    except (OSError, TypeError, ValueError, KeyError, EOFError, BadZipFile):  # TypeError: of one array that is no zip
        return None


def _write(path: Path, arrays: Arrays) -> None:
    """What `np.savez` does, which takes no array of the name of one of its own arguments."""
    with ZipFile(path, "w") as archive:
        for name, array in arrays.items():
            with archive.open(f"{name}.npy", "w", force_zip64=True) as file:
                np.lib.format.write_array(file, array, allow_pickle=False)


def _kept(arrays: Arrays, folder: Path) -> str:
    """Write the arrays, unless the same are there already; refuse to replace those of a search."""
    path = (folder / PIXELS).absolute()
    with own_folder(folder):  # two calls at once would both find nothing there
        known = _read(path)
        same = known is not None and known.keys() == arrays.keys()
        if known is not None and same and all(np.array_equal(known[name], arrays[name]) for name in known):
            return f"npz:{path}"
        if known is not None and (folder / DATABASE).is_file():
            raise StudyError(f"{named(folder)} holds a fit of other images; choose another out")
        if path.exists() and not (folder / DATABASE).is_file():
            raise StudyError(
                f"{named(path)} is there already, and no fit began with it; choose another out, or delete it"
            )
        partial = path.with_name(f".{path.name}.partial.npz")
        try:
            _write(partial, arrays)
            NpzSource(partial, DataSpec())  # checks that they fit together
            partial.replace(path)
        except OSError as error:
            raise DataError(f"cannot keep the images in {path}: {error.strerror}; choose another out") from error
        finally:
            partial.unlink(missing_ok=True)
    return f"npz:{path}"
