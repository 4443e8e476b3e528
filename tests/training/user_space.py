"""A search space as a user writes it: one choice, and a network of modules that the package does not know."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nas_optuna.spaces import Decomposable, Operation, Parameter
from nas_optuna.spaces.architecture import Architecture


class Functional(nn.Module):
    """Batch normalisation and dropout without modules of torch's that would tell."""

    def forward(self, x: Tensor) -> Tensor:
        return F.dropout(F.batch_norm(x, None, None, training=True), 0.2) if self.training else x


class Noise(nn.Module):
    """Draws with and without a generator argument, also in evaluation mode."""

    def forward(self, x: Tensor) -> Tensor:
        return (
            x
            + 0.1 * torch.randn(x.shape, device=x.device)
            + 0.1 * torch.randn_like(x) * torch.rand((), device=x.device)
        )


class Failing(nn.Module):
    """Raises where it is told to."""

    def __init__(self, when: str) -> None:
        super().__init__()
        self.when = when
        if when == "build":
            raise KeyError("no such thing\nin [bold]two[/bold] lines")

    def forward(self, x: Tensor) -> Any:
        if x.device.type == "meta":  # costs are counted
            return x
        if self.when == "forward" and self.training:
            raise ValueError("wrong " * 100)
        if self.when == "evaluation" and not self.training and len(x) > 1:
            raise IndexError("out of range")
        if self.when == "backward":
            return _Backward.apply(x)
        if self.when == "outputs":
            return x[:, :3]
        if self.when == "shape":
            return x[..., None]
        return (x, x) if self.when == "tuple" else x


class _Backward(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.clone()

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        raise RuntimeError("no gradient")


PARTS = {
    "plain": nn.Identity,
    "norm": lambda: nn.BatchNorm1d(16),
    "dropout": lambda: nn.Dropout(0.2),
    "functional": Functional,
    "noise": Noise,
    **{when: (lambda when=when: Failing(when)) for when in ("build", "forward", "evaluation", "backward")},
}
ENDS = {when: (lambda when=when: Failing(when)) for when in ("outputs", "shape", "tuple")}


class UserSpace(Decomposable):
    """Which part stands between two linear layers, and which at the end."""

    name: ClassVar[str] = "tests.training.user_space:UserSpace"

    def __init__(self, *, in_channels: int = 1, classes: int = 10, input_size: int = 8) -> None:
        self.in_channels, self.classes, self.input_size = in_channels, classes, input_size
        self.parameters = {"part": Parameter((*PARTS, *ENDS))}

    def format(self, params: Mapping[str, Any]) -> str:
        return str(params["part"])

    def parse(self, text: str) -> Architecture:
        return self.architecture({"part": text})

    def operations(self, architecture: Architecture) -> tuple[Operation, ...]:
        index = self.parameters["part"].choices.index(architecture.params["part"])
        shape = (self.in_channels, self.input_size, self.input_size)
        return (Operation("network", (("part", index),), shape, (self.classes,), lambda: self.make(index)),)

    def reachable_operations(self) -> Iterator[Operation]:
        for part in self.parameters["part"].choices:
            yield self.operations(self.architecture({"part": part}))[0]

    def make(self, index: int) -> nn.Module:
        part = str(self.parameters["part"].choices[index])
        middle = PARTS.get(part, nn.Identity)
        if part == "build" and torch.zeros(()).device.type == "meta":  # costs are counted
            middle = nn.Identity
        end = ENDS.get(part, nn.Identity)()
        pixels = self.in_channels * self.input_size**2
        layers = (nn.Flatten(), nn.Linear(pixels, 16), middle(), nn.ReLU(), nn.Linear(16, self.classes), end)
        return nn.Sequential(*layers)
