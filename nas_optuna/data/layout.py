"""Which picture of a folder belongs to which part and class, and what else lies there. Looks at names only.

As torchvision's ``ImageFolder`` has it, a class is a directory. Beyond that, parts are found, what is not read is told,
links are followed but not in a circle, and directories that hold the classes one level deeper are refused.
"""

from __future__ import annotations

import difflib
import os
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from nas_optuna.data.images import LeftOutCollector, listing
from nas_optuna.data.source import Part
from nas_optuna.errors import DataError, named

PART_NAMES: Mapping[Part, frozenset[str]] = {
    "train": frozenset({"train", "training"}),
    "validation": frozenset({"val", "valid", "validation"}),
    "test": frozenset({"test", "testing"}),
}
"""Names of directories that are parts, in any case of letters."""

ENDINGS = frozenset(
    {".avif", ".bmp", ".dib", ".gif", ".jfif", ".jp2", ".jpe", ".jpeg", ".jpg", ".pbm", ".pgm", ".png", ".pnm", ".ppm"}
    | {".tga", ".tif", ".tiff", ".webp"}
)
"""Of files that are read as pictures, in any case of letters."""

_UNREAD = frozenset(
    {".arw", ".cr2", ".cr3", ".dcm", ".dng", ".eps", ".exr", ".hdr", ".heic", ".heif", ".ico", ".jxl", ".nef", ".nii"}
    | {".npy", ".orf", ".pdf", ".psd", ".raf", ".raw", ".rw2", ".svg"}
)
_JUNK = frozenset(
    {"__macosx", "__pycache__", "thumbs.db", "ehthumbs.db", "desktop.ini", "@eadir", "$recycle.bin", "lost+found"}
    | {"system volume information"}
)


@dataclass(frozen=True)
class FolderLayout:
    """The pictures of a folder: sorted classes, the files of each part with the number of their class, and remarks."""

    classes: tuple[str, ...]
    parts: Mapping[Part, tuple[tuple[Path, int], ...]]
    left_out: tuple[str, ...]
    remarks: tuple[str, ...]


def read_layout(root: Path) -> FolderLayout:
    """Find the parts, the classes and the pictures of a folder."""
    # A folder that holds a training directory beside a validation or a test directory (or nothing else) is divided so;
    # any other holds one directory per class.
    root = Path(os.path.abspath(root)) if root.name in ("", "..") else root  # which have no name to call them by
    if not root.is_dir():
        problem = "is not a directory" if root.exists() else "does not exist"
        raise DataError(f"{named(root.name)} {problem}; it should hold one directory per class")
    scan = _Scan(root)
    directories = scan.divided()
    found = {part: scan.classes_of(directory) for part, directory in directories.items()}
    train = found["train"]
    for name in (name for name, files in train.items() if not files):
        scan.left_out.add("classes without a picture", name)
    classes = tuple(sorted(name for name, files in train.items() if files))
    if len(classes) < 2:
        text = f"{named(directories['train'].name)} has {len(train)} class directories"
        if len(classes) != len(train):
            text += f", of which {len(classes)} hold a picture ({', '.join(sorted(ENDINGS))})"
        raise DataError(f"{text}; at least two are needed")
    for part, of_class in found.items():
        _require_known(of_class, classes, part, directories[part])
    numbers = {name: number for number, name in enumerate(classes)}
    parts: dict[Part, tuple[tuple[Path, int], ...]] = {
        part: tuple((file, numbers[name]) for name in classes for file in of_class.get(name, ()))
        for part, of_class in found.items()
    }
    return FolderLayout(classes, parts, scan.left_out.listed(), tuple(_remarks(root, directories, parts, classes)))


def _remarks(
    root: Path,
    directories: Mapping[Part, Path],
    parts: Mapping[Part, Sequence[tuple[Path, int]]],
    classes: Sequence[str],
) -> Iterator[str]:
    names = [f"{part} in {named(directory.name)}/" for part, directory in directories.items() if directory != root]
    if names:
        yield f"parts: {', '.join(names)}"
    if "test" not in parts:
        yield "no test part: a fixed fifth of each class is held out for test"
    for part, files in parts.items():
        if lacking := sorted(set(range(len(classes))) - {number for _, number in files}):
            yield f"the {part} part has no picture of {listing(classes[number] for number in lacking)}"


