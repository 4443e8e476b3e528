"""The data sets that torchvision offers. A new one is a `TorchvisionSet` here and its lines in `data_sets`."""

from __future__ import annotations

import os
import shutil
import socket
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from nas_optuna.data.images import ImageSet
from nas_optuna.errors import DataError, reason_of

NETWORK_TIMEOUT = 15.0
"""Seconds to wait for an answer of a server that offers a data set."""

_ABSENT = (RuntimeError, FileNotFoundError)
"""What torchvision raises for a file that is not there or has another checksum."""


@dataclass(frozen=True)
class TorchvisionSet:
    """One of torchvision's data sets: a function ``(train, directory)`` that gives its images."""

    # It is downloaded where it is absent. Any number of processes may ask at once: one downloads, into a folder of its
    # own, the others wait, and no file appears under its name before it is whole.

    class_name: str
    files: str  # that torchvision wants in the data directory, for the error message
    archives: tuple[str, ...] = ()  # where a person may have put what torchvision would download
    part: tuple[str, object, object] = ("train", True, False)  # a keyword, with its values for training and test
    options: Mapping[str, object] = field(default_factory=dict)
    classes: int = 10
    labels: str = "targets"  # the attribute that holds them
    mean: tuple[float, ...] = ()  # of each channel; measured without it
    std: tuple[float, ...] = ()
    transposed: bool = False  # whether torchvision exchanges rows and columns

    def __call__(self, train: bool, directory: Path) -> ImageSet:
        """The training or the test part."""
        try:
            data = self._opened(train, directory)
        except Exception as error:  # torchvision meets a damaged file with whatever its reader raises
            raise DataError(
                f"it is absent from {directory} or damaged there, and could not be downloaded ({reason_of(error)});"
                f" put {self.files} there (remove damaged files), or use the spec digits-quick, which needs no download"
            ) from error
        images = torch.as_tensor(np.asarray(data.data))
        if images.dim() == 3:
            images = images.unsqueeze(1)
        elif images.shape[-1] == 3:
            images = images.permute(0, 3, 1, 2)
        labels = torch.as_tensor(np.asarray(getattr(data, self.labels)), dtype=torch.int64)
        if labels.dim() == 2:  # QMNIST's other columns say who wrote the digit
            labels = labels[:, 0].contiguous()
        classes = tuple(map(str, getattr(data, "classes", range(self.classes))))
        if self.transposed:
            images = images.transpose(2, 3)
        return ImageSet(images.contiguous(), labels, classes, self.mean, self.std)

    def _opened(self, train: bool, directory: Path) -> Any:
        """The set, downloaded first where it is absent."""
        directory.mkdir(parents=True, exist_ok=True)
        with suppress(*_ABSENT):
            return self._read(train, directory, download=False)
        with _only_process(directory / f".{self.class_name}.lock"):
            with suppress(*_ABSENT):  # another process may have downloaded it meanwhile
                return self._read(train, directory, download=False)
            self._download(train, directory)
            return self._read(train, directory, download=False)

    def _read(self, train: bool, directory: Path, *, download: bool) -> Any:
        import torchvision

        keyword, for_training, for_test = self.part
        make = getattr(torchvision.datasets, self.class_name)
        options = {keyword: for_training if train else for_test, **self.options}
        return make(str(directory), download=download, **options)

    def _download(self, train: bool, directory: Path) -> None:
        """Download into a folder of our own, then move each whole file to its place."""
        prefix = f".{self.class_name}-"
        for abandoned in directory.glob(f"{prefix}*"):  # by a process that was killed: we hold the lock
            shutil.rmtree(abandoned, ignore_errors=True)
        with tempfile.TemporaryDirectory(prefix=prefix, dir=directory) as temporary:
            own = Path(temporary)
            for name in self.archives:
                if (directory / name).is_dir():
                    shutil.copytree(directory / name, own / name)
                elif (directory / name).is_file():
                    shutil.copy2(directory / name, own / name)
            with _network_timeout():
                self._read(train, own, download=True)
            for file in sorted(path for path in own.rglob("*") if path.is_file()):
                target = directory / file.relative_to(own)
                target.parent.mkdir(parents=True, exist_ok=True)
                os.replace(file, target)


@contextmanager
def _only_process(lock: Path) -> Iterator[None]:
    """Hold a lock among all processes; where the directory cannot be written to, there is nothing to lock."""
    from filelock import FileLock

    if not os.access(lock.parent, os.W_OK):
        yield
        return
    with FileLock(lock):
        yield


@contextmanager
def _network_timeout() -> Iterator[None]:
    """Torchvision sets none, so a mirror that never answers would be waited for without end."""
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(NETWORK_TIMEOUT)
    try:
        yield
    finally:
        socket.setdefaulttimeout(before)


mnist = TorchvisionSet(
    "MNIST",
    "train-images-idx3-ubyte, train-labels-idx1-ubyte, t10k-images-idx3-ubyte and t10k-labels-idx1-ubyte in MNIST/raw",
    archives=("MNIST",),
    # The established figures; the other sets' are measured.
    mean=(0.1307,),
    std=(0.3081,),
)
fashion_mnist = TorchvisionSet(
    "FashionMNIST",
    "the four idx files in FashionMNIST/raw",
    archives=("FashionMNIST",),
)
kmnist = TorchvisionSet("KMNIST", "the four idx files in KMNIST/raw", archives=("KMNIST",))
emnist = TorchvisionSet(
    "EMNIST",
    "emnist-balanced-* idx files in EMNIST/raw",
    archives=("EMNIST",),
    options={"split": "balanced"},
    transposed=True,
)
qmnist = TorchvisionSet(
    "QMNIST",
    "the qmnist-* files in QMNIST/raw",
    archives=("QMNIST",),
    part=("what", "train", "test10k"),
)
usps = TorchvisionSet("USPS", "usps.bz2 and usps.t.bz2")
svhn = TorchvisionSet(
    "SVHN",
    "train_32x32.mat and test_32x32.mat",
    part=("split", "train", "test"),
    labels="labels",
)
cifar10 = TorchvisionSet(
    "CIFAR10",
    "the folder cifar-10-batches-py",
    archives=("cifar-10-python.tar.gz",),
)
cifar100 = TorchvisionSet(
    "CIFAR100",
    "the folder cifar-100-python",
    archives=("cifar-100-python.tar.gz",),
)
