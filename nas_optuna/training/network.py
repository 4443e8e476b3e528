"""A network on its device: how it is made, its number format, and errors in its code.

A network of a user's space may raise anything, which ends its trial but never a search. Layers of torch and of this
package are known; a user's modules may draw random numbers, and whether they mix the images of a batch is tested.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, ExitStack, nullcontext, suppress

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.dropout import _DropoutNd
from torch.nn.modules.lazy import LazyModuleMixin

from nas_optuna.costs.complexity import size
from nas_optuna.devices import current, free_memory, laid_out, network_failures
from nas_optuna.errors import SpecError, TrainingError
from nas_optuna.randomness import RandomState, seeded
from nas_optuna.spaces import SearchSpace
from nas_optuna.spaces.architecture import Architecture
from nas_optuna.spaces.backbone import PretrainedBody
from nas_optuna.spaces.layers import kaiming
from nas_optuna.spaces.shapes import require_module
from nas_optuna.spec import Recipe

_MANY_WEIGHTS = 50_000_000
"""Networks with fewer weights are built without a look at the memory."""


def require_logits(logits: object, images: int) -> None:
    """Refuse anything but one row of logits per image, before a loss is computed from it."""
    if isinstance(logits, Tensor) and logits.dim() == 2 and len(logits) == images and logits.is_floating_point():
        return
    raise TrainingError(f"the network gave {kind_of(logits)} for {images} images, not logits [{images}, classes]")


def kind_of(value: object) -> str:
    """A tensor's dtype and shape, or another value's type, for a message."""
    if not isinstance(value, Tensor):
        return f"a {type(value).__name__}"
    return f"{str(value.dtype).removeprefix('torch.')} {list(value.shape)}"


_LEFT = "_left_autocast"


def resolve_precision(name: str, device: torch.device) -> torch.dtype:
    """The dtype of ``recipe.precision`` on a device."""
    if name == "mixed" and device.type == "cpu":
        return torch.bfloat16 if has_fast_bfloat16() else torch.float32
    if name in ("auto", "mixed"):
        if device.type != "cuda":
            return torch.float32
        with current(device):  # torch asks the current one
            return torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else torch.float16
    if name == "fp16" and device.type != "cuda":
        raise SpecError(f"recipe.precision = 'fp16' needs CUDA, this device is {device.type}; use bf16, fp32 or auto")
    return {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}[name]


def has_fast_bfloat16() -> bool:
    """Whether this processor has instructions for bfloat16 products; otherwise they are emulated."""
    # torch has no public function for it.
    asked = ("_is_avx512_bf16_supported", "_is_amx_tile_supported")
    return any(bool(getattr(torch.cpu, name, lambda: False)()) for name in asked)


def autocast(device: torch.device, dtype: torch.dtype) -> AbstractContextManager[object]:
    """Autocast to `dtype`, or no autocast for float32."""
    # Without the cache of cast weights: a CUDA graph must not capture tensors that exist outside of it.
    if dtype == torch.float32:
        return nullcontext()
    return torch.autocast(device.type, dtype, cache_enabled=False)


def keep_grouped_in_float32(network: nn.Module) -> None:
    """Make grouped convolutions compute in float32 on a processor, even under a bfloat16 autocast.

    torch has no fast bfloat16 gradient for them: that of a depthwise 5×5 convolution takes 3 times as long as in
    float32, and 77 times with a stride of 2.
    """
    for module in network.modules():
        if isinstance(module, nn.Conv2d) and module.groups > 1:
            module.register_forward_pre_hook(_leave_autocast)
            module.register_forward_hook(_enter_autocast)


def _leave_autocast(module: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...] | None:
    if not torch.is_autocast_enabled("cpu") or inputs[0].device.type != "cpu":
        return None
    torch.set_autocast_enabled("cpu", False)
    module.__dict__[_LEFT] = True
    return tuple(x.float() for x in inputs)


def _enter_autocast(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
    if module.__dict__.pop(_LEFT, False):
        torch.set_autocast_enabled("cpu", True)


_ATTENTION = (nn.MultiheadAttention, nn.RNNBase, nn.Transformer, nn.TransformerEncoderLayer, nn.TransformerDecoderLayer)
_DRAWING = (_DropoutNd, nn.RReLU, nn.FractionalMaxPool2d, nn.FractionalMaxPool3d, LazyModuleMixin, *_ATTENTION)


def may_draw(network: nn.Module) -> bool:
    """Whether a forward pass may draw random numbers, as in dropout; true for a user's modules."""
    return any(isinstance(module, _DRAWING) or not _is_known(module) for module in network.modules())


@torch.no_grad()
def _tried(network: nn.Module, *batches: Tensor) -> list[Tensor]:
    """What a network gives for each batch in its mode with the same random numbers; nothing where it fails."""
    before = [(buffer, buffer.clone()) for buffer in network.buffers()]
    found = []
    try:
        for images in batches:
            with RandomState(0, images.device).current():
                found.append(network(images))
    except Exception:  # the training itself will report the error
        return []
    finally:
        for buffer, value in before:
            buffer.copy_(value)
    return found if all(isinstance(each, Tensor) for each in found) else []


