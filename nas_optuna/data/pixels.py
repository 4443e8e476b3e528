"""How a picture becomes the input of a network: one description, and one reader that follows it.

This file needs only NumPy and Pillow, because ``nas-optuna export`` copies it next to a network. So a picture becomes
the same numbers in training, in ``predict``, in ``model.py`` and for ONNX.
"""

from __future__ import annotations

import io
import math
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from PIL import Image

MAX_PIXELS = 50_000_000
"""The most pixels of a picture as it is decoded; a JPEG may be decoded at down to an eighth of its size."""


MAX_SIDE = 32_768
"""The largest side of a network's input in pixels."""

# Pillow looks at a file's content, not at its ending. Some of its formats run other programs (EPS) or are no pictures.
FORMATS = ("AVIF", "BMP", "DIB", "GIF", "JPEG", "JPEG2000", "MPO", "PNG", "PPM", "TGA", "TIFF", "WEBP")
ROUNDING = 1e-3
"""How far resizing a picture may round its pixels above white: fractions become 1.0000001."""
_ORIENTATION = 0x0112
_STRIP = 1 << 22


class UnsuitablePicture(ValueError):  # noqa: N818 - it may be a good picture
    """A picture that cannot be used as it is; the message says why and what to do."""


@dataclass(frozen=True)
class PixelFormat:
    """How a picture becomes the input of a network, decided once for a whole data set.

    A picture is turned by its EXIF orientation; its first frame is used; palettes, 1-bit and CMYK pictures become grey
    or RGB; pixels deeper than 8 bits are scaled by the range of the data set, never of the picture; transparency gets
    one background. The result, ``[channels, height, width]`` of whole numbers 0 … 255, is divided by 255, normalised
    and resized bilinearly to the input size (a padded one is first resized, then normalised).

    Attributes:
        channels: 1 for grey, 3 for red, green and blue; other numbers for images that are not pictures.
        height: Height of the stored image in pixels.
        width: Width of the stored image in pixels.
        mean: Mean of each channel, of pixels scaled to 0 … 1.
        std: Standard deviation of each channel, of pixels scaled to 0 … 1.
        input_size: ``(height, width)`` that the network's layers see.
        resize: ``"stretch"``, ``"crop"`` or ``"pad"``: how pictures of another shape are fitted, both times.
        background: The shade behind transparency: 255 is white, 0 black.
        whole_white: The whole number that becomes 255 if pixels are deeper than 8 bits; 4095 for 12 bits.
        fraction_white: The fraction that becomes 255 if pixels are floating-point numbers: 1 or 255.
        whole_white_found: Whether `whole_white` is that of training images rather than a guess.
    """

    channels: int
    height: int
    width: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    input_size: tuple[int, int]
    resize: str = "stretch"
    background: int = 255
    whole_white: int = 65535
    fraction_white: int = 1
    whole_white_found: bool = False

    def __post_init__(self) -> None:
        sizes = (self.channels, self.height, self.width, *self.input_size)
        if len(sizes) != 5 or not all(type(size) is int and 1 <= size <= MAX_SIDE for size in sizes):
            raise ValueError(f"sizes of images must be whole numbers of 1 … {MAX_SIDE}, got {str(sizes)[:60]}")
        for name, values in (("mean", self.mean), ("std", self.std)):
            if len(values) != self.channels or not all(type(v) in (int, float) and math.isfinite(v) for v in values):
                raise ValueError(f"{name} must hold a number for each of {self.channels} channels")
        whites = type(self.whole_white) is int and 255 <= self.whole_white <= 65535 and self.fraction_white in (1, 255)
        whites = whites and type(self.whole_white_found) is bool
        if not whites or type(self.background) is not int or not 0 <= self.background <= 255 or min(self.std) <= 0:
            raise ValueError("std must be above 0, the background within 0 … 255, white within 255 … 65535")
        if self.resize not in ("stretch", "crop", "pad"):
            raise ValueError(f"resize must be stretch, crop or pad, got {str(self.resize)[:20]!r}")

    @property
    def reads_pictures(self) -> bool:
        """Whether picture files, which are grey or have three colours, can be its images."""
        return self.channels in (1, 3)

    def to_dict(self) -> dict[str, Any]:
        """The format, JSON-ready; without what earlier releases did not write, where it does not matter."""
        return {name: value for name, value in asdict(self).items() if name != "whole_white_found" or value}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> PixelFormat:
        """Read a format from a dict, maybe from JSON; a `ValueError` if a field is wrong."""
        try:
            given: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in values.items()}
            return cls(**given)
        except TypeError as error:
            raise ValueError(f"the description of pixels is not one ({str(error)[:80]})") from None


