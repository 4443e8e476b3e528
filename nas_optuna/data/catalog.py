"""Data sets by name. A new one is a function here and a line in `BUILTIN`.

Each function takes ``(train, directory)``: which part is wanted, and where files are kept or downloaded to. It gives an
`ImageSet`. Third parties register the entry point group ``nas_optuna.datasets`` or are named as
``package.module:function``.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np
import torch

from nas_optuna import registry
from nas_optuna.data.images import ImageSet, split
from nas_optuna.errors import DataError, NasOptunaError

GROUP = "nas_optuna.datasets"
LARGEST_FOLDER_SIDE = 224
NETWORK_TIMEOUT = 15.0
"""Seconds to wait for an answer of a server that offers a data set."""
HELD_OUT_FOR_TEST = 0.2
"""Share held out for test where a source comes as one part."""

Loader = Callable[[bool, Path], ImageSet]


def set_names() -> list[str]:
    """Every registered name."""
    return registry.names(BUILTIN, GROUP)


def data_directory() -> Path:
    """``NAS_OPTUNA_DATA``, else the user's cache directory."""
    import platformdirs

    return Path(os.environ.get("NAS_OPTUNA_DATA") or platformdirs.user_cache_path("nas-optuna") / "data")


def digits(train: bool, directory: Path) -> ImageSet:
    """The 1,797 8×8 digits that come with scikit-learn; no download. One fifth of each class is for test."""
    from sklearn.datasets import load_digits

    bunch = load_digits()
    images = torch.from_numpy(np.rint(bunch.images * (255 / 16)).astype(np.uint8)).unsqueeze(1)
    labels = torch.from_numpy(bunch.target.astype(np.int64))
    return _part(ImageSet(images, labels, tuple(map(str, range(10)))), train)


def _torchvision(name: str, train: bool, directory: Path) -> ImageSet:
    """One of torchvision's data sets, downloaded (and its checksum compared) where it is absent."""
    import torchvision

    make, needs = _TORCHVISION[name]
    try:
        directory.mkdir(parents=True, exist_ok=True)
        with _network_timeout():
            data = make(torchvision.datasets, str(directory), train)
    except Exception as error:  # torchvision meets a damaged file with whatever its reader raises
        raise DataError(
            f"it is absent from {directory} or damaged there, and could not be downloaded ({_one_line(error)});"
            f" put {needs} there (remove damaged files), or use the spec digits-quick, which needs no download"
        ) from error
    images = torch.as_tensor(np.asarray(data.data))
    if images.dim() == 3:
        images = images.unsqueeze(1)
    elif images.shape[-1] == 3:
        images = images.permute(0, 3, 1, 2)
    labels = torch.as_tensor(np.asarray(data.labels if name == "svhn" else data.targets), dtype=torch.int64)
    if name == "qmnist":  # its other columns say who wrote the digit
        labels = labels[:, 0].contiguous()
    classes = tuple(map(str, getattr(data, "classes", range(int(labels.max()) + 1))))
    if name == "emnist":  # torchvision keeps EMNIST's images transposed
        images = images.transpose(2, 3)
    # The document's figures for MNIST; the others are measured.
    statistics = {"mean": (0.1307,), "std": (0.3081,)} if name == "mnist" else {}
    return ImageSet(images.contiguous(), labels, classes, **statistics)


@contextmanager
def _network_timeout() -> Iterator[None]:
    """Torchvision sets none, so a mirror that never answers would be waited for without end."""
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(NETWORK_TIMEOUT)
    try:
        yield
    finally:
        socket.setdefaulttimeout(before)


