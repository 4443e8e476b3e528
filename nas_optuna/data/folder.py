"""A folder of pictures as a data set."""

from __future__ import annotations

import os
import statistics
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from pathlib import Path
from typing import TypeVar, cast

import numpy as np
import torch

from nas_optuna.data.images import VERBS, ImageSet, ReadingReport, dimensions
from nas_optuna.data.layout import read_layout
from nas_optuna.data.pictures import (
    BACKGROUNDS,
    PictureFacts,
    ValueRange,
    inspect_picture,
    picture_pixels,
    quiet,
    shared_background,
)
from nas_optuna.data.pixels import PixelFormat
from nas_optuna.data.source import PARTS, FileSource, Reading, require_memory
from nas_optuna.errors import DataError
from nas_optuna.quantities import plural

MAX_PHOTO_SIDE = 224
"""Of pictures for which nobody says what size a network should see."""

_THREADS = 4  # each may hold one photo at full size

_Item = TypeVar("_Item")
_Result = TypeVar("_Result")


class FolderSource(FileSource):
    """Pictures in one directory per class, in ``train/``, ``val/`` and ``test/`` where these exist."""

    # Pictures of one size that is no larger than what the study needs keep it; all others get the shape that it needs
    # while they are read, one by one.

    def __init__(self, root: Path, reading: Reading) -> None:
        self._reading = reading
        self._layout = read_layout(root)
        parts = {part: self._layout.parts[part] for part in PARTS if part in self._layout.parts}
        super().__init__({part: torch.tensor([label for _, label in files]) for part, files in parts.items()})
        self._files = [file for files in parts.values() for file, _ in files]

    @cached_property
    def _facts(self) -> list[PictureFacts]:
        """What the files of all pictures say, of the test part, too: their range tells what numbers mean."""
        return _for_each(inspect_picture, self._files)

    @cached_property
    def _pixels(self) -> PixelFormat:
        """What all pictures become; its statistics are not known yet."""
        facts = [self._facts[i] for i in self._training]
        height, width = _unified_size(facts, self._reading)
        _refuse_shallow_colours(self._facts)
        deep = [fact.values for fact in self._facts if fact.values is not None]
        channels = 1 if all(fact.grey for fact in facts) else 3
        return PixelFormat(
            channels,
            height,
            width,
            (0.0,) * channels,
            (1.0,) * channels,
            (height, width),
            self._reading.resize,
            background=shared_background(facts),
            whole_white=max((values.white for values in deep if values.whole), default=65535),
            fraction_white=max((values.white for values in deep if not values.whole), default=1),
        )

    def _read(self, chosen: np.ndarray) -> ImageSet:
        pixels = self._pixels
        shape = (len(chosen), pixels.channels, pixels.height, pixels.width)
        require_memory(
            int(np.prod(shape, dtype=object)),
            f"{plural(len(chosen), 'picture')} of {pixels.channels}×{pixels.height}×{pixels.width}",
            "set recipe.input_size smaller, or data.train_limit",
        )
        images = torch.empty(shape, dtype=torch.uint8)

        def read(item: tuple[int, Path]) -> None:
            number, file = item
            images[number] = torch.from_numpy(np.array(picture_pixels(file, pixels)))

        _for_each(read, [(number, self._files[i]) for number, i in enumerate(chosen)])
        return ImageSet(
            images,
            self._labels[torch.from_numpy(chosen)],
            self._layout.classes,
            resize=self._reading.resize,
            background=pixels.background,
            whole_white=pixels.whole_white,
            fraction_white=pixels.fraction_white,
            report=self._report([self._facts[i] for i in chosen], pixels),
        )

    def _report(self, facts: Sequence[PictureFacts], pixels: PixelFormat) -> ReadingReport:
        layout = ["; ".join(self._layout.remarks)] if self._layout.remarks else []
        sizes = sorted({(fact.height, fact.width) for fact in facts}, key=lambda size: (size[0] * size[1], size))
        return ReadingReport(tuple(sizes), (*layout, *_changes(facts, pixels), *self._layout.left_out))


