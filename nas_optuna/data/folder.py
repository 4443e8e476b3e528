"""A folder of pictures as a data set: which picture belongs to which part and class, and how all of them are read.

As in torchvision's ``ImageFolder``, a class is a directory. In addition, parts are recognised, files that are not read
are reported, links are followed except in circles, and folders whose classes are one level deeper are refused.
"""

from __future__ import annotations

import logging
import os
import statistics
import unicodedata
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor

from nas_optuna.data import pictures
from nas_optuna.data.images import VERBS, LeftOut, dimensions, left_out_notes, listing
from nas_optuna.data.pixels import PixelFormat
from nas_optuna.data.source import PART_NAMES, WITHOUT_TEST, FileSource, InputSize, Part, require_memory
from nas_optuna.errors import DataError, named
from nas_optuna.quantities import plural
from nas_optuna.spec import DataSpec

logger = logging.getLogger(__name__)

MAX_PHOTO_SIDE = 224
"""The side to which pictures are reduced if neither the recipe nor the spec sets a size."""

_THREADS = 4  # each may hold one photo at full size
_SLICE = 1024
"""Pictures that wait for the threads at once; each has a future."""
_MANY = 2000
"""Test pictures whose check takes long enough to be told of."""
_SMALLEST = PixelFormat(1, 1, 1, (0.0,), (1.0,), (1, 1), fraction_white=255)
"""A format in which numbers of any range can be read."""

_Item = TypeVar("_Item")
_Result = TypeVar("_Result")
ENDINGS = frozenset(
    {".avif", ".bmp", ".dib", ".gif", ".jfif", ".jp2", ".jpe", ".jpeg", ".jpg", ".pbm", ".pgm", ".png", ".pnm", ".ppm"}
    | {".tga", ".tif", ".tiff", ".webp"}
)
"""Endings of files that are read as pictures, in upper or lower case."""
_JUNK = frozenset(
    {"__macosx", "__pycache__", "thumbs.db", "ehthumbs.db", "desktop.ini", "@eadir", "$recycle.bin", "lost+found"}
    | {"system volume information"}
)


_BESIDE = "pictures beside the directories"


