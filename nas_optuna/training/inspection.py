"""What a network does beside computing each image's logits: draw random numbers, or let the images of a batch meet.

Layers of torch and of this package are known. Of modules that a user wrote, drawing cannot be excluded, and whether the
images of a batch meet is tried.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.dropout import _DropoutNd
from torch.nn.modules.lazy import LazyModuleMixin

from nas_optuna.randomness import RandomState

_ATTENTION = (nn.MultiheadAttention, nn.RNNBase, nn.Transformer, nn.TransformerEncoderLayer, nn.TransformerDecoderLayer)
_DRAWING = (_DropoutNd, nn.RReLU, nn.FractionalMaxPool2d, nn.FractionalMaxPool3d, LazyModuleMixin, *_ATTENTION)


def may_draw(network: nn.Module) -> bool:
    """Whether a forward pass may draw random numbers, as dropout does; true of modules that a user wrote."""
    return any(isinstance(module, _DRAWING) or not _is_known(module) for module in network.modules())


@torch.no_grad()
def mixes_images(network: nn.Module, images: Tensor) -> bool:
    """Whether an image's logits depend on the images beside it; two of a batch are tried, in the network's mode."""
    modules = list(network.modules())
    if any(isinstance(m, _BatchNorm) and (m.training or not m.track_running_stats) for m in modules):
        return True
    if all(_is_known(module) and not isinstance(module, _ATTENTION) for module in modules):
        return False
    before = [(buffer, buffer.clone()) for buffer in network.buffers()]
    try:
        with RandomState(0, images.device).current():
            alone = network(images[:1])
        with RandomState(0, images.device).current():
            beside = network(images[:2])[:1]
        return not torch.allclose(alone, beside, rtol=1e-3, atol=1e-4, equal_nan=True)
    except Exception:  # the training itself will say what is wrong with it
        return True
    finally:
        for buffer, value in before:
            buffer.copy_(value)


def _is_known(module: nn.Module) -> bool:
    """Whether the module does what its class says, and its class is torch's or ours."""
    hooks = module._forward_hooks or module._forward_pre_hooks
    return type(module).__module__.startswith(("torch.nn.modules.", "nas_optuna.")) and not hooks
