"""The study specs that ship with the package, found by name."""

from __future__ import annotations

import itertools
import re
from pathlib import Path

from nas_optuna.errors import SpecError, named, unknown
from nas_optuna.spec import SUFFIX

DEFAULT = "digits-quick"
OWN_IMAGES = "own-images"
"""The default if the data are a folder or a NumPy file."""
PRETRAINED = "pretrained"
"""The preset of fit for a pretrained backbone."""

# In an installed wheel the specs are inside the package, in a checkout next to it.
_FOLDERS = (Path(__file__).parent / "studies", Path(__file__).parent.parent / "studies")


def preset_names() -> list[str]:
    """Names of all specs that ship with the package."""
    return sorted({path.stem for folder in _FOLDERS for path in folder.glob(f"*{SUFFIX}")})


def describe_preset(name: str) -> str:
    """The purpose of a preset: the first sentence of its file."""
    lines = find_spec(name).read_text(encoding="utf-8").splitlines()
    comment = " ".join(line.removeprefix("#").strip() for line in itertools.takewhile(lambda x: x[:1] == "#", lines))
    return re.split(r"(?<=\.) ", comment, maxsplit=1)[0]


def is_shipped(file: Path) -> bool:
    """Whether a file of `find_spec` is a preset, rather than the user's own."""
    return file.resolve().parent in {folder.resolve() for folder in _FOLDERS}


def find_spec(name: str) -> Path:
    """The file of a spec."""
    path = Path(name).expanduser()
    if path.suffix == SUFFIX or path.is_file():
        if not path.is_file():
            why = "is no file" if path.exists() else "does not exist"
            raise SpecError(f"study spec {named(path)} {why}; presets are: {', '.join(preset_names())}")
        return path
    for folder in _FOLDERS:
        if (preset := folder / f"{name}{SUFFIX}").is_file():
            return preset
    raise SpecError(unknown("study spec", name, preset_names()))
