"""Batches for a network: augmented, brought to its input size, and kept on the device if they fit."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nas_optuna.data.images import ImageSet, pieces
from nas_optuna.data.pixels import PixelFormat, fit_into
from nas_optuna.devices import memory_format
from nas_optuna.errors import SpecError
from nas_optuna.quantities import plural
from nas_optuna.recipe import Fill, Recipe

MIXED_SHARE, FEWEST_PASSES = 0.5, 30
"""With ``mix = "auto"``: the share of images that is mixed, and how often each must be seen for that.

On 1,500 pictures of CIFAR-10, seen 79 times, it gained 2.4 points; before a network has seen images often, it gains
nothing.
"""
RESIDENT_SHARE = 0.25
"""The share of a device's free memory for resident images; networks need the rest."""
PREFETCHED = 3
"""Batches that a thread prepares ahead if images are on the host."""


@dataclass(frozen=True)
class Augmentation:
    """Random changes of training images, in raw pixels, as `nas_optuna.spec.Recipe` describes them."""

    shift: int = 0
    flip: bool = False
    cutout: int = 0
    fill: Fill = "black"
    mix: float = 0.0

    @classmethod
    def of(cls, recipe: Recipe, images: ImageSet) -> Augmentation | None:
        """The augmentation of a recipe for these images; None if there is none."""
        letters = all(len(name) == 1 for name in images.classes)  # or digits
        flip = not (letters or images.is_chiral) if recipe.flip == "auto" else recipe.flip
        shift = max(1, round(images.side / 10)) if recipe.shift == "auto" else recipe.shift
        shorter = min(images.images.shape[2:])
        if recipe.shift == "auto" and recipe.shift_fill == "black" and shift >= shorter:
            shift = shorter // 10  # so that something is left of each image
        mix = recipe.mix
        if mix == "auto":
            mix = MIXED_SHARE if recipe.passes(len(images)) >= FEWEST_PASSES else 0.0
        found = cls(shift, flip, recipe.cutout, recipe.shift_fill, mix)
        return None if found == cls() else found

    @classmethod
    def note(cls, recipe: Recipe, images: ImageSet) -> str:
        """A line for a person on the augmentation; empty if there is none."""
        found = cls.of(recipe, images)
        if found is None:
            return ""
        chiral = "; not mirrored, as that would show something else" if recipe.flip == "auto" else ""
        mirrored = "; recipe.flip=false where a mirrored image shows something else"
        return f"training images are {found}{mirrored if found.flip else chiral}"

    def __str__(self) -> str:
        """In words, e.g. ``shifted by up to 3 pixels, mirrored``."""
        said = {
            f"shifted by up to {plural(self.shift, 'pixel')}": self.shift,
            "mirrored": self.flip,
            f"blanked in a square of {plural(self.cutout, 'pixel')}": self.cutout,
            f"mixed ({self.mix:.0%} of them)": self.mix,
        }
        return ", ".join(words for words, used in said.items() if used)

    def __call__(self, images: Tensor, generator: torch.Generator) -> Tensor:
        """Change each image independently."""
        if self.shift:
            images = self._shifted(images, generator)
        if self.flip:
            mirrored = torch.rand(len(images), device=images.device, generator=generator) < 0.5
            images = torch.where(mirrored[:, None, None, None], images.flip(3), images)
        if self.cutout:
            images = images.masked_fill(_squares(images, self.cutout, generator), 0)
        return images

    def batch(self, images: Tensor, labels: Tensor, classes: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Augment a batch, and paste a square of the preceding image into some; labels are as in `Batch`."""
        images = self(images, generator)
        if not self.mix:
            return images, labels
        height, width = images.shape[2:]
        drawn = torch.rand((2, len(images)), device=images.device, generator=generator)
        # The square's share of the image is uniform, i.e. Beta(1, 1).
        sides = torch.where(drawn[0] < self.mix, min(height, width) * drawn[1].sqrt(), 0).round()
        inside = _squares(images, sides[:, None], generator)
        shares = inside.float().mean((1, 2, 3))[:, None]
        targets = (labels[:, None] == torch.arange(classes, device=labels.device)).float()
        mixed = torch.where(inside, images.roll(1, 0), images)
        return mixed, torch.lerp(targets, targets.roll(1, 0), shares)

    def _shifted(self, images: Tensor, generator: torch.Generator) -> Tensor:
        batch, channels, height, width = images.shape
        offsets = torch.randint(0, 2 * self.shift + 1, (2, batch, 1), device=images.device, generator=generator)
        rows = offsets[0] + torch.arange(height, device=images.device)
        columns = offsets[1] + torch.arange(width, device=images.device)
        if self.fill == "reflect":
            padded, rows, columns = images, _mirrored(rows - self.shift, height), _mirrored(columns - self.shift, width)
        else:
            padded = F.pad(images, [self.shift] * 4)
        image = torch.arange(batch, device=images.device)[:, None, None, None]
        channel = torch.arange(channels, device=images.device)[:, None, None]
        return padded[image, channel, rows[:, None, :, None], columns[:, None, None, :]]


def require_visible(recipe: Recipe, images: ImageSet) -> None:
    """Refuse an augmentation that can leave nothing of an image."""
    sides = images.images.shape[2:]
    for name, value, side in (("shift", recipe.shift, min(sides)), ("cutout", recipe.cutout, max(sides))):
        if value != "auto" and value >= side:
            raise SpecError(
                f"recipe.{name}={value} can leave nothing of images of {sides[0]}×{sides[1]} pixels; make it smaller"
                f" than {side}"
            )


def _mirrored(index: Tensor, size: int) -> Tensor:
    """Indices beyond either end, reflected."""
    return (size - 1 - (size - 1 - index.abs()).abs()).clamp(0, size - 1)


def _squares(images: Tensor, side: int | Tensor, generator: torch.Generator) -> Tensor:
    """``[batch, 1, height, width]`` bool, true inside one random square within the image."""
    corner = torch.rand((2, len(images), 1), device=images.device, generator=generator)
    inside = []
    for axis, size in enumerate(images.shape[2:]):
        free = (size - side).clamp(min=0) if isinstance(side, Tensor) else max(size - side, 0)
        first = (corner[axis] * (free + 1)).floor()
        distance = torch.arange(size, device=images.device) - first
        inside.append((distance >= 0) & (distance < side))
    return (inside[0][:, :, None] & inside[1][:, None, :])[:, None]


class Preparation(nn.Module):
    """Scale to [0, 1], normalise and resize, in operations that can be traced and exported for any batch size.

    A bilinear resize is linear in rows and in columns, so it is two products with fixed matrices. On the CPU that is
    faster than ``F.interpolate``, and equal to it within rounding (also to torchvision's per-image pipeline, since
    antialiasing has no effect on enlarging). Images of another shape are fitted as `PixelFormat.resize` says. A padded
    image is normalised after it is resized, so that its bars are black.
    """

    mean: Tensor
    std: Tensor
    rows: Tensor | None
    columns: Tensor | None

    def __init__(self, pixels: PixelFormat) -> None:
        super().__init__()
        self.pixels, size = pixels, pixels.input_size
        self.fit = fit = fit_into(pixels.height, pixels.width, *size, pixels.resize)
        self.pads = (fit.inner_height, fit.inner_width) != size
        shape = (1, pixels.channels, 1, 1)
        rows = axis_matrix(fit.height, fit.inner_height, size[0])
        columns = axis_matrix(fit.width, fit.inner_width, size[1])
        self.register_buffer("mean", torch.tensor(pixels.mean).reshape(shape), persistent=False)
        self.register_buffer("std", torch.tensor(pixels.std).reshape(shape), persistent=False)
        self.register_buffer("rows", rows, persistent=False)
        self.register_buffer("columns", None if columns is None else columns.T.contiguous(), persistent=False)

    def forward(self, images: Tensor) -> Tensor:
        """``[batch, channels, height, width]`` uint8 → ``[batch, channels, *input_size]`` float32."""
        fit = self.fit
        x = images[:, :, fit.top : fit.top + fit.height, fit.left : fit.left + fit.width].to(torch.float32) / 255
        if not self.pads:
            x = (x - self.mean) / self.std
        if self.columns is not None:
            x = torch.matmul(x, self.columns)
        if self.rows is not None:
            x = self._with_rows_resized(x, self.rows)
        return (x - self.mean) / self.std if self.pads else x

    def _with_rows_resized(self, x: Tensor, matrix: Tensor) -> Tensor:
        """``[batch, channels, height, width]`` → ``[batch, channels, output height, width]``."""
        return torch.matmul(matrix, x)


class Preprocessor(Preparation):
    """`Preparation` for trainings: on one device, in the memory format that networks use there."""

    # Most of the work is the second product, whose matrix is nearly all zeros. If images grow by a whole factor,
    # `enlarge_rows` gives the same within rounding.
    def __init__(self, pixels: PixelFormat, device: torch.device) -> None:
        super().__init__(pixels)
        self.to(device)
        self._format = memory_format(device)

    def forward(self, images: Tensor) -> Tensor:
        """``[batch, channels, height, width]`` uint8 → float32 of the output's height and width."""
        # In parts, because all pictures as floats would take many times the memory of the networks.
        parts = [super(Preprocessor, self).forward(part) for part in pieces(images)]
        return (parts[0] if len(parts) == 1 else torch.cat(parts)).contiguous(memory_format=self._format)

    def _with_rows_resized(self, x: Tensor, matrix: Tensor) -> Tensor:
        batch, channels, height, width = x.shape
        x = x.reshape(batch * channels, height, width)
        result = x.new_empty((batch * channels, len(matrix), width))
        if len(matrix) % height == 0 and not self.pads:
            enlarge_rows(x, out=result)
        else:
            torch.bmm(matrix.expand(batch * channels, len(matrix), height), x, out=result)
        return result.view(batch, channels, len(matrix), width)


def enlarge_rows(x: Tensor, out: Tensor) -> None:
    """Enlarge rows bilinearly by a whole factor, as ``F.interpolate`` does: ``[batch, height, width]`` into `out`."""
    height, width = x.shape[1:]
    factor = out.shape[1] // height
    # There are `factor` new rows between the centres of two neighbours; beyond the outermost centres rows repeat.
    above = factor // 2
    below = above + factor * (height - 1)
    shares = (torch.arange(above, above + factor, device=x.device) + 0.5) / factor - 0.5
    between = out[:, above:below].view(len(x), height - 1, factor, width)
    torch.lerp(x[:, :-1, None], x[:, 1:, None], shares[:, None], out=between)
    out[:, :above] = x[:, :1]
    out[:, below:] = x[:, -1:]


def axis_matrix(size: int, inner_size: int, output_size: int) -> Tensor | None:
    """The ``[output_size, size]`` matrix that resizes one axis and centres it between bars; None for the identity."""
    if size == inner_size == output_size:
        return None
    # Like ``F.interpolate``, antialiased when it shrinks, like torchvision's ``Resize``: column i of the result is
    # where pixel i goes. (An image of width 1 would do, but torch 2.14 antialiases such images wrongly.)
    basis = torch.eye(size).reshape(1, 1, size, size)
    resized = F.interpolate(
        basis, size=(inner_size, size), mode="bilinear", align_corners=False, antialias=inner_size < size
    )
    matrix = torch.zeros(output_size, size)
    first = (output_size - inner_size) // 2
    matrix[first : first + inner_size] = resized[0, 0]
    return matrix


Batch = tuple[Tensor, Tensor]
"""Images ``[batch, channels, side, side]``, float32, and labels ``[batch]``, int64, both on the device.

If images are mixed, labels are each class's share of each image, ``[batch, classes]``, float32.
"""


class BatchLoader:
    """Batches of a set of images; an epoch with a seed is shuffled and augmented."""

    # Resident images are on the device, where a batch is an index, a cast, a normalisation and a resize. Others stay on
    # the host, and a thread prepares batches ahead. By default images are resident if they take at most
    # `RESIDENT_SHARE` of the device's free memory.

    def __init__(
        self,
        images: ImageSet,
        batch_size: int,
        input_size: int | tuple[int, int],
        device: torch.device,
        augmentation: Augmentation | None = None,
        *,
        resident: bool | None = None,
    ) -> None:
        if resident is None:
            room = torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else math.inf
            resident = images.images.nbytes + images.labels.nbytes <= RESIDENT_SHARE * room
        self.kind = "resident" if resident else "streaming"
        self.size, self.batch_size = len(images), min(batch_size, max(1, len(images)))
        self._device, self._augmentation = device, augmentation
        self._home = device if resident else torch.device("cpu")
        self._images, self._labels = images.images.to(self._home), images.labels.to(self._home)
        self._classes = len(images.classes)
        self._prepare = Preprocessor(images.pixel_format(input_size), device)

    def __len__(self) -> int:
        """Batches per epoch."""
        return -(-self.size // self.batch_size)

    def epoch(self, seed: int | None = None, order: Tensor | None = None) -> Iterator[Batch]:
        """All images once, or those of an order; without a seed in the stored order and not augmented."""
        generator = torch.Generator(self._device).manual_seed(seed or 0)
        if seed is not None and order is None:
            # The host draws the order wherever the images live, which depends on the memory that is free at the moment.
            drawing = generator if self._device.type == "cpu" else torch.Generator().manual_seed(seed)
            order = torch.randperm(self.size, generator=drawing)
        raw = self._raw(None if seed is None else order)
        for images, labels in raw if self.kind == "resident" else self._copied(raw):
            if seed is not None and self._augmentation is not None:
                images, labels = self._augmentation.batch(images, labels, self._classes, generator)
            yield self._prepare(images), labels

    def _raw(self, order: Tensor | None) -> Iterator[Batch]:
        """Batches of pixels and labels where they are stored, in an order or in the stored one."""
        if order is None:
            yield from zip(self._images.split(self.batch_size), self._labels.split(self.batch_size), strict=True)
            return
        for index in order.to(self._home).split(self.batch_size):
            yield self._images[index], self._labels[index]

    def _copied(self, raw: Iterator[Batch]) -> Iterator[Batch]:
        """Batches on the device, while a thread gathers (and pins for CUDA) the next ones on the host."""
        pin = self._device.type == "cuda"

        def gather() -> Batch | None:
            batch = next(raw, None)
            return (batch[0].pin_memory(), batch[1].pin_memory()) if batch and pin else batch

        with ThreadPoolExecutor(1, "nas-optuna-gather") as pool:
            waiting = deque(pool.submit(gather) for _ in range(PREFETCHED))
            while batch := waiting.popleft().result():
                waiting.append(pool.submit(gather))
                images, labels = batch
                yield images.to(self._device, non_blocking=pin), labels.to(self._device, non_blocking=pin)