def _for_each(function: Callable[[_Item], _Result], items: Sequence[_Item]) -> list[_Result]:
    """Call a function that reads a picture for each, in threads: Pillow decodes without the interpreter's lock."""
    # Of the errors it raises, the first is raised, with the number of the others.

    def attempt(item: _Item) -> tuple[_Result | None, str]:
        try:
            return function(item), ""
        except DataError as error:
            return None, str(error)

    with quiet(), ThreadPoolExecutor(min(_THREADS, os.cpu_count() or 1)) as pool:
        try:
            found = list(pool.map(attempt, items))
        except BaseException:  # Ctrl-C: what has not begun need not
            pool.shutdown(cancel_futures=True)
            raise
    if failed := [message for _, message in found if message]:
        more = f" ({plural(len(failed) - 1, 'other picture')} refused)" if len(failed) > 1 else ""
        raise DataError(failed[0] + more)
    return [cast(_Result, result) for result, _ in found]


def _unified_size(facts: Sequence[PictureFacts], reading: Reading) -> tuple[int, int]:
    """Height and width that all pictures get, as in `FolderSource`'s docstring."""
    sizes = {(fact.height, fact.width) for fact in facts}
    longest = max(max(size) for size in sizes)
    if isinstance(reading.input_size, tuple):
        only = next(iter(sizes))
        fits = len(sizes) == 1 and only[0] <= reading.input_size[0] and only[1] <= reading.input_size[1]
        return only if fits else reading.input_size
    most = reading.input_size or reading.max_side or MAX_PHOTO_SIDE
    if len(sizes) == 1 and longest <= most:
        return next(iter(sizes))
    if len(sizes) == 1 or reading.input_size is not None:
        side = min(most, longest)
    else:
        side = min(most, int(statistics.median(min(fact.height, fact.width) for fact in facts)))
    return side, side


def _refuse_shallow_colours(facts: Sequence[PictureFacts]) -> None:
    """Refuse colours of 10, 12 or 14 bits in 16-bit files: of what Pillow reads, nearly nothing is left."""
    deep = [fact.brightest for fact in facts if fact.brightest is not None]
    if deep and 0 < max(deep) < 64:
        raise DataError(
            f"{plural(len(deep), 'picture')} with 16-bit colours that use the lower bits only; convert them to"
            " 8 bits per colour"
        )


def _changes(facts: Sequence[PictureFacts], pixels: PixelFormat) -> Iterator[str]:
    """What was done to pixels, with counts."""
    changed = sum((fact.height, fact.width) != (pixels.height, pixels.width) for fact in facts)
    if changed:
        goal = f"{dimensions(pixels.height, pixels.width)}, {VERBS[pixels.resize]}"
        yield f"size: {changed:,} of {plural(len(facts), 'picture')} brought to {goal} while they were read"
    grey = sum(fact.grey for fact in facts)
    if pixels.channels == 3 and grey:
        yield f"colours: {plural(grey, 'grey picture')} taken as colour"
    if pixels.channels == 1 and grey < len(facts):
        yield f"colours: {plural(len(facts) - grey, 'colour picture')} turned grey, because training pictures are grey"
    for whole, white in ((True, pixels.whole_white), (False, pixels.fraction_white)):
        count = sum(fact.values is not None and fact.values.whole == whole for fact in facts)
        if count and (scaled := ValueRange(0, white, whole).description):
            yield f"depth: {plural(count, 'picture')} with {scaled}"
    on = BACKGROUNDS[pixels.background]
    why = "" if on == "white" else ", because white would hide more drawings"
    remarks = {
        "turned upright by the EXIF orientation": sum(fact.turned for fact in facts),
        f"with transparency laid on {on}{why}": sum(fact.hidden_on is not None for fact in facts),
        f"whose drawing cannot be seen on {on}": sum(pixels.background in (fact.hidden_on or ()) for fact in facts),
        "of several frames or pages, of which the first is used": sum(fact.frames for fact in facts),
        "in CMYK, turned to RGB without the colour profile": sum(fact.cmyk for fact in facts),
    }
    for remark, count in remarks.items():
        if count:
            yield f"{plural(count, 'picture')} {remark}"
