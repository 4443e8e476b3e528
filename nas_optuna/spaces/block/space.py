"""The block space: which residual block stands in each place of a chain of constant width."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from nas_optuna.errors import ArchitectureError, SpecError
from nas_optuna.spaces.architecture import Architecture
from nas_optuna.spaces.base import (
    Decomposable,
    InputSize,
    Operation,
    Parameter,
    checked_input_size,
    require_choices,
    require_depth,
    require_positive,
)

if TYPE_CHECKING:
    from torch import nn

SKIP = "skip"
_CANDIDATE = re.compile(r"k(\d+)_f(\d+)(_relu)?")


class BlockSpace(Decomposable):
    """A 1×1 stem, residual blocks with 2×2 max pooling between them, and one linear layer.

    Its parameters are ``block1``, ``block2``, …; each chooses one candidate, none of them ordered. A candidate
    is written ``k3_f24`` (3×3 convolution to 24 filters and a 1×1 convolution back, added to the input),
    ``k3_f24_relu`` (with a ReLU after the 1×1 convolution as well), or ``skip`` (the input itself).

    Args:
        depth: Number of blocks.
        candidates: The choices for each block.
        channels: Channels between the blocks.
        pool: Numbers of the blocks (from 1) that are followed by a pooling. By default every block is, until
            one pixel is left.
        in_channels: Channels of an input image.
        classes: Number of classes.
        input_size: Side length of the input in pixels, or ``(height, width)``.

    Raises:
        SpecError: An option is not positive, a candidate has another form, or a pooling is impossible.
    """

    name = "block"
    draws_weights = True

    def __init__(
        self,
        *,
        depth: int = 5,
        candidates: Sequence[str] = ("k3_f16", "k3_f24", "k3_f36", "k5_f16", "k5_f24"),
        channels: int = 16,
        pool: Sequence[int] | None = None,
        in_channels: int = 1,
        classes: int = 10,
        input_size: InputSize = 28,
    ) -> None:
        require_positive(depth=depth, channels=channels, in_channels=in_channels, classes=classes)
        require_depth(depth=depth)
        require_choices("candidates", candidates)
        self.channels = channels
        self.depth = depth
        self.in_channels = in_channels
        self.classes = classes
        self.input_size = checked_input_size(input_size)
        self.candidates = {text: _candidate(text, channels) for text in candidates}
        self.pool = _poolings(depth, self.image_size, pool)
        self.parameters = {f"block{i}": Parameter(tuple(candidates)) for i in range(1, depth + 1)}

    def format(self, params: Mapping[str, Any]) -> str:
        """E.g. ``"k3_f16-k5_f24"`` for two blocks."""
        return "-".join(params[name] for name in self.parameters)

    def parse(self, text: str) -> Architecture:
        """The architecture of a string such as ``"k3_f16-k5_f24"``.

        Raises:
            ArchitectureError: The string has another depth, or a block is not one of the candidates.
        """
        blocks = text.strip().lower().split("-")
        if len(blocks) != self.depth:
            raise ArchitectureError(
                f"{text!r} is not {self.depth} blocks joined by '-'; each is one of: {', '.join(self.candidates)}"
            )
        return self.architecture(dict(zip(self.parameters, blocks, strict=True)))

    def sizes(self) -> tuple[tuple[int, int], ...]:
        """Height and width in pixels at the input of each block, then at the head."""
        sizes = [self.image_size]
        for i in range(1, self.depth + 1):
            height, width = sizes[-1]
            sizes.append((height // 2, width // 2) if i in self.pool else (height, width))
        return tuple(sizes)

    def block(self, candidate: str, size: tuple[int, int]) -> Operation:
        """The operation of one candidate at a height and width."""
        shape = (self.channels, *size)
        options = self.candidates[candidate]
        return Operation("block" if options else SKIP, options, shape, shape)

    def pooling(self, size: tuple[int, int]) -> Operation:
        """The 2×2 max pooling at a height and width."""
        height, width = size
        return Operation("pool", (), (self.channels, height, width), (self.channels, height // 2, width // 2))

    def stem(self) -> Operation:
        """The 1×1 convolution from the image to the width of the chain."""
        return Operation("stem", (), self.input_shape, (self.channels, *self.image_size))

    def head(self) -> Operation:
        """The linear layer at the end."""
        return Operation("head", (), (self.channels, *self.sizes()[-1]), (self.classes,))

    def operations(self, architecture: Architecture) -> tuple[Operation, ...]:
        """The ``stem``; a ``block`` or ``skip`` for each parameter, some followed by a ``pool``; the ``head``."""
        operations = [self.stem()]
        for i, ((_, candidate), size) in enumerate(zip(architecture.items, self.sizes(), strict=False), start=1):
            operations.append(self.block(str(candidate), size))
            if i in self.pool:
                operations.append(self.pooling(size))
        return (*operations, self.head())

    def reachable_operations(self) -> Iterator[Operation]:
        """Every candidate at every size, with what stands between."""
        yield self.stem()
        sizes = self.sizes()
        blocks = zip(self.parameters.values(), sizes, strict=False)
        yield from dict.fromkeys(self.block(str(c), size) for p, size in blocks for c in p.choices)
        for size in dict.fromkeys(sizes[i - 1] for i in sorted(self.pool)):
            yield self.pooling(size)
        yield self.head()

    def build_operation(self, operation: Operation) -> nn.Module:
        """A `Block`, an identity, a pooling, the stem's convolution, or the flattening linear layer."""
        from torch import nn

        from nas_optuna.spaces.block.layers import Block

        match operation.kind:
            case "stem":
                return nn.Conv2d(self.in_channels, self.channels, 1)
            case "pool":
                return nn.MaxPool2d(2)
            case "head":
                return nn.Sequential(nn.Flatten(), nn.Linear(math.prod(operation.input_shape), self.classes))
            case "block":
                options = dict(operation.options)
                return Block(self.channels, options["kernel"], options["filters"], bool(options["project_relu"]))
            case _:
                return nn.Identity()


