"""Which number format a device computes in."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor, nn

from nas_optuna.errors import SpecError

_LEFT = "_left_autocast"


def resolve_precision(name: str, device: torch.device) -> torch.dtype:
    """The dtype that ``recipe.precision`` means on a device."""
    if name == "mixed" and device.type == "cpu":
        return torch.bfloat16 if has_fast_bfloat16() else torch.float32
    if name in ("auto", "mixed"):
        if device.type != "cuda":
            return torch.float32
        return torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else torch.float16
    if name == "fp16" and device.type != "cuda":
        raise SpecError(f"recipe.precision = 'fp16' needs CUDA, this device is {device.type}; use bf16, fp32 or auto")
    return {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}[name]


def has_fast_bfloat16() -> bool:
    """Whether this machine's processor multiplies bfloat16 by instructions of its own; elsewhere it is emulated."""
    # torch has no public question for it.
    asked = ("_is_avx512_bf16_supported", "_is_amx_tile_supported")
    return any(bool(getattr(torch.cpu, name, lambda: False)()) for name in asked)


def autocast(device: torch.device, dtype: torch.dtype) -> AbstractContextManager[object]:
    """Autocast to `dtype`, or nothing for float32."""
    # The cache of cast weights is off: a CUDA graph must not capture tensors that live outside it.
    if dtype == torch.float32:
        return nullcontext()
    return torch.autocast(device.type, dtype, cache_enabled=False)


def keep_grouped_in_float32(network: nn.Module) -> None:
    """Let grouped convolutions compute in float32 wherever a processor is told to use bfloat16.

    torch has no fast gradient of them in bfloat16: that of a depthwise 5×5 convolution takes 3 times as long as in
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
