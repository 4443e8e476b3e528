"""Which number format a device computes in."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

import torch

from nas_optuna.errors import SpecError


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


def allow_fast_float32(device: torch.device) -> None:
    """On CUDA let float32 products use TF32 and let cuDNN measure its algorithms: shapes repeat for a whole trial."""
    if device.type == "cuda":
        torch.backends.cuda.matmul.allow_tf32 = True
        torch.backends.cudnn.allow_tf32 = True
        torch.backends.cudnn.benchmark = True