def _candidate(text: str, channels: int) -> tuple[tuple[str, int], ...]:
    """The options of a candidate's operation; none for ``skip``."""
    if text == SKIP:
        return ()
    match = _CANDIDATE.fullmatch(text) if isinstance(text, str) else None
    if match is None:
        raise SpecError(f"space option 'candidates': {text!r} has not the form k3_f24, k3_f24_relu or skip")
    kernel, filters, relu = int(match[1]), int(match[2]), match[3] is not None
    if kernel % 2 == 0 or filters < 1:
        raise SpecError(f"space option 'candidates': {text!r} needs an odd kernel and at least one filter")
    if relu and filters == channels:
        raise SpecError(
            f"space option 'candidates': {text!r} has no 1x1 convolution for its second ReLU to follow, since its"
            f" filters equal the {channels} channels; leave '_relu' out"
        )
    return (("filters", filters), ("kernel", kernel), ("project_relu", int(relu)))


def _poolings(depth: int, size: tuple[int, int], pool: Sequence[int] | None) -> frozenset[int]:
    """Check the list of poolings, or make the default one: ``floor(log2(side))`` of them fit the shorter side."""
    fitting = min(size).bit_length() - 1
    if pool is None:
        return frozenset(range(1, min(depth, fitting) + 1))
    if len(set(pool)) != len(pool) or not all(isinstance(i, int) and 1 <= i <= depth for i in pool):
        raise SpecError(f"space option 'pool' lists block numbers from 1 to {depth}, each once, got {list(pool)!r}")
    if len(pool) > fitting:
        raise SpecError(
            f"space option 'pool' halves {min(size)} pixels {len(pool)} times, and {fitting} is all that fits;"
            " name fewer blocks, or raise recipe.input_size"
        )
    return frozenset(pool)