class _Scan:
    """One walk over a folder, which remembers what is left out."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.left_out = LeftOutCollector()
        self._known: dict[Path, tuple[list[Path], list[Path]]] = {}

    def divided(self) -> dict[Part, Path]:
        """The directory of each part; the folder itself is the training part where it is not divided."""
        directories, files = self._entries(self.root)
        named: dict[Part, list[Path]] = {}
        for directory in directories:
            for part, names in PART_NAMES.items():
                if directory.name.casefold() in names:
                    named.setdefault(part, []).append(directory)
        if "train" not in named and named and sum(map(len, named.values())) == len(directories):
            raise DataError(
                f"it holds {listing(d.name for d in directories)} but no train; name the folder that holds one"
                " directory per class, or add the training part"
            )
        if "train" not in named or (len(named) == 1 and len(directories) > 1):
            return {"train": self.root}  # whose entries are looked at again, as classes
        for part, found in named.items():
            if len(found) > 1:
                raise DataError(
                    f"it holds {listing(d.name for d in found)}, which are all the {part} part; keep one of them"
                )
        for file in files:
            self._leave_out(file, "pictures beside the parts")
        for directory in directories:
            if not any(directory in found for found in named.values()):
                self.left_out.add("directories beside the parts", f"{self._relative(directory)}/")
        return {part: named[part][0] for part in PART_NAMES if part in named}

    def classes_of(self, directory: Path) -> dict[str, list[Path]]:
        """The pictures below each of a part's directories, by its name, sorted."""
        directories, files = self._entries(directory)
        for file in files:
            self._leave_out(file, "pictures beside the class directories")
        if not directories and directory != self.root and any(map(_is_picture, files)):
            raise DataError(
                f"{named(directory.name)} holds pictures but no directory per class, so that nothing says what they"
                " show; put them into directories, or move it elsewhere"
            )
        found: dict[str, list[Path]] = {}
        for each in sorted(directories):
            name = unicodedata.normalize("NFC", each.name)
            if any("\ud800" <= c <= "\udfff" for c in name):  # how Python shows bytes that are no text
                raise DataError(f"the directory {named(each)} names a class, but not in UTF-8; rename it")
            if name in found:
                raise DataError(f"it holds two directories that are named {named(name)!r}")
            found[name] = sorted(self._pictures(each, frozenset({directory.resolve()})))
        self._refuse_one_level_too_high(directory, found)
        return found

    def _pictures(self, directory: Path, above: frozenset[Path]) -> Iterator[Path]:
        """Every picture at any depth; links are followed, but not in a circle."""
        real = directory.resolve()
        if real in above or self.root.resolve().is_relative_to(real):
            self.left_out.add("links to a directory above", f"{self._relative(directory)}/")
            return
        directories, files = self._entries(directory)
        for file in files:
            if _is_picture(file):
                yield file
            else:
                self._leave_out(file)
        for each in directories:
            yield from self._pictures(each, above | {real})

    def _entries(self, directory: Path) -> tuple[list[Path], list[Path]]:
        """The directories and the other files in a directory, sorted; what systems and tools put there is left out."""
        if directory in self._known:
            return self._known[directory]
        found: tuple[list[Path], list[Path]] = ([], [])
        try:
            with os.scandir(directory) as scan:
                entries = sorted((entry.name, entry.is_dir()) for entry in scan)
        except OSError as error:
            raise DataError(f"{named(directory)} cannot be read ({error.strerror})") from error
        for name, is_directory in entries:
            path = directory / name
            if name.startswith(".") or name.casefold() in _JUNK:
                self.left_out.add("hidden and system files", self._relative(path) + ("/" if is_directory else ""))
            else:
                found[not is_directory].append(path)
        self._known[directory] = found
        return found

    def _refuse_one_level_too_high(self, directory: Path, classes: Mapping[str, Sequence[Path]]) -> None:
        """Directories of directories are no classes: a network would learn which directory a picture came from."""
        deep = {name: _inner_directories(directory / name, files) for name, files in classes.items() if files}
        suspicious = [name for name, below in deep.items() if len(below) > 1 and (all(deep.values()) or _is_part(name))]
        if not suspicious:
            return
        inner = sorted(directory / suspicious[0] / below for below in deep[suspicious[0]])
        raise DataError(
            f"its pictures lie too deep, in {listing((os.path.relpath(each, directory) for each in inner), 2)}; if the"
            f" inner directories are the classes, name folder:{named(os.path.commonpath(inner))} (or rename"
            " parts to train, val and test); if the outer ones are, move each one's pictures into it"
        )

    def _leave_out(self, file: Path, reason: str = "") -> None:
        """Note a file that is not used; the reason is that of pictures."""
        if not _is_picture(file):
            unread = file.suffix.casefold() in _UNREAD
            reason = "pictures of a kind that is not read; convert them to PNG or JPEG" if unread else ""
        self.left_out.add(reason or "files that are no pictures", self._relative(file))

    def _relative(self, path: Path) -> str:
        return named(path.relative_to(self.root))


def _is_picture(file: Path) -> bool:
    return file.suffix.casefold() in ENDINGS


def _inner_directories(directory: Path, files: Sequence[Path]) -> set[str]:
    """The directories below one that hold its pictures, where most do not lie directly in it."""
    below = [os.path.relpath(file.parent, directory) for file in files if file.parent != directory]
    return set(below) if 2 * len(below) > len(files) else set()


def _is_part(name: str) -> bool:
    """Whether a name speaks of a part, as in ``train2017`` or ``seg_test``."""
    words = "".join(c if c.isalpha() else " " for c in name.casefold()).split()
    return any(word in names for word in words for names in PART_NAMES.values())


def _require_known(found: Mapping[str, Sequence[Path]], classes: Sequence[str], part: str, directory: Path) -> None:
    unknown = [name for name, files in found.items() if files and name not in classes]
    if unknown:
        near = difflib.get_close_matches(unknown[0].casefold(), classes, n=1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise DataError(f"{named(directory.name)} holds {listing(unknown)}, but there is no such class in train{hint}")
    if not any(found.values()):
        raise DataError(f"image folder {named(directory)}, the {part} part, holds no picture; fill it or remove it")