class FolderSource(FileSource):
    """Pictures in one directory per class, in ``train/``, ``val/`` and ``test/`` where these exist."""

    # A folder with a training directory and a validation or test directory (or nothing else) is divided into these
    # parts; any other contains one directory per class. If all pictures have one size, no larger than the study needs,
    # they keep it; otherwise each gets the needed size while it is read.

    def __init__(self, root: Path, spec: DataSpec, input_size: InputSize) -> None:
        self._root = root = Path(os.path.abspath(root)) if root.name in ("", "..") else root  # so that it has a name
        self._left_out = LeftOut(dict)
        if not root.is_dir():
            problem = "is not a directory" if root.exists() else "does not exist"
            raise DataError(f"{named(root.name)} {problem}; it should hold one directory per class")
        self._directories = self._divided()
        found = {part: self._classes_of(directory) for part, directory in self._directories.items()}
        train = found["train"]
        for name in (name for name, files in train.items() if not files):
            self._left_out["classes without a picture"][name] = None
        classes = tuple(sorted(name for name, files in train.items() if files))
        if len(classes) < 2:
            raise DataError(
                f"{named(self._directories['train'].name)} has {plural(len(train), 'class folder')}, of which"
                f" {len(classes)} hold a picture ({', '.join(sorted(ENDINGS))}); at least two are needed"
            )
        for part, of_class in found.items():
            _require_known(of_class, classes, part, self._directories[part])
        files = {part: [of_class.get(name, []) for name in classes] for part, of_class in found.items()}
        labels = {part: torch.tensor([i for i, of in enumerate(lists) for _ in of]) for part, lists in files.items()}
        super().__init__(labels, classes, spec, input_size)
        self._files = [file for lists in files.values() for of in lists for file in of]

    @cached_property
    def _facts(self) -> list[pictures.PictureFacts]:
        """Facts of all pictures, including the test part: their range tells how deep the pixels are."""
        return _for_each(pictures.inspect_picture, self._files)

    @cached_property
    def _pixels(self) -> PixelFormat:
        """The format of all pictures, without statistics, which are not known yet."""
        facts = [self._facts[i] for i in self._training]
        height, width = _unified_size(facts, self._input_size, self._spec.max_side)
        _refuse_shallow_colours(self._facts)
        channels = 1 if all(fact.grey for fact in facts) else 3
        return PixelFormat(
            channels,
            height,
            width,
            (0.0,) * channels,
            (1.0,) * channels,
            (height, width),
            self._spec.resize,
            background=pictures.shared_background(facts),
            **pictures.shared_whites(fact.white for fact in self._facts if fact.white is not None),
        )

    def _pixels_at(self, chosen: np.ndarray) -> tuple[Tensor, dict[str, Any]]:
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
            images[number] = torch.from_numpy(np.array(pictures.picture_pixels(file, pixels)))

        _for_each(read, [(number, self._files[i]) for number, i in enumerate(chosen)])
        facts = [self._facts[i] for i in chosen]
        sizes = sorted({(fact.height, fact.width) for fact in facts}, key=lambda size: (size[0] * size[1], size))
        notes = (*self._remarks(), *_changes(facts, pixels), *left_out_notes(self._left_out))
        copied = ("background", "whole_white", "fraction_white", "whole_white_found")
        shades = {name: getattr(pixels, name) for name in copied}
        return images, {"sizes": tuple(sizes), "notes": notes, **shades}

    def check_test(self) -> None:
        """Decode each test picture, as small as it can be, and keep none."""
        files = [self._files[i] for i in self._test]
        if len(files) > _MANY:
            logger.warning("reading %s test pictures once, to see that none is damaged", f"{len(files):,}")

        def decode(file: Path) -> None:
            pictures.picture_pixels(file, _SMALLEST)

        _for_each(decode, files)

    def _remarks(self) -> Iterator[str]:
        """Lines about the parts."""
        if told := [f"{part} in {named(d.name)}/" for part, d in self._directories.items() if d != self._root]:
            yield f"parts: {', '.join(told)}"
        if "test" not in self._directories:
            yield WITHOUT_TEST

    def _divided(self) -> dict[Part, Path]:
        """The directory of each part; an undivided folder is the training part itself."""
        directories, pictures = self._entries(self._root)
        named = {part: [d for d in directories if d.name.casefold() in names] for part, names in PART_NAMES.items()}
        named = {part: found for part, found in named.items() if found}
        if "train" not in named and named and sum(map(len, named.values())) == len(directories):
            raise DataError(
                f"it holds {listing(d.name for d in directories)} but no train; name the folder that holds one"
                " directory per class, or add the training part"
            )
        if "train" not in named or (len(named) == 1 and len(directories) > 1):
            return {"train": self._root}  # its entries are then the classes
        for part, found in named.items():
            if len(found) > 1:
                raise DataError(
                    f"it holds {listing(d.name for d in found)}, which are all the {part} part; keep one of them"
                )
        self._leave_out(_BESIDE, *pictures)
        for directory in directories:
            if [directory] not in named.values():
                self._leave_out("directories beside the parts", directory)
        return {part: directory for part, (directory,) in named.items()}

    def _classes_of(self, directory: Path) -> dict[str, list[Path]]:
        """The pictures below each of a part's directories, by its name, sorted."""
        directories, pictures = self._entries(directory)
        self._leave_out(_BESIDE, *pictures)
        if pictures and not directories:
            raise DataError(
                f"{named(directory.name)} holds pictures but no directory per class, so that nothing says what they"
                " show; put the pictures of each class into a directory of its own"
            )
        found: dict[str, list[Path]] = {}
        above = frozenset({self._root.resolve(), *self._root.resolve().parents, directory.resolve()})
        for each in directories:
            found.setdefault(unicodedata.normalize("NFC", each.name), []).extend(sorted(self._pictures(each, above)))
        self._refuse_one_level_too_high(directory, found)
        return found

    def _pictures(self, directory: Path, above: frozenset[Path]) -> Iterator[Path]:
        """Every picture at any depth; links are followed, except in circles."""
        real = directory.resolve()
        if real in above:
            self._leave_out("links to a directory above", directory)
            return
        directories, pictures = self._entries(directory)
        yield from pictures
        for each in directories:
            yield from self._pictures(each, above | {real})

    def _entries(self, directory: Path) -> tuple[list[Path], list[Path]]:
        """The directories and the pictures in a directory, sorted; what else is there is left out."""
        found: tuple[list[Path], list[Path]] = ([], [])
        try:
            with os.scandir(directory) as scan:
                entries = sorted((entry.name, entry.is_dir()) for entry in scan)
        except OSError as error:  # maybe of one of its entries
            raise DataError(f"{named(error.filename or directory)} cannot be read ({error.strerror})") from error
        for name, is_directory in entries:
            path = directory / name
            if name.startswith(".") or name.casefold() in _JUNK:
                self._leave_out("hidden and system files", path)
            elif is_directory or path.suffix.casefold() in ENDINGS:
                found[not is_directory].append(path)
            else:
                self._leave_out("files that are not read; pictures among them can be converted to PNG or JPEG", path)
        return found

    def _refuse_one_level_too_high(self, directory: Path, classes: Mapping[str, Sequence[Path]]) -> None:
        """Refuse directories of directories, from which a network would learn the directory and not the class."""
        deep = {name: _inner_directories(directory, files) for name, files in classes.items() if files}
        suspicious = [name for name, below in deep.items() if len(below) > 1 and all(deep.values())]
        if not suspicious:
            return
        inner = sorted(deep[suspicious[0]])
        raise DataError(
            f"its pictures lie too deep, in {listing(inner, 2)}; if the inner directories are the classes, name"
            f" folder:{named(directory / os.path.commonpath(inner))} (or rename parts to train, val and test); if the"
            " outer ones are, move each one's pictures into it"
        )

    def _leave_out(self, reason: str, *paths: Path) -> None:
        for path in paths:
            self._left_out[reason][named(path.relative_to(self._root))] = None


