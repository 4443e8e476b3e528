"""Images in any form that a user may have, as the uint8 batches that a trained network takes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from nas_optuna.data.pictures import picture_pixels
from nas_optuna.data.pixels import PixelFormat, UnsuitablePicture, eight_bits
from nas_optuna.errors import DataError


def as_batch(images: Any, pixels: PixelFormat) -> Tensor:
    """One image or several as ``[n, channels, height, width]``, uint8.

    Args:
        images: Raw pixels: a tensor or an array ``[n, channels, height, width]``, or ``[n, height, width, channels]``,
            or one image without ``n``; a single channel may be left out. Other types than uint8 are scaled like the
            training images. Or a PIL image or a picture's path, which are read like a folder of pictures. Or a sequence
            of any of these.
        pixels: The format of the training images.
    """
    from PIL import Image

    if isinstance(images, str | Path | Image.Image):
        if not pixels.reads_pictures:
            raise refused("a picture has 1 or 3 channels", pixels)
        picture = Path(images) if isinstance(images, str) else images
        return torch.from_numpy(np.array(picture_pixels(picture, pixels)))[None]
    if isinstance(images, list | tuple):
        if not images:
            raise refused("there is no image", pixels)
        return torch.cat([as_batch(image, pixels) for image in images])
    if not isinstance(images, Tensor | np.ndarray):
        raise refused(f"a {type(images).__name__} is no image", pixels)
    shape, channels, height, width = tuple(images.shape), pixels.channels, pixels.height, pixels.width
    forms = [(channels, height, width), *([(height, width)] if channels == 1 else []), (height, width, channels)]
    for place, form in enumerate(forms):
        if shape == form or (shape[1:] == form and shape[0] > 0):
            stacked = _bytes(images, pixels).reshape(-1, *form)
            return stacked.movedim(-1, 1) if place == len(forms) - 1 else stacked.reshape(-1, *forms[0])
    raise refused(f"images are {_kind(images)} {list(shape)[:8]}", pixels)


def _bytes(images: Tensor | np.ndarray[Any, Any], pixels: PixelFormat) -> Tensor:
    """Raw pixels of any supported type as uint8, scaled like the training images of that type."""
    if isinstance(images, Tensor) and (images.layout != torch.strided or images.is_meta or images.is_quantized):
        raise refused("a tensor is sparse, quantised or without data", pixels)
    if images.dtype in (torch.uint8, np.uint8):
        return images if isinstance(images, Tensor) else torch.from_numpy(np.array(images))
    if isinstance(images, Tensor):
        images = images.detach().cpu()  # first, as Apple's GPUs have no double
        images = (images.double() if images.is_floating_point() else images).numpy()
    # If the training images had 8 bits, the depth of other whole numbers is unknown, unless it is clearly 16 bits.
    guessed = pixels.whole_white == 65535 and not pixels.whole_white_found
    unknown = images.dtype.kind in "iu" and guessed and images.max(initial=0) < 2**14
    if images.dtype.kind not in "biuf" or unknown:
        raise refused(f"images are {_kind(images)}", pixels)
    try:
        return torch.from_numpy(eight_bits(images, pixels))
    except UnsuitablePicture as error:
        raise refused(str(error), pixels) from error


def _kind(images: Tensor | np.ndarray[Any, Any]) -> str:
    return str(images.dtype).removeprefix("torch.")


def refused(problem: str, pixels: PixelFormat) -> DataError:
    """The error for images that a network cannot take."""
    pictures = ", or pictures: paths or PIL images" if pixels.reads_pictures else ""
    return DataError(
        f"{problem}; this network takes raw pixels, uint8 of 0 … 255, as"
        f" [n, {pixels.channels}, {pixels.height}, {pixels.width}] (it scales them itself){pictures}"
    )