@dataclass(frozen=True)
class Fit:
    """The part of an image that is used, and how many rows and columns it becomes."""

    top: int
    left: int
    height: int
    width: int
    inner_height: int
    inner_width: int


def fit_into(height: int, width: int, output_height: int, output_width: int, policy: str) -> Fit:
    """Fit an image of one shape into an output of another; see `PixelFormat.resize`."""
    # ``"stretch"`` maps all of the image to all of the output, ``"crop"`` the largest central part of the image with
    # the output's shape, ``"pad"`` all of the image to the largest central part of the output with its shape.
    if policy == "crop":
        used_height = min(height, max(1, round(width * output_height / output_width)))
        used_width = min(width, max(1, round(height * output_width / output_height)))
        top, left = (height - used_height) // 2, (width - used_width) // 2
        return Fit(top, left, used_height, used_width, output_height, output_width)
    if policy == "pad":
        inner_height = min(output_height, max(1, round(output_width * height / width)))
        inner_width = min(output_width, max(1, round(output_height * width / height)))
        return Fit(0, 0, height, width, inner_height, inner_width)
    return Fit(0, 0, height, width, output_height, output_width)


def read_picture(file: str | Path, pixels: PixelFormat) -> np.ndarray:
    """Read a picture file."""
    with open_picture(file) as picture:
        return _converted(picture, picture, pixels)


def open_picture(file: str | Path) -> Image.Image:
    """Open a picture file; nothing is decoded yet."""
    from PIL import Image, UnidentifiedImageError

    if Path(file).is_dir():
        raise UnsuitablePicture("it is a folder; give the pictures in it")
    if not Path(file).is_file():
        raise UnsuitablePicture("it is not there, or is not a regular file")
    Image.init()
    try:
        return Image.open(file, formats=[name for name in FORMATS if name in Image.OPEN])
    except Image.DecompressionBombError:  # it has more pixels than Pillow opens, whatever they decode to
        raise UnsuitablePicture(f"it has more than {2 * (Image.MAX_IMAGE_PIXELS or 0):,} pixels; reduce it") from None
    except UnidentifiedImageError:  # which says no more than the file's name
        if not Path(file).stat().st_size:
            raise UnsuitablePicture("it is empty; delete it") from None
        known = ", ".join(name for name in FORMATS if name in Image.OPEN)
        raise UnsuitablePicture(f"it is damaged, or none of {known}; convert it to PNG or JPEG, or delete it") from None


def convert_picture(picture: Image.Image, pixels: PixelFormat) -> np.ndarray:
    """`read_picture`, for a picture that Pillow opened or made, which keeps its size."""
    return _converted(picture, _opened_again(picture), pixels)


def _opened_again(picture: Image.Image) -> Image.Image:
    """A JPEG of which nothing is decoded yet, opened a second time, since a draft changes it; others as they are."""
    from PIL import Image

    file = getattr(picture, "fp", None)
    if picture.format not in ("JPEG", "MPO") or file is None or not getattr(picture, "tile", None):
        return picture
    place = file.tell()
    file.seek(0)
    again = Image.open(io.BytesIO(file.read()), formats=["JPEG", "MPO"])
    file.seek(place)
    again.seek(picture.tell())
    # If its owner has drafted it, there will be no second draft.
    return again if (again.mode, again.size) == (picture.mode, picture.size) else picture


