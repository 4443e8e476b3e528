"""A set of labelled images in memory, and how it is split."""

from __future__ import annotations

import itertools
import json
import math
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from nas_optuna.data.pixels import PixelFormat
from nas_optuna.digests import hex_digest
from nas_optuna.errors import DataError, named, shortened
from nas_optuna.quantities import plural
from nas_optuna.spec import ResizePolicy

MAX_CLASSES = 100_000
"""More are a mistake: numbers that measure something, taken for labels."""
_PIECE = 1 << 24
_PROBED, _PROBED_SIDE = 2000, 12
"""`ImageSet.is_chiral` looks at this many images, reduced to this many pixels a side."""

VERBS = {"stretch": "stretched", "crop": "cropped", "pad": "padded"}


@dataclass(frozen=True, eq=False, repr=False)
class ImageSet:
    """Labelled images of one size, raw, on the host.

    Attributes:
        images: ``[n, channels, height, width]``, uint8.
        labels: ``[n]``, int64, from 0 to ``len(classes) - 1``.
        classes: Names of the labels.
        mean: The mean of each channel, of pixels scaled to [0, 1]; measured if it is empty.
        std: The standard deviation of each channel, of pixels scaled to [0, 1]; measured if it is empty.
        resize: How images that are not square become the square that a network sees.
        background: The shade behind transparent parts of pictures: 255 is white, 0 black.
        whole_white: The whole number that became 255 if pixels were deeper than 8 bits, e.g. 4095.
        fraction_white: The fraction that became 255 if pixels were floating-point numbers: 1 or 255.
        whole_white_found: Whether any pixels were such whole numbers.
        sizes: The distinct original sizes ``(height, width)`` in pixels, by area; empty if they are unknown.
        notes: Lines for a person on the layout, changed pixels and unused files, printed at the start of a run.
        chiral: The value of `is_chiral`; None has it measured.

    Raises:
        DataError: A shape, type or label is wrong, or there is no image.

    Examples:
        >>> import torch
        >>> images = torch.zeros(4, 1, 8, 8, dtype=torch.uint8)
        >>> ImageSet(images, torch.tensor([0, 1, 0, 1]), ("cat", "dog"))
        ImageSet(4 images of 1×8×8, 2 classes)
    """

    images: Tensor
    labels: Tensor
    classes: tuple[str, ...]
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()
    resize: ResizePolicy = "stretch"
    background: int = 255
    whole_white: int = 65535
    fraction_white: int = 1
    whole_white_found: bool = False
    sizes: tuple[tuple[int, int], ...] = ()
    notes: tuple[str, ...] = ()
    chiral: bool | None = None

    def __post_init__(self) -> None:
        _require_tensor("images", self.images, torch.uint8, ("n", "channels", "height", "width"))
        if 0 in self.images.shape:
            raise DataError(f"the data set has no image with a pixel and a channel: it is {list(self.images.shape)}")
        _require_tensor("labels", self.labels, torch.int64, (len(self.images),))
        object.__setattr__(self, "classes", _class_names(self.classes))
        if self.labels.min() < 0 or self.labels.max() >= len(self.classes):
            found = f"{self.labels.min().item()} … {self.labels.max().item()}"
            raise DataError(f"labels must lie in 0 … {len(self.classes) - 1}, got {found}")
        if not self.mean:
            mean, std = _pixel_statistics(self.images)
            object.__setattr__(self, "mean", mean)
            object.__setattr__(self, "std", std)
        try:
            self.pixel_format(1)
        except ValueError as error:
            raise DataError(str(error)) from None

    def __len__(self) -> int:
        return len(self.images)

    def __repr__(self) -> str:
        shape = "×".join(map(str, self.images.shape[1:]))
        return f"ImageSet({len(self):,} images of {shape}, {len(self.classes)} classes)"

    @property
    def channels(self) -> int:
        """Channels of each image."""
        return self.images.shape[1]

    @property
    def side(self) -> int:
        """The longer side in pixels, which is the default side of a network's input."""
        return max(self.images.shape[2:])

    def pixel_format(self, input_size: int | tuple[int, int]) -> PixelFormat:
        """How pictures become inputs of that size for a network that was trained on these images."""
        channels, height, width = self.images.shape[1:]
        size = (input_size, input_size) if isinstance(input_size, int) else (input_size[0], input_size[1])
        whites = (self.background, self.whole_white, self.fraction_white, self.whole_white_found)
        return PixelFormat(channels, height, width, tuple(self.mean), tuple(self.std), size, self.resize, *whites)

    @property
    def class_sizes(self) -> tuple[int, ...]:
        """The number of images of each class."""
        return tuple(torch.bincount(self.labels, minlength=len(self.classes)).tolist())

    @cached_property
    def fingerprint(self) -> str:
        """Thirty-two hex digits of pixels, labels and classes, in their order. Computed once, at about 1 GB/s."""
        shape = json.dumps([list(self.images.shape), self.classes]).encode("utf-8", "surrogateescape")
        labels = self.labels.contiguous().numpy().tobytes()
        pixels = (part.contiguous().numpy().data.cast("B") for part in pieces(self.images))
        return hex_digest(itertools.chain((shape, labels), pixels), 32)

    @cached_property
    def is_chiral(self) -> bool:
        """Whether a mirrored image shows something else, like a letter or an arrow; measured in a tenth of a second.

        A linear classifier of small copies learns three quarters of some images. The images are chiral if, on the
        others, mirroring costs a third of its accuracy above chance, and three standard errors. (Lin et al., 2020,
        "Visual Chirality", train a network for it.)
        """
        if self.chiral is not None:
            return self.chiral
        step = max(1, min(self.images.shape[2:]) // (4 * _PROBED_SIDE))
        images = self.images[:, :, ::step, ::step]
        # Ordered by content, so that the result does not depend on the order of the images.
        order = torch.cat([part.sum((1, 2, 3)) for part in pieces(images)]).argsort(stable=True)
        chosen = order[torch.from_numpy(stratified_order(self.labels[order], 0)[:_PROBED])]
        height, width = (min(side, _PROBED_SIDE) for side in images.shape[2:])
        parts = (part.float() / 255 for part in pieces(images[chosen]))
        small = torch.cat([F.adaptive_avg_pool2d(part, (height, width)) for part in parts])
        _, labels = self.labels[chosen].unique(return_inverse=True)
        learnt = len(chosen) * 3 // 4
        if learnt == len(chosen) or not learnt:
            return False
        return _loses_by_mirroring(small[:learnt], F.one_hot(labels)[:learnt].float(), small[learnt:], labels[learnt:])

    def subset(self, indices: Sequence[int] | np.ndarray) -> ImageSet:
        """The images at `indices`, with the statistics of the whole."""
        index = torch.as_tensor(np.asarray(indices), dtype=torch.int64)
        return replace(self, images=self.images[index], labels=self.labels[index])


def _loses_by_mirroring(learnt: Tensor, classes: Tensor, rest: Tensor, labels: Tensor) -> bool:
    """Whether ridge regression from pixels to ``[n, classes]`` tells the rest much worse where they are mirrored."""
    center, spread = learnt.mean(0), learnt.std(0, correction=0) + 0.01
    x, share = ((learnt - center) / spread).flatten(1), classes.mean(0)
    ridge = 0.1 * len(x) * torch.eye(x.shape[1])
    weights = torch.linalg.solve(x.T @ x + ridge, x.T @ (classes - share))

    def accuracy(images: Tensor) -> float:
        found = ((images - center) / spread).flatten(1) @ weights + share
        return float((found.argmax(1) == labels).float().mean())

    plain, mirrored = accuracy(rest), accuracy(rest.flip(3))
    both = (plain + mirrored) / 2
    error = math.sqrt(2 * both * (1 - both) / len(rest))
    return plain - mirrored > max((plain - float(share.max())) / 3, 3 * error)


def pieces(images: Tensor) -> Iterator[Tensor]:
    """Images in parts of some megabytes, at least one image each, so that intermediate results are small."""
    return iter(images.split(max(1, _PIECE // images[0].numel())))


def _require_tensor(name: str, found: object, dtype: torch.dtype, shape: tuple[str | int, ...]) -> None:
    """Refuse what is no tensor of this type and shape, of which text stands for any size, on the host."""
    if not isinstance(found, Tensor):
        raise DataError(f"{name} must be a torch tensor, got a {type(found).__name__}; try torch.from_numpy")
    fits = found.dim() == len(shape) and all(type(n) is str or n == m for n, m in zip(shape, found.shape, strict=True))
    if not fits or found.dtype != dtype or found.device.type != "cpu":
        wanted, given = f"{dtype} [{', '.join(map(str, shape))}] on the CPU", f"{found.dtype} {list(found.shape)}"
        raise DataError(f"{name} must be {wanted}, got {given} on {found.device}")


def _class_names(classes: object) -> tuple[str, ...]:
    """The classes as text."""
    if isinstance(classes, str) or not isinstance(classes, (Sequence, np.ndarray)):
        raise DataError(f"classes must be a sequence of names, got a {type(classes).__name__}")
    if not 2 <= len(classes) <= MAX_CLASSES:
        raise DataError(f"the number of classes is {len(classes):,}; it must be 2 to {MAX_CLASSES:,}")
    names = tuple(map(str, classes))
    for name in names:
        try:
            name.encode()
        except UnicodeEncodeError:
            raise DataError(f"the class name {named(name)!r} holds what is no character; rename it") from None
    return names


def _pixel_statistics(images: Tensor) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Exact mean and standard deviation of each channel in [0, 1], from a histogram of the 256 values."""
    values = torch.arange(256, dtype=torch.float64) / 255
    means, stds = [], []
    for channel in images.unbind(1):
        counts = [torch.bincount(part.flatten(), minlength=256) for part in pieces(channel)]
        shares = torch.stack(counts).sum(0).double()
        mean = (shares @ values / shares.sum()).item()
        means.append(mean)
        stds.append(max((shares @ (values - mean) ** 2 / shares.sum()).sqrt().item(), 1 / 255))
    return tuple(means), tuple(stds)


def stratified_order(labels: Tensor, seed: int) -> np.ndarray:
    """Indices in an order whose every prefix has each class in about its share; the seed breaks ties."""
    rng = np.random.default_rng(seed)
    values = labels.numpy()
    place = np.empty(len(values))
    for label in np.unique(values):
        members = rng.permutation(np.flatnonzero(values == label))
        place[members] = (np.arange(len(members)) + rng.random()) / len(members)
    return np.argsort(place, kind="stable")


def divide(order: np.ndarray, fraction: float, problem: str = "") -> tuple[np.ndarray, np.ndarray]:
    """Divide a stratified order into training indices and a held-out fraction; neither may be empty."""
    held_out = round(len(order) * fraction)
    if not 0 < held_out < len(order):
        share = f"validation_fraction = {fraction}"
        problem = (
            problem or f"cannot be split with {share}; one part would be empty; add images, or change the fraction"
        )
        raise DataError(f"{plural(len(order), 'image')} {problem}")
    return order[held_out:], order[:held_out]


def split(images: ImageSet, fraction: float, seed: int) -> tuple[ImageSet, ImageSet]:
    """Split a training set into training and validation images, stratified and determined by the seed."""
    train, held_out = divide(stratified_order(images.labels, seed), fraction)
    return images.subset(train), images.subset(held_out)


LeftOut = defaultdict[str, dict[str, None]]
"""Names of what is not used by reason, in the order in which they occur; a name that occurs twice counts once."""


def left_out_notes(found: LeftOut) -> tuple[str, ...]:
    """One line for each reason: how many names, and the first few."""
    return tuple(f"left out: {why} ({len(names)}): {listing(names)}" for why, names in found.items())


def dimensions(height: int, width: int) -> str:
    """``height×width``, everywhere in this order, as in arrays."""
    return f"{height}×{width}"


def class_counts(classes: Sequence[str], counts: Sequence[int], listed: int = 12) -> str:
    """``cat 40, dog 38``; only the extremes where there are more than `listed` classes."""
    names = [shortened(named(name), 40) for name in classes]
    if len(names) <= listed:
        return ", ".join(f"{name} {count:,}" for name, count in zip(names, counts, strict=True))
    fewest, most = (extreme(range(len(counts)), key=lambda i: counts[i]) for extreme in (min, max))
    if counts[fewest] == counts[most]:
        return f"{len(names)} classes of {plural(counts[most], 'image')} each"
    return (
        f"{len(names)} classes of {counts[fewest]:,} to {counts[most]:,} images each"
        f" (fewest {names[fewest]}, most {names[most]})"
    )


def listing(names: Iterable[str], limit: int = 3) -> str:
    """The first few names, quoted, and how many more there are."""
    found = [repr(named(name)) for name in names]
    more = f" and {len(found) - limit} more" if len(found) > limit else ""
    return ", ".join(found[:limit]) + more
