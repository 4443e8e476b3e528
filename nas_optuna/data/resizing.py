"""Images that are in memory are brought to one size, and the change is put into words."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from nas_optuna.data.pixels import fit_into
from nas_optuna.data.report import dimensions
from nas_optuna.spec import ResizePolicy

VERBS = {"stretch": "stretched", "crop": "cropped", "pad": "padded"}
_CHUNK = 256


def resize_images(images: Tensor, side: int, policy: ResizePolicy) -> Tensor:
    """Resize ``[n, channels, height, width]``, uint8, to a square, bilinearly and antialiased; padding is black."""
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
    """``48×40 → 32×32, stretched``: what was found (`one_shape` where it is one) and what a network sees."""
    if one_shape == output:
        return dimensions(*output)
    change = f"{found} → {dimensions(*output)}"
    if one_shape is not None and one_shape[0] * output[1] == one_shape[1] * output[0]:
        return change
    return f"{change}, {VERBS[policy]}"
