"""Data sets by name: ``folder:PATH``, ``npz:FILE``, or a name of `data_sets`.

A named function takes ``(train, directory)``, the wanted part and the folder for files and downloads, and returns an
`ImageSet`.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from nas_optuna.data.arrays import NpzSource
from nas_optuna.data.folder import FolderSource
from nas_optuna.data.images import ImageSet
from nas_optuna.data.pixels import MAX_SIDE
from nas_optuna.data.source import FunctionSource, InputSize, Source, hold_out
from nas_optuna.data_sets import DATA_SETS
from nas_optuna.errors import DataError, SpecError, named, reason_of, shown, unknown
from nas_optuna.spec import DataSpec

NETWORK_TIMEOUT = 15.0
"""Seconds to wait for an answer of a download server."""


@dataclass(frozen=True)
class TorchvisionSet:
    """One of torchvision's data sets: a function ``(train, directory)`` that returns its images."""

    # It is downloaded if it is absent. Any number of processes may ask at once: one downloads, and the others wait.
    # torchvision knows most files by their checksums, so that a download that was stopped is begun anew.

    class_name: str
    files: str  # which torchvision expects in the data directory, for the error message
    part: tuple[str, object, object] = ("train", True, False)  # a keyword, with its values for training and test
    options: Mapping[str, object] = field(default_factory=dict)
    mean: tuple[float, ...] = ()  # of each channel; measured if it is empty
    std: tuple[float, ...] = ()
    transposed: bool = False  # whether torchvision swaps rows and columns

    def __call__(self, train: bool, directory: Path) -> ImageSet:
        """The training or the test part."""
        try:
            data = self._opened(train, directory)
        except Exception as error:  # torchvision may raise anything for a damaged file
            raise DataError(
                f"it is absent from {directory} or damaged there, and could not be downloaded ({reason_of(error)});"
                f" put {self.files} there (remove damaged files), or use the spec digits-quick, which needs no download"
            ) from error
        images = torch.as_tensor(np.asarray(data.data))
        if images.dim() == 3:
            images = images.unsqueeze(1)
        elif images.shape[-1] == 3:
            images = images.permute(0, 3, 1, 2)
        found = data.targets if hasattr(data, "targets") else data.labels
        labels = torch.as_tensor(np.asarray(found), dtype=torch.int64)
        if labels.dim() == 2:  # QMNIST's other columns identify the writer
            labels = labels[:, 0].contiguous()
        classes = tuple(map(str, getattr(data, "classes", range(10))))
        if self.transposed:
            images = images.transpose(2, 3)
        return ImageSet(images.contiguous(), labels, classes, self.mean, self.std)

    def _opened(self, train: bool, directory: Path) -> Any:
        """The data set, downloaded first if it is absent."""
        from filelock import FileLock

        directory.mkdir(parents=True, exist_ok=True)
        with ExitStack() as held:
            with suppress(OSError):  # of a folder or a lock of another user's what is there can be read all the same
                held.enter_context(FileLock(directory / f".{self.class_name}.lock"))
            with suppress(RuntimeError, FileNotFoundError):  # a file is missing or has another checksum
                return self._read(train, directory, download=False)
            before = socket.getdefaulttimeout()
            socket.setdefaulttimeout(NETWORK_TIMEOUT)  # torchvision sets none, and would wait forever
            try:
                return self._read(train, directory, download=True)
            finally:
                socket.setdefaulttimeout(before)

    def _read(self, train: bool, directory: Path, *, download: bool) -> Any:
        import torchvision

        keyword, for_training, for_test = self.part
        make = getattr(torchvision.datasets, self.class_name)
        options = {keyword: for_training if train else for_test, **self.options}
        return make(str(directory), download=download, **options)


mnist = TorchvisionSet(
    "MNIST",
    "train-images-idx3-ubyte, train-labels-idx1-ubyte, t10k-images-idx3-ubyte and t10k-labels-idx1-ubyte in MNIST/raw",
    # The established figures; those of the other data sets are measured.
    mean=(0.1307,),
    std=(0.3081,),
)
fashion_mnist = TorchvisionSet("FashionMNIST", "the four idx files in FashionMNIST/raw")
kmnist = TorchvisionSet("KMNIST", "the four idx files in KMNIST/raw")
emnist = TorchvisionSet(
    "EMNIST", "emnist-balanced-* idx files in EMNIST/raw", options={"split": "balanced"}, transposed=True
)
qmnist = TorchvisionSet("QMNIST", "the qmnist-* files in QMNIST/raw", part=("what", "train", "test10k"))
usps = TorchvisionSet("USPS", "usps.bz2 and usps.t.bz2")
svhn = TorchvisionSet("SVHN", "train_32x32.mat and test_32x32.mat", part=("split", "train", "test"))
cifar10 = TorchvisionSet("CIFAR10", "the folder cifar-10-batches-py")
cifar100 = TorchvisionSet("CIFAR100", "the folder cifar-100-python")

