"""The block space: the residual block at each place of a chain of constant width."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nas_optuna.errors import ArchitectureError, SpecError, checked
from nas_optuna.spaces.architecture import Architecture, InputSize, require_choices, require_depth, require_positive
from nas_optuna.spaces.base import Operation, Parameter, Shape
from nas_optuna.spaces.built import ChainSpace, Part, Task
from nas_optuna.spaces.choices import Choices
from nas_optuna.spaces.conv import head, head_operation

SKIP = "skip"
_CANDIDATE = re.compile(r"k([0-9]*[13579])_f([1-9][0-9]*)(_relu)?")


class Block(nn.Module):
    """A residual block at constant width: ``relu(x + project(relu(expand(x))))``."""

    # With a ReLU after the projection, every residual is non-negative, and activations can only grow.

    def __init__(self, channels: int, kernel: int, filters: int, project_relu: bool = False) -> None:
        super().__init__()
        self.expand = nn.Conv2d(channels, filters, kernel, padding=kernel // 2)
        self.project = nn.Conv2d(filters, channels, 1) if filters != channels else None
        self.project_relu = project_relu

    def forward(self, x: Tensor) -> Tensor:
        """``[batch, channels, side, side]`` → the same shape."""
        residual = F.relu(self.expand(x))
        if self.project is not None:
            residual = self.project(residual)
        if self.project_relu:
            residual = F.relu(residual)
        return F.relu(x + residual)


def make_block(channels: int, options: Mapping[str, int]) -> nn.Module:
    """The block of a candidate; the identity without options."""
    if not options:
        return nn.Identity()
    return Block(channels, options["kernel"], options["filters"], bool(options["project_relu"]))


class BlockSpace(ChainSpace):
    """A 1×1 stem, residual blocks with 2×2 max pooling between them, and one linear layer.

    Its parameters are ``block1``, ``block2``, …; each chooses one of the candidates, which have no order. A candidate
    is written ``k3_f24`` (a 3×3 convolution to 24 filters and a 1×1 convolution back, added to the input),
    ``k3_f24_relu`` (with a ReLU also after the 1×1 convolution), or ``skip`` (the input itself).

    Args:
        depth: Number of blocks.
        candidates: The choices for each block.
        channels: Channels between the blocks.
        pool: Numbers of the blocks (from 1) that are followed by pooling. By default all are, until one pixel is left.
        in_channels: Channels of an input image.
        classes: Number of classes.
        input_size: Side length of the input in pixels, or ``(height, width)``.

    Raises:
        SpecError: An option is not positive, a candidate has another form, or a pooling is impossible.
    """

    name = "block"
    settings = ("in_channels", "classes", "input_size", "depth", "channels", "candidates", "pool")

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
        require_positive(channels=channels)
        require_depth(depth=depth)
        require_choices("candidates", candidates)
        task = Task(in_channels, classes, input_size)
        self.channels, self.depth = channels, depth
        self.candidates = {text: _candidate(text, channels) for text in candidates}
        self.pool = _poolings(depth, task.shape[1:], pool)
        super().__init__(task)
        self.parameters = {f"block{i}": Parameter(tuple(candidates)) for i in range(1, depth + 1)}

    def build_with(self, c: Choices) -> nn.Module:
        """The network, built like in a space of your own."""
        makers = {text: partial(make_block, self.channels, dict(options)) for text, options in self.candidates.items()}
        layers: list[nn.Module] = [nn.Conv2d(self.in_channels, self.channels, 1)]
        height, width = self.image_size
        for i in range(1, self.depth + 1):
            layers.append(c.layer(f"block{i}", makers))
            if i in self.pool:
                layers.append(nn.MaxPool2d(2))
                height, width = height // 2, width // 2
        return nn.Sequential(*layers, head(self.channels, [(height, width)], self.classes))

    def format(self, params: Mapping[str, Any]) -> str:
        """E.g. ``"k3_f16-k5_f24"`` for two blocks."""
        return "-".join(params[name] for name in self.parameters)

    @checked
    def parse(self, text: str) -> Architecture:
        """The architecture of a string such as ``"k3_f16-k5_f24"``."""
        blocks = text.strip().lower().split("-")
        if len(blocks) != self.depth:
            raise ArchitectureError(
                f"{text!r} is not {self.depth} blocks joined by '-'; each is one of: {', '.join(self.candidates)}"
            )
        return self.architecture(dict(zip(self.parameters, blocks, strict=True)))

    def make_chain(self) -> Iterator[Part]:
        """The ``stem``; a ``block`` or ``skip`` for each parameter, some followed by a ``pool``; the ``head``."""
        yield Part((), partial(_stem, channels=self.channels))
        for i in range(1, self.depth + 1):
            yield Part((f"block{i}",), self.block)
            if i in self.pool:
                yield Part((), _pooling)
        yield Part((), partial(head_operation, classes=self.classes))

    def block(self, shape: Shape, candidate: str) -> Operation:
        """The operation of one candidate, for an input of that ``(channels, height, width)``."""
        options = self.candidates[candidate]
        make = partial(make_block, self.channels, dict(options))
        return Operation("block" if options else SKIP, options, shape, shape, make)

    def stabilize_init(self, network: nn.Module) -> None:
        """Divide residuals by the number of blocks, and the head by ten (as in Fixup, Zhang et al. 2019)."""
        # Kaiming's weights double the variance in every residual block, and without a norm a network begins with a loss
        # of 20 to 70.
        with torch.no_grad():
            for module in network.modules():
                if isinstance(module, Block):
                    (module.project or module.expand).weight.div_(self.depth)
                elif isinstance(module, nn.Linear):
                    module.weight.div_(10)


def _stem(shape: Shape, channels: int) -> Operation:
    return Operation("stem", (), shape, (channels, *shape[1:]), partial(nn.Conv2d, shape[0], channels, 1))


def _pooling(shape: Shape) -> Operation:
    channels, height, width = shape
    return Operation("pool", (), shape, (channels, height // 2, width // 2), partial(nn.MaxPool2d, 2))


def _candidate(text: str, channels: int) -> tuple[tuple[str, int], ...]:
    """The options of a candidate's operation; empty for ``skip``."""
    if text == SKIP:
        return ()
    match = _CANDIDATE.fullmatch(text) if isinstance(text, str) else None
    if match is None or (match[3] and int(match[2]) == channels):
        raise SpecError(
            f"space option 'candidates': {text!r} is neither skip nor of the form k3_f24 with an odd kernel, or"
            f" k3_f24_relu with other filters than the {channels} channels"
        )
    return (("filters", int(match[2])), ("kernel", int(match[1])), ("project_relu", int(match[3] is not None)))


def _poolings(depth: int, size: tuple[int, int], pool: Sequence[int] | None) -> frozenset[int]:
    """Check the list of poolings, or make the default one; ``floor(log2(side))`` poolings fit the shorter side."""
    fitting = min(size).bit_length() - 1
    if pool is None:
        return frozenset(range(1, min(depth, fitting) + 1))
    known = not isinstance(pool, str | int) and all(isinstance(i, int) and 1 <= i <= depth for i in pool)
    if not known or len(set(pool)) != len(pool) or len(pool) > fitting:
        raise SpecError(
            f"space option 'pool' lists block numbers from 1 to {depth}, each once, and at most {fitting} of them for"
            f" {min(size)} pixels (raise recipe.input_size for more), got {pool!r}"
        )
    return frozenset(pool)
