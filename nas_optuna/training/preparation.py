"""From whatever a person has of an image to the raw pixels that a network was trained on."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from nas_optuna.data.pictures import picture_pixels
from nas_optuna.data.pixels import PixelFormat
from nas_optuna.errors import DataError


def as_batch(images: Any, pixels: PixelFormat) -> Tensor:
    """One image or several as ``[n, channels, height, width]``, uint8.

    Args:
        images: Raw pixels, uint8: a tensor or an array ``[n, channels, height, width]``, or ``[n, height, width,
            channels]``, or one image without ``n``; channels may be left out where there is one. Or a PIL image or a
            picture's path, which are read as a folder of pictures is. Or a sequence of any of these.
        pixels: What the network was trained on.

    Raises:
        DataError: They are something else; the message says what is expected.

    Examples:
        >>> as_batch(np.zeros((8, 8), np.uint8), PixelFormat(1, 8, 8, (0.5,), (0.5,), (8, 8))).shape
        torch.Size([1, 1, 8, 8])
    """
    if isinstance(images, str | Path) or _is_picture(images):
        return _picture(images, pixels)[None]
    if isinstance(images, list | tuple):
        if not images:
            raise DataError(f"there is no image; {expected(pixels)}")
        return torch.cat([as_batch(image, pixels) for image in images])
    if isinstance(images, np.ndarray):
        if images.dtype != np.uint8:
            raise DataError(f"images are {images.dtype} {list(images.shape)}; {expected(pixels)}")
        images = torch.from_numpy(np.array(images))
    if not isinstance(images, Tensor):
        raise DataError(f"a {type(images).__name__} is no image; {expected(pixels)}")
    require_raw(images, pixels, whole_batch=False)
    channels, height, width = pixels.channels, pixels.height, pixels.width
    shape = tuple(images.shape)
    for form in ((channels, height, width), *([(height, width)] if channels == 1 else [])):
        if shape in (form, (shape[0], *form)):
            return images.reshape(-1, channels, height, width)
    return images.reshape(-1, height, width, channels).movedim(-1, 1)  # require_raw has excluded everything else


def require_raw(images: Tensor, pixels: PixelFormat, *, whole_batch: bool = True) -> None:
    """Refuse pixels that were scaled already, and images of another shape."""
    channels, height, width = pixels.channels, pixels.height, pixels.width
    forms: list[tuple[int, ...]] = [(channels, height, width)]
    if not whole_batch:
        forms += [(height, width, channels), *([(height, width)] if channels == 1 else [])]
    shape = tuple(images.shape)
    fits = any(shape[1:] == form and shape[0] > 0 for form in forms if shape)
    if images.dtype != torch.uint8 or not (fits or (not whole_batch and shape in forms)):
        kind = str(images.dtype).removeprefix("torch.")
        raise DataError(f"images are {kind} {list(shape)[:8]}; {expected(pixels)}")


def expected(pixels: PixelFormat) -> str:
    """What a network takes, as the end of a message."""
    return (
        f"this network takes raw pixels, uint8 of 0 … 255, as [n, {pixels.channels}, {pixels.height}, {pixels.width}]"
        " (it scales them itself), or PIL images"
    )


def _is_picture(image: object) -> bool:
    return any(cls.__module__ == "PIL.Image" and cls.__name__ == "Image" for cls in type(image).__mro__)


def _picture(image: Any, pixels: PixelFormat) -> Tensor:
    if pixels.channels not in (1, 3):
        raise DataError(f"a picture has 1 or 3 channels; {expected(pixels)}")
    try:
        return torch.from_numpy(np.array(picture_pixels(Path(image) if isinstance(image, str) else image, pixels)))
    except DataError as error:
        raise DataError(f"{error}; {expected(pixels)}") from error
