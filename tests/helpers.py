"""What tests of several rooms share: the command line in this process, and settings that train in an instant."""

from __future__ import annotations

import io
import json
import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw

from nas_optuna import Recipe

RECIPE = Recipe(epochs=2, batch_size=64, input_size=8)
TINY = {"recipe.epochs": 1, "recipe.input_size": 8, "space.depth": 2, "data.train_limit": 200}


@dataclass(frozen=True)
class Result:
    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)


Command = Callable[..., Result]
Installed = Callable[[str, Mapping[str, Mapping[str, str]]], None]
"""Installs a package of one module ``parts``: its text, and its entry points by group."""


def tiny(**more: object) -> list[str]:
    """Options that make every training take a tenth of a second; `more` with ``__`` for a dot."""
    settings = TINY | {key.replace("__", "."): value for key, value in more.items()}
    return [word for key, value in settings.items() for word in ("--set", f"{key}={value}")]


def write_photos(root: Path, *, each: int, height: int, width: int) -> None:
    """Write JPEGs of four kinds of shapes, each in its folder: any colours, sizes and places, and noise."""
    rng = np.random.default_rng(0)
    for kind in ("cross", "disc", "frame", "stripes"):
        (root / kind).mkdir(parents=True)
        for number in range(each):
            _photo(kind, height, width, rng).save(root / kind / f"{number}.jpg", quality=90)


def _photo(kind: str, height: int, width: int, rng: np.random.Generator) -> Image.Image:
    ground, ink = rng.integers(0, 256, (2, 3))
    while abs(int(ground.sum()) - int(ink.sum())) < 200:
        ink = rng.integers(0, 256, 3)
    colour = tuple(ink.tolist())
    picture = Image.new("RGB", (width, height), tuple(ground.tolist()))
    pen = ImageDraw.Draw(picture)
    r = int(rng.integers(height // 5, height // 3))
    x, y = int(rng.integers(r, width - r)), int(rng.integers(r, height - r))
    if kind == "disc":
        pen.ellipse((x - r, y - r, x + r, y + r), fill=colour)
    elif kind == "frame":
        pen.rectangle((x - r, y - r, x + r, y + r), outline=colour, width=3)
    elif kind == "cross":
        pen.line((x - r, y, x + r, y), fill=colour, width=4)
        pen.line((x, y - r, x, y + r), fill=colour, width=4)
    else:
        for column in range(0, width, 8):
            pen.line((column, 0, column, height), fill=colour, width=3)
    noisy = np.asarray(picture) + rng.normal(0, 12, (height, width, 3))
    return Image.fromarray(np.clip(noisy, 0, 255).astype(np.uint8))


def files_in(folder: Path) -> list[Path]:
    """What is in a folder, without what SQLite keeps beside a database that is still open."""
    return sorted(path for path in folder.iterdir() if not path.name.endswith(("-shm", "-wal")))


def as_0_2_wrote_it(file: Path) -> None:
    """Rewrite the header of a saved network as release 0.2 wrote it."""
    data = file.read_bytes()
    length = int.from_bytes(data[:8], "little")
    outer = json.loads(data[8 : 8 + length])
    header = json.loads(outer["__metadata__"]["nas_optuna"])
    pixels = header.pop("pixels")
    del header["origin"]
    height, width = pixels["input_size"]
    header |= {"format": 1, "image_shape": [pixels["channels"], pixels["height"], pixels["width"]]}
    header |= {"input_size": height if height == width else [height, width]}
    header |= {key: pixels[key] for key in ("mean", "std", "resize")}
    outer["__metadata__"]["nas_optuna"] = json.dumps(header)
    text = json.dumps(outer).encode()
    text += b" " * (-len(text) % 8)
    file.write_bytes(struct.pack("<Q", len(text)) + text + data[8 + length :])


def as_release_0_2_wrote(checkpoint: Path) -> None:
    """Replace a checkpoint's file by what release 0.2 wrote of the same epoch: a folder of its parts."""
    import torch
    from safetensors.torch import save_file

    found = torch.load(io.BytesIO(checkpoint.read_bytes()[32:]), weights_only=True)
    checkpoint.unlink()
    checkpoint.mkdir()
    save_file(found["weights"], checkpoint / "weights.safetensors")
    torch.save(found["state"], checkpoint / "state.pt")
    (checkpoint / "progress.json").write_text(found["progress"])
    digests = {part.name: blake2b(part.read_bytes(), digest_size=16).hexdigest() for part in checkpoint.iterdir()}
    (checkpoint / "digests.json").write_text(json.dumps(digests))
