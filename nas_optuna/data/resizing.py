"""How images become squares, or all of one size: stretched, cropped or padded."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from nas_optuna.data.report import dimensions
from nas_optuna.spec import ResizePolicy

VERBS = {"stretch": "stretched", "crop": "cropped", "pad": "padded"}
_CHUNK = 256


@dataclass(frozen=True)
class Fit:
    """Where the pixels of one image go.

    Attributes:
        top: First row of the image that is used.
        left: First column of it.
        height: Rows that are used.
        width: Columns that are used.
        inner_height: Rows that they become; fewer than the output's where it is padded.
        inner_width: Columns that they become.
    """

    top: int
    left: int
    height: int
    width: int
    inner_height: int
    inner_width: int


def fit_into(height: int, width: int, output_height: int, output_width: int, policy: ResizePolicy) -> Fit:
    """Fit an image into an output of another shape.

    Args:
        height: Of the image, in pixels.
        width: Of the image.
        output_height: Of the output.
        output_width: Of the output.
        policy: ``"stretch"`` uses all of the image and all of the output, ``"crop"`` the largest central part of the
            image that has the output's shape, ``"pad"`` all of the image and the largest central part of the output
            that has the image's shape.
    """
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


def resize_images(images: Tensor, side: int, policy: ResizePolicy) -> Tensor:
    """Resize images to a square, bilinearly and antialiased.

    Args:
        images: ``[n, channels, height, width]``, uint8.
        side: Of the square, in pixels.
        policy: See `fit_into`; what is padded is black.

    Returns:
        ``[n, channels, side, side]``, uint8.
    """
    fit = fit_into(images.shape[2], images.shape[3], side, side, policy)
    result = torch.zeros(*images.shape[:2], side, side, dtype=torch.uint8)
    top, left = (side - fit.inner_height) // 2, (side - fit.inner_width) // 2
    inner = result[..., top : top + fit.inner_height, left : left + fit.inner_width]
    for first in range(0, len(images), _CHUNK):
        part = images[first : first + _CHUNK, :, fit.top : fit.top + fit.height, fit.left : fit.left + fit.width]
        resized = F.interpolate(
            part.float(), (fit.inner_height, fit.inner_width), mode="bilinear", align_corners=False, antialias=True
        )
        inner[first : first + _CHUNK] = resized.round_().clamp_(0, 255)
    return result


def describe_resizing(
    found: str, one_shape: tuple[int, int] | None, output: tuple[int, int], policy: ResizePolicy
) -> str:
    """``48×40 → 32×32, stretched``.

    Args:
        found: The size or sizes of the images, for a person.
        one_shape: ``(height, width)`` where all images have one size.
        output: ``(height, width)`` of what a network sees.
        policy: How images of other proportions get its shape.
    """
    if one_shape == output:
        return dimensions(*output)
    change = f"{found} → {dimensions(*output)}"
    if one_shape is not None and one_shape[0] * output[1] == one_shape[1] * output[0]:
        return change
    return f"{change}, {VERBS[policy]}"