# Name → how torchvision makes it, and which files it wants in the data directory.
_TORCHVISION: dict[str, tuple[Callable[[Any, str, bool], Any], str]] = {
    "mnist": (
        lambda sets, root, train: sets.MNIST(root, train, download=True),
        "train-images-idx3-ubyte, train-labels-idx1-ubyte, t10k-images-idx3-ubyte and t10k-labels-idx1-ubyte"
        " in MNIST/raw",
    ),
    "fashion-mnist": (
        lambda sets, root, train: sets.FashionMNIST(root, train, download=True),
        "the four idx files in FashionMNIST/raw",
    ),
    "kmnist": (
        lambda sets, root, train: sets.KMNIST(root, train, download=True),
        "the four idx files in KMNIST/raw",
    ),
    "emnist": (
        lambda sets, root, train: sets.EMNIST(root, "balanced", train=train, download=True),
        "emnist-balanced-* idx files in EMNIST/raw",
    ),
    "qmnist": (
        lambda sets, root, train: sets.QMNIST(root, "train" if train else "test10k", download=True),
        "the qmnist-* files in QMNIST/raw",
    ),
    "usps": (lambda sets, root, train: sets.USPS(root, train, download=True), "usps.bz2 and usps.t.bz2"),
    "svhn": (
        lambda sets, root, train: sets.SVHN(root, "train" if train else "test", download=True),
        "train_32x32.mat and test_32x32.mat",
    ),
    "cifar10": (
        lambda sets, root, train: sets.CIFAR10(root, train, download=True),
        "the folder cifar-10-batches-py",
    ),
    "cifar100": (
        lambda sets, root, train: sets.CIFAR100(root, train, download=True),
        "the folder cifar-100-python",
    ),
}

DESCRIPTIONS = {
    "digits": "1,797 8×8 grey digits, built in (scikit-learn)",
    "mnist": "70,000 28×28 grey digits",
    "fashion-mnist": "70,000 28×28 grey garments",
    "kmnist": "70,000 28×28 grey Kuzushiji characters",
    "emnist": "131,600 28×28 grey digits and letters, 47 classes",
    "qmnist": "MNIST rebuilt, 28×28 grey",
    "usps": "9,298 16×16 grey digits",
    "svhn": "99,289 32×32 colour house numbers",
    "cifar10": "60,000 32×32 colour images, 10 classes",
    "cifar100": "60,000 32×32 colour images, 100 classes",
}

BUILTIN = {"digits": f"{__name__}:digits"} | {name: f"{__name__}:{name}" for name in _TORCHVISION}


def __getattr__(name: str) -> Loader:
    """Give each torchvision set the module attribute that `BUILTIN` promises."""
    if name in _TORCHVISION:
        return partial(_torchvision, name)
    raise AttributeError(name)


def folder(path: Path, train: bool) -> ImageSet:
    """Images in one directory a class, in ``train/`` and ``test/`` where these exist.

    Images of one size keep it; others are cropped to the centre square and resized to the median of their shorter
    sides, at most `LARGEST_FOLDER_SIDE`. Where there is no ``test/``, a fixed fifth is held out for it.

    Raises:
        DataError: No directory, fewer than two classes, or a file that is not an image (named).
    """
    import torchvision

    divided = (path / "train").is_dir() and (path / "test").is_dir()
    root = path / ("train" if train else "test") if divided else path
    if not root.is_dir():
        raise DataError(f"image folder {root} does not exist; it should hold one directory a class")
    classes = _class_names(path / "train" if divided else path)
    if unknown := set(_class_names(root)) - set(classes):
        raise DataError(f"image folder {root} holds {min(unknown)!r}, but there is no such class in train")
    extensions = torchvision.datasets.folder.IMG_EXTENSIONS
    files = [
        (file, label)
        for label, name in enumerate(classes)
        for file in sorted((root / name).rglob("*"))
        if file.suffix.lower() in extensions
    ]
    pictures = [_read_picture(file) for file, _ in files]
    if not pictures:
        raise DataError(f"image folder {root} holds no image ({', '.join(extensions)})")
    images = torch.stack(_same_size(pictures))
    labels = torch.tensor([label for _, label in files])
    whole = ImageSet(images, labels, classes)
    return whole if divided else _part(whole, train)


def _class_names(root: Path) -> tuple[str, ...]:
    names = sorted(entry.name for entry in root.iterdir() if entry.is_dir() and not entry.name.startswith("."))
    if len(names) < 2:
        raise DataError(f"image folder {root} has {len(names)} class directories; at least two are needed")
    return tuple(names)


