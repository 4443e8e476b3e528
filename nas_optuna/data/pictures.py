"""Facts and pixels of picture files, with every failure reported in one line."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from nas_optuna.data.pixels import (
    ROUNDING,
    PixelFormat,
    UnsuitablePicture,
    convert_picture,
    flattened,
    is_deep,
    is_transparent,
    open_picture,
    orientation,
    read_picture,
    require_decodable,
)
from nas_optuna.errors import DataError, named, reason_of

if TYPE_CHECKING:
    from PIL import Image

_DEPTHS = (8, 10, 12, 14, 16)
"""Bits of the cameras and scanners whose values lie in 16-bit files."""


def find_white(pixels: np.ndarray) -> tuple[str, int]:
    """The field of `PixelFormat` for the white of such numbers, and its value; a `DataError` if it is unknown."""
    if pixels.dtype.kind not in "biuf":
        raise DataError(f"its pixels are of type {pixels.dtype}; numbers are needed, best uint8")
    low, high, whole = float(pixels.min(initial=0)), float(pixels.max(initial=0)), pixels.dtype.kind != "f"
    understood = "0 … 65535" if whole else "0 … 1 or 0 … 255"
    if not (low >= 0 and high <= (65535 if whole else 255 + ROUNDING)):  # NaN is not either
        raise DataError(f"its pixels lie in {low:g} … {high:g}, and only {understood} is understood; scale them")
    if whole:
        return "whole_white", 2 ** next(bits for bits in _DEPTHS if high < 2**bits) - 1
    return "fraction_white", 1 if high <= 1 + ROUNDING else 255


def shared_whites(found: Iterable[tuple[str, int]]) -> dict[str, Any]:
    """The whites of a data set, from those of its images."""
    whites: dict[str, int] = {}
    for kind, white in found:
        whites[kind] = max(white, whites.get(kind, 0))
    return whites | ({"whole_white_found": True} if "whole_white" in whites else {})


def scaling(kind: str, white: int) -> str:
    """How numbers become 0 … 255, e.g. ``12-bit values scaled to 0 … 255``; empty if they are unchanged."""
    if kind == "fraction_white":
        return "fractions of 0 … 1 scaled to 0 … 255" if white == 1 else "fractions of 0 … 255 rounded"
    return "" if white == 255 else f"{white.bit_length()}-bit values scaled to 0 … 255"


BACKGROUNDS = {255: "white", 0: "black", 128: "grey"}
"""Shades that may be put behind transparency; the first that hides the fewest drawings is taken."""

_GREY_MODES = frozenset({"1", "L", "LA", "La"})
_VISIBLE = 16
"""Difference of brightness, 0 … 255, below which a drawing is practically invisible."""


@dataclass(frozen=True)
class PictureFacts:
    """Facts of an upright picture before its pixels are scaled."""

    height: int
    width: int
    grey: bool
    remarks: tuple[str, ...]  # on what is changed or not used, for a person
    white: tuple[str, int] | None  # as from `find_white`, if grey values are not 8 bits deep
    brightest: int | None  # of 16-bit colours, of which Pillow keeps the upper 8 bits
    hidden_on: frozenset[int] | None  # the `BACKGROUNDS` on which its drawing is invisible, if it is transparent


def inspect_picture(file: Path) -> PictureFacts:
    """Read a picture's header, and its pixels if they are transparent or not 8 bits deep."""
    with _told_in_one_line(named(file)), open_picture(file) as picture:
        # A PNG's orientation may come after its pixels, which are not decoded just for that.
        turn = orientation(picture) if picture.format != "PNG" or "exif" in picture.info else 1
        width, height = picture.size if turn < 5 else picture.size[::-1]
        deep = is_deep(picture)
        deep_colours = not deep and _has_deep_colours(picture)
        if deep or deep_colours or is_transparent(picture):
            require_decodable(*picture.size)
        several = getattr(picture, "is_animated", False) and picture.format != "MPO"
        remarks = {
            "turned upright by the EXIF orientation": turn != 1,
            "of several frames or pages, of which the first is used": several,
            "in CMYK, turned to RGB without the colour profile": picture.mode == "CMYK",
        }
        return PictureFacts(
            height=height,
            width=width,
            grey=deep or picture.mode in _GREY_MODES or has_grey_palette(picture),
            remarks=tuple(words for words, true in remarks.items() if true),
            white=find_white(np.asarray(picture)) if deep else None,
            brightest=_brightest(picture) if deep_colours else None,
            hidden_on=None if deep else _hidden_on(picture),
        )


def picture_pixels(picture: Path | Image.Image, pixels: PixelFormat) -> np.ndarray:
    """A picture in a format: ``[channels, height, width]``, uint8."""
    with _told_in_one_line(named(picture) if isinstance(picture, Path) else "the picture"):
        return read_picture(picture, pixels) if isinstance(picture, Path) else convert_picture(picture, pixels)


def shared_background(facts: list[PictureFacts]) -> int:
    """The shade on which the fewest drawings of a data set are invisible; white if that does not matter."""
    hidden = [fact.hidden_on for fact in facts if fact.hidden_on is not None]
    return min(BACKGROUNDS, key=lambda shade: sum(shade in found for found in hidden))


@contextmanager
def _told_in_one_line(name: str) -> Iterator[None]:
    try:
        yield
    except (DataError, UnsuitablePicture) as error:
        raise DataError(f"{name} cannot be used: {error}") from error
    except Exception as error:  # Pillow may raise anything for damaged files, depending on the format
        raise DataError(f"{name} is not an image that can be read ({reason_of(error)}); repair or delete it") from error


def has_grey_palette(picture: Image.Image) -> bool:
    """Whether a picture has a palette, of shades of grey alone."""
    if picture.mode != "P":
        return False
    colours = picture.getpalette("RGB") or [0]
    return colours[0::3] == colours[1::3] == colours[2::3]


def _has_deep_colours(picture: Image.Image) -> bool:
    tiles = [tile[3] for tile in getattr(picture, "tile", ()) if len(tile) > 3]
    raw = [str(tile[0] if isinstance(tile, tuple) else tile) for tile in tiles]  # how pixels are packed, e.g. RGB;16B
    return any(";16" in mode for mode in raw)


def _brightest(picture: Image.Image) -> int:
    extrema = np.array(picture.getextrema()).reshape(-1, 2)
    return int(extrema[: -1 if picture.mode.endswith("A") else None].max())


def _hidden_on(picture: Image.Image) -> frozenset[int] | None:
    if not is_transparent(picture) or picture.convert("RGBA").getchannel("A").getextrema() == (255, 255):
        return None
    contrast = {}
    for shade in BACKGROUNDS:
        format = PixelFormat(3, 1, 1, (0.0,) * 3, (1.0,) * 3, (1, 1), background=shade)
        extrema = np.array(flattened(picture, format).getextrema())
        contrast[shade] = int((extrema[:, 1] - extrema[:, 0]).max())
    # A picture that is invisible on every background does not count.
    return frozenset(s for s, found in contrast.items() if found < _VISIBLE and max(contrast.values()) > found)
