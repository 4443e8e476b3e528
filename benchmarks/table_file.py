"""Read a table of trainings from an ``.npz`` file, and say in one line what is wrong with a damaged one."""

from __future__ import annotations

import json
import zipfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nas_optuna.errors import DataError, named, shown

KEYS = ("parameters", "choices", "sizes", "size_names", "curves", "seconds")
"""What a table must hold; ``about`` is for people."""


def arrays_of(path: Path) -> dict[str, NDArray[Any]]:
    """The arrays of a file of the format in `tables.py`.

    Raises:
        DataError: There is no such file, or it is no such table.
    """
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = {key: file[key] for key in KEYS if key in file}
    except FileNotFoundError:
        raise DataError(f"there is no table {named(path)}; name one of tables.py or an .npz file") from None
    except (OSError, ValueError, EOFError, TypeError, AttributeError, zipfile.BadZipFile, zlib.error):
        raise DataError(f"{named(path)} cannot be read as .npz; write it with numpy.savez") from None
    wrong = _lacking(arrays) or _wrong_choices(arrays) or _wrong_numbers(arrays)
    if wrong:
        raise DataError(f"{named(path)} is no table of trainings: {wrong}; tables.py describes the format")
    return arrays


def _lacking(arrays: dict[str, NDArray[Any]]) -> str:
    missing = [key for key in KEYS if key not in arrays]
    if missing:
        return f"it lacks {', '.join(missing)}"
    for key, dimensions in (("choices", 2), ("sizes", 2), ("curves", 2), ("seconds", 1)):
        if arrays[key].ndim != dimensions:
            return f"{key} has {arrays[key].ndim} dimensions rather than {dimensions}"
    lengths = {key: len(arrays[key]) for key in ("choices", "sizes", "curves", "seconds")}
    if len(set(lengths.values())) > 1:
        return "these differ in their number of networks: " + ", ".join(f"{key} {n}" for key, n in lengths.items())
    if arrays["curves"].size == 0:
        return "it has no curves"
    named = arrays["size_names"].size
    return f"{arrays['sizes'].shape[1]} sizes have {named} names" if arrays["sizes"].shape[1] != named else ""


def _wrong_choices(arrays: dict[str, NDArray[Any]]) -> str:
    try:
        parameters = json.loads(str(arrays["parameters"]))
        choices = {str(name): list(p["choices"]) for name, p in parameters.items()}
        distinct = {name: len(set(values)) for name, values in choices.items()}
        _ = [bool(p["ordered"]) for p in parameters.values()]
    except (ValueError, TypeError, KeyError, AttributeError):
        return "parameters is no JSON of names with choices and ordered"
    table = arrays["choices"]
    if table.dtype.kind not in "iu" or table.shape[1] != len(choices) or not choices:
        return f"choices is not an integer for each of {len(choices)} parameters"
    for column, (name, values) in zip(table.T, choices.items(), strict=True):
        if distinct[name] < len(values):
            return f"{shown(name)} has the same choice twice"
        if column.min() < 0 or column.max() >= len(values):
            return f"choices of {shown(name)} are beyond its {len(values)}"
    return ""


def _wrong_numbers(arrays: dict[str, NDArray[Any]]) -> str:
    for key in ("sizes", "curves", "seconds"):
        if arrays[key].dtype.kind not in "fiub" or not np.isfinite(arrays[key]).all():
            return f"{key} has values that are not finite numbers"
    if arrays["curves"].min() < 0 or arrays["curves"].max() > 1 + 1e-6:
        return "curves has values that are not accuracies from 0 to 1"
    return "seconds has values that are not above 0" if arrays["seconds"].min() <= 0 else ""