def npz(path: Path, train: bool) -> ImageSet:
    """Arrays ``images`` and ``labels`` of a NumPy file, and ``test_images`` and ``test_labels`` where it has them.

    Images are uint8, ``[n, height, width]``, ``[n, channels, height, width]`` or ``[n, height, width, channels]``
    with 1 or 3 channels.

    Raises:
        DataError: The file is missing, is not an .npz, or lacks an array. Nothing in it is unpickled.
    """
    try:
        with np.load(path, allow_pickle=False) as arrays:
            divided = "test_images" in arrays
            prefix = "test_" if divided and not train else ""
            images = torch.from_numpy(arrays[f"{prefix}images"])
            labels = torch.from_numpy(arrays[f"{prefix}labels"].astype(np.int64))
            last = max(int(arrays[name].max(initial=0)) for name in ("labels", "test_labels") if name in arrays)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, EOFError, BadZipFile) as error:
        raise DataError(f"{path} is not an .npz file with arrays 'images' and 'labels' ({_one_line(error)})") from error
    if images.dim() == 3:
        images = images.unsqueeze(1)
    elif images.dim() == 4 and images.shape[1] not in (1, 3):
        images = images.permute(0, 3, 1, 2)
    whole = ImageSet(images.contiguous(), labels, tuple(map(str, range(last + 1))))
    return whole if divided else _part(whole, train)


def load_images(name: str, train: bool, directory: Path | None = None) -> ImageSet:
    """Load one part of a data set.

    Args:
        name: A registered name, ``folder:PATH``, ``npz:FILE`` or ``package.module:function``.
        train: The training part, or the test part.
        directory: Where its files are or are downloaded to; `data_directory` by default.

    Raises:
        SpecError: Nothing has that name.
        DataError: It is absent and cannot be downloaded, or is not usable.
    """
    kind, _, path = name.partition(":")
    function: Loader
    if kind in _FROM_FILES:
        function = partial(_from_files, _FROM_FILES[kind], Path(path).expanduser())
    else:
        function = registry.find("data set", name, BUILTIN, GROUP)
    try:
        images = function(train, directory or data_directory())
    except DataError as error:
        raise DataError(f"data set {name!r}: {error}") from error
    except NasOptunaError:
        raise
    except Exception as error:  # somebody else's function: say whose it was
        raise DataError(f"data set {name!r} failed to load: {_one_line(error)}") from error
    registry.require_type("data set", name, images, ImageSet)
    return images


_FROM_FILES: dict[str, Callable[[Path, bool], ImageSet]] = {"folder": folder, "npz": npz}


def _from_files(read: Callable[[Path, bool], ImageSet], path: Path, train: bool, directory: Path) -> ImageSet:
    return read(path, train)


def _part(whole: ImageSet, train: bool) -> ImageSet:
    rest, held_out = split(whole, HELD_OUT_FOR_TEST, seed=0)
    return rest if train else held_out


def _read_picture(file: Path) -> torch.Tensor:
    from PIL import Image

    try:
        with Image.open(file) as picture:
            if picture.mode.startswith("I;16"):  # which Pillow would clip rather than scale
                array = (np.asarray(picture) >> 8).astype(np.uint8)
            else:
                array = np.asarray(picture.convert("L" if picture.mode in ("1", "L") else "RGB"))
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise DataError(f"{file} is not an image that can be read ({_one_line(error)}); mend or remove it") from error
    return torch.from_numpy(array.copy()).reshape(*array.shape[:2], -1).permute(2, 0, 1)


def _same_size(pictures: list[torch.Tensor]) -> list[torch.Tensor]:
    """Channels and sides as in `folder`'s docstring."""
    from torchvision.transforms.v2 import functional as transforms

    channels = max(p.shape[0] for p in pictures)
    pictures = [p.expand(channels, -1, -1) for p in pictures]
    if len({p.shape for p in pictures}) == 1:
        return pictures
    side = min(LARGEST_FOLDER_SIDE, int(np.median([min(p.shape[1:]) for p in pictures])))
    return [
        transforms.resize(transforms.center_crop(p, [min(p.shape[1:])]), [side, side], antialias=True) for p in pictures
    ]


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split())[:200] or type(error).__name__
