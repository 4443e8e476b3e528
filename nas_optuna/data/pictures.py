"""One picture file: what its header says of it, and its pixels as a study needs them."""

from __future__ import annotations

import functools
import struct
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from nas_optuna.data.layout import require_regular
from nas_optuna.data.report import one_line, printable
from nas_optuna.data.resizing import fit_into
from nas_optuna.data.scaling import ValueRange, to_uint8
from nas_optuna.errors import DataError
from nas_optuna.spec import ResizePolicy

if TYPE_CHECKING:
    from PIL import Image

# Pillow looks at a file's content, not at its ending. Of its formats some run other programs (EPS) or hold no pictures.
_FORMATS = ("AVIF", "BMP", "DIB", "GIF", "JPEG", "JPEG2000", "MPO", "PNG", "PPM", "TGA", "TIFF", "WEBP")
_ORIENTATION = 0x0112
_GREY_MODES = frozenset({"1", "L", "LA", "La"})
_REFUSALS = (
    OSError,
    ValueError,
    SyntaxError,
    ArithmeticError,
    LookupError,
    TypeError,
    struct.error,
    EOFError,
    MemoryError,
)
"""What Pillow raises for damaged files, depending on the format."""

_VISIBLE = 16
"""Difference of brightness, 0 … 255, below which a drawing is as good as invisible."""


@dataclass(frozen=True)
class PictureFacts:
    """What is known of a picture before its pixels are scaled.

    Attributes:
        height: In pixels, upright.
        width: In pixels, upright.
        grey: Whether it has no colours.
        frames: Whether it has more frames or pages than the first, which is the one that is used.
        cmyk: Whether it is in printing colours.
        values: Smallest and largest grey value where they are not 8 bits deep.
        brightest: Of colours of 16 bits, of which Pillow keeps the upper 8: the largest that is left.
    """

    height: int
    width: int
    grey: bool
    frames: bool
    cmyk: bool
    values: ValueRange | None
    brightest: int | None


@dataclass(frozen=True)
class Target:
    """The pixels that a study needs of each picture.

    Attributes:
        channels: 1 for grey, 3 for colour.
        height: In pixels.
        width: In pixels.
        resize: How pictures of another shape get it.
        integers: What all whole-number pictures deeper than 8 bits hold together; their scale is one.
        floats: The same of pictures of fractions.
    """

    channels: int
    height: int
    width: int
    resize: ResizePolicy
    integers: ValueRange | None = None
    floats: ValueRange | None = None


@dataclass(frozen=True)
class Picture:
    """A picture as a study needs it.

    Attributes:
        pixels: ``[channels, height, width]``, uint8.
        laid_on: ``"white"`` or ``"black"`` where it was transparent; white unless that would hide the drawing.
        turned: Whether its EXIF orientation said that it does not lie upright in the file.
    """

    pixels: np.ndarray
    laid_on: str | None
    turned: bool


def inspect_picture(file: Path) -> PictureFacts:
    """Read a picture's header; and its pixels, where they are not 8 bits deep.

    Raises:
        DataError: It cannot be read, or its pixels are of a kind that cannot be scaled.
    """
    with _opened(file) as picture:
        # A PNG's orientation may follow its pixels, which are not decoded for it here.
        orientation = _orientation(picture) if picture.format != "PNG" or "exif" in picture.info else 1
        width, height = picture.size
        if orientation >= 5:
            width, height = height, width
        deep = picture.mode.startswith(("I", "F"))
        return PictureFacts(
            height=height,
            width=width,
            grey=deep or picture.mode in _GREY_MODES or _grey_palette(picture),
            frames=bool(getattr(picture, "is_animated", False)) and picture.format != "MPO",
            cmyk=picture.mode == "CMYK",
            brightest=_brightest_of_deep_colours(picture),
            values=ValueRange.of(np.asarray(picture)) if deep else None,
        )


def read_picture(file: Path, target: Target) -> Picture:
    """Decode a picture, reduced while it is read.

    Raises:
        DataError: It cannot be decoded.
    """
    with _opened(file) as picture:
        return prepare_picture(picture, target)