def mixes_images(network: nn.Module, images: Tensor) -> bool:
    """Whether an image's logits depend on other images of the batch; tested with two, in the network's mode."""
    modules = list(network.modules())
    if any(isinstance(m, _BatchNorm) and (m.training or not m.track_running_stats) for m in modules):
        return True
    if all(_is_known(module) and not isinstance(module, _ATTENTION) for module in modules):
        return False
    if not (found := _tried(network, images[:1], images[:2])):
        return True
    alone, beside = found[0], found[1][:1]
    return alone.shape != beside.shape or not torch.allclose(alone, beside, rtol=1e-3, atol=1e-4, equal_nan=True)


def takes(network: nn.Module, images: Tensor, others: Tensor) -> bool:
    """Whether a network gives as many outputs for images of another size; it is asked in its mode, and not changed."""
    found = _tried(network, images[:2], others[:2])
    return bool(found) and found[0].shape == found[1].shape


def _is_known(module: nn.Module) -> bool:
    """Whether the module's class is torch's or ours, and has no hooks."""
    hooks = module._forward_hooks or module._forward_pre_hooks
    return type(module).__module__.startswith(("torch.nn.modules.", "nas_optuna.")) and not hooks


CACHE_BYTES = 32 * 2**20
"""The largest activation of a part in bytes: about the size of a last-level cache, and small enough for glibc's
allocator to keep the memory rather than return it to the kernel, which would clear it for the next step."""


def microbatch_size(network: nn.Module, images: Tensor) -> int:
    """How many images of a batch, ``[batch, channels, side, side]``, to compute at once."""
    # On the CPU, large activations are limited by memory, not by arithmetic: a part whose largest activation fits in
    # the last-level cache is up to twice as fast as the whole batch (benchmarks/training.py), and the gradients of
    # parts add up to the batch's. Batch normalisation and the like need the statistics of a whole batch.
    if images.device.type != "cpu" or mixes_images(network, images):
        return len(images)
    return max(1, min(len(images), CACHE_BYTES // largest_activation(network, images[:1])))


def largest_activation(network: nn.Module, images: Tensor) -> int:
    """Bytes of the largest output of any layer in evaluation mode, for these images."""
    largest = 1

    def look(module: nn.Module, inputs: object, output: object) -> None:
        nonlocal largest
        if isinstance(output, Tensor):
            largest = max(largest, output.nbytes)

    was_training = network.training
    with ExitStack() as hooks, torch.no_grad():
        for module in network.modules():
            hooks.enter_context(module.register_forward_hook(look))
        network.eval()(images)
    network.train(was_training)
    return largest


def _require_memory(space: SearchSpace, architecture: Architecture, device: torch.device) -> None:
    """Refuse a network whose weights do not fit into this machine, before the kernel kills the process."""
    weights = 0
    with RandomState(0, torch.device("cpu")).current(), suppress(Exception):  # building it will tell
        weights = size(space, architecture)[1]
    copies = 3 if device.type == "cpu" else 1  # with gradients and the optimizer's state
    need, free = 4 * copies * weights, free_memory() if weights > _MANY_WEIGHTS else None
    if free is not None and need > free:
        has = f"{weights:,} weights, whose training takes {need / 1e9:,.0f} GB or more"
        raise TrainingError(f"{architecture} has {has}, and {free / 1e9:,.0f} GB of memory are free", "oom")


def _require_tensors_only(network: nn.Module) -> None:
    """Refuse a network whose state is not only tensors, since no file of weights could hold the rest."""
    for name, value in network.state_dict().items():
        if not isinstance(value, Tensor):
            raise TrainingError(
                f"{name} of its state is {kind_of(value)}, which no file of weights can hold; let get_extra_state"
                " return a tensor, or register a buffer"
            )


def make_network(
    space: SearchSpace, architecture: Architecture, recipe: Recipe, device: torch.device, seed: int
) -> nn.Module:
    """Build an architecture with initial weights that depend only on the recipe and the seed.

    Weights are drawn on the CPU, so they are the same on every device, and by a separate generator, so they are the
    same in every thread. The state of torch's global generator is restored.
    """
    _require_memory(space, architecture, device)  # not with the seed, since building may draw
    with network_failures(f"{architecture} cannot be built"), seeded(seed):
        try:
            space.require_logits(architecture)
        except SpecError as error:  # other networks of the space may give logits
            raise TrainingError(f"{architecture}: {error}", str(error)) from error
        network = require_module(space.build(architecture), space.name)
        _require_tensors_only(network)
        if recipe.init == "kaiming" and space.draws_weights:
            network.apply(kaiming)
        for module in network.modules():
            if isinstance(module, PretrainedBody):
                module.load_pretrained()
        if device.type == "cpu" and resolve_precision(recipe.precision, device) == torch.bfloat16:
            keep_grouped_in_float32(network)
    return laid_out(network, device)