_READERS: dict[str, type[FolderSource] | type[NpzSource]] = {"folder": FolderSource, "npz": NpzSource}


def data_name(text: str) -> str:
    """The full name of a data set: ``folder:PATH`` for a folder, ``npz:FILE`` for a file, a name unchanged."""
    if not text.strip():
        raise DataError("the data set has no name; give a folder of pictures, a .npz file, or a name such as mnist")
    if "://" in text:
        raise DataError(f"{shown(text)} is an address; download it, and give the folder or the .npz file")
    path = Path(os.path.expanduser(text))
    if ":" in text and not path.exists():
        kind, _, place = text.partition(":")
        return f"{kind.casefold()}:{place}" if DATA_SETS.is_of_files(kind.casefold()) else text
    if path.is_dir() and not (text.isidentifier() and text in DATA_SETS):
        return f"folder:{path.absolute()}"
    if path.is_file() and path.suffix.casefold() == ".npz":
        return f"npz:{path.absolute()}"
    if text in DATA_SETS:
        return text
    if path.exists() or path.suffix or "/" in text:
        problem = "is no folder and no .npz file" if path.exists() else "does not exist"
        raise DataError(
            f"{named(path)} {problem}; give a folder with a directory of pictures for each class, or a .npz file of the"
            " arrays images and labels"
        )
    raise SpecError(unknown("folder, file or data set", text, DATA_SETS.names()))


def is_missing(name: str) -> bool:
    """Whether a data set's name is a path that does not exist, maybe because the images were moved."""
    with suppress(DataError, OSError):
        return DATA_SETS.is_of_files(name) and not _user_path(name).exists()
    return False


@contextmanager
def begun_with(name: str, study: str | None) -> Iterator[None]:
    """Say what to do where the images of a study's files cannot be read: to delete some would make them others."""
    try:
        yield
    except DataError as error:
        if study is None or not DATA_SETS.is_of_files(name):
            raise
        if is_missing(name):
            kind = name.partition(":")[0]
            remedy = f"if the images were moved, name their place: --data {kind}:NEW/PATH, or data.name of the spec"
        else:
            remedy = f"study {shown(study)} goes on with the same images only"
        told = str(error).replace("delete it", "replace it")
        raise DataError(f"{told}; {remedy}") from error


def data_directory() -> Path:
    """``NAS_OPTUNA_DATA``, else the user's cache directory."""
    import platformdirs

    return Path(os.environ.get("NAS_OPTUNA_DATA") or platformdirs.user_cache_path("nas-optuna") / "data")


def digits(train: bool, directory: Path) -> ImageSet:
    """The 1,797 8×8 digits of ``digits.npz`` beside this file; one fifth of each class is for test."""
    # They are the test set of E. Alpaydin and C. Kaynak, "Optical Recognition of Handwritten Digits", UCI Machine
    # Learning Repository, 1998, https://doi.org/10.24432/C50P49 (CC BY 4.0); grey values 0 … 16, as in scikit-learn.
    with np.load(Path(__file__).with_name("digits.npz")) as file:
        grey, values = file["images"], file["labels"]
    images = torch.from_numpy(np.rint(grey * (255 / 16)).astype(np.uint8)).unsqueeze(1)
    labels = torch.from_numpy(values.astype(np.int64))
    rest, held_out = hold_out(labels)
    return ImageSet(images, labels, tuple(map(str, range(10)))).subset(rest if train else held_out)


@contextmanager
def opened(spec: DataSpec, directory: Path | None = None, input_size: InputSize = None) -> Iterator[Source]:
    """Open the data set of a name; a `DataError` within the block names the data set."""
    sides = (input_size,) if isinstance(input_size, int) else (1,) if input_size is None else input_size
    if len(sides) > 2 or not all(isinstance(side, int) and 1 <= side <= MAX_SIDE for side in sides):
        raise SpecError(f"input_size is 1 … {MAX_SIDE} pixels, or (height, width), not {shown(input_size)}")
    name = spec.name
    try:
        if DATA_SETS.is_of_files(name):
            yield _READERS[name.partition(":")[0]](_user_path(name), spec, input_size)
        elif name and name not in DATA_SETS and Path(name).is_dir():
            raise SpecError(f"unknown data set {shown(name)}; the folder of that name is folder:{name}")
        else:
            place = directory or data_directory()
            made = partial(DATA_SETS.make, name, options={}, wanted=ImageSet)
            yield FunctionSource(lambda train: made(train, place), spec, input_size)
    except DataError as error:
        raise DataError(f"data set {named(name)!r}: {error}") from error


def _user_path(name: str) -> Path:
    """The path after the colon; ``~`` is the user's home."""
    kind, _, text = name.partition(":")
    if not text.strip():
        raise DataError(f"give a path after the colon, e.g. {kind}:{'images' if kind == 'folder' else 'images.npz'}")
    return Path(os.path.expanduser(text))  # which leaves the ~ of nobody as it is