def prepare_picture(picture: Image.Image, target: Target) -> Picture:
    """A picture's first frame: upright, on a background, in the target's colours and size.

    Args:
        picture: As Pillow opened or made it.
        target: The pixels that are needed.

    Raises:
        DataError: Its values are not of the target's range.
    """
    from PIL import Image

    height, width = target.height, target.width
    orientation = _orientation(picture)
    if orientation >= 5:  # it is turned last, when it is small
        height, width = width, height
    # A JPEG is decoded at a half, a quarter or an eighth of its size, if that is still twice what is needed.
    picture.draft(None, (2 * width, 2 * height))
    upright, laid_on = _on_background(_eight_bits(picture, target))
    plain = upright.convert("L" if target.channels == 1 else "RGB")
    fit = fit_into(plain.height, plain.width, height, width, target.resize)
    box = (fit.left, fit.top, fit.left + fit.width, fit.top + fit.height)
    inner = plain
    if (fit.inner_width, fit.inner_height) != plain.size or fit.top or fit.left:
        inner = plain.resize((fit.inner_width, fit.inner_height), Image.Resampling.BILINEAR, box=box, reducing_gap=2.0)
    if inner.size != (width, height):
        canvas = Image.new(inner.mode, (width, height))
        canvas.paste(inner, ((width - inner.width) // 2, (height - inner.height) // 2))
        inner = canvas
    turn = _turns().get(orientation)
    pixels = np.asarray(inner if turn is None else inner.transpose(turn))
    return Picture(pixels.reshape(target.height, target.width, -1).transpose(2, 0, 1), laid_on, orientation != 1)


@contextmanager
def _opened(file: Path) -> Iterator[Image.Image]:
    from PIL import Image

    try:
        require_regular(file)
        with Image.open(file, formats=_known_formats()) as picture:
            yield picture
    except Image.DecompressionBombError:
        most = 2 * (Image.MAX_IMAGE_PIXELS or 0)
        raise DataError(f"{printable(file)} has more than {most:,} pixels; reduce it") from None
    except DataError as error:
        raise DataError(f"{printable(file)} cannot be used: {error}") from error
    except _REFUSALS as error:
        raise DataError(
            f"{printable(file)} is not an image that can be read ({_reason(error, file)}); mend or remove it"
        ) from error


@contextmanager
def quiet() -> Iterator[None]:
    """Without Pillow's warnings: what they say is refused or named by us. For the main thread only."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def _reason(error: BaseException, file: Path) -> str:
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return one_line(error).replace(printable(file), "the file")


@functools.cache
def _known_formats() -> tuple[str, ...]:
    from PIL import Image

    Image.init()
    return tuple(name for name in _FORMATS if name in Image.OPEN)


@functools.cache
def _turns() -> dict[int, Image.Transpose]:
    """What each EXIF orientation but the upright one asks for."""
    from PIL.Image import Transpose

    return {
        2: Transpose.FLIP_LEFT_RIGHT,
        3: Transpose.ROTATE_180,
        4: Transpose.FLIP_TOP_BOTTOM,
        5: Transpose.TRANSPOSE,
        6: Transpose.ROTATE_270,
        7: Transpose.TRANSVERSE,
        8: Transpose.ROTATE_90,
    }


def _orientation(picture: Image.Image) -> int:
    """The EXIF orientation that is still to be applied; Pillow turns a TIFF by itself."""
    if picture.format == "TIFF":
        return 1
    try:
        orientation = picture.getexif().get(_ORIENTATION, 1)
    except _REFUSALS:  # a damaged block of remarks does not make a picture unusable
        return 1
    return orientation if orientation in _turns() else 1


def _grey_palette(picture: Image.Image) -> bool:
    if picture.mode != "P":
        return False
    colours = picture.getpalette("RGB") or [0]
    return colours[0::3] == colours[1::3] == colours[2::3]


def _brightest_of_deep_colours(picture: Image.Image) -> int | None:
    # How a file's pixels are packed, e.g. RGB;16B.
    tiles = [tile[3] for tile in getattr(picture, "tile", ()) if len(tile) > 3]
    raw = [str(tile[0] if isinstance(tile, tuple) else tile) for tile in tiles]
    if picture.mode.startswith("I") or not any(";16" in mode for mode in raw):
        return None
    extrema = np.array(picture.getextrema()).reshape(-1, 2)
    return int(extrema[: -1 if picture.mode.endswith("A") else None].max())


def _eight_bits(picture: Image.Image, target: Target) -> Image.Image:
    from PIL import Image

    if not picture.mode.startswith(("I", "F")):
        return picture
    array = np.asarray(picture)
    wanted = target.floats if array.dtype.kind == "f" else target.integers
    return Image.fromarray(to_uint8(array, wanted or ValueRange.of(array)))


def _on_background(picture: Image.Image) -> tuple[Image.Image, str | None]:
    """A picture without transparency: laid on white, or on black where white would hide the drawing."""
    if not picture.has_transparency_data:
        return picture, None
    drawing = picture.convert("RGBA")
    if drawing.getchannel("A").getextrema() == (255, 255):
        return drawing, None
    white = _laid_on(255, drawing)
    if (contrast := _contrast(white)) < _VISIBLE and _contrast(black := _laid_on(0, drawing)) > contrast:
        return black, "black"
    return white, "white"


def _laid_on(shade: int, drawing: Image.Image) -> Image.Image:
    from PIL import Image

    return Image.alpha_composite(Image.new("RGBA", drawing.size, (shade, shade, shade, 255)), drawing)


def _contrast(picture: Image.Image) -> int:
    extrema = np.array(picture.getextrema()).reshape(-1, 2)
    return int((extrema[:, 1] - extrema[:, 0]).max())