def _for_each(function: Callable[[_Item], _Result], items: Sequence[_Item]) -> list[_Result]:
    """Call a function for each picture in threads: Pillow decodes without the interpreter's lock."""
    # Pillow's warnings are about things that are refused or reported here.
    with warnings.catch_warnings(action="ignore"), ThreadPoolExecutor(min(_THREADS, os.cpu_count() or 1)) as pool:
        slices = (items[first : first + _SLICE] for first in range(0, len(items), _SLICE))
        # Where one fails or Ctrl-C is pressed, the rest does not begin.
        return [result for some in slices for result in pool.map(function, some)]


def _unified_size(
    facts: Sequence[pictures.PictureFacts], input_size: InputSize, max_side: int | None
) -> tuple[int, int]:
    """Height and width that all pictures get; see `FolderSource`."""
    sizes = {(fact.height, fact.width) for fact in facts}
    most = input_size if isinstance(input_size, tuple) else (input_size or max_side or MAX_PHOTO_SIDE,) * 2
    height, width = next(iter(sizes))
    if len(sizes) == 1 and height <= most[0] and width <= most[1]:
        return height, width
    if isinstance(input_size, tuple):
        return input_size
    if len(sizes) == 1 or input_size is not None:
        side = max(max(size) for size in sizes)
    else:
        side = int(statistics.median(min(fact.height, fact.width) for fact in facts))
    return min(side, most[0]), min(side, most[0])


def _refuse_shallow_colours(facts: Sequence[pictures.PictureFacts]) -> None:
    """Refuse colours of 10, 12 or 14 bits in 16-bit files, of which Pillow keeps only the upper 8 bits."""
    deep = [fact.brightest for fact in facts if fact.brightest is not None]
    if deep and max(deep) < 64:
        raise DataError(
            f"{plural(len(deep), 'picture')} with 16-bit colours that use the lower bits only; convert them to"
            " 8 bits per colour"
        )


def _changes(facts: Sequence[pictures.PictureFacts], pixels: PixelFormat) -> Iterator[str]:
    """What was changed about the pixels, with counts."""
    changed = sum((fact.height, fact.width) != (pixels.height, pixels.width) for fact in facts)
    if changed:
        goal = f"{dimensions(pixels.height, pixels.width)}, {VERBS[pixels.resize]}"
        yield f"size: {changed:,} of {plural(len(facts), 'picture')} brought to {goal} while they were read"
    grey = sum(fact.grey for fact in facts)
    if pixels.channels == 3 and grey:
        yield f"colours: {plural(grey, 'grey picture')} taken as colour"
    if pixels.channels == 1 and grey < len(facts):
        yield f"colours: {plural(len(facts) - grey, 'colour picture')} turned grey, because training pictures are grey"
    for kind in ("whole_white", "fraction_white"):
        count = sum(fact.white is not None and fact.white[0] == kind for fact in facts)
        if count and (scaled := pictures.scaling(kind, getattr(pixels, kind))):
            yield f"depth: {plural(count, 'picture')} with {scaled}"
    on = pictures.BACKGROUNDS[pixels.background]
    why = "" if on == "white" else ", because white would hide more drawings"
    if hidden := sum(fact.hidden_on is not None for fact in facts):
        yield f"{plural(hidden, 'picture')} with transparency laid on {on}{why}"
    if unseen := sum(pixels.background in (fact.hidden_on or ()) for fact in facts):
        yield f"{plural(unseen, 'picture')} whose drawing cannot be seen on {on}"
    for remark, count in Counter(remark for fact in facts for remark in fact.remarks).items():
        yield f"{plural(count, 'picture')} {remark}"


def _inner_directories(directory: Path, files: Sequence[Path]) -> set[str]:
    """The directories with a class's pictures, from the part's on, if most are not directly in the class's own."""
    places = [file.relative_to(directory).parent for file in files]
    below = [str(place) for place in places if len(place.parts) > 1]
    return set(below) if 2 * len(below) > len(files) else set()


def _require_known(found: Mapping[str, Sequence[Path]], classes: Sequence[str], part: str, directory: Path) -> None:
    unknown = [name for name, files in found.items() if files and name not in classes]
    if unknown:
        raise DataError(f"{named(directory.name)} holds {listing(unknown)}, but there is no such class in train")
    if not any(found.values()):
        raise DataError(f"image folder {named(directory)}, the {part} part, holds no picture; fill it or remove it")
