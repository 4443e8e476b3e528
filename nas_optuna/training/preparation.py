"""From whatever a person has of an image to what a network was trained on."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from nas_optuna.data.pictures import Target, prepare_picture, read_picture
from nas_optuna.data.preprocessing import axis_matrix
from nas_optuna.data.resizing import fit_into
from nas_optuna.errors import DataError
from nas_optuna.spec import ResizePolicy


class Preparation(nn.Module):
    """Scale to [0, 1], normalise and resize, in operations that can be traced and exported for any batch size.

    The result is that of `nas_optuna.data.preprocessing.Preprocessor` within rounding.

    Args:
        image_shape: ``(channels, height, width)`` of a raw image.
        input_size: ``(height, width)`` of the result, in pixels.
        mean: Of each channel, of pixels scaled to [0, 1].
        std: Of each channel.
        resize: How images of another shape are fitted in.

    Example:
        >>> prepare = Preparation((1, 2, 2), (4, 4), [0.5], [0.5], "stretch")
        >>> prepare(torch.zeros(3, 1, 2, 2, dtype=torch.uint8)).shape
        torch.Size([3, 1, 4, 4])
    """

    mean: Tensor
    std: Tensor
    rows: Tensor | None
    columns: Tensor | None

    def __init__(
        self,
        image_shape: tuple[int, int, int],
        input_size: tuple[int, int],
        mean: Sequence[float],
        std: Sequence[float],
        resize: ResizePolicy,
    ) -> None:
        super().__init__()
        channels, height, width = image_shape
        self.image_shape, self.input_size, self.resize = image_shape, input_size, resize
        fit = fit_into(height, width, *input_size, resize)
        self.crop = (fit.top, fit.left, fit.height, fit.width)
        self.inner_size = (fit.inner_height, fit.inner_width)
        self.pads = (fit.inner_height, fit.inner_width) != input_size
        cpu = torch.device("cpu")
        rows = axis_matrix(fit.height, fit.inner_height, input_size[0], cpu)
        columns = axis_matrix(fit.width, fit.inner_width, input_size[1], cpu)
        self.register_buffer("mean", torch.tensor(mean).reshape(1, channels, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(std).reshape(1, channels, 1, 1), persistent=False)
        self.register_buffer("rows", rows, persistent=False)
        self.register_buffer("columns", None if columns is None else columns.T.contiguous(), persistent=False)

    def forward(self, images: Tensor) -> Tensor:
        """``[batch, *image_shape]`` uint8 → ``[batch, channels, *input_size]`` float32."""
        top, left, height, width = self.crop
        x = images[:, :, top : top + height, left : left + width].to(torch.float32) / 255
        if not self.pads:
            x = (x - self.mean) / self.std
        if self.columns is not None:
            x = torch.matmul(x, self.columns)
        if self.rows is not None:
            x = torch.matmul(self.rows, x)
        return (x - self.mean) / self.std if self.pads else x  # the bars of a padded image are black


def as_batch(images: Any, image_shape: tuple[int, int, int], resize: ResizePolicy) -> Tensor:
    """One image or several as ``[n, channels, height, width]``, uint8.

    Args:
        images: Raw pixels, uint8: a tensor or an array ``[n, channels, height, width]``, or ``[n, height, width,
            channels]``, or one image without ``n``; channels may be left out where there is one. Or a PIL image or a
            picture's path, which are reduced to the size that is needed as a folder of pictures is. Or a sequence of
            any of these.
        image_shape: ``(channels, height, width)`` of the images that the network was trained on.
        resize: How pictures of another shape are fitted in.

    Raises:
        DataError: They are something else; the message says what is expected.

    Example:
        >>> as_batch(np.zeros((8, 8), np.uint8), (1, 8, 8), "stretch").shape
        torch.Size([1, 1, 8, 8])
    """
    if isinstance(images, str | Path) or _is_picture(images):
        return _picture(images, image_shape, resize)[None]
    if isinstance(images, list | tuple):
        if not images:
            raise DataError(f"there is no image; {expected(image_shape)}")
        return torch.cat([as_batch(image, image_shape, resize) for image in images])
    if isinstance(images, np.ndarray):
        if images.dtype != np.uint8:
            raise DataError(f"images are {images.dtype} {list(images.shape)}; {expected(image_shape)}")
        images = torch.from_numpy(np.array(images))
    if not isinstance(images, Tensor):
        raise DataError(f"a {type(images).__name__} is no image; {expected(image_shape)}")
    require_raw(images, image_shape, whole_batch=False)
    channels, height, width = image_shape
    shape = tuple(images.shape)
    for form in ((channels, height, width), *([(height, width)] if channels == 1 else [])):
        if shape in (form, (shape[0], *form)):
            return images.reshape(-1, *image_shape)
    return images.reshape(-1, height, width, channels).movedim(-1, 1)  # require_raw has excluded everything else


def require_raw(images: Tensor, image_shape: tuple[int, int, int], *, whole_batch: bool = True) -> None:
    """Refuse pixels that were scaled already, and images of another shape.

    Args:
        images: What was given.
        image_shape: What is needed of each image.
        whole_batch: Whether only ``[n, channels, height, width]`` is right.

    Raises:
        DataError: Saying what is expected.
    """
    channels, height, width = image_shape
    forms: list[tuple[int, ...]] = [image_shape]
    if not whole_batch:
        forms += [(height, width, channels), *([(height, width)] if channels == 1 else [])]
    shape = tuple(images.shape)
    fits = any(shape[1:] == form and shape[0] > 0 for form in forms if shape)
    if images.dtype != torch.uint8 or not (fits or (not whole_batch and shape in forms)):
        kind = str(images.dtype).removeprefix("torch.")
        raise DataError(f"images are {kind} {list(shape)[:8]}; {expected(image_shape)}")


def expected(image_shape: tuple[int, int, int]) -> str:
    """What a network takes, as the end of a message."""
    channels, height, width = image_shape
    return (
        f"this network takes raw pixels, uint8 of 0 … 255, as [n, {channels}, {height}, {width}]"
        " (it scales them itself), or PIL images"
    )


def _is_picture(image: object) -> bool:
    return any(cls.__module__ == "PIL.Image" and cls.__name__ == "Image" for cls in type(image).__mro__)


def _picture(image: Any, image_shape: tuple[int, int, int], resize: ResizePolicy) -> Tensor:
    channels, height, width = image_shape
    if channels not in (1, 3):
        raise DataError(f"a picture has 1 or 3 channels; {expected(image_shape)}")
    target = Target(channels, height, width, resize)
    if isinstance(image, str | Path):
        found = read_picture(Path(image), target)
    else:
        try:
            found = prepare_picture(image, target)
        except (OSError, ValueError, SyntaxError) as error:  # Pillow decodes a file's pixels only now
            reason = " ".join(str(error).split())[:200]
            raise DataError(f"the picture cannot be used ({reason}); {expected(image_shape)}") from error
    return torch.from_numpy(np.array(found.pixels))
