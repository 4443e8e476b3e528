"""Test pictures that a network gets wrong, small enough to be stored with its study and shown in its report."""

from __future__ import annotations

import base64
import io
import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice, zip_longest

import torch
from PIL import Image

from nas_optuna.data import ImageSet
from nas_optuna.study.schema import LONGEST

MAX_PICTURES = 24
"""Pictures that are kept of one network."""
MAX_SIDE = 48
"""Pixels of a kept picture's longer side."""
_BASE64 = re.compile(r"[0-9A-Za-z+/]+={0,2}")


@dataclass(frozen=True)
class Mistake:
    """A picture that was taken for another class."""

    label: int
    predicted: int
    picture: str  # it, small, as WebP in base 64

    def __str__(self) -> str:
        return f"{self.label} {self.predicted} {self.picture}"

    @classmethod
    def parse(cls, text: str, classes: int) -> Mistake | None:
        """What `str` has written; None where somebody has altered that."""
        label, _, rest = text.partition(" ")
        predicted, _, picture = rest.partition(" ")
        known = {str(i) for i in range(classes)}
        if label not in known or predicted not in known or not _BASE64.fullmatch(picture):
            return None
        return cls(int(label), int(predicted), picture)


def find_mistakes(images: ImageSet, predicted: Sequence[int]) -> tuple[Mistake, ...]:
    """Pictures that were taken for another class: the first one of every class, then the second, and so on."""
    wrong: dict[int, list[int]] = {}
    for i in torch.nonzero(images.labels != torch.as_tensor(predicted)).flatten().tolist():
        wrong.setdefault(int(images.labels[i]), []).append(i)
    in_turn = [i for turn in zip_longest(*(wrong[label] for label in sorted(wrong))) for i in turn if i is not None]
    made = (Mistake(int(images.labels[i]), int(predicted[i]), _small(images, i)) for i in in_turn)
    found = list(islice((one for one in made if len(str(one)) < LONGEST - 8), MAX_PICTURES))
    return tuple(sorted(found, key=lambda one: one.label))


def _small(images: ImageSet, index: int) -> str:
    pixels = images.images[index].permute(1, 2, 0).contiguous().numpy()
    picture = Image.fromarray(pixels[:, :, 0] if pixels.shape[2] != 3 else pixels)
    picture.thumbnail((MAX_SIDE, MAX_SIDE))
    file = io.BytesIO()
    picture.convert("RGB").save(file, "WEBP", quality=70)
    return base64.b64encode(file.getvalue()).decode("ascii")
