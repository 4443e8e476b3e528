"""Trying a network on meta tensors: which layer refuses what, and what each layer is given."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from nas_optuna.errors import NasOptunaError
from nas_optuna.spaces.base import Shape


def require_logits_of(network: nn.Module, shape: Shape, classes: int) -> None:
    """Refuse a network on the meta device that does not turn images into logits.

    Args:
        network: The network, on the meta device.
        shape: ``(channels, height, width)`` of an image.
        classes: Number of classes.

    Raises:
        RuntimeError: Naming the layer and what it was given, or what the network gave.

    Example:
        >>> with torch.device("meta"):
        ...     require_logits_of(nn.Sequential(nn.Flatten(), nn.Linear(64, 10)), (1, 8, 8), 10)
    """
    images = torch.empty(2, *shape, device="meta")
    with torch.no_grad(), blaming(network):
        logits = network(images)
    if not isinstance(logits, Tensor) or logits.shape != (2, classes):
        given = list(logits.shape) if isinstance(logits, Tensor) else f"a {type(logits).__name__}"
        raise RuntimeError(f"the network gives {given} for images {list(images.shape)}, not logits [2, {classes}]")


def shapes_of(network: nn.Module, layers: Mapping[str, nn.Module], shape: Shape) -> dict[str, tuple[Shape, Shape]]:
    """What some layers of a network are given and give.

    Args:
        network: The network, on the meta device.
        layers: Name → module of the network.
        shape: ``(channels, height, width)`` of an image.

    Returns:
        Name → shape of one input and of one output, without the batch; layers that are not used are left out.
    """
    found: dict[str, tuple[Shape, Shape]] = {}

    def note(name: str, args: tuple[Any, ...], output: Any) -> None:
        if args and isinstance(args[0], Tensor) and isinstance(output, Tensor):
            found[name] = (tuple(args[0].shape[1:]), tuple(output.shape[1:]))

    handles = [
        layer.register_forward_hook(lambda module, args, output, name=name: note(name, args, output))
        for name, layer in layers.items()
    ]
    try:
        with torch.no_grad():
            network(torch.empty(2, *shape, device="meta"))
    finally:
        for handle in handles:
            handle.remove()
    return found


@contextmanager
def blaming(network: nn.Module) -> Iterator[None]:
    """Within it an exception names the innermost layer that was running, and the shape that it was given.

    Args:
        network: The network whose forward pass runs within it.

    Raises:
        RuntimeError: Naming the layer, the shape and what is wrong.
    """
    running: list[tuple[str, nn.Module, Any]] = []
    handles = []
    for name, module in network.named_modules():
        handles.append(
            module.register_forward_pre_hook(
                lambda module, args, name=name: running.append((name, module, args[0] if args else None))
            )
        )
        handles.append(module.register_forward_hook(lambda *_: running.pop() and None))
    try:
        yield
    except NasOptunaError:
        raise
    except Exception as error:
        if not running:
            raise
        name, module, given = running[-1]
        shape = list(given.shape) if isinstance(given, Tensor) else f"a {type(given).__name__}"
        words = " ".join(str(error).split())
        if "meta tensor" in words:
            words += "; networks are tried on meta tensors, so forward must not depend on what values tensors have"
        place = f"layer {name!r}" if name else "the network"
        weight = getattr(module, "weight", None)
        made = f", weights {list(weight.shape)}" if isinstance(weight, Tensor) and not is_lazy(weight) else ""
        raise RuntimeError(f"{place} ({type(module).__name__}{made}) cannot take {shape}: {words}") from error
    finally:
        for handle in handles:
            handle.remove()


class Standin(nn.Module):
    """Gives a tensor of the shape that the layer in its place gives, at no cost.

    Args:
        shape: ``(channels, height, width)`` or another shape of one output, without the batch.
    """

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.shape = shape

    def forward(self, x: Tensor) -> Tensor:
        """Zeros ``[batch, *shape]``, of which memory holds one."""
        return x.new_zeros(()).expand(len(x), *self.shape)

    def extra_repr(self) -> str:
        """The shape, since the identity of a measured network is its text."""
        return "x".join(map(str, self.shape))


def without(network: nn.Module, layers: Mapping[int, Shape]) -> nn.Module:
    """The network with stand-ins for some of its layers.

    Args:
        network: The network, which is changed.
        layers: ``id`` of a layer → shape of one of its outputs.
    """
    for parent in list(network.modules()):
        for name, child in parent.named_children():
            if id(child) in layers:
                setattr(parent, name, Standin(layers[id(child)]))
    return network