def _converted(picture: Image.Image, drafted: Image.Image, pixels: PixelFormat) -> np.ndarray:
    """A picture whose pixels are those of `drafted`, which is the same one and may be changed."""
    from PIL import Image, ImageOps

    # A JPEG is decoded at a reduced size; but a progressive one keeps all coefficients in memory.
    if picture.format not in ("JPEG", "MPO") or picture.info.get("progressive"):
        require_decodable(*picture.size)
    height, width = pixels.height, pixels.width
    turn = orientation(picture)  # this decodes a PNG
    if turn >= 5:  # it is turned last, when it is small
        height, width = width, height
    # At a half, a quarter or an eighth, if that is still twice the needed size.
    drafted.draft(None, (2 * width, 2 * height))
    require_decodable(*drafted.size)
    plain = flattened(drafted, pixels)
    fit = fit_into(plain.height, plain.width, height, width, pixels.resize)
    box = (fit.left, fit.top, fit.left + fit.width, fit.top + fit.height)
    inner = plain
    if (fit.inner_width, fit.inner_height) != plain.size or fit.top or fit.left:
        inner = plain.resize((fit.inner_width, fit.inner_height), Image.Resampling.BILINEAR, box=box, reducing_gap=2.0)
    if inner.size != (width, height):
        canvas = Image.new(inner.mode, (width, height))
        canvas.paste(inner, ((width - inner.width) // 2, (height - inner.height) // 2))
        inner = canvas
    if turn != 1:
        inner = Image.fromarray(np.asarray(inner))  # without the file's metadata, which may be damaged
        inner.getexif()[_ORIENTATION] = turn
        inner = ImageOps.exif_transpose(inner)
    return np.asarray(inner).reshape(pixels.height, pixels.width, -1).transpose(2, 0, 1)


def orientation(picture: Image.Image) -> int:
    """The EXIF orientation that remains to be applied, 1 … 8; Pillow turns a TIFF by itself."""
    if picture.format == "TIFF":
        return 1
    try:
        found = picture.getexif().get(_ORIENTATION, 1)
    except Exception:  # damaged metadata do not make a picture unusable
        return 1
    return found if found in range(1, 9) else 1


def require_decodable(width: int, height: int) -> None:
    """Refuse a picture that would take more than some hundred megabytes to decode."""
    if width * height > MAX_PIXELS:
        raise UnsuitablePicture(f"it has {height}×{width} pixels, and {MAX_PIXELS:,} are the most; reduce it")


def is_deep(picture: Image.Image) -> bool:
    """Whether its pixels are not 8 bits deep, but 16 or 32 bits, or fractions."""
    return picture.mode.startswith(("I", "F"))


def is_transparent(picture: Image.Image) -> bool:
    """Whether it may have transparent pixels: Pillow's own `has_transparency_data`, which came with release 10.1."""
    modes = (picture.mode, picture.palette.mode if picture.mode == "P" and picture.palette else "")
    return "transparency" in picture.info or any(mode.endswith(("A", "a")) for mode in modes)


def flattened(picture: Image.Image, pixels: PixelFormat) -> Image.Image:
    """A picture in 8-bit grey or RGB, with the background behind transparency."""
    from PIL import Image

    if is_deep(picture):
        picture = Image.fromarray(eight_bits(np.asarray(picture), pixels))
    mode, transparent = "L" if pixels.channels == 1 else "RGB", is_transparent(picture)
    if picture.mode == mode and not transparent:
        return picture
    if picture.mode == "LAB":  # Pillow converts it to nothing else
        picture = picture.convert("RGB")
    if transparent:
        picture = picture.convert("RGBA")
        ground = Image.new("RGBA", picture.size, (pixels.background,) * 3 + (255,))
        picture = Image.alpha_composite(ground, picture)
    return picture.convert(mode)


def eight_bits(values: np.ndarray, pixels: PixelFormat) -> np.ndarray:
    """Scale numbers to 0 … 255 like those of the training images."""
    white = pixels.fraction_white if values.dtype.kind == "f" else pixels.whole_white
    if not (values.min() >= 0 and values.max() <= white + ROUNDING):  # also true for NaN
        raise UnsuitablePicture(
            f"its values lie in {values.min():g} … {values.max():g}, and 0 … {white} is understood, as in the"
            " training images; scale them"
        )
    return to_uint8(values, white)


def to_uint8(values: np.ndarray, white: int) -> np.ndarray:
    """Scale numbers of any type and shape so that `white` becomes 255.

    Examples:
        >>> to_uint8(np.array([0, 2048, 4095], np.uint16), 4095)
        array([  0, 128, 255], dtype=uint8)
    """
    if values.dtype == np.uint8:
        return values
    if values.dtype == np.bool_:
        return values.astype(np.uint8) * np.uint8(255)
    result = np.empty(values.shape, np.uint8)
    source, goal = values.reshape(-1), result.reshape(-1)
    for first in range(0, len(source), _STRIP):
        part = source[first : first + _STRIP].astype(np.float64)
        goal[first : first + _STRIP] = np.rint(part.clip(0, white) * (255 / white))
    return result
