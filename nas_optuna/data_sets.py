"""The named data sets and their descriptions; their images are read in `nas_optuna.data`.

A new one is a function or a `TorchvisionSet` in ``data/catalog.py``, and a line here. Other packages register one in
the entry point group ``nas_optuna.datasets``, or it is named as ``package.module:function``.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

from nas_optuna.registry import Registry

DESCRIPTIONS = {
    "digits": "1,797 8×8 grey digits, built in",
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

DATA_SETS = Registry(
    "data set",
    "nas_optuna.datasets",
    {name: f"nas_optuna.data.catalog:{name.replace('-', '_')}" for name in DESCRIPTIONS},
    files=("folder", "npz"),
)

FOLDER: ContextVar[str | None] = ContextVar("folder", default=None)
"""The folder that the present command was told the data sets are in, which the commands that it suggests need, too."""


@contextmanager
def data_in(folder: object) -> Iterator[None]:
    """Say where the data sets are, for the time of a command; None is their usual place."""
    before = FOLDER.set(None if folder is None else str(folder))
    try:
        yield
    finally:
        FOLDER.reset(before)
