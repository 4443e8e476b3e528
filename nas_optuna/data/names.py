"""From what a person types to a data set's name."""

from __future__ import annotations

from pathlib import Path

from nas_optuna.errors import DataError, SpecError, named, shown, unknown


def data_name(text: str) -> str:
    """The name of a data set: a folder is ``folder:PATH``, a file ``npz:FILE``, and a name stays."""
    from nas_optuna.data.catalog import set_names  # imports torch, which a path does not need

    if not text.strip():
        raise DataError("--data names nothing; give a folder of pictures, a .npz file, or a name such as mnist")
    if "://" in text:
        raise DataError(f"{shown(text)} is an address; download it, and give the folder or the .npz file")
    path = Path(text).expanduser()
    if ":" in text and not path.exists():
        kind, _, place = text.partition(":")
        return f"{kind.casefold()}:{place}" if kind.casefold() in ("folder", "npz") else text
    if path.is_dir() and not (text.isidentifier() and text in set_names()):
        return f"folder:{path.absolute()}"
    if path.is_file():
        if path.suffix != ".npz":
            raise DataError(f"{named(path)} is no folder of pictures and no .npz file; see docs/data.md")
        return f"npz:{path.absolute()}"
    if text in set_names():
        return text
    if path.suffix or "/" in text:
        raise DataError(f"{named(path)} does not exist; give a folder of pictures or a .npz file")
    raise SpecError(unknown("folder, file or data set", text, set_names()))
